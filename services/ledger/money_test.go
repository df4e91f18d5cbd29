package ledger_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/ledger"
)

// still is a ledger that sweeps nothing by itself: a test sees what the
// operations do alone.
func still(c *ledger.Config) { c.SweepInterval, c.SweepAfter = time.Hour, time.Hour }

func must[R any](t *testing.T) func(R, error) R {
	return func(r R, err error) R {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

func (x *bundle) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := x.pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// grant gives credits until some time from now; 0 is for good.
func (x *bundle) grant(t *testing.T, key string, micros int64, life time.Duration) string {
	t.Helper()
	r := &ledgerv1.GrantRequest{AccountId: x.acct, AmountMicros: micros, IdempotencyKey: key, Reason: "welcome"}
	if life != 0 {
		r.ExpiresAt = timestamppb.New(time.Now().Add(life))
	}
	return must[*ledgerv1.GrantResponse](t)(x.money.Grant(t.Context(), r)).GetLotId()
}

// lots are the account's grants by id: remaining, drawn, spent and expired.
func (x *bundle) lots(t *testing.T) map[string][4]int64 {
	t.Helper()
	out := map[string][4]int64{}
	for _, l := range must[*ledgerv1.ListGrantsResponse](t)(x.money.ListGrants(t.Context(), &ledgerv1.ListGrantsRequest{AccountId: x.acct, Limit: 100})).GetLots() {
		out[l.GetId()] = [4]int64{l.GetRemainingMicros(), l.GetDrawnMicros(), l.GetSpentMicros(), l.GetExpiredMicros()}
	}
	return out
}

func (x *bundle) lot(t *testing.T, id string, want ...int64) {
	t.Helper()
	if got := x.lots(t)[id]; !slices.Equal(got[:], want) {
		t.Errorf("lot has %v remaining, drawn, spent and expired; want %v", got, want)
	}
}

// openFor opens a job of ten seconds at a price.
func (x *bundle) openFor(ctx context.Context, account, key string, quote int64) (*videov1.Video, error) {
	r, err := x.jobs.OpenJob(ctx, &ledgerv1.OpenJobRequest{AccountId: account, Provider: "testprovider", IdempotencyKey: key, RequestHash: []byte(key),
		QuoteMicros: quote, Params: &videov1.VideoParams{Model: "m", Prompt: "p", DurationSeconds: 10}, CostMicros: quote / 2, CostCurrency: "USD"})
	return r.GetVideo(), err
}

// see applies an observation at once.
func (x *bundle) see(t *testing.T, job, attempt, name string, o *eventv1.Observation) {
	t.Helper()
	o.JobId, o.AttemptId, o.Provider, o.Id, o.Source, o.ObservedAt = job, attempt, "testprovider", attempt+name, "test", timestamppb.Now()
	if err := x.svc.Observe([]context.Context{context.Background()}, []*eventv1.Observation{o})[0]; err != nil {
		t.Fatal(err)
	}
}

func rendered(cost int64, currency string) *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_Rendered{Rendered: &eventv1.Rendered{Url: "https://result.example/x.mp4",
		ProviderCostMicros: cost, ProviderCostCurrency: currency}}}
}

func archived(seconds int64) *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_Archived{Archived: &eventv1.Archived{Artifact: &videov1.Artifact{Key: "k", DurationMs: seconds * 1000}}}}
}

func failed() *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_Failed{Failed: &eventv1.Failed{Error: &videov1.VideoError{Code: "provider_rejected"}}}}
}

func notTaken() *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_Refused{Refused: &eventv1.Refused{Error: &videov1.VideoError{Code: "provider_unavailable"}, Retry: true}}}
}

func timedOut() *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_TimedOut{TimedOut: &eventv1.TimedOut{}}}
}

// started opens a job and begins its attempt.
func (x *bundle) started(t *testing.T, key string, quote int64) (job, attempt string) {
	t.Helper()
	v := must[*videov1.Video](t)(x.openFor(t.Context(), x.acct, key, quote))
	return v.GetId(), x.begin(t, v.GetId())
}

// succeeded is a job whose provider made so many of its ten seconds.
func (x *bundle) succeeded(t *testing.T, key string, quote, seconds int64) string {
	t.Helper()
	job, attempt := x.started(t, key, quote)
	x.see(t, job, attempt, "rendered", rendered(0, ""))
	x.see(t, job, attempt, "archived", archived(seconds))
	return job
}

func TestGrantsAreSpentBeforeCreditsAndFirstExpiringFirst(t *testing.T) {
	t.Parallel()
	x := setup(t, 100, still)
	late := x.grant(t, "late", 30, 48*time.Hour)
	never := x.grant(t, "never", 5, 0)
	soon := x.grant(t, "soon", 20, 24*time.Hour)
	if again := x.grant(t, "never", 5, 0); again != never {
		t.Errorf("%s was granted again as %s", never, again)
	}
	x.balance(t, 155, 0)
	job, attempt := x.started(t, "a", 40)
	x.lot(t, soon, 0, 20, 0, 0)
	x.lot(t, late, 10, 20, 0, 0)
	x.lot(t, never, 5, 0, 0, 0)
	x.balance(t, 115, 40)
	// Half is made: what expires first is spent first, the rest goes back.
	x.see(t, job, attempt, "rendered", rendered(0, ""))
	x.see(t, job, attempt, "archived", archived(6))
	x.lot(t, soon, 0, 0, 20, 0)
	x.lot(t, late, 26, 0, 4, 0)
	x.balance(t, 131, 0)
	x.succeeded(t, "b", 36, 10)
	x.lot(t, late, 0, 0, 30, 0)
	x.lot(t, never, 0, 0, 5, 0)
	x.balance(t, 95, 0)
}

func TestWhatIsLeftOfAGrantExpiresBeforeItIsSpent(t *testing.T) {
	t.Parallel()
	x := setup(t, 10, still)
	lot := x.grant(t, "g", 50, time.Hour)
	x.exec(t, "update grant_lot set expires_at = now() - interval '1 second'")
	x.balance(t, 10, 0) // not to be had any more, swept or not
	if _, err := x.openFor(t.Context(), x.acct, "a", 11); fault.FromStatus(err).Code != fault.InsufficientCredits {
		t.Fatalf("an expired grant was spent: %v", err)
	}
	must[*videov1.Video](t)(x.openFor(t.Context(), x.acct, "b", 10))
	x.lot(t, lot, 0, 0, 0, 50)
	x.balance(t, 0, 10)
}

func TestReleaseIntoAnExpiredGrantExpiresAgain(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	lot := x.grant(t, "g", 50, time.Hour)
	job := must[*videov1.Video](t)(x.openFor(t.Context(), x.acct, "a", 20)).GetId()
	x.exec(t, "update grant_lot set expires_at = now() - interval '1 second'")
	eventually(t, "the rest expires", func() bool { return x.lots(t)[lot] == [4]int64{0, 20, 0, 30} })
	x.balance(t, 0, 20)
	must[*ledgerv1.CancelJobResponse](t)(x.jobs.CancelJob(t.Context(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: job}))
	eventually(t, "what came back expires", func() bool { return x.lots(t)[lot] == [4]int64{0, 0, 0, 50} })
	x.balance(t, 0, 0)
}

func TestCreditRaceOnGrants(t *testing.T) {
	t.Parallel()
	x := setup(t, 3*price, still)
	for i := range 4 { // 7 jobs' worth in lots that no job fits
		x.grant(t, fmt.Sprint(i), 7*price/4, time.Duration(i+1)*time.Hour)
	}
	var opened, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			_, err := x.openFor(context.Background(), x.acct, fmt.Sprint(i), price)
			switch {
			case err == nil:
				opened.Add(1)
			case fault.FromStatus(err).Code == fault.InsufficientCredits:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if opened.Load() != 10 || refused.Load() != 990 {
		t.Errorf("%d opened, %d refused", opened.Load(), refused.Load())
	}
	x.balance(t, 0, 10*price)
}

func TestRefundsStayWithinTheCapture(t *testing.T) {
	t.Parallel()
	x := setup(t, 1000, still)
	job := x.succeeded(t, "a", 100, 7) // captures 70
	x.balance(t, 930, 0)
	refund := func(key string, micros int64) (*ledgerv1.RefundResponse, error) {
		return x.money.Refund(t.Context(), &ledgerv1.RefundRequest{JobId: job, AmountMicros: micros, IdempotencyKey: key, Reason: "blurred"})
	}
	for range 2 {
		if r, err := refund("one", 30); err != nil || r.GetRefundedMicros() != 30 || r.GetAvailableMicros() != 960 {
			t.Fatalf("%v, %v", r, err)
		}
	}
	// Its owner sees it, as a change of the video.
	if r, err := x.jobs.GetJob(t.Context(), &ledgerv1.GetJobRequest{JobId: job}); err != nil || r.GetVideo().GetRefundedMicros() != 30 || r.GetVideo().GetCapturedMicros() != 70 {
		t.Errorf("%v, %v", r, err)
	}
	eventually(t, "the refund is told", func() bool {
		v, ok, err := x.bus.Status(t.Context(), job)
		return err == nil && ok && v.GetRefundedMicros() == 30
	})
	_, err := refund("one", 31)
	refused(t, err, fault.Conflict, "used before for another refund")
	_, err = refund("two", 41)
	refused(t, err, fault.InvalidRequest, "at most 0.000040 of the 0.000070 captured")
	for range 2 { // the rest, whatever it is
		if r, err := refund("three", 0); err != nil || r.GetRefundedMicros() != 70 || r.GetAvailableMicros() != 1000 {
			t.Fatalf("%v, %v", r, err)
		}
	}
	_, err = refund("four", 0)
	refused(t, err, fault.Conflict, "refunded in full")
	_, err = refund("five", -1)
	refused(t, err, fault.InvalidRequest, "amount_micros")
	open, _ := x.started(t, "b", 10)
	_, err = x.money.Refund(t.Context(), &ledgerv1.RefundRequest{JobId: open, IdempotencyKey: "k", Reason: "r"})
	refused(t, err, fault.Conflict, "nothing was captured")
	_, err = x.money.Refund(t.Context(), &ledgerv1.RefundRequest{JobId: "video_none", IdempotencyKey: "k", Reason: "r"})
	refused(t, err, fault.NotFound, "no such video")
	x.balance(t, 990, 10)
}

func TestConcurrentRefundsNeverPassTheCapture(t *testing.T) {
	t.Parallel()
	x := setup(t, 100, still)
	job := x.succeeded(t, "a", 100, 10)
	var done atomic.Int64
	var wg sync.WaitGroup
	for i := range 50 { // each of 25 keys twice
		wg.Go(func() {
			if _, err := x.money.Refund(context.Background(), &ledgerv1.RefundRequest{JobId: job, AmountMicros: 10, IdempotencyKey: fmt.Sprint(i / 2), Reason: "r"}); err == nil {
				done.Add(1)
			} else if c := fault.FromStatus(err).Code; c != fault.InvalidRequest && c != fault.Conflict {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if done.Load() != 20 {
		t.Errorf("%d answers of success; want 10, each twice", done.Load())
	}
	x.balance(t, 100, 0)
}

func TestAdjustmentsNeverPassZeroAndSpareGrants(t *testing.T) {
	t.Parallel()
	x := setup(t, 100, still)
	lot := x.grant(t, "g", 50, time.Hour)
	adjust := func(key string, micros int64, reason string) error {
		return call(x.money.Adjust(t.Context(), &ledgerv1.AdjustRequest{AccountId: x.acct, AmountMicros: micros, IdempotencyKey: key, Reason: reason}))
	}
	for range 2 {
		if err := adjust("up", 10, "rounding"); err != nil {
			t.Fatal(err)
		}
		if err := adjust("down", -105, "twice paid"); err != nil {
			t.Fatal(err)
		}
	}
	x.lot(t, lot, 50, 0, 0, 0)
	x.balance(t, 55, 0)
	refused(t, adjust("down", -104, "twice paid"), fault.Conflict, "")
	refused(t, adjust("down", 105, "twice paid"), fault.Conflict, "")
	refused(t, adjust("down", -105, "another reason"), fault.Conflict, "")
	refused(t, adjust("more", -56, "r"), fault.InsufficientCredits, "the account has 0.000055 credits available; 0.000056 cannot be taken")
	refused(t, adjust("zero", 0, "r"), fault.InvalidRequest, "amount_micros")
	refused(t, adjust("none", 1, ""), fault.InvalidRequest, "reason")
	if err := adjust("all", -15, "r"); err != nil {
		t.Fatal(err)
	}
	x.lot(t, lot, 40, 0, 10, 0)
	x.balance(t, 40, 0)
}

func TestAmountsThatDoNotFitAreRefused(t *testing.T) {
	t.Parallel()
	x := setup(t, 1000, still)
	job := x.succeeded(t, "a", 100, 10)
	for name, err := range map[string]error{
		"top-up":          call(x.money.TopUp(t.Context(), &ledgerv1.TopUpRequest{AccountId: x.acct, AmountMicros: math.MaxInt64, IdempotencyKey: "k"})),
		"negative top-up": call(x.money.TopUp(t.Context(), &ledgerv1.TopUpRequest{AccountId: x.acct, AmountMicros: -1, IdempotencyKey: "k"})),
		"grant":           call(x.money.Grant(t.Context(), &ledgerv1.GrantRequest{AccountId: x.acct, AmountMicros: math.MaxInt64, IdempotencyKey: "k", Reason: "r"})),
		"negative grant":  call(x.money.Grant(t.Context(), &ledgerv1.GrantRequest{AccountId: x.acct, AmountMicros: -1, IdempotencyKey: "k", Reason: "r"})),
		"past grant": call(x.money.Grant(t.Context(), &ledgerv1.GrantRequest{AccountId: x.acct, AmountMicros: 1, IdempotencyKey: "k", Reason: "r",
			ExpiresAt: timestamppb.New(time.Now().Add(-time.Hour))})),
		"adjustment":      call(x.money.Adjust(t.Context(), &ledgerv1.AdjustRequest{AccountId: x.acct, AmountMicros: math.MaxInt64, IdempotencyKey: "k", Reason: "r"})),
		"least":           call(x.money.Adjust(t.Context(), &ledgerv1.AdjustRequest{AccountId: x.acct, AmountMicros: math.MinInt64, IdempotencyKey: "k", Reason: "r"})),
		"refund":          call(x.money.Refund(t.Context(), &ledgerv1.RefundRequest{JobId: job, AmountMicros: math.MaxInt64, IdempotencyKey: "k", Reason: "r"})),
		"negative refund": call(x.money.Refund(t.Context(), &ledgerv1.RefundRequest{JobId: job, AmountMicros: -5, IdempotencyKey: "k", Reason: "r"})),
		"write-off":       call(x.money.WriteOff(t.Context(), &ledgerv1.WriteOffRequest{JobId: job, AmountMicros: -5, IdempotencyKey: "k", Reason: "r"})),
	} {
		if f := fault.FromStatus(err); f == nil || f.Code != fault.InvalidRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
	x.balance(t, 900, 0)
	// The largest write-off fits once; another one overflows, and nothing moves.
	off := func(key string) error {
		return call(x.money.WriteOff(t.Context(), &ledgerv1.WriteOffRequest{JobId: job, AmountMicros: math.MaxInt64 - 1, IdempotencyKey: key, Reason: "r"}))
	}
	if err := off("one"); err != nil {
		t.Fatal(err)
	}
	refused(t, off("two"), fault.InvalidRequest, "amount_micros")
	x.balance(t, 900, 0)
}

func TestMoneyIsMovedOnceForEachKeyAndAudited(t *testing.T) {
	t.Parallel()
	x := setup(t, 1000, still)
	job := x.succeeded(t, "a", 100, 10)
	ctx := auth.Actor{KeyID: "key_fin", RequestID: "req_9"}.Outgoing(t.Context())
	expires := timestamppb.New(time.Now().Add(time.Hour))
	all := func(n int64, reason string) map[string]error {
		return map[string]error{
			"account.top_up": call(x.money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: x.acct, AmountMicros: 100 + n, IdempotencyKey: "same", Reason: reason})),
			"account.grant":  call(x.money.Grant(ctx, &ledgerv1.GrantRequest{AccountId: x.acct, AmountMicros: 10 + n, IdempotencyKey: "same", Reason: reason, ExpiresAt: expires})),
			"account.adjust": call(x.money.Adjust(ctx, &ledgerv1.AdjustRequest{AccountId: x.acct, AmountMicros: -5 - n, IdempotencyKey: "same", Reason: reason})),
			"job.refund":     call(x.money.Refund(ctx, &ledgerv1.RefundRequest{JobId: job, AmountMicros: 20 + n, IdempotencyKey: "same", Reason: reason})),
			"job.write_off":  call(x.money.WriteOff(ctx, &ledgerv1.WriteOffRequest{JobId: job, AmountMicros: 7 + n, IdempotencyKey: "same", Reason: reason})),
		}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for name, err := range all(0, "because") {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
	for n, reason := range []string{"of another", "because"} {
		for name, err := range all(int64(n), reason) {
			if f := fault.FromStatus(err); f == nil || f.Code != fault.Conflict {
				t.Errorf("%s with other content: %v", name, err)
			}
		}
	}
	x.balance(t, 900+100+10-5+20, 0)
	seen := map[string]int{}
	for _, e := range x.audit(t, &ledgerv1.ListAuditEntriesRequest{Actor: "key_fin"}) {
		seen[e.GetAction()]++
		if d := e.GetDetails().AsMap(); d["reason"] != "because" || !strings.HasSuffix(fmt.Sprint(d["posting"]), "/same") || e.GetRequestId() != "req_9" {
			t.Errorf("%v", e)
		}
	}
	for name := range all(0, "because") {
		if seen[name] != 1 {
			t.Errorf("%d audit entries of %s", seen[name], name)
		}
	}
	var strays int
	if err := x.pool.QueryRow(ctx, "select count(*) from posting where kind in ('grant', 'adjustment', 'refund', 'write_off') and (actor <> 'key_fin' or reason <> 'because')").Scan(&strays); err != nil || strays > 0 {
		t.Errorf("%d postings without who and why: %v", strays, err)
	}
}

func TestWriteOffsAreForJobsThatAreOver(t *testing.T) {
	t.Parallel()
	x := setup(t, 1000, still)
	job, attempt := x.started(t, "a", 100)
	off := func() error {
		return call(x.money.WriteOff(t.Context(), &ledgerv1.WriteOffRequest{JobId: job, AmountMicros: 60, IdempotencyKey: "k", Reason: "canceled too late"}))
	}
	refused(t, off(), fault.Conflict, "only the cost of a job that is over")
	x.see(t, job, attempt, "timed-out", timedOut())
	refused(t, off(), fault.Conflict, "settle it instead")
	x.balance(t, 1000, 0)
}

// books reads an account's three books of the house.
func (x *bundle) books(t *testing.T) (suspense, writeOff, owed int64) {
	t.Helper()
	if err := x.pool.QueryRow(t.Context(), "select suspense_micros, write_off_micros, -provider_cost_micros from balance where account_id = $1", x.acct).
		Scan(&suspense, &writeOff, &owed); err != nil {
		t.Fatal(err)
	}
	return suspense, writeOff, owed
}

func (x *bundle) wantBooks(t *testing.T, suspense, writeOff, owed int64) {
	t.Helper()
	if s, w, o := x.books(t); s != suspense || w != writeOff || o != owed {
		t.Errorf("%d in suspense, %d written off, %d owed; want %d, %d, %d", s, w, o, suspense, writeOff, owed)
	}
}

func TestLateVerdictSettlesSuspenseOnceAndNeverCharges(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		word            func() *eventv1.Observation
		against         func() *eventv1.Observation
		writeOff, owed  int64
		outcome         ledgerv1.Outcome
		cost            int64
		source, verdict string
	}{
		"rendered": {func() *eventv1.Observation { return rendered(33, "EUR") }, failed, 100, 100, ledgerv1.Outcome_OUTCOME_BILLED, 33, "reported", "late"},
		"failed":   {failed, func() *eventv1.Observation { return rendered(0, "") }, 0, 0, ledgerv1.Outcome_OUTCOME_NOT_BILLED, 50, "expected", "applied"},
		"refused":  {notTaken, func() *eventv1.Observation { return rendered(0, "") }, 0, 0, ledgerv1.Outcome_OUTCOME_NOT_BILLED, 50, "expected", "applied"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := setup(t, 1000, still)
			job, attempt := x.started(t, "a", 100)
			x.see(t, job, attempt, "timed-out", timedOut())
			x.balance(t, 1000, 0) // released
			x.wantBooks(t, 100, 0, 100)
			var wg sync.WaitGroup
			for i := range 8 { // webhook and polls, each its own fact, all at once
				wg.Go(func() { x.see(t, job, attempt, fmt.Sprint("late", i), c.word()) })
			}
			wg.Wait()
			x.wantBooks(t, 0, c.writeOff, c.owed)
			x.balance(t, 1000, 0)
			x.see(t, job, attempt, "against", c.against()) // an alarm, never applied
			x.wantBooks(t, 0, c.writeOff, c.owed)
			// A video was seen, too late, in each of the cases.
			v := must[*ledgerv1.GetJobResponse](t)(x.jobs.GetJob(t.Context(), &ledgerv1.GetJobRequest{JobId: job})).GetVideo()
			if v.GetState() != videov1.VideoState_VIDEO_STATE_NEEDS_REVIEW || !v.GetLateResult() || v.GetCapturedMicros() != 0 {
				t.Errorf("%v", v)
			}
			var cost int64
			var source, verdicts string
			if err := x.pool.QueryRow(t.Context(), `select cost_micros, cost_source, (select string_agg(distinct verdict, ' ' order by verdict) from observation
				where job_id = job.id and id like '%late%' or id like '%against') from job where id = $1`, job).Scan(&cost, &source, &verdicts); err != nil {
				t.Fatal(err)
			}
			if cost != c.cost || source != c.source || !strings.Contains(verdicts, c.verdict) || !strings.Contains(verdicts, "conflict") {
				t.Errorf("cost %d %s, verdicts %s", cost, source, verdicts)
			}
			rs := must[*ledgerv1.ListReviewsResponse](t)(x.money.ListReviews(t.Context(), &ledgerv1.ListReviewsRequest{All: true})).GetReviews()
			if len(rs) != 1 || rs[0].GetOutcome() != c.outcome || rs[0].GetActor() != "ledger" {
				t.Errorf("%v", rs)
			}
		})
	}
}

func TestVerdictOfAnotherTaskSettlesNothing(t *testing.T) {
	t.Parallel()
	x := setup(t, 1000, still)
	job, attempt := x.started(t, "a", 100)
	x.see(t, job, attempt, "accepted", &eventv1.Observation{Fact: &eventv1.Observation_Accepted{Accepted: &eventv1.Accepted{ProviderTaskId: "mine"}}})
	x.see(t, job, attempt, "timed-out", timedOut())
	o := rendered(0, "")
	o.GetRendered().ProviderTaskId = "other"
	x.see(t, job, attempt, "late", o)
	x.wantBooks(t, 100, 0, 100)
	o = rendered(0, "")
	o.GetRendered().ProviderTaskId = "mine"
	x.see(t, job, attempt, "later", o)
	x.wantBooks(t, 0, 100, 100)
	x.balance(t, 1000, 0)
}

func TestSuspenseIsSettledByHandOnce(t *testing.T) {
	t.Parallel()
	x := setup(t, 1000, still)
	ctx := auth.Actor{KeyID: "key_fin"}.Outgoing(t.Context())
	settle := func(job string, as ledgerv1.Outcome) error {
		return call(x.money.SettleSuspense(ctx, &ledgerv1.SettleSuspenseRequest{JobId: job, Outcome: as, Reason: "invoice 7"}))
	}
	job, attempt := x.started(t, "a", 100)
	refused(t, settle(job, ledgerv1.Outcome_OUTCOME_BILLED), fault.Conflict, "has nothing in suspense")
	x.see(t, job, attempt, "timed-out", timedOut())
	refused(t, settle(job, 0), fault.InvalidRequest, "outcome")
	for range 2 {
		if err := settle(job, ledgerv1.Outcome_OUTCOME_BILLED); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, settle(job, ledgerv1.Outcome_OUTCOME_NOT_BILLED), fault.Conflict, "settled before, as billed by key_fin")
	x.see(t, job, attempt, "late", rendered(0, "")) // confirms it
	x.wantBooks(t, 0, 100, 100)
	if n := len(x.audit(t, &ledgerv1.ListAuditEntriesRequest{Actor: "key_fin"})); n != 1 {
		t.Errorf("%d audit entries", n)
	}
	// Operators and the provider at once: one of them settles.
	job, attempt = x.started(t, "b", 50)
	x.see(t, job, attempt, "timed-out", timedOut())
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if i%2 == 0 {
				x.see(t, job, attempt, fmt.Sprint("late", i), rendered(0, ""))
			} else if err := settle(job, ledgerv1.Outcome_OUTCOME_NOT_BILLED); err != nil && fault.FromStatus(err).Code != fault.Conflict {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if s, w, o := x.books(t); s != 0 || w != o || w != 100 && w != 150 {
		t.Errorf("%d in suspense, %d written off, %d owed", s, w, o)
	}
	x.balance(t, 1000, 0)
}

func TestTaskInReviewIsPolledSlowlyUntilItsFateIsKnown(t *testing.T) {
	t.Parallel()
	x := setup(t, 1000, func(c *ledger.Config) { c.ReviewEvery = 200 * time.Millisecond })
	job, attempt := x.started(t, "a", 100)
	x.see(t, job, attempt, "accepted", &eventv1.Observation{Fact: &eventv1.Observation_Accepted{Accepted: &eventv1.Accepted{ProviderTaskId: "task"}}})
	x.see(t, job, attempt, "timed-out", timedOut())
	stands := func() *ledgerv1.GetAttemptResponse {
		return must[*ledgerv1.GetAttemptResponse](t)(x.jobs.GetAttempt(t.Context(), &ledgerv1.GetAttemptRequest{AttemptId: attempt}))
	}
	if a := stands(); a.GetSettled() || !a.GetInReview() {
		t.Fatalf("not to be polled: %v", a)
	}
	due := func() (at time.Time) {
		if err := x.pool.QueryRow(t.Context(), "select poll_after from review where job_id = $1", job).Scan(&at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	for range 2 {
		before := due()
		eventually(t, "polled again", func() bool { return due().After(before) })
	}
	x.see(t, job, attempt, "late", failed())
	if a := stands(); !a.GetSettled() || a.GetInReview() {
		t.Errorf("still polled: %v", a)
	}
	last := due()
	<-time.After(500 * time.Millisecond) // two polls' time
	if !due().Equal(last) {
		t.Error("polled after its fate was known")
	}
}

func TestCostIsKeptBesideTheCredits(t *testing.T) {
	t.Parallel()
	x := setup(t, 10_000, still)
	x.succeeded(t, "catalogue", 100, 10)
	job, attempt := x.started(t, "reported", 200)
	x.see(t, job, attempt, "rendered", rendered(70, "CNY"))
	x.see(t, job, attempt, "archived", archived(5)) // captures 100
	job, attempt = x.started(t, "failed", 400)
	x.see(t, job, attempt, "failed", failed())
	refundable := x.succeeded(t, "refunded", 300, 10)
	must[*ledgerv1.RefundResponse](t)(x.money.Refund(t.Context(), &ledgerv1.RefundRequest{JobId: refundable, AmountMicros: 50, IdempotencyKey: "k", Reason: "r"}))
	day := time.Now().UTC().Format(time.DateOnly)
	ask := func(from, to string, by ...string) ([]*ledgerv1.MarginRow, error) {
		r, err := x.money.Margin(t.Context(), &ledgerv1.MarginRequest{FromDay: from, ToDay: to, By: by})
		return r.GetRows(), err
	}
	yesterday := time.Now().UTC().AddDate(0, 0, -1).Format(time.DateOnly)
	rows, err := ask(yesterday, time.Now().UTC().AddDate(0, 0, 1).Format(time.DateOnly))
	if err != nil || len(rows) != 1 {
		t.Fatalf("%v, %v", rows, err)
	}
	r := rows[0]
	if r.GetModel() != "m" || r.GetProvider() != "testprovider" || r.GetAccountId() != x.acct || r.GetJobs() != 4 || r.GetSucceeded() != 3 ||
		r.GetRevenueMicros() != 100+100+250 || r.GetRefundedMicros() != 50 || r.GetUncosted() != 0 || r.GetDay() < yesterday {
		t.Errorf("%v", r)
	}
	want := map[string][2]int64{"CNY": {70, 70}, "USD": {50 + 150, 0}}
	for _, c := range r.GetCosts() {
		if w := want[c.GetCurrency()]; c.GetMicros() != w[0] || c.GetReportedMicros() != w[1] {
			t.Errorf("%v", c)
		}
		delete(want, c.GetCurrency())
	}
	if len(want) > 0 {
		t.Errorf("missing %v", want)
	}
	if rows, err = ask(yesterday, yesterday, "provider"); err != nil || len(rows) != 0 {
		t.Errorf("%v, %v", rows, err)
	}
	_, err = ask(day, yesterday)
	refused(t, err, fault.InvalidRequest, "to_day")
	_, err = ask("2026-02-30", day)
	refused(t, err, fault.InvalidRequest, "from_day")
}
