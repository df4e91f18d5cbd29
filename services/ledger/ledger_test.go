package ledger_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/natstest"
	"reelway.dev/pkg/pgtest"
	"reelway.dev/pkg/rpc"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/ledger"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

const price = 1_000_000

// bundle is a ledger behind its gRPC door, on a real Postgres and JetStream.
type bundle struct {
	svc   *ledger.Service
	pool  *pgxpool.Pool
	bus   *bus.Bus
	jobs  ledgerv1.JobServiceClient
	accts ledgerv1.AccountServiceClient
	money ledgerv1.LedgerServiceClient
	usage ledgerv1.UsageServiceClient
	erase ledgerv1.PrivacyServiceClient
	acct  string
}

// ledgerConfig is the ledger's, for tests that want another.
type ledgerConfig = ledger.Config

func setup(t *testing.T, credits int64, change ...func(*ledgerConfig)) *bundle {
	t.Helper()
	b := natstest.Bus(t)
	pool := pgtest.New(t, ledger.Migrations())
	cfg := ledger.Config{MaxAttempts: 3, MaxRuntime: time.Hour, QueueLife: time.Hour, SweepInterval: 50 * time.Millisecond,
		SweepAfter: 300 * time.Millisecond, StoreLife: time.Hour, ProgressEvery: 50 * time.Millisecond, TypicalRender: time.Minute, WatchAfter: time.Hour, RetainEvery: 50 * time.Millisecond, ReviewEvery: time.Hour, ReviewFor: 7 * 24 * time.Hour, Workers: 2, Group: 64, Waiting: 4096}
	for _, f := range change {
		f(&cfg)
	}
	s, conn := serve(t, cfg, pool, b, nil)
	x := &bundle{svc: s, pool: pool, bus: b, jobs: ledgerv1.NewJobServiceClient(conn), accts: ledgerv1.NewAccountServiceClient(conn), money: ledgerv1.NewLedgerServiceClient(conn),
		usage: ledgerv1.NewUsageServiceClient(conn), erase: ledgerv1.NewPrivacyServiceClient(conn)}
	ctx := t.Context()
	a, err := x.accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	x.acct = a.GetAccountId()
	if credits > 0 {
		for range 2 { // the second is a no-op: same key
			if _, err := x.money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: x.acct, AmountMicros: credits, IdempotencyKey: "first"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return x
}

// serve runs a ledger, or only some of its components, and returns its door.
func serve(t *testing.T, cfg ledger.Config, pool *pgxpool.Pool, b *bus.Bus, only []string) (*ledger.Service, *grpc.ClientConn) {
	t.Helper()
	s, err := ledger.New(cfg, ledger.Deps{Pool: pool, Bus: b, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	lis := bufconn.Listen(1 << 20)
	srv := rpc.NewServer()
	s.Register(srv)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(lis) })
	for _, c := range s.Components() {
		if only != nil && !slices.Contains(only, c.Name) {
			continue
		}
		wg.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		})
	}
	conn, err := grpc.NewClient("passthrough:ledger", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return lis.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); cancel(); srv.Stop(); wg.Wait() })
	return s, conn
}

func (x *bundle) open(key string) (*videov1.Video, error) {
	hash := sha256.Sum256([]byte("body"))
	r, err := x.jobs.OpenJob(context.Background(), &ledgerv1.OpenJobRequest{AccountId: x.acct, Provider: "testprovider", IdempotencyKey: key,
		RequestHash: hash[:], QuoteMicros: price, Params: &videov1.VideoParams{Model: "m", Prompt: "p"}})
	return r.GetVideo(), err
}

func (x *bundle) begin(t *testing.T, jobID string) string {
	t.Helper()
	var attempt string
	eventually(t, "attempt granted", func() bool {
		r, err := x.jobs.BeginAttempt(context.Background(), &ledgerv1.BeginAttemptRequest{JobId: jobID, Provider: "testprovider"})
		if err != nil {
			t.Fatal(err)
		}
		attempt = r.GetAttemptId()
		return r.GetGranted()
	})
	return attempt
}

func (x *bundle) observe(t *testing.T, jobID, attempt, fact string) {
	t.Helper()
	o := &eventv1.Observation{JobId: jobID, AttemptId: attempt, Provider: "testprovider", Id: attempt + fact, Source: "test", ObservedAt: timestamppb.Now()}
	switch fact {
	case "accepted":
		o.Fact = &eventv1.Observation_Accepted{Accepted: &eventv1.Accepted{ProviderTaskId: "task-" + attempt}}
	case "refused":
		o.Fact = &eventv1.Observation_Refused{Refused: &eventv1.Refused{Error: &videov1.VideoError{Code: "content_policy"}}}
	case "retry":
		o.Fact = &eventv1.Observation_Refused{Refused: &eventv1.Refused{Retry: true, Error: &videov1.VideoError{Code: "provider_unavailable", Retryable: true}}}
	case "no time":
		o.Fact = &eventv1.Observation_Refused{Refused: &eventv1.Refused{Retry: true, Error: &videov1.VideoError{Code: "rate_limited", Retryable: true}}}
	case "progressed":
		o.Fact = &eventv1.Observation_Progressed{Progressed: &eventv1.Progressed{Progress: 40}}
	case "rendered":
		o.Fact = &eventv1.Observation_Rendered{Rendered: &eventv1.Rendered{Url: "https://result.example/x.mp4"}}
	case "failed":
		o.Fact = &eventv1.Observation_Failed{Failed: &eventv1.Failed{Error: &videov1.VideoError{Code: "provider_rejected"}}}
	case "archived":
		o.Fact = &eventv1.Observation_Archived{Archived: &eventv1.Archived{Artifact: &videov1.Artifact{Key: "k", Sha256: "00"}}}
	case "timed_out":
		o.Fact = &eventv1.Observation_TimedOut{TimedOut: &eventv1.TimedOut{}}
	}
	if err := x.bus.PublishObservation(context.Background(), o); err != nil {
		t.Fatal(err)
	}
}

func (x *bundle) await(t *testing.T, jobID string, want videov1.VideoState) *videov1.Video {
	t.Helper()
	var v *videov1.Video
	eventually(t, "state "+want.String(), func() bool {
		r, err := x.jobs.GetJob(context.Background(), &ledgerv1.GetJobRequest{JobId: jobID, AccountId: x.acct})
		if err != nil {
			t.Fatal(err)
		}
		v = r.GetVideo()
		return v.GetState() == want
	})
	return v
}

func (x *bundle) balance(t *testing.T, available, held int64) {
	t.Helper()
	b, err := x.money.GetBalance(context.Background(), &ledgerv1.GetBalanceRequest{AccountId: x.acct})
	if err != nil {
		t.Fatal(err)
	}
	if b.GetAvailableMicros() != available || b.GetHeldMicros() != held {
		t.Errorf("balance is %d available, %d held; want %d and %d", b.GetAvailableMicros(), b.GetHeldMicros(), available, held)
	}
	r, err := x.money.Verify(context.Background(), &ledgerv1.VerifyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range r.GetViolations() {
		t.Error(v)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func TestJobPaths(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		facts     []string
		want      videov1.VideoState
		available int64
	}{
		"success":                    {[]string{"accepted", "progressed", "rendered", "archived"}, videov1.VideoState_VIDEO_STATE_SUCCEEDED, 4 * price},
		"duplicates":                 {[]string{"accepted", "accepted", "rendered", "rendered", "archived", "archived"}, videov1.VideoState_VIDEO_STATE_SUCCEEDED, 4 * price},
		"webhook overtakes answer":   {[]string{"rendered", "accepted", "archived"}, videov1.VideoState_VIDEO_STATE_SUCCEEDED, 4 * price},
		"refused":                    {[]string{"refused"}, videov1.VideoState_VIDEO_STATE_FAILED, 5 * price},
		"failed half-way":            {[]string{"accepted", "progressed", "failed"}, videov1.VideoState_VIDEO_STATE_FAILED, 5 * price},
		"no verdict":                 {[]string{"accepted", "timed_out"}, videov1.VideoState_VIDEO_STATE_NEEDS_REVIEW, 5 * price},
		"failure after success":      {[]string{"accepted", "rendered", "archived", "failed"}, videov1.VideoState_VIDEO_STATE_SUCCEEDED, 4 * price},
		"success after failure":      {[]string{"accepted", "failed", "rendered", "archived"}, videov1.VideoState_VIDEO_STATE_FAILED, 5 * price},
		"late success after no word": {[]string{"accepted", "timed_out", "rendered"}, videov1.VideoState_VIDEO_STATE_NEEDS_REVIEW, 5 * price},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := setup(t, 5*price)
			v, err := x.open("")
			if err != nil {
				t.Fatal(err)
			}
			x.balance(t, 4*price, price)
			attempt := x.begin(t, v.GetId())
			for _, f := range c.facts {
				// Order across workers is not promised; each fact is let land first.
				x.observe(t, v.GetId(), attempt, f)
				eventually(t, f+" consumed", func() bool {
					s, err := x.bus.JetStream().Stream(context.Background(), bus.StreamObservations)
					if err != nil {
						t.Fatal(err)
					}
					return s.CachedInfo().State.Msgs == 0
				})
			}
			got := x.await(t, v.GetId(), c.want)
			x.balance(t, c.available, 0)
			if late := name == "late success after no word" || name == "success after failure"; got.GetLateResult() != late {
				t.Errorf("late_result is %v, want %v", got.GetLateResult(), late)
			}
			eventually(t, "read model agrees", func() bool {
				s, ok, err := x.bus.Status(context.Background(), v.GetId())
				return err == nil && ok && s.GetState() == c.want && s.GetVersion() == got.GetVersion()
			})
		})
	}
}

func TestRefusedIsTriedAgainUntilAttemptsRunOut(t *testing.T) {
	t.Parallel()
	x := setup(t, price)
	v, err := x.open("")
	if err != nil {
		t.Fatal(err)
	}
	// A provider that has no time uses up no attempt.
	for _, fact := range []string{"no time", "retry", "no time", "no time", "no time", "retry", "no time", "retry"} {
		x.exec(t, "update job set submit_after = now()") // without the time in between, which grows
		attempt := x.begin(t, v.GetId())
		if second, err := x.jobs.BeginAttempt(context.Background(), &ledgerv1.BeginAttemptRequest{JobId: v.GetId(), Provider: "testprovider"}); err != nil || second.GetGranted() || second.GetOpenAttemptId() != attempt {
			t.Fatalf("a second attempt beside an open one: %v, %v", second, err)
		}
		x.observe(t, v.GetId(), attempt, fact)
		eventually(t, "attempt over", func() bool {
			r, err := x.jobs.GetAttempt(context.Background(), &ledgerv1.GetAttemptRequest{AttemptId: attempt})
			return err == nil && r.GetState() == "refused"
		})
	}
	got := x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_FAILED)
	if len(got.GetAttempts()) != 8 {
		t.Errorf("%d attempts, want 8", len(got.GetAttempts()))
	}
	x.balance(t, price, 0)
}

func TestCreditRaceAcceptsExactlyWhatIsPaidFor(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price)
	var accepted, refused atomic.Int64
	var wg sync.WaitGroup
	for range 1000 {
		wg.Go(func() {
			switch _, err := x.open(""); {
			case err == nil:
				accepted.Add(1)
			case fault.FromStatus(err).Code == fault.InsufficientCredits:
				refused.Add(1)
			default:
				t.Errorf("open: %v", err)
			}
		})
	}
	wg.Wait()
	if accepted.Load() != 10 || refused.Load() != 990 {
		t.Errorf("accepted %d and refused %d, want 10 and 990", accepted.Load(), refused.Load())
	}
	x.balance(t, 0, 10*price)
}

func TestIdempotencyKeyGivesOneJob(t *testing.T) {
	t.Parallel()
	x := setup(t, 100*price)
	ids := make([]string, 100)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			v, err := x.open("same")
			if err != nil {
				t.Error(err)
			}
			ids[i] = v.GetId()
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Fatalf("two jobs: %s and %s", id, ids[0])
		}
	}
	x.balance(t, 99*price, price)
	other := sha256.Sum256([]byte("another body"))
	_, err := x.jobs.OpenJob(context.Background(), &ledgerv1.OpenJobRequest{AccountId: x.acct, Provider: "testprovider", IdempotencyKey: "same",
		RequestHash: other[:], QuoteMicros: price, Params: &videov1.VideoParams{Model: "m"}})
	if fault.FromStatus(err).Code != fault.Conflict {
		t.Errorf("another body with the same key: %v, want a conflict", err)
	}
}

func TestCancelAndBeginRace(t *testing.T) {
	t.Parallel()
	x := setup(t, 50*price)
	for i := range 50 {
		v, err := x.open(fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		var canceled, begun bool
		var wg sync.WaitGroup
		wg.Go(func() {
			r, err := x.jobs.CancelJob(context.Background(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: v.GetId()})
			canceled = err == nil && r.GetVideo().GetState() == videov1.VideoState_VIDEO_STATE_CANCELED
		})
		wg.Go(func() {
			r, err := x.jobs.BeginAttempt(context.Background(), &ledgerv1.BeginAttemptRequest{JobId: v.GetId(), Provider: "testprovider"})
			begun = err == nil && r.GetGranted()
		})
		wg.Wait()
		if canceled == begun {
			t.Fatalf("canceled %v and begun %v: exactly one must win", canceled, begun)
		}
		if begun {
			r, err := x.jobs.GetJob(context.Background(), &ledgerv1.GetJobRequest{JobId: v.GetId()})
			if err != nil {
				t.Fatal(err)
			}
			x.observe(t, v.GetId(), r.GetVideo().GetAttempts()[0].GetId(), "failed")
			x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_FAILED)
		}
	}
	x.balance(t, 50*price, 0)
}

func TestForeignJobIsNotFound(t *testing.T) {
	t.Parallel()
	x := setup(t, price)
	v, err := x.open("")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{v.GetId(), "video_missing"} {
		_, err := x.jobs.GetJob(context.Background(), &ledgerv1.GetJobRequest{JobId: id, AccountId: "acct_other"})
		if f := fault.FromStatus(err); f.Code != fault.NotFound || f.Message != "no such video" {
			t.Errorf("%s: %v", id, f)
		}
	}
}

func TestWipedStreamsAreFilledAgain(t *testing.T) {
	t.Parallel()
	x := setup(t, price)
	v, err := x.open("")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	eventually(t, "command published", func() bool {
		s, err := x.bus.JetStream().Stream(ctx, bus.StreamJobs)
		return err == nil && s.CachedInfo().State.Msgs > 0
	})
	if err := x.bus.JetStream().DeleteStream(ctx, bus.StreamJobs); err != nil {
		t.Fatal(err)
	}
	if err := x.bus.Ensure(ctx, 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "command published again for "+v.GetId(), func() bool {
		s, err := x.bus.JetStream().Stream(ctx, bus.StreamJobs)
		return err == nil && s.CachedInfo().State.Msgs > 0
	})
}
