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
	accounts map[string]*guard
	budgets  map[subject][]*budgetUse
	ceilings map[string]*ceiling // by key
	settled  []*record
}

// guard is what holds for all of an account's new videos.
type guard struct {
	zone              *time.Location
	suspended, paused string // why; empty when not
	limited           bool   // there are budgets or ceilings to read
	hour              hour
}

// ceiling is how many jobs of a key may be under way.
type ceiling struct {
	max, live, added int
}

// ceilingRetry is when a caller may try again that met a ceiling: a job may end
// at any moment.
const ceilingRetry = 5 * time.Second

// lockSpending locks the balances of a group and reads what guards them. An
// account for which nothing is set costs one row.
func (u *unit) lockSpending(ctx context.Context, group []*openCall) error {
	accounts := map[string]bool{}
	for _, c := range group {
		accounts[c.req.GetAccountId()] = true
	}
	u.spending = spending{accounts: map[string]*guard{}, budgets: map[subject][]*budgetUse{}, ceilings: map[string]*ceiling{}}
	b := &pgx.Batch{}
	u.queueBalances(b, accounts)
	// A statement of its own, after the lock was granted: what the lock waited
	// for would be older in the same one.
	u.queueGuards(b, accounts)
	if err := u.send(ctx, b); err != nil {
		return err
	}
	b = &pgx.Batch{}
	u.queueUsual(b)
	u.queueBudgets(b, group)
	u.queueCeilings(b, group)
	return u.send(ctx, b)
}

func (u *unit) queueGuards(b *pgx.Batch, accounts map[string]bool) {
	b.Queue(`select a.id, a.time_zone, case status when 'suspended' then suspended_reason else '' end, paused_reason,
			coalesce(spike_exempt_until > now(), false), date_trunc('hour', now(), 'UTC'), h.micros, h.usual_micros,
			exists (select from budget where account_id = a.id and deleted_at is null) or exists (select from key_limit where account_id = a.id)
		from account a left join spend_hour h on h.account_id = a.id and h.hour = date_trunc('hour', now(), 'UTC')
		where a.id = any($1)`, slices.Sorted(maps.Keys(accounts))).Query(func(rows pgx.Rows) error {
		var account, zone string
		var g guard
		var spent *int64
		_, err := pgx.ForEachRow(rows, []any{&account, &zone, &g.suspended, &g.paused, &g.hour.exempt, &g.hour.start, &spent, &g.hour.usual, &g.limited}, func() error {
			one := g
			one.zone = location(zone)
			if one.hour.fresh = spent == nil; spent != nil {
				one.hour.spent = *spent
			}
			u.spending.accounts[account] = &one
			return nil
		})
		return err
	})
}

func (u *unit) queueCeilings(b *pgx.Batch, group []*openCall) {
	var keys []string
	for _, c := range group {
		if g := u.spending.accounts[c.req.GetAccountId()]; g != nil && g.limited && c.req.GetApiKeyId() != "" {
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
func (s *Service) admit(ctx context.Context, u *unit, b *balance, j *record, model string) (refusal *fault.Error, _ error) {
	g := u.spending.accounts[j.Account]
	if g == nil {
		return nil, fmt.Errorf("account %s has a balance and no row", j.Account)
	}
	switch {
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
	if e := u.overBudget(j, model, g.zone); e != nil {
		return e, nil
	}
	if b.of[available] < j.Quote {
		return nil, nil // the hold says so; what cannot be paid pauses nothing
	}
	if limit, ok := s.spikeLimit(g.hour); ok && limit-g.hour.spent < j.Quote {
		return u.pause(ctx, s, j, g, limit)
	}
	return nil, nil
}

// countOpened counts a job that was admitted and is held.
func (u *unit) countOpened(ctx context.Context, j *record, model string) error {
	g := u.spending.accounts[j.Account]
	g.hour.spent = add(g.hour.spent, j.Quote)
	g.hour.changed = true
	if c := u.spending.ceilings[j.Key]; c != nil {
		c.live++
		c.added++
	}
	return u.countInBudgets(ctx, j, model, g.zone)
}

func (u *unit) writeSpending(b *pgx.Batch) {
	u.writeHours(b)
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
