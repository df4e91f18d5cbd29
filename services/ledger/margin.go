package ledger

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// marginRows bounds an answer: it has to fit one message.
const marginRows = 10_000

// dimensions are what a row of margins may be of, in the order of a row.
var dimensions = []struct{ name, sql string }{
	{"day", "to_char(created_at at time zone 'UTC', 'YYYY-MM-DD')"},
	{"model", "model"},
	{"provider", "provider"},
	{"account", "account_id"},
}

// Margin sums what jobs earned and cost.
func (g *moneyServer) Margin(ctx context.Context, r *ledgerv1.MarginRequest) (*ledgerv1.MarginResponse, error) {
	from, err1 := time.Parse(time.DateOnly, r.GetFromDay())
	to, err2 := time.Parse(time.DateOnly, r.GetToDay())
	switch {
	case err1 != nil:
		return nil, fault.Invalid(fault.Field{Name: "from_day", Message: "is not a day"})
	case err2 != nil:
		return nil, fault.Invalid(fault.Field{Name: "to_day", Message: "is not a day"})
	case to.Before(from) || to.Sub(from) >= 366*24*time.Hour:
		return nil, fault.Invalid(fault.Field{Name: "to_day", Message: "must be from_day or up to 365 days later"})
	}
	resp := &ledgerv1.MarginResponse{}
	err := pgx.BeginTxFunc(ctx, g.s.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local enable_seqscan = on"); err != nil { // for whole months, which are whole partitions
			return fmt.Errorf("set planner: %w", err)
		}
		rows, err := tx.Query(ctx, marginSQL(r.GetBy()), pgx.QueryExecModeExec, from, to.AddDate(0, 0, 1), r.GetAccountId(), marginRows+1)
		if err != nil {
			return fmt.Errorf("read margins: %w", err)
		}
		resp.Rows, err = collectMargins(rows)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(resp.GetRows()) > marginRows {
		return nil, fault.Invalid(fault.Field{Name: "by", Message: "gives more than 10000 rows; ask for fewer days, fewer dimensions or one account"})
	}
	return resp, nil
}

// marginSQL groups by the dimensions asked for; the others are empty.
func marginSQL(by []string) string {
	var values []string
	for _, d := range dimensions {
		if len(by) == 0 || slices.Contains(by, d.name) {
			values = append(values, d.sql)
		} else {
			values = append(values, "''")
		}
	}
	// Ids sort by time, by the clock of the replica that made them: an hour either
	// way covers the difference to the database's.
	return `select ` + strings.Join(values, ", ") + `, case when cost_source in ('catalogue', 'reported') then cost_currency else '' end,
			count(*), count(*) filter (where state = 'succeeded'), coalesce(sum(captured_micros - refunded_micros), 0)::bigint, coalesce(sum(refunded_micros), 0)::bigint,
			coalesce(sum(cost_micros) filter (where cost_source in ('catalogue', 'reported')), 0)::bigint,
			coalesce(sum(cost_micros) filter (where cost_source = 'reported'), 0)::bigint,
			count(*) filter (where cost_source = '' and result_url is not null)
		from job where id >= job_id_at($1::timestamptz - interval '1 hour') and id < job_id_at($2::timestamptz + interval '1 hour')
			and created_at >= $1::timestamptz and created_at < $2::timestamptz and ($3::text = '' or account_id = $3)
		group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5 limit $4::int`
}

// collectMargins joins the lines of a row, one for each currency.
func collectMargins(rows pgx.Rows) ([]*ledgerv1.MarginRow, error) {
	var out []*ledgerv1.MarginRow
	line, cost := &ledgerv1.MarginRow{}, &ledgerv1.ProviderCost{}
	_, err := pgx.ForEachRow(rows, []any{&line.Day, &line.Model, &line.Provider, &line.AccountId, &cost.Currency, &line.Jobs, &line.Succeeded,
		&line.RevenueMicros, &line.RefundedMicros, &cost.Micros, &cost.ReportedMicros, &line.Uncosted}, func() error {
		row := &ledgerv1.MarginRow{Day: line.GetDay(), Model: line.GetModel(), Provider: line.GetProvider(), AccountId: line.GetAccountId()}
		if n := len(out); n > 0 && out[n-1].GetDay() == row.GetDay() && out[n-1].GetModel() == row.GetModel() &&
			out[n-1].GetProvider() == row.GetProvider() && out[n-1].GetAccountId() == row.GetAccountId() {
			row = out[n-1]
		} else {
			out = append(out, row)
		}
		row.Jobs += line.GetJobs()
		row.Succeeded += line.GetSucceeded()
		row.RevenueMicros += line.GetRevenueMicros()
		row.RefundedMicros += line.GetRefundedMicros()
		row.Uncosted += line.GetUncosted()
		if cost.GetCurrency() != "" {
			row.Costs = append(row.Costs, proto.CloneOf(cost))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read margins: %w", err)
	}
	return out, nil
}
