package ledger_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// modelLot and modelJob are what the model knows of a grant and of a job.
type modelLot struct {
	id                            string
	remaining, drawn, spent, gone int64
	expires                       time.Time // zero: never
	over                          bool      // its time has come
}

type modelJob struct {
	id, attempt, state        string // open, begun, stored; succeeded, over, review, settled
	quote, captured, refunded int64
	draws                     []modelDraw
}

type modelDraw struct {
	lot    *modelLot
	amount int64
}

// model is one account in memory, by the rules of docs/money.md and nothing of
// the ledger's code.
type model struct {
	available, held, revenue, funding, promotional, writeOff, owed, suspense int64
	lots                                                                     []*modelLot // first-expiring first
	jobs                                                                     []*modelJob
}

// byExpiry puts what expires first first, and what never does last.
func byExpiry(a, b *modelLot) int {
	switch {
	case a.expires.IsZero() != b.expires.IsZero():
		if a.expires.IsZero() {
			return 1
		}
		return -1
	case !a.expires.Equal(b.expires):
		return a.expires.Compare(b.expires)
	}
	return strings.Compare(a.id, b.id)
}

func (m *model) grant(l *modelLot) {
	m.lots = append(m.lots, l)
	slices.SortFunc(m.lots, byExpiry)
	m.promotional, m.available = m.promotional-l.remaining, m.available+l.remaining
}

// expire takes back what lots whose time has come have left.
func (m *model) expire() {
	for _, l := range m.lots {
		if l.over {
			m.available, m.promotional = m.available-l.remaining, m.promotional+l.remaining
			l.gone, l.remaining = l.gone+l.remaining, 0
		}
	}
}

func (m *model) draw(amount int64) (draws []modelDraw) {
	for _, l := range m.lots {
		if n := min(l.remaining, amount); n > 0 {
			l.remaining -= n
			amount -= n
			draws = append(draws, modelDraw{l, n})
		}
	}
	return draws
}

func (m *model) hold(j *modelJob) {
	m.available, m.held = m.available-j.quote, m.held+j.quote
	for _, d := range m.draw(j.quote) {
		d.lot.drawn += d.amount
		j.draws = append(j.draws, d)
	}
	m.jobs = append(m.jobs, j)
}

func (m *model) settle(j *modelJob, captured int64, state string) {
	j.state, j.captured = state, captured
	m.held -= j.quote
	m.revenue += captured
	m.available += j.quote - captured
	slices.SortFunc(j.draws, func(a, b modelDraw) int { return byExpiry(a.lot, b.lot) })
	for _, d := range j.draws {
		n := min(d.amount, captured)
		captured -= n
		d.lot.drawn -= d.amount
		d.lot.spent += n
		d.lot.remaining += d.amount - n
	}
	m.expire()
}

// walk is a random sequence of operations on one account, each checked against
// the model.
type walk struct {
	*bundle
	t    *testing.T
	m    model
	rng  *rand.Rand
	step int
}

func (w *walk) key() string { return fmt.Sprint("step", w.step) }

// expect checks what an operation answered: done, or refused with a code.
func (w *walk) expect(what string, err error, want fault.Code) bool {
	w.t.Helper()
	got := fault.Code("")
	if err != nil {
		got = fault.FromStatus(err).Code
	}
	if got != want {
		w.t.Fatalf("step %d, %s: %v; the model says %q", w.step, what, err, want)
	}
	return want == ""
}

// pick is a job in one of some states, or nil.
func (w *walk) pick(states ...string) *modelJob {
	for _, i := range w.rng.Perm(len(w.m.jobs)) {
		if slices.Contains(states, w.m.jobs[i].state) {
			return w.m.jobs[i]
		}
	}
	return nil
}

// code is want when bad, else nothing.
func code(bad bool, want fault.Code) fault.Code {
	if bad {
		return want
	}
	return ""
}

// twice does what must happen once.
func twice[R any](do func() (R, error)) error {
	_, err := do()
	if _, again := do(); (err == nil) != (again == nil) {
		return fmt.Errorf("first %w, then %w", err, again)
	}
	return err
}

func (w *walk) next() {
	ctx, m, r := w.t.Context(), &w.m, w.rng
	w.step++
	amount := 1 + r.Int64N(200)
	switch op := r.IntN(20); op {
	case 0:
		if w.expect("top-up", twice(func() (*ledgerv1.TopUpResponse, error) {
			return w.money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: w.acct, AmountMicros: amount, IdempotencyKey: w.key()})
		}), "") {
			m.funding, m.available = m.funding-amount, m.available+amount
		}
	case 1, 2:
		l := &modelLot{remaining: amount}
		req := &ledgerv1.GrantRequest{AccountId: w.acct, AmountMicros: amount, IdempotencyKey: w.key(), Reason: "r"}
		if r.IntN(4) > 0 {
			l.expires = time.Now().Add(time.Duration(1+r.IntN(50)) * time.Hour).Truncate(time.Hour)
			req.ExpiresAt = timestamppb.New(l.expires)
		}
		w.expect("grant", twice(func() (*ledgerv1.GrantResponse, error) {
			resp, err := w.money.Grant(ctx, req)
			l.id = first(l.id, resp.GetLotId())
			return resp, err
		}), "")
		m.grant(l)
	case 3:
		if len(m.lots) > 0 {
			l := m.lots[r.IntN(len(m.lots))]
			if !l.over {
				l.over, l.expires = true, time.Now().Add(-time.Second).Truncate(time.Microsecond)
				w.exec(w.t, "update grant_lot set expires_at = $2 where id = $1", l.id, l.expires)
				m.expire()
			}
		}
	case 4:
		change := amount
		if r.IntN(2) == 0 {
			change = -amount
		}
		if w.expect("adjust", twice(func() (*ledgerv1.AdjustResponse, error) {
			return w.money.Adjust(ctx, &ledgerv1.AdjustRequest{AccountId: w.acct, AmountMicros: change, IdempotencyKey: w.key(), Reason: "r"})
		}), code(m.available+change < 0, fault.InsufficientCredits)) {
			paid := m.available
			for _, l := range m.lots {
				paid -= l.remaining
			}
			if change < 0 && -change > paid {
				for _, d := range m.draw(-change - paid) {
					d.lot.spent += d.amount
				}
			}
			m.funding, m.available = m.funding-change, m.available+change
		}
	case 5, 6, 7, 8:
		var v *videov1.Video
		var err error
		for range 2 {
			v, err = w.openFor(ctx, w.acct, w.key(), amount)
		}
		if w.expect("open", err, code(amount > m.available, fault.InsufficientCredits)) {
			m.hold(&modelJob{id: v.GetId(), state: "open", quote: amount})
		}
	case 9:
		if j := w.pick("open"); j != nil {
			w.expect("cancel", call(w.jobs.CancelJob(ctx, &ledgerv1.CancelJobRequest{AccountId: w.acct, JobId: j.id})), "")
			m.settle(j, 0, "over")
		}
	case 10, 11, 12:
		if j := w.pick("open"); j != nil {
			j.attempt, j.state = w.begin(w.t, j.id), "begun"
		}
	case 13, 14:
		if j := w.pick("begun", "stored"); j != nil {
			w.finish(j)
		}
	case 15:
		if j := w.pick("begun"); j != nil {
			w.see(w.t, j.id, j.attempt, "timed-out", timedOut())
			m.settle(j, 0, "review")
			m.owed, m.suspense = m.owed+j.quote, m.suspense+j.quote
		}
	case 16:
		if j := w.pick("review"); j != nil {
			w.fate(j)
		}
	case 17, 18:
		if j := w.pick("succeeded", "over"); j != nil {
			left := j.captured - j.refunded
			want := code(left == 0, fault.Conflict)
			if want == "" {
				want = code(amount > left, fault.InvalidRequest)
			}
			if w.expect("refund", twice(func() (*ledgerv1.RefundResponse, error) {
				return w.money.Refund(ctx, &ledgerv1.RefundRequest{JobId: j.id, AmountMicros: amount, IdempotencyKey: w.key(), Reason: "r"})
			}), want) {
				j.refunded += amount
				m.revenue, m.available = m.revenue-amount, m.available+amount
			}
		}
	case 19:
		if j := w.pick("open", "begun", "stored", "succeeded", "over", "review", "settled"); j != nil {
			if w.expect("write-off", twice(func() (*ledgerv1.WriteOffResponse, error) {
				return w.money.WriteOff(ctx, &ledgerv1.WriteOffRequest{JobId: j.id, AmountMicros: amount, IdempotencyKey: w.key(), Reason: "r"})
			}), code(j.state != "succeeded" && j.state != "over", fault.Conflict)) {
				m.owed, m.writeOff = m.owed+amount, m.writeOff+amount
			}
		}
	}
}

// finish takes a begun job one step on.
func (w *walk) finish(j *modelJob) {
	switch {
	case j.state == "begun" && w.rng.IntN(4) == 0:
		w.see(w.t, j.id, j.attempt, "failed", failed())
		w.m.settle(j, 0, "over")
	case j.state == "begun":
		w.see(w.t, j.id, j.attempt, "rendered", rendered(w.rng.Int64N(3), ""))
		j.state = "stored"
	default:
		seconds := 1 + w.rng.Int64N(12)
		for i := range 2 { // told twice
			w.see(w.t, j.id, j.attempt, fmt.Sprint("archived", i), archived(seconds))
		}
		w.m.settle(j, (j.quote*min(seconds, 10)+9)/10, "succeeded")
	}
}

// fate tells what became of a task in review, by one of the ways, twice.
func (w *walk) fate(j *modelJob) {
	way := w.rng.IntN(4)
	for i := range 2 {
		switch way {
		case 0:
			w.see(w.t, j.id, j.attempt, fmt.Sprint("late", i), rendered(5, "EUR"))
		case 1:
			w.see(w.t, j.id, j.attempt, fmt.Sprint("late", i), failed())
		default:
			w.expect("settle", call(w.money.SettleSuspense(w.t.Context(), &ledgerv1.SettleSuspenseRequest{JobId: j.id, Outcome: ledgerv1.Outcome(way - 1), Reason: "r"})), "")
		}
	}
	j.state = "settled"
	w.m.suspense -= j.quote
	if way == 0 || ledgerv1.Outcome(way-1) == ledgerv1.Outcome_OUTCOME_BILLED && way > 1 {
		w.m.writeOff += j.quote
	} else {
		w.m.owed -= j.quote
	}
}

// compare holds the account against its model, book by book and lot by lot.
func (w *walk) compare() {
	w.t.Helper()
	b := must[*ledgerv1.GetBalanceResponse](w.t)(w.money.GetBalance(w.t.Context(), &ledgerv1.GetBalanceRequest{AccountId: w.acct}))
	var revenue, funding, writeOff, owed, suspense int64
	if err := w.pool.QueryRow(w.t.Context(), "select revenue_micros, funding_micros, write_off_micros, -provider_cost_micros, suspense_micros from balance where account_id = $1", w.acct).
		Scan(&revenue, &funding, &writeOff, &owed, &suspense); err != nil {
		w.t.Fatal(err)
	}
	got := [7]int64{b.GetAvailableMicros(), b.GetHeldMicros(), revenue, funding, writeOff, owed, suspense}
	if want := [7]int64{w.m.available, w.m.held, w.m.revenue, w.m.funding, w.m.writeOff, w.m.owed, w.m.suspense}; got != want {
		w.t.Fatalf("step %d: available, held, revenue, funding, write-off, owed, suspense are\n%v; the model has\n%v", w.step, got, want)
	}
	var after string
	n := 0
	for {
		r := must[*ledgerv1.ListGrantsResponse](w.t)(w.money.ListGrants(w.t.Context(), &ledgerv1.ListGrantsRequest{AccountId: w.acct, After: after, Limit: 100}))
		for _, l := range r.GetLots() {
			i := slices.IndexFunc(w.m.lots, func(m *modelLot) bool { return m.id == l.GetId() })
			if i < 0 {
				w.t.Fatalf("step %d: unknown lot %v", w.step, l)
			}
			m := w.m.lots[i]
			// What is over is swept now or a little later.
			if left := l.GetRemainingMicros() + l.GetExpiredMicros(); l.GetDrawnMicros() != m.drawn || l.GetSpentMicros() != m.spent ||
				left != m.remaining+m.gone || !m.over && l.GetRemainingMicros() != m.remaining {
				w.t.Fatalf("step %d: lot %v; the model has %+v", w.step, l, *m)
			}
			after = l.GetId()
			n++
		}
		if !r.GetHasMore() {
			break
		}
	}
	if n != len(w.m.lots) {
		w.t.Fatalf("step %d: %d lots; the model has %d", w.step, n, len(w.m.lots))
	}
}

// TestRandomSequencesAgreeWithTheModel walks many accounts at once, so that
// their operations share transactions, and one account that all of them spend
// from. REELWAY_TEST_SEED repeats a run's choices.
func TestRandomSequencesAgreeWithTheModel(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano()) //nolint:gosec // any number will do
	if s, err := strconv.ParseUint(os.Getenv("REELWAY_TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("REELWAY_TEST_SEED=%d", seed)
	x := setup(t, 0, still)
	const workers, rounds, steps = 6, 3, 40
	shared := must[*ledgerv1.CreateAccountResponse](t)(x.accts.CreateAccount(t.Context(), &ledgerv1.CreateAccountRequest{Name: "shared"})).GetAccountId()
	must[*ledgerv1.GrantResponse](t)(x.money.Grant(t.Context(), &ledgerv1.GrantRequest{AccountId: shared, AmountMicros: 300, IdempotencyKey: "g", Reason: "r"}))
	walks := make([]*walk, workers)
	for i := range walks {
		own := *x
		own.acct = must[*ledgerv1.CreateAccountResponse](t)(x.accts.CreateAccount(t.Context(), &ledgerv1.CreateAccountRequest{Name: "walk"})).GetAccountId()
		walks[i] = &walk{bundle: &own, t: t, rng: rand.New(rand.NewPCG(seed, uint64(i)))} //nolint:gosec // repeatable on purpose
	}
	var spent [workers]int64
	for range rounds {
		var wg sync.WaitGroup
		for i, w := range walks {
			wg.Go(func() {
				for range steps {
					w.next()
					if _, err := x.openFor(context.Background(), shared, fmt.Sprint(i, w.step), 7); err == nil {
						spent[i] += 7
					}
				}
				w.compare()
			})
		}
		wg.Wait()
		for _, v := range must[*ledgerv1.VerifyResponse](t)(x.money.Verify(t.Context(), &ledgerv1.VerifyRequest{})).GetViolations() {
			t.Error(v)
		}
	}
	var total int64
	for _, s := range spent {
		total += s
	}
	if total != 294 { // 42 jobs at 7 of the 300 that were granted
		t.Errorf("the shared account paid %d; it could pay 294", total)
	}
	for _, w := range walks {
		movements, r := w.statement(t, time.Now().UTC().Format("2006-01"), 97)
		if r.GetOpeningAvailableMicros() == 0 && len(movements) == 0 {
			t.Error("an account without movements")
		}
	}
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
