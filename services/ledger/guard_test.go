package ledger_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/ledger"
)

const (
	ofAccount = ledgerv1.BudgetSubject_BUDGET_SUBJECT_ACCOUNT
	ofKey     = ledgerv1.BudgetSubject_BUDGET_SUBJECT_API_KEY
	ofUser    = ledgerv1.BudgetSubject_BUDGET_SUBJECT_END_USER
	ofModel   = ledgerv1.BudgetSubject_BUDGET_SUBJECT_MODEL

	daily   = ledgerv1.BudgetPeriod_BUDGET_PERIOD_DAY
	weekly  = ledgerv1.BudgetPeriod_BUDGET_PERIOD_WEEK
	monthly = ledgerv1.BudgetPeriod_BUDGET_PERIOD_MONTH
	total   = ledgerv1.BudgetPeriod_BUDGET_PERIOD_TOTAL
)

// guarded is a ledger with a second replica beside it, and a key.
type guarded struct {
	*bundle
	budgets ledgerv1.BudgetServiceClient
	doors   []ledgerv1.JobServiceClient // of each replica
	next    atomic.Int64
	keyID   string
}

func setupGuarded(t *testing.T, credits int64, cfg ledger.Config) *guarded {
	t.Helper()
	x := &guarded{bundle: setup(t, credits)}
	cfg.MaxAttempts, cfg.MaxRuntime, cfg.QueueLife, cfg.TypicalRender = 3, time.Hour, time.Hour, time.Minute
	cfg.SweepInterval, cfg.SweepAfter, cfg.ProgressEvery, cfg.WatchAfter = time.Hour, time.Hour, time.Hour, time.Hour
	cfg.Workers, cfg.Group, cfg.Waiting = 2, 64, 4096
	s, err := ledger.New(cfg, ledger.Deps{Pool: x.pool, Bus: x.bus, Logger: slog.New(slog.DiscardHandler)})
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
		wg.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		})
	}
	conn, err := rpc.Dial("passthrough:replica", grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return lis.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); cancel(); srv.Stop(); wg.Wait() })
	second := ledgerv1.NewJobServiceClient(conn)
	x.budgets, x.doors = ledgerv1.NewBudgetServiceClient(conn), []ledgerv1.JobServiceClient{x.jobs, second}
	if cfg.SpikeFactor > 0 {
		x.doors = x.doors[1:] // the first was not told of the breaker
	}
	x.keyID = x.key(t, "videos:write").GetKeyId()
	return x
}

// order opens a job by any replica, for the default key, user and model unless
// change says otherwise.
func (x *guarded) order(change ...func(*ledgerv1.OpenJobRequest)) (*videov1.Video, error) {
	hash := sha256.Sum256([]byte("body"))
	q := &ledgerv1.OpenJobRequest{AccountId: x.acct, ApiKeyId: x.keyID, Provider: "testprovider", User: "ann", RequestHash: hash[:],
		QuoteMicros: price, Params: &videov1.VideoParams{Model: "m", Prompt: "p"}}
	for _, c := range change {
		c(q)
	}
	r, err := x.doors[int(x.next.Add(1))%len(x.doors)].OpenJob(context.Background(), q)
	return r.GetVideo(), err
}

func (x *guarded) mustOrder(t *testing.T, change ...func(*ledgerv1.OpenJobRequest)) *videov1.Video {
	t.Helper()
	v, err := x.order(change...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func by(user string) func(*ledgerv1.OpenJobRequest) {
	return func(q *ledgerv1.OpenJobRequest) { q.User = user }
}

func costing(micros int64) func(*ledgerv1.OpenJobRequest) {
	return func(q *ledgerv1.OpenJobRequest) { q.QuoteMicros = micros }
}

func (x *guarded) set(t *testing.T, s ledgerv1.BudgetSubject, of string, p ledgerv1.BudgetPeriod, limit int64, hard bool) *ledgerv1.Budget {
	t.Helper()
	r, err := x.budgets.SetBudget(t.Context(), &ledgerv1.SetBudgetRequest{AccountId: x.acct, Subject: s, SubjectId: of, Period: p, LimitMicros: limit, Hard: hard})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetBudget()
}

// use is what a budget shows of a subject; zero when nothing.
func (x *guarded) use(t *testing.T, budget, of string) *ledgerv1.BudgetUse {
	t.Helper()
	r, err := x.budgets.ListBudgets(t.Context(), &ledgerv1.ListBudgetsRequest{AccountId: x.acct, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range r.GetBudgets() {
		for _, u := range item.GetUses() {
			if item.GetBudget().GetId() == budget && u.GetSubjectId() == of {
				return u
			}
		}
	}
	return &ledgerv1.BudgetUse{}
}

func (x *guarded) used(t *testing.T, budget, of string, held, spent int64) {
	t.Helper()
	if u := x.use(t, budget, of); u.GetHeldMicros() != held || u.GetSpentMicros() != spent {
		t.Errorf("the budget of %q counts %d held and %d spent, want %d and %d", of, u.GetHeldMicros(), u.GetSpentMicros(), held, spent)
	}
}

func (x *guarded) succeed(t *testing.T, id string) {
	t.Helper()
	attempt := x.begin(t, id)
	for _, step := range []struct {
		fact  string
		state videov1.VideoState
	}{{"accepted", videov1.VideoState_VIDEO_STATE_RUNNING}, {"rendered", videov1.VideoState_VIDEO_STATE_STORING}, {"archived", videov1.VideoState_VIDEO_STATE_SUCCEEDED}} {
		x.observe(t, id, attempt, step.fact)
		x.await(t, id, step.state)
	}
}

func (x *guarded) cancel(t *testing.T, id string) {
	t.Helper()
	if _, err := x.jobs.CancelJob(t.Context(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: id}); err != nil {
		t.Fatal(err)
	}
}

// notices are those in the stream, once the outbox is empty.
func (x *guarded) notices(t *testing.T) []*eventv1.AccountNotice {
	t.Helper()
	eventually(t, "outbox published", func() bool {
		var n int
		if err := x.pool.QueryRow(t.Context(), "select count(*) from outbox where publish_after < now()").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
	s, err := x.bus.JetStream().Stream(t.Context(), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	cons, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{FilterSubject: bus.NoticeSubject(x.acct), AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		t.Fatal(err)
	}
	batch, err := cons.FetchNoWait(100)
	if err != nil {
		t.Fatal(err)
	}
	var out []*eventv1.AccountNotice
	for m := range batch.Messages() {
		n := &eventv1.AccountNotice{}
		if err := proto.Unmarshal(m.Data(), n); err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

// A thousand callers by two replicas; every kind of budget lets through what
// fits and not one more.
func TestBudgetRaceAcceptsExactlyWhatFits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		subject ledgerv1.BudgetSubject
		of      func(*guarded) string
		period  ledgerv1.BudgetPeriod
		named   string
	}{
		"account":   {ofAccount, func(*guarded) string { return "" }, daily, "daily budget of the account"},
		"key":       {ofKey, func(x *guarded) string { return x.keyID }, weekly, "weekly budget of API key key_"},
		"user":      {ofUser, func(*guarded) string { return "ann" }, monthly, "monthly budget of user ann"},
		"each user": {ofUser, func(*guarded) string { return "*" }, monthly, "monthly budget of user ann"},
		"model":     {ofModel, func(*guarded) string { return "m" }, total, "total budget of model m"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := setupGuarded(t, 1000*price, ledger.Config{})
			of := c.of(x)
			b := x.set(t, c.subject, of, c.period, 10*price, true)
			var accepted, refused atomic.Int64
			var wg sync.WaitGroup
			for range 1000 {
				wg.Go(func() {
					_, err := x.order()
					switch f := fault.FromStatus(err); {
					case err == nil:
						accepted.Add(1)
					case f.Code == fault.InsufficientCredits && strings.Contains(f.Message, c.named) && len(f.Fields) == 1 && f.Fields[0].Name == "budget":
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
			x.balance(t, 990*price, 10*price)
			if of == "*" {
				of = "ann"
				x.mustOrder(t, by("bob")) // each for itself
			}
			x.used(t, b.GetId(), of, 10*price, 0)
			var told []int32
			for _, n := range x.notices(t) {
				if n.GetBudget().GetSubjectId() == of {
					told = append(told, n.GetBudget().GetPercent())
				}
			}
			if !slices.Equal(told, []int32{50, 80, 100}) {
				t.Errorf("notices of %v percent, want each of 50, 80, 100 once", told)
			}
		})
	}
}

func TestSoftBudgetAllowsAndTellsOnce(t *testing.T) {
	t.Parallel()
	x := setupGuarded(t, 100*price, ledger.Config{})
	b := x.set(t, ofUser, "ann", monthly, 10*price, false)
	var wg sync.WaitGroup
	for range 25 {
		wg.Go(func() {
			if _, err := x.order(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	x.used(t, b.GetId(), "ann", 25*price, 0)
	told := x.notices(t)
	if len(told) != 3 {
		t.Fatalf("%d notices, want 3", len(told))
	}
	for i, want := range []struct {
		percent int32
		held    int64
	}{{50, 5 * price}, {80, 8 * price}, {100, 10 * price}} {
		n := told[i].GetBudget()
		if n.GetPercent() != want.percent || n.GetHeldMicros() != want.held || n.GetLimitMicros() != 10*price || n.GetHard() || n.GetSubject() != "end_user" ||
			n.GetPeriod() != "month" || n.GetBudgetId() != b.GetId() || n.GetResetsAt() == nil || told[i].GetAccountId() != x.acct {
			t.Errorf("notice %d: %v", i, told[i])
		}
	}
	if text := told[1].GetText(); !strings.HasPrefix(text, "80 % of the monthly budget of user ann is used: of its 10.000000 credits, 0.000000 are spent and 8.000000 held for videos under way; it resets at ") {
		t.Error(text)
	}

	// Raised, it tells again of what is not yet reached.
	x.set(t, ofUser, "ann", monthly, 50*price, false)
	if u := x.use(t, b.GetId(), "ann"); u.GetNoticedPercent() != 50 {
		t.Errorf("noticed %d %%, want 50", u.GetNoticedPercent())
	}
	x.mustOrder(t, costing(15*price))
	if told := x.notices(t); len(told) != 4 || told[3].GetBudget().GetPercent() != 80 {
		t.Errorf("after raising it: %v", told)
	}
}

func TestBudgetFollowsTheHold(t *testing.T) {
	t.Parallel()
	x := setupGuarded(t, 100*price, ledger.Config{})
	hard := x.set(t, ofKey, x.keyID, daily, 2*price, true)
	one, two := x.mustOrder(t), x.mustOrder(t)
	if _, err := x.order(); fault.FromStatus(err).Code != fault.InsufficientCredits {
		t.Fatal("a third fits into a budget of two:", err)
	}
	x.cancel(t, one.GetId())
	x.used(t, hard.GetId(), x.keyID, price, 0)
	three := x.mustOrder(t) // there is room again
	x.succeed(t, two.GetId())
	x.used(t, hard.GetId(), x.keyID, price, price)
	failed := x.begin(t, three.GetId())
	x.observe(t, three.GetId(), failed, "refused")
	x.await(t, three.GetId(), videov1.VideoState_VIDEO_STATE_FAILED)
	x.used(t, hard.GetId(), x.keyID, 0, price)
	x.mustOrder(t)
	if _, err := x.order(); fault.FromStatus(err).Code != fault.InsufficientCredits {
		t.Error("what is spent is not free again:", err)
	}
	// A retry of a request that was answered is no new video.
	x.set(t, ofKey, x.keyID, daily, 3*price, true)
	same := func(q *ledgerv1.OpenJobRequest) { q.IdempotencyKey = "same" }
	first := x.mustOrder(t, same)
	if again := x.mustOrder(t, same); again.GetId() != first.GetId() {
		t.Error("a replay opened another job")
	}
	x.balance(t, 97*price, 2*price)
}

// Jobs that were opened yesterday settle in yesterday's period, and today begins
// with nothing.
func TestBudgetSettlesInThePeriodOfTheOpening(t *testing.T) {
	t.Parallel()
	x := setupGuarded(t, 100*price, ledger.Config{})
	b := x.set(t, ofAccount, "", daily, 2*price, true)
	captured, released := x.mustOrder(t), x.mustOrder(t)
	for _, sql := range []string{
		"update budget_use set period_start = period_start - interval '1 day'",
		`update job set counted_in = (select jsonb_agg(jsonb_set(c, '{from}', to_jsonb((c->>'from')::timestamptz - interval '1 day'))) from jsonb_array_elements(counted_in) c)`,
	} {
		if _, err := x.pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	x.used(t, b.GetId(), "", 0, 0)
	x.mustOrder(t)
	x.succeed(t, captured.GetId())
	x.cancel(t, released.GetId())
	x.used(t, b.GetId(), "", price, 0)
	rows, err := x.pool.Query(t.Context(), "select held_micros, spent_micros, alerted from budget_use order by period_start")
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Held, Spent, Alerted int64 }])
	if err != nil || len(got) != 2 || got[0] != struct{ Held, Spent, Alerted int64 }{0, price, 100} || got[1] != struct{ Held, Spent, Alerted int64 }{price, 0, 50} {
		t.Errorf("yesterday and today: %v, %v", got, err)
	}
	// The balance agrees, and so do the invariants.
	x.balance(t, 98*price, price)
}

func TestBudgetRefusalSaysAllThatACallerNeeds(t *testing.T) {
	t.Parallel()
	x := setupGuarded(t, 100*price, ledger.Config{})
	if _, err := x.accts.UpdateAccount(t.Context(), &ledgerv1.UpdateAccountRequest{AccountId: x.acct, TimeZone: proto.String("Asia/Kolkata")}); err != nil {
		t.Fatal(err)
	}
	day := x.set(t, ofAccount, "", daily, 3*price, true)
	v := x.mustOrder(t)
	x.succeed(t, v.GetId())
	x.mustOrder(t)
	use := x.use(t, day.GetId(), "")
	resets := use.GetResetsAt().AsTime()
	reset := fmt.Sprintf("it resets at %s 00:00 Asia/Kolkata (%s 18:30 UTC)", resets.Add(330*time.Minute).Format("2006-01-02"), resets.Format("2006-01-02"))

	_, err := x.order(costing(2 * price))
	f := fault.FromStatus(err)
	want := "this video costs 2.000000 credits, and the daily budget of the account has 1.000000 left: of its 3.000000, 1.000000 are spent and 1.000000 held for videos under way; " + reset
	if f.Code != fault.InsufficientCredits || f.Message != want || f.Retryable {
		t.Errorf("%s\n%s\nwant\n%s", f.Code, f.Message, want)
	}
	if len(f.Fields) != 1 || f.Fields[0] != (fault.Field{Name: "budget", Message: day.GetId() + ", the daily budget of the account, has 1.000000 of 3.000000 credits left; " + reset}) {
		t.Error(f.Fields)
	}
	if left := time.Until(resets); f.RetryAfter < left-time.Minute || f.RetryAfter > left+time.Minute {
		t.Errorf("retry after %v, want about %v", f.RetryAfter, left)
	}

	// What never fits has no time at which to try again.
	if _, err := x.order(costing(4 * price)); fault.FromStatus(err).RetryAfter != 0 {
		t.Error("a video above the limit:", err)
	}

	// Of several, the one that lasts is named first, and all are listed.
	all := x.set(t, ofUser, "ann", total, 2*price, true)
	x.mustOrder(t) // the day is full
	x.set(t, ofUser, "ann", total, price/2, true)
	_, err = x.order()
	f = fault.FromStatus(err)
	if !strings.HasPrefix(f.Message, "this video costs 1.000000 credits, and the total budget of user ann has 0.000000 left: of its 0.500000, 0.000000 are spent and 1.000000 held for videos under way; it does not reset") ||
		f.RetryAfter != 0 || len(f.Fields) != 2 || !strings.HasPrefix(f.Fields[1].Message, all.GetId()) {
		t.Errorf("%v %v %v", f.Message, f.RetryAfter, f.Fields)
	}
}

func TestBudgetsRefuseWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	x := setupGuarded(t, math.MaxInt64, ledger.Config{})
	other := &ledgerv1.CreateAccountRequest{Name: "other"}
	foreign, err := x.accts.CreateAccount(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	ok := func() *ledgerv1.SetBudgetRequest {
		return &ledgerv1.SetBudgetRequest{AccountId: x.acct, Subject: ofKey, SubjectId: x.keyID, Period: daily, LimitMicros: price}
	}
	for name, c := range map[string]struct {
		change func(*ledgerv1.SetBudgetRequest)
		want   string
	}{
		"negative":          {func(q *ledgerv1.SetBudgetRequest) { q.LimitMicros = -1 }, "invalid_request: limit_micros: must be above 0"},
		"zero":              {func(q *ledgerv1.SetBudgetRequest) { q.LimitMicros = 0 }, "invalid_request: limit_micros: must be above 0"},
		"least":             {func(q *ledgerv1.SetBudgetRequest) { q.LimitMicros = math.MinInt64 }, "invalid_request: limit_micros: must be above 0"},
		"no subject":        {func(q *ledgerv1.SetBudgetRequest) { q.Subject = 0 }, "invalid_request: subject: "},
		"unknown subject":   {func(q *ledgerv1.SetBudgetRequest) { q.Subject = 9 }, "invalid_request: subject: "},
		"no period":         {func(q *ledgerv1.SetBudgetRequest) { q.Period = 0 }, "invalid_request: period: "},
		"account with id":   {func(q *ledgerv1.SetBudgetRequest) { q.Subject = ofAccount }, "invalid_request: subject_id: must be empty"},
		"key without id":    {func(q *ledgerv1.SetBudgetRequest) { q.SubjectId = "" }, "invalid_request: subject_id: is required"},
		"control character": {func(q *ledgerv1.SetBudgetRequest) { q.SubjectId = "a\nb" }, "invalid_request: subject_id: must not hold"},
		"foreign key":       {func(q *ledgerv1.SetBudgetRequest) { q.AccountId = foreign.GetAccountId() }, "not_found: no such API key"},
		"no such account":   {func(q *ledgerv1.SetBudgetRequest) { q.AccountId, q.Subject, q.SubjectId = "acct_none", ofModel, "m" }, "not_found: no such account"},
	} {
		q := ok()
		c.change(q)
		_, err := x.budgets.SetBudget(t.Context(), q)
		if f := fault.FromStatus(err); err == nil || !strings.HasPrefix(string(f.Code)+": "+f.Message, c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	for name, q := range map[string]*ledgerv1.SetKeyLimitsRequest{
		"negative": {KeyId: x.keyID, MaxConcurrent: proto.Int32(-1)}, "too many": {KeyId: x.keyID, RequestsPerMinute: proto.Int32(1_000_001)},
	} {
		if _, err := x.budgets.SetKeyLimits(t.Context(), q); fault.FromStatus(err).Code != fault.InvalidRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := x.budgets.SetKeyLimits(t.Context(), &ledgerv1.SetKeyLimitsRequest{KeyId: "key_none"}); fault.FromStatus(err).Code != fault.NotFound {
		t.Error(err)
	}
	if _, err := x.budgets.DeleteBudget(t.Context(), &ledgerv1.DeleteBudgetRequest{BudgetId: "budget_none"}); fault.FromStatus(err).Code != fault.NotFound {
		t.Error(err)
	}

	// The greatest amounts there are neither overflow nor pass.
	b := x.set(t, ofAccount, "", total, math.MaxInt64, true)
	x.set(t, ofUser, "ann", total, math.MaxInt64-1, true)
	v := x.mustOrder(t, costing(math.MaxInt64-1))
	x.used(t, b.GetId(), "", math.MaxInt64-1, 0)
	if told := x.notices(t); len(told) != 5 { // 50 and 80 of both, 100 of the user's
		t.Errorf("%d notices", len(told))
	}
	if _, err := x.order(costing(2)); fault.FromStatus(err).Code != fault.InsufficientCredits {
		t.Error(err)
	}
	x.succeed(t, v.GetId())
	x.used(t, b.GetId(), "", 0, math.MaxInt64-1)
}

func TestDeletedBudgetRefusesNothing(t *testing.T) {
	t.Parallel()
	x := setupGuarded(t, 100*price, ledger.Config{})
	b := x.set(t, ofModel, "m", total, price, true)
	v := x.mustOrder(t)
	if _, err := x.order(); fault.FromStatus(err).Code != fault.InsufficientCredits {
		t.Fatal(err)
	}
	x.mustOrder(t, func(q *ledgerv1.OpenJobRequest) { q.Params.Model = "another" })
	if _, err := x.budgets.DeleteBudget(t.Context(), &ledgerv1.DeleteBudgetRequest{BudgetId: b.GetId()}); err != nil {
		t.Fatal(err)
	}
	x.mustOrder(t)
	x.succeed(t, v.GetId())
	if again := x.set(t, ofModel, "m", total, price, true); again.GetId() == b.GetId() {
		t.Error("the deleted budget came back")
	}
	x.mustOrder(t) // counts from now on
	var actions []string
	for _, e := range x.audit(t, &ledgerv1.ListAuditEntriesRequest{AccountId: x.acct, Limit: 3}) {
		actions = append(actions, e.GetAction())
	}
	if !slices.Equal(actions, []string{"budget.set", "budget.delete", "budget.set"}) {
		t.Error("audit log:", actions)
	}
}

func TestCeilingOfJobsUnderWay(t *testing.T) {
	t.Parallel()
	x := setupGuarded(t, 1000*price, ledger.Config{})
	before := x.mustOrder(t) // counted although it came first
	limits := func(n int32) *ledgerv1.KeyLimits {
		t.Helper()
		r, err := x.budgets.SetKeyLimits(t.Context(), &ledgerv1.SetKeyLimitsRequest{KeyId: x.keyID, MaxConcurrent: proto.Int32(n)})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetLimits()
	}
	if l := limits(10); l.GetUnderWay() != 1 || l.GetMaxConcurrent() != 10 || l.GetRequestsPerMinute() != 0 {
		t.Error(l)
	}
	var accepted, refused atomic.Int64
	var last atomic.Pointer[fault.Error]
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			switch _, err := x.order(); {
			case err == nil:
				accepted.Add(1)
			case fault.FromStatus(err).Code == fault.RateLimited:
				refused.Add(1)
				last.Store(fault.FromStatus(err))
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if accepted.Load() != 9 || refused.Load() != 191 {
		t.Errorf("accepted %d and refused %d, want 9 and 191", accepted.Load(), refused.Load())
	}
	f := last.Load()
	if f.Message != "this API key has 10 videos under way, and its ceiling is 10; wait for one to end, or cancel one" || f.RetryAfter != 5*time.Second || !f.Retryable ||
		!slices.Equal(f.Fields, []fault.Field{{Name: "max_concurrent", Message: "is 10"}}) {
		t.Errorf("%+v", f)
	}
	x.mustOrder(t, func(q *ledgerv1.OpenJobRequest) { q.ApiKeyId = "" }) // another's ceiling
	x.succeed(t, before.GetId())
	next := x.mustOrder(t)
	x.cancel(t, next.GetId())
	x.mustOrder(t)
	if _, err := x.order(); fault.FromStatus(err).Code != fault.RateLimited {
		t.Error(err)
	}
	limits(0)
	x.mustOrder(t)
	if l := limits(5); l.GetUnderWay() != 11 {
		t.Errorf("%d under way, want 11: they are counted while the ceiling is off too", l.GetUnderWay())
	}
	x.balance(t, 1000*price-13*price, 12*price)
}

func TestRotatedKeyInheritsItsLimits(t *testing.T) {
	t.Parallel()
	x := setupGuarded(t, 100*price, ledger.Config{})
	x.set(t, ofKey, x.keyID, monthly, 3*price, true)
	each := x.set(t, ofKey, "*", daily, 50*price, true)
	if _, err := x.budgets.SetKeyLimits(t.Context(), &ledgerv1.SetKeyLimitsRequest{KeyId: x.keyID, MaxConcurrent: proto.Int32(7), RequestsPerMinute: proto.Int32(60)}); err != nil {
		t.Fatal(err)
	}
	x.mustOrder(t)
	v := x.mustOrder(t)
	x.succeed(t, v.GetId())
	r, err := x.accts.RotateAPIKey(t.Context(), &ledgerv1.RotateAPIKeyRequest{KeyId: x.keyID})
	if err != nil {
		t.Fatal(err)
	}
	l, err := x.budgets.GetKeyLimits(t.Context(), &ledgerv1.GetKeyLimitsRequest{KeyId: r.GetKeyId()})
	if err != nil || l.GetLimits().GetMaxConcurrent() != 7 || l.GetLimits().GetRequestsPerMinute() != 60 || l.GetLimits().GetUnderWay() != 0 {
		t.Error(l, err)
	}
	x.used(t, each.GetId(), r.GetKeyId(), 0, 2*price)
	hash := sha256.Sum256([]byte(r.GetApiKey()))
	if a, err := x.accts.Authenticate(t.Context(), &ledgerv1.AuthenticateRequest{KeyHash: hash[:]}); err != nil || a.GetRequestsPerMinute() != 60 {
		t.Error(a, err)
	}
	successor := func(q *ledgerv1.OpenJobRequest) { q.ApiKeyId = r.GetKeyId() }
	x.mustOrder(t, successor)
	if _, err := x.order(successor); fault.FromStatus(err).Code != fault.InsufficientCredits {
		t.Error("a rotation made room:", err)
	}
	x.balance(t, 97*price, 2*price)
}

// history gives an account so many hours of spending before this one.
func (x *guarded) history(t *testing.T, hours int, micros int64) {
	t.Helper()
	if _, err := x.pool.Exec(t.Context(), `insert into spend_hour (account_id, hour, micros)
		select $1, date_trunc('hour', now(), 'UTC') - n * interval '1 hour', $3 from generate_series(1, $2) n`, x.acct, hours, micros); err != nil {
		t.Fatal(err)
	}
}

func TestBreakerPausesAnAccountThatSpendsTooFast(t *testing.T) {
	t.Parallel()
	x := setupGuarded(t, 1000*price, ledger.Config{SpikeFactor: 10})
	x.history(t, 24, price/2) // five in an hour
	v := x.mustOrder(t)
	var accepted, refused atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			switch _, err := x.order(); {
			case err == nil:
				accepted.Add(1)
			case fault.FromStatus(err).Code == fault.PermissionDenied:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if accepted.Load() != 4 || refused.Load() != 96 {
		t.Errorf("accepted %d and refused %d, want 4 and 96", accepted.Load(), refused.Load())
	}
	_, err := x.order(costing(1))
	f := fault.FromStatus(err)
	if f.Code != fault.PermissionDenied || f.Retryable || !strings.HasPrefix(f.Message, "paused: with this video the account would have spent 6.000000 credits since ") ||
		!strings.HasSuffix(f.Message, " UTC, and the most that an hour may come to is 5.000000, as its usual hour is 0.500000; an operator resumes it") {
		t.Error(f)
	}
	told := x.notices(t)
	if len(told) != 1 || told[0].GetText() != f.Message || told[0].GetPaused().GetHourMicros() != 6*price || told[0].GetPaused().GetLimitMicros() != 5*price || told[0].GetPaused().GetUsualMicros() != price/2 {
		t.Errorf("notices: %v", told)
	}
	a, err := x.accts.GetAccount(t.Context(), &ledgerv1.GetAccountRequest{AccountId: x.acct})
	if err != nil || a.GetAccount().GetStatus() != ledgerv1.AccountStatus_ACCOUNT_STATUS_PAUSED || !strings.Contains(f.Message, a.GetAccount().GetPausedReason()) || a.GetAccount().GetPausedAt() == nil {
		t.Error(a, err)
	}
	if e := x.audit(t, &ledgerv1.ListAuditEntriesRequest{AccountId: x.acct, Limit: 1})[0]; e.GetAction() != "account.pause" || e.GetActor() != "operator" {
		t.Error(e)
	}
	x.succeed(t, v.GetId()) // what is under way goes on

	if _, err := x.accts.ResumeAccount(t.Context(), &ledgerv1.ResumeAccountRequest{AccountId: x.acct, Reason: "a launch"}); err != nil {
		t.Fatal(err)
	}
	x.mustOrder(t) // and not paused again by the same hour
	if _, err := x.pool.Exec(t.Context(), "update account set spike_exempt_until = now() where id = $1", x.acct); err != nil {
		t.Fatal(err)
	}
	if _, err := x.order(); fault.FromStatus(err).Code != fault.PermissionDenied {
		t.Error("an hour later it may be paused again:", err)
	}
	x.balance(t, 994*price, 5*price)
}

func TestBreakerLeavesAlone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg   ledger.Config
		hours int
		usual int64
		fits  int64
	}{
		"too little history":           {ledger.Config{SpikeFactor: 10}, 23, price, 900 * price},
		"a floor above the usual hour": {ledger.Config{SpikeFactor: 10, SpikeFloor: 20}, 24, price, 20 * price},
		"a floor without a history":    {ledger.Config{SpikeFactor: 10, SpikeFloor: 20}, 0, 0, 20 * price},
		"ten times the usual hour":     {ledger.Config{SpikeFactor: 10, SpikeFloor: 5}, 24, price, 10 * price},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := setupGuarded(t, 1000*price, c.cfg)
			x.history(t, c.hours, c.usual)
			x.mustOrder(t, costing(c.fits))
			// More than the balance holds is a matter of the balance.
			if _, err := x.order(costing(5000 * price)); fault.FromStatus(err).Code != fault.InsufficientCredits {
				t.Error(err)
			}
			if _, err := x.order(costing(1)); (err != nil) != (c.fits < 900*price) {
				t.Error("one more micro-credit:", err)
			}
		})
	}
}

func TestSuspendedAccountOpensNothing(t *testing.T) {
	t.Parallel()
	x := setupGuarded(t, 10*price, ledger.Config{})
	if _, err := x.accts.SuspendAccount(t.Context(), &ledgerv1.SuspendAccountRequest{AccountId: x.acct, Reason: "unpaid"}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.order(); fault.FromStatus(err).Message != "the account is suspended: unpaid" {
		t.Error(err)
	}
}
