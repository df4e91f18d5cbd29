package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/money"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type budgetServer struct {
	ledgerv1.UnimplementedBudgetServiceServer
	s *Service
}

// subjectKinds are the words of the contract.
var subjectKinds = map[ledgerv1.BudgetSubject]string{
	ledgerv1.BudgetSubject_BUDGET_SUBJECT_ACCOUNT: "account", ledgerv1.BudgetSubject_BUDGET_SUBJECT_API_KEY: "api_key",
	ledgerv1.BudgetSubject_BUDGET_SUBJECT_END_USER: "end_user", ledgerv1.BudgetSubject_BUDGET_SUBJECT_MODEL: "model",
}

// keyOf is the key of a map's value; the zero key when it has none.
func keyOf[K, V comparable](m map[K]V, value V) (key K) {
	for k, v := range m {
		if v == value {
			key = k
		}
	}
	return key
}

const budgetColumns = `id, account_id, subject, subject_id, period, limit_micros, hard, created_at`

func scanBudget(row pgx.CollectableRow) (*ledgerv1.Budget, error) {
	b := &ledgerv1.Budget{}
	var kind string
	var p period
	var created time.Time
	if err := row.Scan(&b.Id, &b.AccountId, &kind, &b.SubjectId, &p, &b.LimitMicros, &b.Hard, &created); err != nil {
		return nil, err
	}
	b.Subject, b.Period, b.CreatedAt = keyOf(subjectKinds, kind), keyOf(periods, p), timestamppb.New(created)
	return b, nil
}

// stopSpending waits until nobody spends from an account, and keeps it so until
// the transaction ends: what is set counts from one job to the next. From then
// on OpenJob reads what guards the account.
func stopSpending(ctx context.Context, tx pgx.Tx, account string) error {
	var locked string
	err := tx.QueryRow(ctx, "select account_id from balance where account_id = $1 for update", account).Scan(&locked)
	if errors.Is(err, pgx.ErrNoRows) {
		return noAccount()
	}
	if err != nil {
		return fmt.Errorf("lock balance: %w", err)
	}
	return guardFromNow(ctx, tx, account)
}

// guardFromNow marks an account as one of which more is to be read than its
// balance. It stays marked.
func guardFromNow(ctx context.Context, tx pgx.Tx, account string) error {
	if _, err := tx.Exec(ctx, "update balance set guarded = true where account_id = $1 and not guarded", account); err != nil {
		return fmt.Errorf("guard account: %w", err)
	}
	return nil
}

// SetBudget makes a budget or changes it. One that is as asked is a success.
func (g *budgetServer) SetBudget(ctx context.Context, r *ledgerv1.SetBudgetRequest) (*ledgerv1.SetBudgetResponse, error) {
	kind, p := subjectKinds[r.GetSubject()], periods[r.GetPeriod()]
	switch {
	case kind == "account" && r.GetSubjectId() != "":
		return nil, fault.Invalid(fault.Field{Name: "subject_id", Message: "must be empty for a budget of the account"})
	case kind != "account" && r.GetSubjectId() == "":
		return nil, fault.Invalid(fault.Field{Name: "subject_id", Message: "is required: the id of a key, user or model, or * for each one"})
	}
	resp := &ledgerv1.SetBudgetResponse{}
	err := g.s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		if kind == "api_key" && r.GetSubjectId() != each {
			if _, err := oneKey(ctx, tx, r.GetSubjectId(), r.GetAccountId()); err != nil {
				return nothing, err
			}
		}
		if err := stopSpending(ctx, tx, r.GetAccountId()); err != nil {
			return nothing, err
		}
		old, err := findBudget(ctx, tx, `account_id = $1 and subject = $2 and subject_id = $3 and period = $4`, r.GetAccountId(), kind, r.GetSubjectId(), p)
		if err != nil {
			return nothing, err
		}
		if old != nil && old.GetLimitMicros() == r.GetLimitMicros() && old.GetHard() == r.GetHard() {
			resp.Budget = old
			return nothing, nil
		}
		rows, err := tx.Query(ctx, `insert into budget (id, account_id, subject, subject_id, period, limit_micros, hard) values ($1, $2, $3, $4, $5, $6, $7)
			on conflict (account_id, subject, subject_id, period) where deleted_at is null
			do update set limit_micros = excluded.limit_micros, hard = excluded.hard returning `+budgetColumns,
			id.New(id.Budget), r.GetAccountId(), kind, r.GetSubjectId(), p, r.GetLimitMicros(), r.GetHard())
		if err != nil {
			return nothing, fmt.Errorf("set budget: %w", err)
		}
		if resp.Budget, err = pgx.CollectExactlyOneRow(rows, scanBudget); err != nil {
			return nothing, fmt.Errorf("set budget: %w", err)
		}
		details := map[string]any{"subject": kind, "period": string(p), "limit": money.Format(r.GetLimitMicros()), "hard": r.GetHard()}
		if old != nil {
			// Of what is reached already under the new limit nobody is told; of
			// what is not, once more.
			if _, err := tx.Exec(ctx, `update budget_use set alerted = coalesce((select max(percent) from unnest(array[50, 80, 100]) as percent
					where (held_micros::numeric + spent_micros) * 100 >= $2::numeric * percent), 0)
				where budget_id = $1`, old.GetId(), r.GetLimitMicros()); err != nil {
				return nothing, fmt.Errorf("set budget: %w", err)
			}
			details["limit_before"], details["hard_before"] = money.Format(old.GetLimitMicros()), old.GetHard()
		}
		return deed{action: "budget.set", account: r.GetAccountId(), target: resp.GetBudget().GetId(), details: details}, nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// findBudget reads a budget in force; nil when there is none.
func findBudget(ctx context.Context, tx pgx.Tx, where string, args ...any) (*ledgerv1.Budget, error) {
	rows, err := tx.Query(ctx, "select "+budgetColumns+" from budget where deleted_at is null and "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read budget: %w", err)
	}
	b, err := pgx.CollectExactlyOneRow(rows, scanBudget)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read budget: %w", err)
	}
	return b, nil
}

// DeleteBudget ends a budget. Its uses stay, and jobs under way settle in them.
func (g *budgetServer) DeleteBudget(ctx context.Context, r *ledgerv1.DeleteBudgetRequest) (*ledgerv1.DeleteBudgetResponse, error) {
	resp := &ledgerv1.DeleteBudgetResponse{}
	err := g.s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (_ deed, err error) {
		if resp.Budget, err = findBudget(ctx, tx, "id = $1 for update", r.GetBudgetId()); err != nil {
			return nothing, err
		}
		if resp.GetBudget() == nil {
			return nothing, fault.New(fault.NotFound, "no such budget")
		}
		if _, err := tx.Exec(ctx, "update budget set deleted_at = now() where id = $1", r.GetBudgetId()); err != nil {
			return nothing, fmt.Errorf("delete budget: %w", err)
		}
		return deed{action: "budget.delete", account: resp.GetBudget().GetAccountId(), target: r.GetBudgetId()}, nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// listedUses is how many subjects are listed of a budget for each one.
const listedUses = 10

// ListBudgets pages through an account's budgets with what they count now.
func (g *budgetServer) ListBudgets(ctx context.Context, r *ledgerv1.ListBudgetsRequest) (*ledgerv1.ListBudgetsResponse, error) {
	var zoneName string
	var now time.Time
	err := g.s.pool.QueryRow(ctx, "select time_zone, now() from account where id = $1", r.GetAccountId()).Scan(&zoneName, &now)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, noAccount()
	}
	if err != nil {
		return nil, fmt.Errorf("read account: %w", err)
	}
	budgets, more, err := page(ctx, g.s.pool, r.GetLimit(), scanBudget,
		"select "+budgetColumns+" from budget where account_id = $1 and ($2 = '' or id < $2) and deleted_at is null order by id desc", r.GetAccountId(), r.GetAfter())
	if err != nil {
		return nil, err
	}
	resp := &ledgerv1.ListBudgetsResponse{HasMore: more}
	byID := map[string]*ledgerv1.ListBudgetsResponse_Item{}
	var ids []string
	var starts []time.Time
	zone := location(zoneName)
	for _, b := range budgets {
		item := &ledgerv1.ListBudgetsResponse_Item{Budget: b}
		resp.Budgets = append(resp.Budgets, item)
		byID[b.GetId()] = item
		start, _ := periods[b.GetPeriod()].bounds(now, zone)
		ids, starts = append(ids, b.GetId()), append(starts, start)
	}
	// As in begin: a use that was counted later than the period begins is of the
	// period that holds now.
	rows, err := g.s.pool.Query(ctx, `select u.budget_id, u.subject_id, u.period_start, u.held_micros, u.spent_micros, u.alerted
		from unnest($1::text[], $2::timestamptz[]) as x (id, start)
		cross join lateral (select distinct on (subject_id) * from budget_use where budget_id = x.id and period_start >= x.start
			order by subject_id, period_start desc) u
		order by u.held_micros::numeric + u.spent_micros desc, u.subject_id`, ids, starts)
	if err != nil {
		return nil, fmt.Errorf("read budget uses: %w", err)
	}
	var of string
	var began time.Time
	var x struct {
		budget      string
		held, spent int64
		alerted     int32
	}
	if _, err := pgx.ForEachRow(rows, []any{&x.budget, &of, &began, &x.held, &x.spent, &x.alerted}, func() error {
		item := byID[x.budget]
		if len(item.Uses) < listedUses {
			item.Uses = append(item.Uses, present(item.GetBudget(), of, began, zone, x.held, x.spent, x.alerted))
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read budget uses: %w", err)
	}
	for i, item := range resp.GetBudgets() {
		if len(item.GetUses()) == 0 && item.GetBudget().GetSubjectId() != each {
			item.Uses = append(item.Uses, present(item.GetBudget(), item.GetBudget().GetSubjectId(), starts[i], zone, 0, 0, 0))
		}
	}
	return resp, nil
}

// present is a use as it is shown.
func present(b *ledgerv1.Budget, of string, began time.Time, zone *time.Location, held, spent int64, alerted int32) *ledgerv1.BudgetUse {
	use := &ledgerv1.BudgetUse{SubjectId: of, SpentMicros: spent, HeldMicros: held, NoticedPercent: alerted}
	if p := periods[b.GetPeriod()]; p != total {
		_, end := p.bounds(began, zone)
		use.BeganAt, use.ResetsAt = timestamppb.New(began), timestamppb.New(end)
	} else {
		use.BeganAt = b.GetCreatedAt()
	}
	return use
}

const limitColumns = `k.id, coalesce(l.max_concurrent, 0), coalesce(l.per_minute, 0), coalesce(l.live, 0) from api_key k left join key_limit l on l.api_key_id = k.id`

func readLimits(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, key string) (*ledgerv1.KeyLimits, error) {
	l := &ledgerv1.KeyLimits{}
	err := q.QueryRow(ctx, "select "+limitColumns+" where k.id = $1", key).Scan(&l.KeyId, &l.MaxConcurrent, &l.RequestsPerMinute, &l.UnderWay)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "no such API key")
	}
	if err != nil {
		return nil, fmt.Errorf("read key limits: %w", err)
	}
	return l, nil
}

// GetKeyLimits reads the ceilings of a key.
func (g *budgetServer) GetKeyLimits(ctx context.Context, r *ledgerv1.GetKeyLimitsRequest) (*ledgerv1.GetKeyLimitsResponse, error) {
	l, err := readLimits(ctx, g.s.pool, r.GetKeyId())
	return &ledgerv1.GetKeyLimitsResponse{Limits: l}, err
}

// SetKeyLimits changes the ceilings that are present. The first time it counts
// the jobs of the key that are under way; from then on they are counted as they
// come and go.
func (g *budgetServer) SetKeyLimits(ctx context.Context, r *ledgerv1.SetKeyLimitsRequest) (*ledgerv1.SetKeyLimitsResponse, error) {
	resp := &ledgerv1.SetKeyLimitsResponse{}
	err := g.s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		k, err := oneKey(ctx, tx, r.GetKeyId(), "")
		if err != nil {
			return nothing, err
		}
		if err := stopSpending(ctx, tx, k.GetAccountId()); err != nil {
			return nothing, err
		}
		old, err := readLimits(ctx, tx, r.GetKeyId())
		if err != nil {
			return nothing, err
		}
		concurrent, minute := old.GetMaxConcurrent(), old.GetRequestsPerMinute()
		if r.MaxConcurrent != nil {
			concurrent = r.GetMaxConcurrent()
		}
		if r.RequestsPerMinute != nil {
			minute = r.GetRequestsPerMinute()
		}
		if concurrent == old.GetMaxConcurrent() && minute == old.GetRequestsPerMinute() {
			resp.Limits = old
			return nothing, nil
		}
		// A job that is being settled at this moment counts as under way, and
		// what settles it finds this row: both hold the balance's lock.
		if _, err := tx.Exec(ctx, `insert into key_limit (api_key_id, account_id, max_concurrent, per_minute, live)
			values ($1, $2, $3, $4, (select count(*) from job where completed_at is null and api_key_id = $1))
			on conflict (api_key_id) do update set max_concurrent = excluded.max_concurrent, per_minute = excluded.per_minute`,
			r.GetKeyId(), k.GetAccountId(), concurrent, minute); err != nil {
			return nothing, fmt.Errorf("set key limits: %w", err)
		}
		if resp.Limits, err = readLimits(ctx, tx, r.GetKeyId()); err != nil {
			return nothing, err
		}
		return deed{action: "api_key.limit", account: k.GetAccountId(), target: k.GetId(), details: map[string]any{
			"max_concurrent": map[string]any{"from": old.GetMaxConcurrent(), "to": concurrent},
			"per_minute":     map[string]any{"from": old.GetRequestsPerMinute(), "to": minute}}}, nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// mayBeSpent is what a use comes to when all that it holds is captured.
const mayBeSpent = "least(held_micros::numeric + spent_micros, 9223372036854775807)"

// inheritLimits gives a rotated key's ceilings and budgets, and what they have
// counted, to its successor: a rotation is no way around them.
func inheritLimits(ctx context.Context, tx pgx.Tx, key, successor string) error {
	if _, err := tx.Exec(ctx, `insert into key_limit (api_key_id, account_id, max_concurrent, per_minute)
		select $2, account_id, max_concurrent, per_minute from key_limit where api_key_id = $1`, key, successor); err != nil {
		return fmt.Errorf("inherit key limits: %w", err)
	}
	if _, err := tx.Exec(ctx, `insert into budget_use (budget_id, subject_id, period_start, spent_micros, alerted)
		select distinct on (u.budget_id) u.budget_id, $2, period_start, `+mayBeSpent+`, alerted
		from budget_use u join budget b on b.id = u.budget_id
		where b.account_id = (select account_id from api_key where id = $1) and b.subject = 'api_key' and b.subject_id = '*'
			and b.deleted_at is null and u.subject_id = $1
		order by u.budget_id, period_start desc`, key, successor); err != nil {
		return fmt.Errorf("inherit budgets: %w", err)
	}
	rows, err := tx.Query(ctx, "select "+budgetColumns+` from budget where account_id = (select account_id from api_key where id = $1)
		and subject = 'api_key' and subject_id = $1 and deleted_at is null`, key)
	if err != nil {
		return fmt.Errorf("inherit budgets: %w", err)
	}
	budgets, err := pgx.CollectRows(rows, scanBudget)
	if err != nil {
		return fmt.Errorf("inherit budgets: %w", err)
	}
	for _, b := range budgets {
		heir := id.New(id.Budget)
		if _, err := tx.Exec(ctx, `insert into budget (id, account_id, subject, subject_id, period, limit_micros, hard)
			select $2, account_id, subject, $3, period, limit_micros, hard from budget where id = $1`, b.GetId(), heir, successor); err != nil {
			return fmt.Errorf("inherit budgets: %w", err)
		}
		if _, err := tx.Exec(ctx, `insert into budget_use (budget_id, subject_id, period_start, spent_micros, alerted)
			select $2, $3, period_start, `+mayBeSpent+`, alerted
			from budget_use where budget_id = $1 order by period_start desc limit 1`, b.GetId(), heir, successor); err != nil {
			return fmt.Errorf("inherit budgets: %w", err)
		}
	}
	return nil
}
