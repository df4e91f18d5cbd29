package ledger

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/money"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// movement is one administrative movement of money. Its key is the caller's:
// asked again with the same content it does nothing; with another it is a
// conflict. What it does and its entry in the audit log commit together.
type movement struct {
	posting
	once    string // the caller's key
	content string // of the request, besides account, job, kind and amount
	action  string // in the audit log
	details map[string]any
	// judge may refuse the movement, complete its posting, and add to the unit.
	// It runs under the locks, and again when the transaction does.
	judge func(u *unit, b *balance, j *record, p *posting) error
}

// moveMoney makes a movement and returns the balance after it. With a job the
// account may be left out.
func (s *Service) moveMoney(ctx context.Context, m movement) (*balance, *record, error) {
	return s.onAccount(ctx, m.account, m.job, func(ctx context.Context, u *unit, b *balance, j *record) error {
		p := m.posting
		p.account, p.actor = b.account, actor(ctx)
		p.key = m.postingKey()
		p.hash = contentHash(p, m.content)
		known, err := u.known(ctx, p)
		if err != nil || known {
			return err
		}
		if m.judge != nil {
			if err := m.judge(u, b, j, &p); err != nil {
				return err
			}
		}
		switch err := u.post(b, p); {
		case errors.Is(err, errShort):
			return short(b, p)
		case errors.Is(err, errOverflow):
			return fault.Invalid(fault.Field{Name: "amount_micros", Message: "is more than the account's books can hold"})
		case err != nil:
			return err
		}
		d := deed{action: m.action, account: b.account, target: b.account,
			details: map[string]any{"credits": money.Format(p.amount), "posting": p.key}}
		if p.job != "" {
			d.target = p.job
		}
		if p.reason != "" {
			d.details["reason"] = p.reason
		}
		maps.Copy(d.details, m.details)
		return enter(ctx, u.tx, d)
	})
}

// postingKey is the posting's own key, made of the caller's. A job's movements
// lie together, behind its id.
func (m movement) postingKey() string {
	return cmp.Or(m.job, m.account) + "/" + m.kind + "/" + m.once
}

// contentHash tells one request of an administrator from another. Its form is
// kept for ever: it is stored with the postings.
func contentHash(p posting, content string) []byte {
	text := fmt.Appendf(nil, "%s %s %s %d %s", p.kind, p.from, p.to, p.amount, p.job)
	if content != "" {
		text = append(append(text, ' '), content...)
	}
	sum := sha256.Sum256(text)
	return sum[:]
}

// known reports whether the posting's key was used before, for the same.
func (u *unit) known(ctx context.Context, p posting) (bool, error) {
	var hash []byte
	err := u.tx.QueryRow(ctx, "select request_hash from posting where key = $1", p.key).Scan(&hash)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read posting: %w", err)
	case !bytes.Equal(hash, p.hash):
		e := fault.New(fault.Conflict, "this idempotency key was used before for another %s", p.kind)
		e.Fields = []fault.Field{{Name: "idempotency_key", Message: "already used"}}
		return false, e
	}
	return true, nil
}

func short(b *balance, p posting) error {
	return fault.New(fault.InsufficientCredits, "the account has %s credits available; %s cannot be taken", money.Format(b.of[available]), money.Format(p.amount))
}

// onAccount runs fn with an account's balance and lots locked, and before them
// the job, when there is one: its account is the account then.
func (s *Service) onAccount(ctx context.Context, account, jobID string, fn func(ctx context.Context, u *unit, b *balance, j *record) error) (b *balance, j *record, _ error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	err := s.write(ctx, func(ctx context.Context, u *unit) error {
		of := account
		if jobID != "" {
			jobs, err := u.lockJobs(ctx, []string{jobID})
			if err != nil {
				return err
			}
			if j = jobs[jobID]; j == nil {
				return notFound()
			}
			of = j.Account
		}
		if err := u.lockCredits(ctx, map[string]bool{of: true}); err != nil {
			return err
		}
		bal := u.balances[of]
		if bal == nil {
			return noAccount()
		}
		b = bal
		return fn(ctx, u, b, j)
	})
	return b, j, err
}

// TopUp adds credits that were paid for, once per key.
func (g *moneyServer) TopUp(ctx context.Context, r *ledgerv1.TopUpRequest) (*ledgerv1.TopUpResponse, error) {
	m := movement{action: "account.top_up", once: r.GetIdempotencyKey(),
		posting: posting{account: r.GetAccountId(), kind: "top_up", from: funding, to: available, amount: r.GetAmountMicros(), reason: r.GetReason()}}
	if r.GetReason() != "" {
		m.content = fmt.Sprintf("%q", r.GetReason())
	}
	b, _, err := g.s.moveMoney(ctx, m)
	if err != nil {
		return nil, err
	}
	return &ledgerv1.TopUpResponse{AvailableMicros: b.of[available]}, nil
}

// Refund gives back a capture, whole or in part, once per key. What it gives
// back does not expire, also when the job was paid with a grant.
func (g *moneyServer) Refund(ctx context.Context, r *ledgerv1.RefundRequest) (*ledgerv1.RefundResponse, error) {
	b, j, err := g.s.moveMoney(ctx, movement{action: "job.refund", once: r.GetIdempotencyKey(), content: fmt.Sprintf("%q", r.GetReason()),
		posting: posting{job: r.GetJobId(), kind: "refund", from: revenue, to: available, amount: r.GetAmountMicros(), reason: r.GetReason()},
		judge: func(u *unit, _ *balance, j *record, p *posting) error {
			left := j.Captured - j.Refunded
			switch {
			case j.Captured == 0:
				return fault.New(fault.Conflict, "%s is %s: nothing was captured, so there is nothing to refund", j.ID, j.State)
			case left == 0:
				return fault.New(fault.Conflict, "%s has been refunded in full", j.ID)
			case p.amount > left:
				return fault.Invalid(fault.Field{Name: "amount_micros", Message: fmt.Sprintf("at most %s of the %s captured can still be refunded",
					money.Format(left), money.Format(j.Captured))})
			case p.amount == 0:
				p.amount = left
			}
			j.Refunded += p.amount
			j.Version++
			u.change(j)
			return u.announce(ctx, j)
		}})
	if err != nil {
		return nil, err
	}
	return &ledgerv1.RefundResponse{AvailableMicros: b.of[available], RefundedMicros: j.Refunded, AccountId: b.account}, nil
}

// Adjust corrects an account's available credits, once per key. Taking away
// spares grants as long as there are credits that were paid for.
func (g *moneyServer) Adjust(ctx context.Context, r *ledgerv1.AdjustRequest) (*ledgerv1.AdjustResponse, error) {
	m := movement{action: "account.adjust", once: r.GetIdempotencyKey(), content: fmt.Sprintf("%q", r.GetReason()),
		posting: posting{account: r.GetAccountId(), kind: "adjustment", from: funding, to: available, amount: r.GetAmountMicros(), reason: r.GetReason()}}
	if m.amount < 0 {
		if m.amount == math.MinInt64 {
			return nil, fault.Invalid(fault.Field{Name: "amount_micros", Message: "is more than the account's books can hold"})
		}
		m.from, m.to, m.amount = available, funding, -m.amount
		m.judge = func(u *unit, b *balance, _ *record, p *posting) error {
			if p.amount > b.of[available] {
				return short(b, *p)
			}
			paid := b.of[available]
			for _, l := range b.lots {
				paid -= l.remaining
			}
			if p.amount > paid {
				u.take(b, p.key, p.amount-paid, true)
			}
			return nil
		}
	}
	m.details = map[string]any{"credits": money.Format(r.GetAmountMicros())}
	b, _, err := g.s.moveMoney(ctx, m)
	if err != nil {
		return nil, err
	}
	return &ledgerv1.AdjustResponse{AvailableMicros: b.of[available]}, nil
}

// WriteOff books a cost that no customer pays, once per key: the provider is
// owed it, and it is a loss. Suspense is settled, never written off twice.
func (g *moneyServer) WriteOff(ctx context.Context, r *ledgerv1.WriteOffRequest) (*ledgerv1.WriteOffResponse, error) {
	b, _, err := g.s.moveMoney(ctx, movement{action: "job.write_off", once: r.GetIdempotencyKey(), content: fmt.Sprintf("%q", r.GetReason()),
		posting: posting{job: r.GetJobId(), kind: "write_off", from: providerCost, to: writeOff, amount: r.GetAmountMicros(), reason: r.GetReason()},
		judge: func(_ *unit, _ *balance, j *record, _ *posting) error {
			switch {
			case !j.State.Terminal():
				return fault.New(fault.Conflict, "%s is %s: only the cost of a job that is over can be written off", j.ID, j.State)
			case j.State == job.NeedsReview:
				return fault.New(fault.Conflict, "the possible cost of %s is in suspense: settle it instead", j.ID)
			}
			return nil
		}})
	if err != nil {
		return nil, err
	}
	return &ledgerv1.WriteOffResponse{WrittenOffMicros: b.of[writeOff], AccountId: b.account}, nil
}
