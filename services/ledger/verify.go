package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// invariants are questions that must find nothing.
var invariants = []struct{ name, sql string }{
	{"each balance equals its postings", `select b.account_id || ' ' || x.book from balance b
		cross join lateral (values ('available', available_micros), ('held', held_micros), ('revenue', revenue_micros), ('funding', funding_micros),
			('promotional', promotional_micros), ('write_off', write_off_micros), ('provider_cost', provider_cost_micros), ('suspense', suspense_micros)) x (book, micros)
		where x.micros <> coalesce((select sum(case when p.destination = x.book then amount_micros else -amount_micros end)
			from posting p where p.account_id = b.account_id and x.book in (p.source, p.destination)), 0)`},
	{"all books together hold nothing", `select 'sum ' || sum(available_micros + held_micros + revenue_micros + funding_micros + promotional_micros
		+ write_off_micros + provider_cost_micros + suspense_micros) from balance
		having sum(available_micros + held_micros + revenue_micros + funding_micros + promotional_micros
		+ write_off_micros + provider_cost_micros + suspense_micros) <> 0`},
	{"each running balance follows from the one before", `select key from (select key, account_id,
			available_micros - sum(case when destination = 'available' then amount_micros when source = 'available' then -amount_micros else 0 end) over w as a,
			held_micros - sum(case when destination = 'held' then amount_micros when source = 'held' then -amount_micros else 0 end) over w as h
		from posting window w as (partition by account_id order by id)) x where a <> 0 or h <> 0`},
	{"held books equal open holds", `select b.account_id from balance b where held_micros <> coalesce((select sum(quote_micros) from job
		where account_id = b.account_id and completed_at is null), 0)`},
	{"every job was held once and settled once, exactly", `select j.id from job j
		left join lateral (select sum(amount_micros) filter (where kind = 'hold') h, sum(amount_micros) filter (where kind = 'capture') c,
			sum(amount_micros) filter (where kind = 'release') r from posting p where p.key >= j.id || '/' and p.key < j.id || '0') x on true
		where coalesce(h, 0) <> quote_micros or coalesce(c, 0) <> captured_micros
			or coalesce(r, 0) <> case when completed_at is null then 0 else quote_micros - captured_micros end`},
	{"no posting names a job that is not there", `select key from posting p where job_id is not null and not exists (select from job j where j.id = p.job_id)`},
	{"budgets hold what their live jobs hold", `select coalesce(u.budget_id, x.budget) || ' ' || coalesce(u.subject_id, x.of) from
		(select * from budget_use where held_micros > 0) u full join (select c.budget, c.of, c."from", sum(quote_micros) micros
			from job, jsonb_to_recordset(counted_in) as c (budget text, of text, "from" timestamptz) where completed_at is null group by 1, 2, 3) x
		on x.budget = u.budget_id and x.of = u.subject_id and x."from" = u.period_start where coalesce(u.held_micros, 0) <> coalesce(x.micros, 0)`},
	{"keys with ceilings know their live jobs", `select api_key_id from key_limit l where live <>
		(select count(*) from job where completed_at is null and api_key_id = l.api_key_id)`},
	{"each day's usage equals the jobs that ended on it", `select coalesce(u.account_id, j.account_id) || ' ' || coalesce(u.day, j.day)
		from (select account_id, day, sum(jobs) n, sum(captured_micros) m from usage_day group by 1, 2) u
		full join (select account_id, (completed_at at time zone 'UTC')::date as day, count(*) n, sum(captured_micros) m from job where counted group by 1, 2) j
			on j.account_id = u.account_id and j.day = u.day where (u.n, u.m) is distinct from (j.n, j.m)`},
	{"usage by user equals usage by day", `select coalesce(u.account_id, d.account_id) || ' ' || coalesce(u.day, d.day)
		from (select account_id, day, sum(jobs) n, sum(captured_micros) m, sum(latency) l from usage_user_day group by 1, 2) u
		full join (select account_id, day, sum(jobs) n, sum(captured_micros) m, sum(latency) l from usage_day group by 1, 2) d
			on d.account_id = u.account_id and d.day = u.day where (u.n, u.m, u.l) is distinct from (d.n, d.m, d.l)`},
	{"a provider's task belongs to one attempt", `select provider || ' ' || provider_task_id from attempt where provider_task_id is not null
		group by provider, provider_task_id having count(*) > 1`},
}

// Verify proves the books on the live database, in one snapshot.
func (g *moneyServer) Verify(ctx context.Context, _ *ledgerv1.VerifyRequest) (*ledgerv1.VerifyResponse, error) {
	resp := &ledgerv1.VerifyResponse{}
	err := pgx.BeginTxFunc(ctx, g.s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		for _, inv := range invariants {
			rows, err := tx.Query(ctx, "select * from ("+inv.sql+") q limit 20")
			if err != nil {
				return fmt.Errorf("check that %s: %w", inv.name, err)
			}
			broken, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				return fmt.Errorf("check that %s: %w", inv.name, err)
			}
			for _, b := range broken {
				resp.Violations = append(resp.Violations, "not so: "+inv.name+": "+b)
			}
		}
		return nil
	})
	return resp, err
}
