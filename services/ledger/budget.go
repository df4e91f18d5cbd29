package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/money"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// subject is whose videos a budget counts: an account's, or those of one of its
// keys, users or models.
type subject struct {
	account string
	kind    string // account, api_key, end_user, model
	id      string // empty for the account
}

// each is the id of a budget that holds for every subject of its kind, each for
// itself.
const each = "*"

// subjects are those that a job counts for.
func (j *record) subjects() []subject {
	all := []subject{{j.Account, "account", ""}}
	own := []subject{{j.Account, "api_key", j.Key}, {j.Account, "end_user", j.User}}
	for _, m := range j.models() {
		own = append(own, subject{j.Account, "model", m})
	}
	for _, s := range own {
		if s.id != "" {
			all = append(all, s)
		}
	}
	return all
}

// budgetUse is a budget and what it has counted for a subject in the period
// that holds now.
type budgetUse struct {
	subject
	budget      string
	period      period
	limit       int64
	hard        bool
	zone        *time.Location
	start, end  time.Time
	latest      *time.Time // when the period began in which something was counted last
	held, spent int64
	alerted     int
	changed     bool
}

// counted is a period of a budget that a job was counted in, as it is kept with
// the job.
type counted struct {
	Budget string    `json:"budget"`
	Of     string    `json:"of"`
	From   time.Time `json:"from"`
	// Of names a model: what the job costs is spent in it only when that model
	// made the video. Older versions did not say so, and had one model a job.
	Model bool `json:"model,omitempty"`
}

func (u *unit) queueBudgets(b *pgx.Batch, group []*openCall) {
	known := map[subject]bool{}
	var wanted []subject
	for _, c := range group {
		r := c.req
		if !u.isGuarded(r.GetAccountId()) {
			continue
		}
		j := record{Account: r.GetAccountId(), Key: r.GetApiKeyId(), User: r.GetUser(), Model: r.GetParams().GetModel(), Plan: routePlan{r.GetPlan()}}
		for _, s := range j.subjects() {
			if !known[s] {
				known[s] = true
				wanted = append(wanted, s)
			}
		}
	}
	if len(wanted) == 0 {
		return
	}
	var t table
	column(&t, wanted, func(s subject) string { return s.account })
	column(&t, wanted, func(s subject) string { return s.kind })
	column(&t, wanted, func(s subject) string { return s.id })
	b.Queue(`select x.account, x.kind, x.id, b.id, b.period, b.limit_micros, b.hard, u.period_start, coalesce(u.held_micros, 0),
			coalesce(u.spent_micros, 0), coalesce(u.alerted, 0)
		from unnest($1::text[], $2::text[], $3::text[]) as x (account, kind, id)
		join budget b on b.account_id = x.account and b.subject = x.kind and b.subject_id in (x.id, '*') and b.deleted_at is null
		left join lateral (select * from budget_use u where u.budget_id = b.id and u.subject_id = x.id order by period_start desc limit 1) u on true
		order by b.id`, t.columns...).Query(func(rows pgx.Rows) error {
		var x budgetUse
		_, err := pgx.ForEachRow(rows, []any{&x.account, &x.kind, &x.id, &x.budget, &x.period, &x.limit, &x.hard, &x.latest, &x.held, &x.spent, &x.alerted}, func() error {
			one := x
			u.spending.budgets[x.subject] = append(u.spending.budgets[x.subject], &one)
			return nil
		})
		return err
	})
}

// begin finds the period that holds now. The latest that was counted in may be
// later than now: another transaction, begun after this one, came first, or the
// account's time zone was changed. Then it holds on.
func (x *budgetUse) begin(now time.Time, zone *time.Location) {
	x.zone = zone
	x.start, x.end = x.period.bounds(now, zone)
	switch {
	case x.latest != nil && x.latest.After(x.start):
		_, x.end = x.period.bounds(*x.latest, zone)
		x.start = *x.latest
	case x.latest == nil || x.latest.Before(x.start):
		x.held, x.spent, x.alerted = 0, 0, 0
	}
}

func (x *budgetUse) used() int64 { return add(x.held, x.spent) }

// left is what a new video may cost; not below zero.
func (x *budgetUse) left() int64 { return max(x.limit-x.used(), 0) }

// name is the budget as people call it.
func (x *budgetUse) name() string {
	switch x.kind {
	case "api_key":
		return x.period.adjective() + " budget of API key " + x.id
	case "end_user":
		return x.period.adjective() + " budget of user " + x.id
	case "model":
		return x.period.adjective() + " budget of model " + x.id
	}
	return x.period.adjective() + " budget of the account"
}

// resets says when the budget begins anew, by the account's clock and in UTC.
func (x *budgetUse) resets() string {
	if x.end.IsZero() {
		return "it does not reset"
	}
	return fmt.Sprintf("it resets at %s %s (%s UTC)", x.end.In(x.zone).Format("2006-01-02 15:04"), x.zone, x.end.UTC().Format("2006-01-02 15:04"))
}

// overBudget is the refusal of a job that does not fit a hard budget. When there
// are several it is that of the one which resets last, and names them all.
func (u *unit) overBudget(j *record) *fault.Error {
	var last *budgetUse
	var fields []fault.Field
	for _, s := range j.subjects() {
		for _, x := range u.spending.budgets[s] {
			if !x.hard || j.Quote <= x.left() {
				continue
			}
			fields = append(fields, fault.Field{Name: "budget", Message: fmt.Sprintf("%s, the %s, has %s of %s credits left; %s",
				x.budget, x.name(), money.Format(x.left()), money.Format(x.limit), x.resets())})
			if last == nil || !last.end.IsZero() && (x.end.IsZero() || x.end.After(last.end)) {
				last = x
			}
		}
	}
	if last == nil {
		return nil
	}
	e := fault.New(fault.InsufficientCredits, "this video costs %s credits, and the %s has %s left: of its %s, %s are spent and %s held for videos under way; %s",
		money.Format(j.Quote), last.name(), money.Format(last.left()), money.Format(last.limit), money.Format(last.spent), money.Format(last.held), last.resets())
	e.Fields = fields
	if !last.end.IsZero() && j.Quote <= last.limit {
		e.RetryAfter = last.end.Sub(u.now)
	}
	return e
}

// countInBudgets counts an opened job in every budget that it concerns, and
// tells when one is used so far.
func (u *unit) countInBudgets(ctx context.Context, j *record) error {
	for _, s := range j.subjects() {
		for _, x := range u.spending.budgets[s] {
			x.held = add(x.held, j.Quote)
			x.changed = true
			j.Budgets = append(j.Budgets, counted{x.budget, x.id, x.start, x.kind == "model"})
			for _, percent := range []int{50, 80, 100} {
				if percent <= x.alerted || !reached(x.used(), x.limit, percent) {
					continue
				}
				x.alerted = percent
				if err := u.notify(ctx, x.noticeID(), x.notice()); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// reached says whether used is at least so many percent of limit.
func reached(used, limit int64, percent int) bool {
	uh, ul := bits.Mul64(uint64(used), 100)
	lh, ll := bits.Mul64(uint64(limit), uint64(percent))
	return uh > lh || uh == lh && ul >= ll
}

// times is a product of amounts that are not negative, at most the greatest
// amount there is.
func times(a, n int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(n))
	if hi > 0 || lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(lo)
}

// noticeID holds the limit: a budget that was raised gives notice again.
func (x *budgetUse) noticeID() string {
	of := sha256.Sum256([]byte(x.id)) // a user's id may be anything, and a header not
	return fmt.Sprintf("%s-%x-%d-%d-%d", x.budget, of[:8], x.start.Unix(), x.limit, x.alerted)
}

func (x *budgetUse) notice() *eventv1.AccountNotice {
	b := &eventv1.BudgetReached{BudgetId: x.budget, Subject: x.kind, SubjectId: x.id, Period: string(x.period), Percent: int32(x.alerted),
		LimitMicros: x.limit, SpentMicros: x.spent, HeldMicros: x.held, Hard: x.hard}
	if !x.end.IsZero() {
		b.ResetsAt = timestamppb.New(x.end)
	}
	return &eventv1.AccountNotice{AccountId: x.account, About: &eventv1.AccountNotice_Budget{Budget: b},
		Text: fmt.Sprintf("%d %% of the %s is used: of its %s credits, %s are spent and %s held for videos under way; %s",
			x.alerted, x.name(), money.Format(x.limit), money.Format(x.spent), money.Format(x.held), x.resets())}
}

func (u *unit) writeBudgetUses(b *pgx.Batch) {
	var changed []*budgetUse
	for _, uses := range u.spending.budgets {
		for _, x := range uses {
			if x.changed {
				changed = append(changed, x)
			}
		}
	}
	if len(changed) == 0 {
		return
	}
	var t table
	column(&t, changed, func(x *budgetUse) string { return x.budget })
	column(&t, changed, func(x *budgetUse) string { return x.id })
	column(&t, changed, func(x *budgetUse) time.Time { return x.start })
	column(&t, changed, func(x *budgetUse) int64 { return x.held })
	column(&t, changed, func(x *budgetUse) int64 { return x.spent })
	column(&t, changed, func(x *budgetUse) int { return x.alerted })
	b.Queue(`insert into budget_use (budget_id, subject_id, period_start, held_micros, spent_micros, alerted)
		select * from unnest($1::text[], $2::text[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::smallint[])
		on conflict (budget_id, subject_id, period_start) do update
			set held_micros = excluded.held_micros, alerted = excluded.alerted`, t.columns...)
}

// writeSettledUses moves what settled jobs held to what is spent, in the
// periods in which they were counted.
func (u *unit) writeSettledUses(b *pgx.Batch) {
	type settlement struct {
		counted
		held, spent int64
	}
	at := map[counted]int{}
	var sums []settlement
	for _, j := range u.spending.settled {
		for _, c := range j.Budgets {
			c.From = c.From.UTC() // one moment, one key
			i, ok := at[c]
			if !ok {
				i = len(sums)
				at[c] = i
				sums = append(sums, settlement{counted: c})
			}
			sums[i].held = add(sums[i].held, j.Quote)
			if !c.Model || c.Of == j.Model {
				sums[i].spent = add(sums[i].spent, j.Captured)
			}
		}
	}
	if len(sums) == 0 {
		return
	}
	var t table
	column(&t, sums, func(x settlement) string { return x.Budget })
	column(&t, sums, func(x settlement) string { return x.Of })
	column(&t, sums, func(x settlement) time.Time { return x.From })
	column(&t, sums, func(x settlement) int64 { return x.held })
	column(&t, sums, func(x settlement) int64 { return x.spent })
	// Never below zero and never an overflow: a counter must not keep a job's
	// money from being settled.
	b.Queue(`update budget_use u set held_micros = greatest(u.held_micros - x.held, 0),
			spent_micros = least(u.spent_micros, 9223372036854775807 - x.spent) + x.spent
		from unnest($1::text[], $2::text[], $3::timestamptz[], $4::bigint[], $5::bigint[]) as x (budget, subject_id, start, held, spent)
		where u.budget_id = x.budget and u.subject_id = x.subject_id and u.period_start = x.start`, t.columns...)
}

// countedJSON is what is kept with a job; nil when it is in no budget.
func (j *record) countedJSON() *string {
	if len(j.Budgets) == 0 {
		return nil
	}
	raw, _ := json.Marshal(j.Budgets) // two texts and a time never fail
	s := string(raw)
	return &s
}
