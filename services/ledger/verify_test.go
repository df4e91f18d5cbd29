package ledger_test

import (
	"context"
	"strings"
	"testing"
	"time"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/ledger"
)

// injury is one fault in the database and what must be said of it.
type injury struct {
	name, sql, found string
	whole            bool // only a run over everything can know
}

// injuries are made on the books of furnish, each on books of its own.
var injuries = []injury{
	{"a capture is lost", "delete from posting where kind = 'capture'", "held once, and settled once", false},
	{"a hold is lost", "delete from posting where kind = 'hold' and job_id = (select id from job where state = 'queued')", "held once, and settled once", false},
	{"a release is lost", "delete from posting where kind = 'release'", "held once, and settled once", false},
	{"a hold is posted twice", `insert into posting (key, kind, account_id, job_id, source, destination, amount_micros, available_micros, held_micros)
		select key || 'x', kind, account_id, job_id, source, destination, amount_micros, available_micros, held_micros from posting where kind = 'hold' limit 1`, "held once, and settled once", false},
	{"a captured amount is changed", "update job set captured_micros = captured_micros - 1 where state = 'succeeded'", "held once, and settled once", false},
	{"a balance is changed", "update balance set available_micros = available_micros + 1, funding_micros = funding_micros - 1", "a balance is where its last posting left it", false},
	{"a house's book is changed", "update balance set revenue_micros = revenue_micros + 1, funding_micros = funding_micros - 1", "each balance equals its postings", true},
	{"an amount is changed", "update posting set amount_micros = amount_micros + 1 where kind = 'top_up'", "each running balance follows", false},
	{"a running balance is changed", "update posting set available_micros = available_micros + 1 where kind = 'grant'", "each running balance follows", false},
	{"a refund is not noted", "update job set refunded_micros = 0 where refunded_micros > 0", "refunds are within captures", false},
	{"a refund is lost", "delete from posting where kind = 'refund'", "refunds are within captures", false},
	{"a job is lost", "delete from job where state = 'succeeded'", "no posting names a job that is not there", false},
	{"an open job is lost", "delete from job where state = 'queued'", "held books equal open holds", false},
	{"a grant grows", "update grant_lot set amount_micros = amount_micros + 1, remaining_micros = remaining_micros + 1", "grants and their expiry are posted", false},
	{"a grant is more than there is", "update grant_lot set amount_micros = 100000, remaining_micros = 100000 - drawn_micros - spent_micros - expired_micros", "within the available credits", false},
	{"a draw is lost", "delete from lot_draw where spent_micros is null", "grants equal their draws", false},
	{"a draw is closed too early", "update lot_draw set spent_micros = 0 where spent_micros is null", "grants equal their draws", false},
	{"a job's grants are forgotten", "update job set granted_micros = 0 where granted_micros > 0", "a job's part from grants equals its draws", false},
	{"a review is lost", "delete from review where outcome is null", "suspense equals the open reviews", false},
	{"a review is settled without its money", "update review set outcome = 'billed', settled_at = now() where outcome is null", "suspense equals the open reviews", false},
	{"a settlement is lost", "delete from posting where kind = 'suspense_settled'", "every job without a verdict has a review", false},
	{"an attempt is lost", "delete from attempt where state = 'succeeded'", "a job's attempts fit its state", false},
	{"an attempt's state is wrong", "update attempt set state = 'accepted' where state = 'succeeded'", "a job's attempts fit its state", false},
	{"a sweep forgets a job", "update job set swept_at = now() - interval '1 day', submit_after = now() - interval '1 day' where state = 'queued'", "every live job is looked at again", false},
	{"a balance is lost", "delete from balance", "no posting is without a balance", true},
}

// furnish makes books with something of everything in them.
func furnish(t *testing.T, x *bundle) {
	t.Helper()
	x.grant(t, "g", 60, time.Hour)
	x.grant(t, "gone", 7, time.Hour)
	x.exec(t, "update grant_lot set expires_at = now() - interval '1 second' where amount_micros = 7")
	job := x.succeeded(t, "a", 100, 7)
	must[*ledgerv1.RefundResponse](t)(x.money.Refund(t.Context(), &ledgerv1.RefundRequest{JobId: job, AmountMicros: 5, IdempotencyKey: "k", Reason: "r"}))
	x.grant(t, "h", 25, 0)
	for _, key := range []string{"open review", "settled review"} {
		job, attempt := x.started(t, key, 10)
		x.see(t, job, attempt, "timed-out", timedOut())
		if key == "settled review" {
			x.see(t, job, attempt, "late", failed())
		}
	}
	must[*videov1.Video](t)(x.openFor(t.Context(), x.acct, "queued", 20))
}

// patient never sweeps: what is broken stays as it is.
func patient(c *ledger.Config) {
	c.SweepInterval, c.SweepAfter, c.WatchAfter = time.Hour, time.Minute, time.Minute
}

func TestEveryInjuryOfTheBooksIsFound(t *testing.T) {
	t.Parallel()
	x := setup(t, 1000, patient)
	furnish(t, x)
	v := must[*ledgerv1.VerifyResponse](t)(x.money.Verify(t.Context(), &ledgerv1.VerifyRequest{}))
	if len(v.GetViolations()) > 0 || len(v.GetProven()) < 15 {
		t.Fatalf("%v", v)
	}
	for _, in := range injuries {
		x.injure(t, in, true)
		if !in.whole {
			x.injure(t, in, false)
		}
	}
}

// injure makes a fault in a transaction, without triggers and foreign keys, and
// rolls it back: the next one has whole books.
func (x *bundle) injure(t *testing.T, in injury, whole bool) {
	t.Helper()
	ctx := t.Context()
	tx, err := x.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := tx.Exec(ctx, "set local session_replication_role = replica"); err != nil {
		t.Fatal(err)
	}
	if tag, err := tx.Exec(ctx, in.sql); err != nil || tag.RowsAffected() == 0 {
		t.Fatalf("%s: %v, %v", in.name, tag, err)
	}
	found, err := ledger.Prove(ctx, x.svc, tx, whole)
	if err != nil {
		t.Fatalf("%s: %v", in.name, err)
	}
	if !strings.Contains(strings.Join(found, "\n"), in.found) {
		t.Errorf("%s (whole: %v): found %q; want …%s…", in.name, whole, found, in.found)
	}
}

func TestVerifyBlocksNoWriter(t *testing.T) {
	t.Parallel()
	x := setup(t, 1000, still)
	tx, err := x.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.Background()) }()
	if _, err := ledger.Prove(t.Context(), x.svc, tx, true); err != nil {
		t.Fatal(err)
	}
	// While the proof's transaction is open, money moves.
	x.succeeded(t, "a", 100, 10)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.balance(t, 900, 0)
}

func TestReconcilerSaysWhatIsBrokenUntilItIsMended(t *testing.T) {
	t.Parallel()
	x := setup(t, 1000, func(c *ledger.Config) {
		patient(c)
		c.Reconcile = 100 * time.Millisecond
	})
	furnish(t, x)
	type state struct {
		violations         int
		clean, full, ranAt *time.Time
		floor, mark        int64
	}
	read := func() (s state) {
		if err := x.pool.QueryRow(t.Context(), "select violations, clean_at, full_at, posting_floor, posting_mark, ran_at from reconciliation").
			Scan(&s.violations, &s.clean, &s.full, &s.floor, &s.mark, &s.ranAt); err != nil {
			t.Fatal(err)
		}
		return s
	}
	eventually(t, "clean runs, the later ones of what is new", func() bool { s := read(); return s.clean != nil && s.full != nil && s.floor > 0 && s.violations == 0 })
	x.exec(t, "update review set outcome = 'billed', settled_at = now() where outcome is null")
	eventually(t, "a violation", func() bool { return read().violations > 0 })
	broken := read()
	eventually(t, "another run", func() bool { return read().ranAt.After(*broken.ranAt) })
	if s := read(); s.violations == 0 || !s.clean.Equal(*broken.clean) || s.mark != broken.mark {
		t.Errorf("%+v after %+v", s, broken)
	}
	x.exec(t, "update review set outcome = null, settled_at = null where outcome = 'billed'")
	eventually(t, "clean again", func() bool { s := read(); return s.violations == 0 && s.clean.After(*broken.clean) })
}
