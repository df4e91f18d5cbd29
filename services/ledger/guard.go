package ledger

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/fault"
)

// spending is what a unit knows and counts of budgets, ceilings and the
// breaker. It is read after the balances were locked and written before they
// are free: between the two nobody else spends from these accounts.
type spending struct {
	accounts map[string]*guard // those that are guarded
	budgets  map[subject][]*budgetUse
	ceilings map[string]*ceiling // by key
	settled  []*record
}

// guard is what holds for all of an account's new videos.
type guard struct {
	zone              *time.Location
	suspended, paused string // why; empty when not
	exempt            bool   // from the breaker, a while after it was resumed
}

// ceiling is how many jobs of a key may be under way.
type ceiling struct {
	max, live, added int
}

// ceilingRetry is when a caller may try again that met a ceiling: a job may end
// at any moment.
const ceilingRetry = 5 * time.Second

// lockSpending locks the balances of a group and reads what guards them. For
// accounts of which nothing was ever set that is in the balance's row itself.
func (u *unit) lockSpending(ctx context.Context, group []*openCall) error {
	accounts := map[string]bool{}
	for _, c := range group {
		accounts[c.req.GetAccountId()] = true
	}
	u.spending = spending{accounts: map[string]*guard{}, budgets: map[subject][]*budgetUse{}, ceilings: map[string]*ceiling{}}
	if err := u.lockCredits(ctx, accounts); err != nil {
		return err
	}
	var guarded []string
	for id := range accounts {
		if b := u.balances[id]; b != nil && b.guarded {
			guarded = append(guarded, id)
		}
	}
	slices.Sort(guarded)
	b := &pgx.Batch{}
	u.queueHours(b, accounts)
	if len(guarded) > 0 {
		u.queueGuards(b, guarded)
		u.queueBudgets(b, group)
		u.queueCeilings(b, group)
	}
	if err := u.send(ctx, b); err != nil {
		return err
	}
	for _, uses := range u.spending.budgets {
		for _, x := range uses {
			x.begin(u.now, u.spending.accounts[x.account].zone)
		}
	}
	return nil
}

// isGuarded says whether more is to be read of an account than its balance.
func (u *unit) isGuarded(account string) bool {
	b := u.balances[account]
	return b != nil && b.guarded
}

func (u *unit) queueGuards(b *pgx.Batch, accounts []string) {
	b.Queue(`select id, time_zone, case status when 'suspended' then suspended_reason else '' end, paused_reason,
		coalesce(spike_exempt_until > now(), false) from account where id = any($1)`, accounts).Query(func(rows pgx.Rows) error {
		var account, zone string
		var g guard
		_, err := pgx.ForEachRow(rows, []any{&account, &zone, &g.suspended, &g.paused, &g.exempt}, func() error {
			one := g
			one.zone = location(zone)
			u.spending.accounts[account] = &one
			return nil
		})
		return err
	})
}

func (u *unit) queueCeilings(b *pgx.Batch, group []*openCall) {
	var keys []string
	for _, c := range group {
		if u.isGuarded(c.req.GetAccountId()) && c.req.GetApiKeyId() != "" {
			keys = append(keys, c.req.GetApiKeyId())
		}
	}
	if len(keys) == 0 {
		return
	}
	b.Queue(`select api_key_id, max_concurrent, live from key_limit where api_key_id = any($1)`, keys).Query(func(rows pgx.Rows) error {
		var key string
		var x ceiling
		_, err := pgx.ForEachRow(rows, []any{&key, &x.max, &x.live}, func() error {
			one := x
			u.spending.ceilings[key] = &one
			return nil
		})
		return err
	})
}

// admit says why a job may not be opened; nil when it may. It counts nothing,
// except that it pauses an account which spends too fast.
func (s *Service) admit(ctx context.Context, u *unit, b *balance, j *record) (refusal *fault.Error, _ error) {
	g := u.spending.accounts[j.Account]
	switch {
	case g == nil: // nothing was ever set
		g = &guard{}
	case g.suspended != "":
		return fault.New(fault.PermissionDenied, "the account is suspended: %s", g.suspended), nil
	case g.paused != "":
		return pausedBecause(g.paused), nil
	}
	if c := u.spending.ceilings[j.Key]; c != nil && c.max > 0 && c.live >= c.max {
		e := fault.New(fault.RateLimited, "this API key has %d videos under way, and its ceiling is %d; wait for one to end, or cancel one", c.live, c.max)
		e.Fields = []fault.Field{{Name: "max_concurrent", Message: fmt.Sprintf("is %d", c.max)}}
		e.RetryAfter = ceilingRetry
		return e, nil
	}
	if e := u.overBudget(j); e != nil {
		return e, nil
	}
	if b.of[available] < j.Quote {
		return nil, nil // the hold says so; what cannot be paid pauses nothing
	}
	if limit, ok := s.spikeLimit(b.hour); ok && !g.exempt && limit-b.hour.spent < j.Quote {
		return u.pause(ctx, s, b, j, limit)
	}
	return nil, nil
}

// countOpened counts a job that was admitted and is held.
func (u *unit) countOpened(ctx context.Context, b *balance, j *record) error {
	b.hour.spent = add(b.hour.spent, j.Quote) // written with the hold
	if c := u.spending.ceilings[j.Key]; c != nil {
		c.live++
		c.added++
	}
	return u.countInBudgets(ctx, j)
}

func (u *unit) writeSpending(b *pgx.Batch) {
	u.writeBudgetUses(b)
	added := map[string]int{}
	for key, c := range u.spending.ceilings {
		if c.added > 0 {
			added[key] = c.added
		}
	}
	writeLive(b, added)
}

// writeSettled gives back what the settled jobs were counted for: to the very
// periods in which they were opened.
func (u *unit) writeSettled(b *pgx.Batch) {
	ended := map[string]int{}
	for _, j := range u.spending.settled {
		if j.Key != "" {
			ended[j.Key]--
		}
	}
	writeLive(b, ended)
	u.writeSettledUses(b)
}

// writeLive changes how many jobs of keys are under way, where that is counted.
func writeLive(b *pgx.Batch, change map[string]int) {
	if len(change) == 0 {
		return
	}
	var t table
	keys := slices.Sorted(maps.Keys(change))
	column(&t, keys, func(k string) string { return k })
	column(&t, keys, func(k string) int { return change[k] })
	// Never below zero: a counter must not keep a job's money from being settled.
	b.Queue(`update key_limit l set live = greatest(l.live + x.n, 0) from unnest($1::text[], $2::int[]) as x (key, n)
		where l.api_key_id = x.key`, t.columns...)
}

// add is the sum of two amounts that are not negative, at most the greatest
// amount there is.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
