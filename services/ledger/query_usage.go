package ledger

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

type usageServer struct {
	ledgerv1.UnimplementedUsageServiceServer
	s *Service
}

const (
	longestUsage = 366 // days in one question
	usageLimit   = 1000
)

// QueryUsage adds up what ended. It names every wrong field at once.
func (g *usageServer) QueryUsage(ctx context.Context, r *ledgerv1.QueryUsageRequest) (*ledgerv1.QueryUsageResponse, error) {
	q := r.GetQuery()
	sql, args, err := usageQuery(r.GetAccountId(), q)
	if err != nil {
		return nil, err
	}
	rows, err := g.s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	groups := inOrder(q.GetGroupBy())
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*videov1.UsageRow, error) { return scanUsage(row, groups) })
	if err != nil {
		return nil, fmt.Errorf("read usage: %w", err)
	}
	resp := &videov1.QueryUsageResponse{Rows: out}
	if n := usageRows(q); len(out) > n {
		resp.Rows = out[:n]
		resp.Next = place(groups, resp.GetRows()[n-1])
	}
	return &ledgerv1.QueryUsageResponse{Usage: resp}, nil
}

func usageRows(q *videov1.QueryUsageRequest) int {
	if n := int(q.GetLimit()); n > 0 {
		return n
	}
	return usageLimit
}

// usageColumn is the column of each group.
var usageColumn = map[videov1.UsageGroup]string{
	videov1.UsageGroup_USAGE_GROUP_USER: "end_user", videov1.UsageGroup_USAGE_GROUP_DAY: "day", videov1.UsageGroup_USAGE_GROUP_MODEL: "model",
	videov1.UsageGroup_USAGE_GROUP_PROVIDER: "provider", videov1.UsageGroup_USAGE_GROUP_API_KEY: "api_key_id",
}

// inOrder puts groups into the order of the primary keys, so that a page of
// users is read without the rows of all others.
func inOrder(groups []videov1.UsageGroup) []videov1.UsageGroup {
	rank := func(g videov1.UsageGroup) int {
		if g == videov1.UsageGroup_USAGE_GROUP_USER {
			return 0
		}
		return int(g)
	}
	out := slices.Clone(groups)
	slices.SortFunc(out, func(a, b videov1.UsageGroup) int { return rank(a) - rank(b) })
	return slices.Compact(out)
}

// usageQuery is the statement that answers q, or a fault that names what is
// wrong with it.
func usageQuery(account string, q *videov1.QueryUsageRequest) (sql string, args []any, err error) {
	from, to, bad := usagePeriod(q)
	groups := inOrder(q.GetGroupBy())
	var after []string
	if q.GetAfter() != "" {
		if after, err = placed(groups, q.GetAfter()); err != nil {
			bad = append(bad, fault.Field{Name: "after", Message: err.Error()})
		}
	}
	for _, f := range []struct{ name, text string }{{"model", q.GetModel()}, {"provider", q.GetProvider()}, {"api_key", q.GetApiKeyId()}, {"user", q.GetUser()}} {
		if strings.ContainsRune(f.text, 0) {
			bad = append(bad, fault.Field{Name: f.name, Message: "must not hold a NUL character"})
		}
	}
	if len(bad) > 0 {
		return "", nil, wrong(bad)
	}
	arg := func(v any) string {
		args = append(args, v)
		return fmt.Sprintf("$%d", len(args))
	}
	table := "usage_day"
	where := []string{"account_id = " + arg(account), "day between " + arg(from) + " and " + arg(to)}
	if q.User != nil || slices.Contains(groups, videov1.UsageGroup_USAGE_GROUP_USER) {
		table = "usage_user_day"
	}
	if q.User != nil {
		where = append(where, "end_user = "+arg(q.GetUser()))
	}
	for _, f := range []struct{ column, value string }{{"model", q.GetModel()}, {"provider", q.GetProvider()}, {"api_key_id", q.GetApiKeyId()}} {
		if f.value != "" {
			where = append(where, f.column+" = "+arg(f.value))
		}
	}
	var columns, shown, past []string
	for i, g := range groups {
		c := usageColumn[g]
		columns, shown = append(columns, c), append(shown, c+"::text")
		if after != nil {
			past = append(past, arg(after[i])+map[bool]string{true: "::text::date", false: ""}[c == "day"])
		}
	}
	if past != nil {
		where = append(where, "("+strings.Join(columns, ", ")+") > ("+strings.Join(past, ", ")+")")
	}
	sql = "select " + strings.Join(append(shown, usageTotals), ", ") + " from " + table + " where " + strings.Join(where, " and ")
	if len(columns) > 0 {
		by := strings.Join(columns, ", ")
		sql += " group by " + by + " order by " + by
	}
	return sql + " limit " + arg(usageRows(q)+1), args, nil
}

const usageTotals = `coalesce(sum(jobs), 0), coalesce(sum(succeeded), 0), coalesce(sum(failed), 0), coalesce(sum(canceled), 0),
	coalesce(sum(expired), 0), coalesce(sum(needs_review), 0), coalesce(sum(seconds), 0), coalesce(sum(captured_micros), 0)::bigint,
	coalesce(sum(latency), 0)::text`

func scanUsage(row pgx.CollectableRow, groups []videov1.UsageGroup) (*videov1.UsageRow, error) {
	x := &videov1.UsageRow{}
	var into []any
	for _, g := range groups {
		switch g {
		case videov1.UsageGroup_USAGE_GROUP_DAY:
			into = append(into, &x.Day)
		case videov1.UsageGroup_USAGE_GROUP_MODEL:
			into = append(into, &x.Model)
		case videov1.UsageGroup_USAGE_GROUP_PROVIDER:
			into = append(into, &x.Provider)
		case videov1.UsageGroup_USAGE_GROUP_API_KEY:
			into = append(into, &x.ApiKeyId)
		case videov1.UsageGroup_USAGE_GROUP_USER:
			into = append(into, &x.User)
		}
	}
	var latency string
	into = append(into, &x.Jobs, &x.Succeeded, &x.Failed, &x.Canceled, &x.Expired, &x.NeedsReview, &x.Seconds, &x.SpendMicros, &latency)
	if err := row.Scan(into...); err != nil {
		return nil, err
	}
	if tried := x.GetJobs() - x.GetCanceled(); tried > 0 {
		x.SuccessRate = float64(x.GetSucceeded()) / float64(tried)
	}
	h, err := parseHistogram(latency)
	if err != nil {
		return nil, err
	}
	x.LatencyP50Ms, x.LatencyP90Ms, x.LatencyP99Ms = h.percentile(.5).Milliseconds(), h.percentile(.9).Milliseconds(), h.percentile(.99).Milliseconds()
	return x, nil
}

// usagePeriod reads the days of a question.
func usagePeriod(q *videov1.QueryUsageRequest) (from, to time.Time, bad []fault.Field) {
	var err error
	if from, err = time.Parse(time.DateOnly, q.GetFrom()); err != nil {
		bad = append(bad, fault.Field{Name: "from", Message: "must be a day such as 2026-11-25"})
	}
	if to, err = time.Parse(time.DateOnly, q.GetTo()); err != nil {
		bad = append(bad, fault.Field{Name: "to", Message: "must be a day such as 2026-11-25"})
	}
	switch {
	case len(bad) > 0:
	case to.Before(from):
		bad = append(bad, fault.Field{Name: "to", Message: "must not be before from"})
	case to.Sub(from) >= longestUsage*24*time.Hour:
		bad = append(bad, fault.Field{Name: "from", Message: fmt.Sprintf("must be at most %d days before to; ask in parts", longestUsage-1)})
	}
	return from, to, bad
}

func wrong(fields []fault.Field) error {
	var parts []string
	for _, f := range fields {
		parts = append(parts, f.Name+": "+f.Message)
	}
	e := fault.New(fault.InvalidRequest, "%s", strings.Join(parts, "; "))
	e.Fields = fields
	return e
}

// cursor is a place between two rows: it fits only the groups it was made for.
type cursor struct {
	Groups []videov1.UsageGroup `json:"g"`
	Values []string             `json:"v"`
}

func place(groups []videov1.UsageGroup, x *videov1.UsageRow) string {
	c := cursor{Groups: groups}
	for _, g := range groups {
		c.Values = append(c.Values, map[videov1.UsageGroup]string{
			videov1.UsageGroup_USAGE_GROUP_DAY: x.GetDay(), videov1.UsageGroup_USAGE_GROUP_MODEL: x.GetModel(),
			videov1.UsageGroup_USAGE_GROUP_PROVIDER: x.GetProvider(), videov1.UsageGroup_USAGE_GROUP_API_KEY: x.GetApiKeyId(),
			videov1.UsageGroup_USAGE_GROUP_USER: x.GetUser(),
		}[g])
	}
	raw, err := json.Marshal(c)
	if err != nil {
		panic(err) // numbers and strings
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

func placed(groups []videov1.UsageGroup, after string) ([]string, error) {
	raw, err := base64.RawURLEncoding.DecodeString(after)
	var c cursor
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil || len(c.Values) != len(c.Groups) || !slices.Equal(c.Groups, groups) {
		return nil, fmt.Errorf("must be the next of a page with the same group_by")
	}
	for i, g := range groups {
		if _, err := time.Parse(time.DateOnly, c.Values[i]); g == videov1.UsageGroup_USAGE_GROUP_DAY && err != nil {
			return nil, fmt.Errorf("must be the next of a page with the same group_by")
		}
		if strings.ContainsRune(c.Values[i], 0) {
			return nil, fmt.Errorf("must be the next of a page with the same group_by")
		}
	}
	return c.Values, nil
}
