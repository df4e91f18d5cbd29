package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
)

// aheadFrom is the smallest group that is written ahead: a small one is through
// sooner than its extra journey to the database takes.
const aheadFrom = 16

// errNotAmple says that a group cannot be written ahead after all.
var errNotAmple = errors.New("written ahead in vain")

// openAhead opens a group whose accounts were seen to have plenty and nothing to
// guard: it writes jobs and messages before it locks the balances, which on a
// busy account everybody waits for, and judges afterwards, under the lock, as
// ever. Should one of the group not pass, nothing is committed and done is
// false: the group is opened the other way, where each has its own verdict.
func (s *Service) openAhead(ctx context.Context, group []*openCall) (done bool, _ error) {
	if len(group) < aheadFrom || slices.ContainsFunc(group, func(c *openCall) bool { return c.req.refusal != nil }) || !s.ample.enough(group) {
		return false, nil
	}
	err := s.write(ctx, func(ctx context.Context, u *unit) error {
		for _, c := range group {
			c.resp, c.err = opened{}, nil
		}
		claims, err := u.claimKeys(ctx, group)
		if err != nil {
			return err
		}
		files, err := u.lockFiles(ctx, group)
		if err != nil {
			return err
		}
		if err := u.tx.QueryRow(ctx, "select now()").Scan(&u.now); err != nil {
			return fmt.Errorf("read clock: %w", err)
		}
		for _, c := range group {
			if claims.replay(c) {
				continue
			}
			if files.lacks(c.req.OpenJobRequest) != nil {
				return errNotAmple // its own verdict, not the group's
			}
			if err := s.accept(u, c, u.draft(c, claims), claims); err != nil {
				return err
			}
		}
		written := u.opened
		b := &pgx.Batch{}
		u.writeOpened(b)
		u.writeQueued(b)
		u.writeMessages(b)
		u.opened, u.queued, u.messages = nil, nil, nil
		if err := u.send(ctx, b); err != nil {
			return err
		}
		if err := u.lockSpending(ctx, group); err != nil {
			return err
		}
		for _, j := range written {
			if err := s.pay(ctx, u, j); err != nil {
				return err
			}
		}
		s.ample.note(u)
		return nil
	})
	if errors.Is(err, errNotAmple) {
		return false, nil
	}
	s.wakeOpened()
	return true, err
}

// pay holds the money of a job that is written already.
func (s *Service) pay(ctx context.Context, u *unit, j *record) error {
	b := u.balances[j.Account]
	if b == nil || b.guarded || len(b.lots) > 0 || b.of[available] < j.Quote {
		return errNotAmple
	}
	if limit, ok := s.spikeLimit(b.hour); ok && limit-b.hour.spent < j.Quote {
		return errNotAmple // the breaker's affair
	}
	if err := u.hold(b, j); err != nil {
		return err
	}
	return u.countOpened(ctx, b, j)
}

// ample remembers what accounts had that nothing guards, when their balance was
// last locked here. It is a guess, and proves nothing.
type ample struct {
	mu sync.Mutex
	of map[string]int64 // micro-credits by account
}

// ampleAccounts bounds what is remembered.
const ampleAccounts = 10_000

// note remembers the balances that a unit has locked and changed.
func (a *ample) note(u *unit) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil || len(a.of) > ampleAccounts {
		a.of = map[string]int64{}
	}
	for id, b := range u.balances {
		if b.guarded || len(b.lots) > 0 {
			delete(a.of, id)
		} else {
			a.of[id] = b.of[available]
		}
	}
}

// enough reports whether every account of a group had ten times what it asks.
func (a *ample) enough(group []*openCall) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := map[string]int64{}
	for _, c := range group {
		account := c.req.GetAccountId()
		asked[account] = add(asked[account], dearest(c.req.OpenJobRequest))
		if a.of[account]/10 < asked[account] {
			return false
		}
	}
	return true
}
