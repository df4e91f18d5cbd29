package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"reelway.dev/pkg/bus"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// account makes another account with credit.
func (x *bundle) account(t *testing.T) string {
	t.Helper()
	a, err := x.accts.CreateAccount(t.Context(), &ledgerv1.CreateAccountRequest{Name: "another"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.money.TopUp(t.Context(), &ledgerv1.TopUpRequest{AccountId: a.GetAccountId(), AmountMicros: 10_000 * price, IdempotencyKey: "first"}); err != nil {
		t.Fatal(err)
	}
	return a.GetAccountId()
}

// wait opens n jobs at once and returns their ids.
func (x *bundle) wait(t *testing.T, account string, n int, p videov1.Priority, weight int32) []string {
	t.Helper()
	ids := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			r, err := x.jobs.OpenJob(t.Context(), &ledgerv1.OpenJobRequest{AccountId: account, Provider: "testprovider", QuoteMicros: price,
				Params: &videov1.VideoParams{Model: "m", Prompt: "p"}, Priority: p, QueueWeight: weight})
			if err != nil {
				t.Error(err)
			}
			ids[i] = r.GetVideo().GetId()
		})
	}
	wg.Wait()
	return ids
}

// dispatch begins jobs as their commands come, until all have, and returns whose
// they were, in order.
func (x *bundle) dispatch(t *testing.T, n int, owner map[string]string) []string {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	defer time.AfterFunc(5*time.Minute, stop).Stop()
	var order []string
	if err := bus.Consume(ctx, x.bus, bus.SubmitConsumer("testprovider"), 1, func(ctx context.Context, m *eventv1.SubmitJob) error {
		r, err := x.jobs.BeginAttempt(ctx, &ledgerv1.BeginAttemptRequest{JobId: m.GetJobId(), Provider: m.GetProvider()})
		if err != nil {
			return err
		}
		if r.GetGranted() {
			order = append(order, owner[m.GetJobId()])
		}
		if len(order) == n {
			stop()
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return order
}

// lying is how many commands lie on the bus.
func (x *bundle) lying(t *testing.T) int {
	t.Helper()
	n, err := x.bus.Commands(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n.Of("testprovider")
}

// queued is how many jobs wait before the bus.
func (x *bundle) queued(t *testing.T) (n int) {
	t.Helper()
	if err := x.pool.QueryRow(t.Context(), "select count(*) from queue").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func (x *bundle) position(t *testing.T, id string) (int64, bool) {
	t.Helper()
	r, err := x.jobs.GetJob(t.Context(), &ledgerv1.GetJobRequest{JobId: id})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetVideo().GetQueuePosition(), r.GetVideo().QueuePosition != nil
}

// unhurried lets jobs lie: these tests answer no attempt.
func unhurried(c *ledgerConfig) { c.SweepAfter = time.Hour }

// One account floods a provider; others come later with few jobs. They are next,
// by weight and class beside each other, and the flood ends all the same.
func TestQueueIsFair(t *testing.T) {
	t.Parallel()
	x := setup(t, 0, unhurried)
	owner := map[string]string{}
	own := func(name string, ids []string) []string {
		for _, id := range ids {
			owner[id] = name
		}
		return ids
	}
	flood := x.account(t)
	// As many lie on the bus as ever will, and all before any other waits: groups
	// are committed in no order, and who is late by one waits before all others.
	own("flood", x.wait(t, flood, 256, 0, 1))
	eventually(t, "the bus has what it takes", func() bool { return x.lying(t) == 256 && x.queued(t) == 0 })
	own("flood", x.wait(t, flood, 244, 0, 1))
	one := own("one", x.wait(t, x.account(t), 1, 0, 1))
	eventually(t, "few are ahead of the only job of an account", func() bool {
		n, waits := x.position(t, one[0])
		return waits && n <= 40
	})
	heavy, light := x.account(t), x.account(t)
	own("heavy", x.wait(t, heavy, 60, 0, 3))
	own("light", x.wait(t, light, 60, 0, 1))
	classes := x.account(t)
	own("low", x.wait(t, classes, 40, videov1.Priority_PRIORITY_LOW, 1))
	own("high", x.wait(t, classes, 40, videov1.Priority_PRIORITY_HIGH, 1))
	order := x.dispatch(t, len(owner), owner)
	if len(order) != len(owner) {
		t.Fatalf("%d of %d jobs had their turn", len(order), len(owner))
	}
	after := order[256:]
	first := func(name string, within []string) (n int) {
		for _, o := range within {
			if o == name {
				n++
			}
		}
		return n
	}
	if first("one", after[:40]) != 1 {
		t.Errorf("the only job of an account is not among the next: %v", after[:60])
	}
	// In the time that the light account has 20 turns the heavy one has 60.
	light20 := 0
	for i, o := range after {
		if o == "light" {
			light20++
		}
		if light20 == 20 {
			if n := first("heavy", after[:i+1]); n < 45 {
				t.Errorf("weight 3 had %d turns while weight 1 had 20", n)
			}
			if n := first("flood", after[:i+1]); n < 10 || n > 40 {
				t.Errorf("the flood, of weight 1 too, had %d turns while another had 20", n)
			}
			if n := first("high", after[:i+1]); n < 36 {
				t.Errorf("class high had %d turns of 40 while normal had 20", n)
			}
			if n := first("low", after[:i+1]); n < 2 || n > 12 {
				t.Errorf("class low had %d turns while normal had 20", n)
			}
			break
		}
	}
}

// Whoever is canceled while it waits leaves the queue, and nobody submits it.
func TestQueueIsLeftByTheCanceled(t *testing.T) {
	t.Parallel()
	x := setup(t, 10_000*price, unhurried)
	owner := map[string]string{}
	for _, id := range x.wait(t, x.acct, 300, 0, 1) {
		owner[id] = "it"
	}
	var waiting string
	eventually(t, "one waits", func() bool {
		for id := range owner {
			if _, waits := x.position(t, id); waits {
				waiting = id
			}
		}
		return waiting != ""
	})
	if _, err := x.jobs.CancelJob(t.Context(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: waiting}); err != nil {
		t.Fatal(err)
	}
	var rows int
	if err := x.pool.QueryRow(t.Context(), "select count(*) from queue where job_id = $1", waiting).Scan(&rows); err != nil || rows != 0 {
		t.Errorf("%d rows, %v", rows, err)
	}
	if order := x.dispatch(t, len(owner)-1, owner); len(order) != len(owner)-1 {
		t.Errorf("%d of %d had their turn", len(order), len(owner)-1)
	}
	if err := x.pool.QueryRow(t.Context(), "select count(*) from queue").Scan(&rows); err != nil || rows != 0 {
		t.Errorf("%d rows remain, %v", rows, err)
	}
}

// After some renders of a model it is told when the next is expected.
func TestExpectedTime(t *testing.T) {
	t.Parallel()
	x := setup(t, 100*price)
	for i := range 3 {
		v, err := x.open(fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		x.finish(t, v.GetId(), "archived")
	}
	if _, err := x.pool.Exec(t.Context(), "update attempt set created_at = ended_at - interval '60 seconds'"); err != nil {
		t.Fatal(err)
	}
	v, err := x.open("next")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a time is expected", func() bool {
		r, err := x.jobs.GetJob(t.Context(), &ledgerv1.GetJobRequest{JobId: v.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		in := time.Until(r.GetVideo().GetEstimatedCompletionAt().AsTime())
		return r.GetVideo().EstimatedCompletionAt != nil && in > 50*time.Second && in < 70*time.Second
	})
	a := x.begin(t, v.GetId())
	r, err := x.jobs.GetAttempt(t.Context(), &ledgerv1.GetAttemptRequest{AttemptId: a})
	if err != nil || r.GetTypicalMs() != 60_000 || r.GetSlowMs() != 60_000 {
		t.Errorf("%v %v", r, err)
	}
}

// A proof of the books that takes long does not stop the queue.
func TestProofDoesNotStopTheQueue(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price, func(c *ledgerConfig) { unhurried(c); c.Reconcile = 50 * time.Millisecond })
	tx, err := x.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(t.Context(), "lock table lot_draw in access exclusive mode"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the proof waits for the table", func() bool { return x.waiting(t) > 0 })
	x.wait(t, x.acct, 1, 0, 1)
	eventually(t, "the job is passed on all the same", func() bool { return x.lying(t) == 1 })
}

// Whoever waits in the queue for long is not forgotten; whoever left it is.
func TestWaitingInTheQueueIsNoViolation(t *testing.T) {
	t.Parallel()
	x := setup(t, 1000*price, still)
	x.wait(t, x.acct, 256, 0, 1)
	eventually(t, "the bus is full", func() bool { return x.lying(t) == 256 && x.queued(t) == 0 })
	waiting := x.wait(t, x.acct, 10, 0, 1)
	x.exec(t, "update job set swept_at = now() - interval '2 days', submit_after = now() - interval '2 days' where id = any($1)", waiting)
	if v := must[*ledgerv1.VerifyResponse](t)(x.money.Verify(t.Context(), &ledgerv1.VerifyRequest{})); len(v.GetViolations()) > 0 {
		t.Errorf("%d violations, first %s", len(v.GetViolations()), v.GetViolations()[0])
	}
	x.exec(t, "delete from queue where job_id = $1", waiting[0])
	if v := must[*ledgerv1.VerifyResponse](t)(x.money.Verify(t.Context(), &ledgerv1.VerifyRequest{})); len(v.GetViolations()) != 1 {
		t.Errorf("%d violations", len(v.GetViolations()))
	}
}

// Commands that were lost with their stream come back to their old turns, and
// not behind all who came later.
func TestLostCommandsKeepTheirTurns(t *testing.T) {
	t.Parallel()
	x := setup(t, 10_000*price, func(c *ledgerConfig) { c.SweepAfter = time.Second })
	owner := map[string]string{}
	lost := x.wait(t, x.acct, 256, 0, 1)
	for _, id := range lost {
		owner[id] = "lost"
	}
	eventually(t, "the bus is full", func() bool { return x.lying(t) == 256 && x.queued(t) == 0 })
	for _, id := range x.wait(t, x.acct, 400, 0, 1) {
		owner[id] = "later"
	}
	if err := x.bus.JetStream().DeleteStream(t.Context(), bus.StreamJobs); err != nil {
		t.Fatal(err)
	}
	if err := x.bus.Ensure(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all that were lost are on their way again", func() bool {
		var n int
		if err := x.pool.QueryRow(t.Context(), "select count(*) from queue where job_id = any($1)", lost).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return x.lying(t) == 256 && n == 256
	})
	order := x.dispatch(t, len(owner), owner)
	last := 0
	for i, o := range order {
		if o == "lost" {
			last = i
		}
	}
	if len(order) != len(owner) || last > 600 {
		t.Errorf("%d of %d had their turn, the last of the lost at place %d", len(order), len(owner), last)
	}
}

// What is paused waits in the queue, where the provider's other models pass by it;
// on the bus it would take their room.
func TestPausedJobsStandInNobodysWay(t *testing.T) {
	t.Parallel()
	x := setup(t, price, still)
	if _, err := x.pool.Exec(t.Context(), `insert into provider_pause (provider, model, reason) values ('testprovider', 'm', 'x')`); err != nil {
		t.Fatal(err)
	}
	first, second, other := x.opened(t, "m"), x.opened(t, "m"), x.opened(t, "n")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	defer time.AfterFunc(time.Minute, stop).Stop()
	var came []string
	if err := bus.Consume(ctx, x.bus, bus.SubmitConsumer("testprovider"), 1, func(ctx context.Context, m *eventv1.SubmitJob) error {
		if came = append(came, m.GetJobId()); len(came) == 3 {
			stop()
		}
		_, err := x.pool.Exec(ctx, "delete from provider_pause")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{other, first, second}; !slices.Equal(came, want) {
		t.Errorf("%v came, not %v", came, want)
	}
}

// A model that has to wait, as at a limit of its own, has as many commands on the
// bus as ever lie there, and more jobs behind them. The provider's other models are
// submitted all the same, each up to its share.
func TestAModelThatWaitsLeavesRoomForOthers(t *testing.T) {
	t.Parallel()
	x := setup(t, 10_000*price, unhurried)
	x.wait(t, x.acct, 300, 0, 1)
	eventually(t, "the bus is full", func() bool { return x.lying(t) == 256 && x.queued(t) == 44 })
	var mu sync.Mutex
	others := map[string]bool{}
	for range 40 {
		others[x.opened(t, "n-1.0")] = true
	}
	eventually(t, "the other model has its share", func() bool { return x.lying(t) == 256+32 && x.queued(t) == 44+8 })
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	defer time.AfterFunc(5*time.Minute, stop).Stop()
	if err := bus.Consume(ctx, x.bus, bus.SubmitConsumer("testprovider"), 4, func(ctx context.Context, m *eventv1.SubmitJob) error {
		if m.GetModel() == "m" {
			return bus.After(10*time.Minute, errors.New("its model has to wait"))
		}
		_, err := x.jobs.BeginAttempt(ctx, &ledgerv1.BeginAttemptRequest{JobId: m.GetJobId(), Provider: m.GetProvider()})
		mu.Lock()
		defer mu.Unlock()
		if delete(others, m.GetJobId()); len(others) == 0 {
			stop()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(others) > 0 {
		t.Errorf("%d of another model had no turn", len(others))
	}
}

// A model waits, and the provider's other models go on: whoever comes for it with one
// job is next all the same, whatever an account has there already.
func TestAModelThatWaitsHasAnOrderThatIsFair(t *testing.T) {
	t.Parallel()
	x := setup(t, price, unhurried)
	flood := x.account(t)
	x.wait(t, flood, 256, 0, 1)
	eventually(t, "the bus is full", func() bool { return x.lying(t) == 256 && x.queued(t) == 0 })
	x.wait(t, flood, 20, 0, 1)
	for range 32 {
		x.opened(t, "n-1.0")
	}
	eventually(t, "the other model is ahead of what waits", func() bool { return x.lying(t) == 256+32 && x.queued(t) == 20 })
	one := x.wait(t, x.account(t), 1, 0, 1)
	if n, waits := x.position(t, one[0]); !waits || n > 5 {
		t.Errorf("%d are ahead of the only job of an account, waits: %v", n, waits)
	}
}
