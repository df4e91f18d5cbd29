package ledger

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/money"
)

// book names one column of an account's balance row.
type book string

const (
	available    book = "available"
	held         book = "held"
	revenue      book = "revenue"
	funding      book = "funding"
	promotional  book = "promotional"
	writeOff     book = "write_off"
	providerCost book = "provider_cost"
	suspense     book = "suspense"
)

// books is every book in the order of the balance table's columns.
var books = []book{available, held, revenue, funding, promotional, writeOff, providerCost, suspense}

// balance is an account's books, read under the row's lock.
type balance struct {
	account string
	of      map[book]int64
	guarded bool // there is more to read before something is opened
	hour    hour
	changed bool
}

// posting is one movement between two books of an account. Its key is made of
// what caused it: the same movement happens once.
type posting struct {
	key, kind       string
	account, job    string
	from, to        book
	amount          int64
	actor, reason   string
	hash            []byte
	available, held int64 // the customer's books afterwards
}

// errShort says that a customer's book would go below zero.
var errShort = errors.New("balance is short")

// post moves an amount between two books of a locked balance and remembers the
// posting for the flush. errShort, after which nothing has changed, says that
// the customer's book cannot bear it.
func (u *unit) post(b *balance, p posting) error {
	from, to := b.of[p.from], b.of[p.to]
	switch {
	case p.amount <= 0:
		return fmt.Errorf("posting %s: amount %d is not above 0", p.key, p.amount)
	case (p.from == available || p.from == held) && from < p.amount:
		return errShort
	case from < math.MinInt64+p.amount || to > math.MaxInt64-p.amount:
		return fmt.Errorf("posting %s: %d overflows a book", p.key, p.amount)
	}
	b.of[p.from], b.of[p.to] = from-p.amount, to+p.amount
	b.changed = true
	p.account, p.available, p.held = b.account, b.of[available], b.of[held]
	u.postings = append(u.postings, p)
	return nil
}

// hold moves a job's quote from available to held.
func (u *unit) hold(b *balance, j *record) error {
	return u.post(b, posting{key: j.ID + "/hold", kind: "hold", job: j.ID, from: available, to: held, amount: j.Quote})
}

// settle ends a job's hold: captured micros go to revenue, the rest back to the
// customer. The job's state, changed with it, keeps it from happening twice.
func (u *unit) settle(b *balance, j *record) error {
	u.spending.settled = append(u.spending.settled, j)
	if j.Captured > 0 {
		if err := u.post(b, posting{key: j.ID + "/capture", kind: "capture", job: j.ID, from: held, to: revenue, amount: j.Captured}); err != nil {
			return fmt.Errorf("capture of %s: %w", j.ID, err)
		}
	}
	if rest := j.Quote - j.Captured; rest > 0 {
		if err := u.post(b, posting{key: j.ID + "/release", kind: "release", job: j.ID, from: held, to: available, amount: rest}); err != nil {
			return fmt.Errorf("release of %s: %w", j.ID, err)
		}
	}
	return nil
}

// once posts an administrative movement, whose key its caller chose, and enters
// it in the audit log. Asked
// again with the same amounts it does nothing; with others it is a conflict.
func (u *unit) once(ctx context.Context, b *balance, p posting) error {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %s %d %s", p.kind, p.from, p.to, p.amount, p.job))
	p.hash = sum[:]
	var known []byte
	err := u.tx.QueryRow(ctx, "select request_hash from posting where key = $1", p.key).Scan(&known)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		p.actor = auth.IncomingActor(ctx).KeyID
		if err := u.post(b, p); err != nil {
			return err
		}
		details := map[string]any{"credits": money.Format(p.amount), "posting": p.key}
		if p.reason != "" {
			details["reason"] = p.reason
		}
		return enter(ctx, u.tx, deed{action: "account." + p.kind, account: b.account, target: b.account, details: details})
	case err != nil:
		return fmt.Errorf("read posting: %w", err)
	case string(known) != string(p.hash):
		e := fault.New(fault.Conflict, "this idempotency key was used before for another movement")
		e.Fields = []fault.Field{{Name: "idempotency_key", Message: "already used"}}
		return e
	}
	return nil
}

func insufficient(quote, have int64) error {
	return fault.New(fault.InsufficientCredits,
		"this video costs %s credits and %s are available; top up the account or ask for a shorter or smaller video", money.Format(quote), money.Format(have))
}
