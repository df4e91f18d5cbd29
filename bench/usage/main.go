// Command usage measures how long questions about usage take over the roll-ups
// of ten million jobs, a fifth of them one account's. The roll-ups are added up
// from ten million made-up jobs, as the ledger does it one by one.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"reelway.dev/bench/stand"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

func main() {
	jobs := flag.Int("jobs", 10_000_000, "jobs that the roll-ups count")
	times := flag.Int("times", 100, "how often each question is asked")
	flag.Parse()
	if err := measure(context.Background(), *jobs, *times); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

const (
	goal   = 50 * time.Millisecond
	usage  = "jobs, succeeded, failed, canceled, expired, needs_review, seconds, captured_micros, latency"
	shared = `create unlogged table made as
		select case when h % 5 = 0 then 'acct_large' else 'acct_' || h / 5 % 200 end as account_id,
			date '2026-01-01' + (h / 1009 % 365)::int as day, 'model-' || h / 400009 % 6 as model, 'provider-' || h / 400009 % 3 as provider,
			'key_' || case when h % 5 = 0 then h / 3000017 % 10 else h / 3000017 % 3 end as api_key_id,
			'user_' || case when h % 5 = 0 then h / 40000003 % 20000 else h / 40000003 % 500 end as end_user, sum(n)::int as jobs,
			sum(case when r < 90 then n else 0 end)::int as succeeded, sum(case when r >= 90 then n else 0 end)::int as failed,
			0 as canceled, 0 as expired, 0 as needs_review, sum(case when r < 90 then 5 * n else 0 end)::int as seconds,
			sum(case when r < 90 then 210000 * n else 0 end)::bigint as captured_micros, sum(case when r < 90 then v * n else 0 end) as latency
		from (select abs(hashint8extended(g, 1)) as h, abs(hashint8extended(g, 2)) % 100 as r, 4 as n from generate_series(1, $1::bigint / 4) g) x
		join (select b, ('1' || repeat('0', 12 * (60 + b)))::numeric as v from generate_series(0, 39) b) l on l.b = x.h / 900000007 % 40
		group by 1, 2, 3, 4, 5, 6`
	byUser = "insert into usage_user_day (account_id, end_user, day, model, provider, api_key_id, " + usage + ") select account_id, end_user, day, model, provider, api_key_id, " + usage +
		" from made order by 1, 2, 3, 4, 5, 6"
	byDay = `insert into usage_day (account_id, day, model, provider, api_key_id, ` + usage + `)
		select account_id, day, model, provider, api_key_id, sum(jobs), sum(succeeded), sum(failed), 0, 0, 0, sum(seconds), sum(captured_micros), sum(latency)
		from made group by 1, 2, 3, 4, 5 order by 2, 1, 3, 4, 5`
)

func measure(ctx context.Context, jobs, times int) error {
	s, err := stand.New(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	b, err := s.Ledger(ctx, "usage", false)
	if err != nil {
		return err
	}
	began := time.Now()
	if _, err := b.Pool.Exec(ctx, shared, jobs); err != nil {
		return fmt.Errorf("make jobs: %w", err)
	}
	for _, sql := range []string{byUser, byDay, "drop table made", "vacuum analyze"} {
		if _, err := b.Pool.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%.40s: %w", sql, err)
		}
	}
	var days, users, counted int64
	var size string
	if err := b.Pool.QueryRow(ctx, `select (select count(*) from usage_day), (select count(*) from usage_user_day), (select sum(jobs) from usage_day),
		pg_size_pretty(pg_total_relation_size('usage_day') + pg_total_relation_size('usage_user_day'))`).Scan(&days, &users, &counted, &size); err != nil {
		return fmt.Errorf("count rows: %w", err)
	}
	stand.Say("%d jobs in %d rows by day and %d by user and day, %s, made in %s\n\n%-66s %6s %10s %10s %10s\n", counted, days, users, size,
		time.Since(began).Round(time.Second), "", "rows", "best", "p50", "p99")
	var median, worst time.Duration
	for _, q := range questions() {
		took, rows, err := ask(ctx, b, q.query, times)
		if err != nil {
			return err
		}
		p99 := took[len(took)*99/100]
		median, worst = max(median, took[len(took)/2]), max(worst, p99)
		stand.Say("%-66s %6d %10s %10s %10s\n", q.name, rows, took[0].Round(10*time.Microsecond), took[len(took)/2].Round(10*time.Microsecond), p99.Round(10*time.Microsecond))
	}
	stand.Say("\nslowest question: p50 %.2f and p99 %.2f of the goal of %s\n", float64(median)/float64(goal), float64(worst)/float64(goal), goal)
	return nil
}

type question struct {
	name  string
	query *videov1.QueryUsageRequest
}

// questions are about the large account.
func questions() []question {
	by := func(from, to string, groups ...videov1.UsageGroup) *videov1.QueryUsageRequest {
		return &videov1.QueryUsageRequest{From: from, To: to, GroupBy: groups}
	}
	const day, model, provider, key, user = videov1.UsageGroup_USAGE_GROUP_DAY, videov1.UsageGroup_USAGE_GROUP_MODEL, videov1.UsageGroup_USAGE_GROUP_PROVIDER,
		videov1.UsageGroup_USAGE_GROUP_API_KEY, videov1.UsageGroup_USAGE_GROUP_USER
	ofUser := by("2026-01-01", "2026-12-31", day)
	ofUser.User = proto.String("user_4711")
	ofModel := by("2026-01-01", "2026-12-31", day)
	ofModel.Model = "model-3"
	return []question{
		{"30 days by day", by("2026-06-01", "2026-06-30", day)},
		{"30 days by day, model, provider and key", by("2026-06-01", "2026-06-30", day, model, provider, key)},
		{"a year in one row", by("2026-01-01", "2026-12-31")},
		{"a year by day", by("2026-01-01", "2026-12-31", day)},
		{"a year by model, provider and key", by("2026-01-01", "2026-12-31", model, provider, key)},
		{"a year of one model by day", ofModel},
		{"a year of one user by day", ofUser},
		{"30 days by user, the first thousand", by("2026-06-01", "2026-06-30", user)},
		{"a year by user and day, the first thousand", by("2026-01-01", "2026-12-31", user, day)},
	}
}

func ask(ctx context.Context, b *stand.Book, q *videov1.QueryUsageRequest, times int) (took []time.Duration, rows int, err error) {
	for i := range times + 10 { // the first ones warm up
		began := time.Now()
		r, err := b.Usage.QueryUsage(ctx, &ledgerv1.QueryUsageRequest{AccountId: "acct_large", Query: q})
		if err != nil {
			return nil, 0, err
		}
		if i >= 10 {
			took = append(took, time.Since(began))
		}
		rows = len(r.GetUsage().GetRows())
	}
	slices.Sort(took)
	return took, rows, nil
}
