package ledger

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"reelway.dev/pkg/pgtest"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// fill makes a ledger's month: thirty thousand jobs, of which three hundred are
// live, and what belongs to them.
func fill(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	for _, sql := range []string{
		`insert into job (id, state, account_id, provider, hold_state, quote_micros, completed_at, end_user, params)
			select job_id_at(now() - interval '20 days' + g * interval '1 minute') || lpad(g::text, 8, '0'), case when g % 100 = 0 then 'queued' else 'failed' end, 'acct_' || g % 50, 'kling',
				case when g % 100 = 0 then 'held' else 'released' end, 10, case when g % 100 > 0 then now() end, 'user_' || g % 977, ''
			from generate_series(1, 30000) g`,
		`insert into attempt (id, job_id, number, provider, state, provider_task_id, ended_at, verdict_source)
			select 'att_' || g, 'video_' || g, 1, 'kling', case when g % 100 = 0 then 'accepted' else 'failed' end, 'task_' || g,
				case when g % 100 > 0 then now() - g * interval '1 second' end, case when g % 100 > 0 then 'webhook' else '' end from generate_series(1, 30000) g`,
		`insert into observation (id, job_id, attempt_id, source, fact, verdict, observed_at) select 'fact_' || g, 'video_' || g, 'att_' || g, 's', 'f', 'applied', now() from generate_series(1, 30000) g`,
		`insert into idempotency (account_id, key, job_id, request_hash) select 'acct_' || g % 50, 'key_' || g, 'video_' || g, '' from generate_series(1, 30000) g`,
		`insert into outbox (publish_after, message_id, subject, type, data) select now() + (g - 600) * interval '1 second', 'm', 's', 't', '' from generate_series(1, 20000) g`,
		`insert into posting (key, kind, account_id, job_id, source, destination, amount_micros, available_micros, held_micros)
			select 'video_' || g || '/hold', 'hold', 'acct_' || g % 50, 'video_' || g, 'available', 'held', 1, 0, 0 from generate_series(1, 30000) g`,
		`insert into usage_day select 'acct_' || a, date '2026-01-01' + d, 'm' || m, 'p', 'k', 1, 1, 0, 0, 0, 0, 5, 100, 0 from generate_series(1, 20) a, generate_series(0, 300) d, generate_series(1, 3) m`,
		`insert into usage_user_day select 'acct_' || a, 'user_' || u, date '2026-01-01' + d, 'm', 'p', 'k', 1, 1, 0, 0, 0, 0, 5, 100, 0 from generate_series(1, 10) a, generate_series(1, 50) u, generate_series(0, 59) d`,
		`insert into queue (provider, turn, job_id, model) select case g % 3 when 0 then 'kling' else 'veo' end, g, 'video_' || g, 'm' || g % 7 from generate_series(1, 30000) g`,
		"insert into account (id, name, tier) select 'acct_' || a, 'a', 'production' from generate_series(0, 49) a",
		"insert into video_retention (account_id, keep_seconds) select 'acct_' || a, 86400 from generate_series(0, 9) a",
		`insert into realtime_revocation (account_id, token_id, ends_at) select 'acct_' || g % 50, 'rtok_' || g, now() from generate_series(1, 30000) g`,
		`insert into review (job_id, account_id, attempt_id, provider, amount_micros) select 'video_' || g, 'acct_1', 'att_' || g, 'kling', 1 from generate_series(1, 3000) g`,
		`insert into mail (account_id, event_id, recipient, leased_until) select 'acct_1', 'video_' || g || '/failed', sha256('a'), now() from generate_series(1, 3000) g`,
		`insert into job_mail (job_id, account_id, email) select 'video_' || g, 'acct_1', 'a@b.example' from generate_series(1, 3000) g`,
		`insert into webhook_callback (job_id, host, url) select 'video_' || g, 'b.example', 'https://b.example' from generate_series(1, 3000) g`,
		`insert into webhook_delivery (id, endpoint_id, account_id, lane, job_id, version, job_state, type, occurred_at)
			select 'msg_' || g, 'whe_1', 'acct_1', 'whe_1', 'video_' || g, 1, 'failed', 'video.failed', now() from generate_series(1, 3000) g`,
		`insert into webhook_attempt (delivery_id, number, at, duration_ms, url, request_headers, request_body, status, response_body, error)
			select 'msg_' || g, n, now(), 1, '', '{}', '', 503, '', '' from generate_series(1, 3000) g, generate_series(1, 2) n`,
		`insert into job_source (job_id, source_id) select id, 'video_' || row_number() over (order by id) % 10000 from job`,
		`insert into artifact_deletion (key, job_id, attempt_id, account_id, provider, asked_at)
			select 'videos/acct_1/video_' || g || '/att_' || g || '.mp4', 'video_' || g, 'att_' || g, 'acct_1', 'kling', case when g % 300 > 0 then now() - g * interval '1 second' else 'infinity' end from generate_series(1, 30000) g`,
		`insert into api_key (id, account_id, name, hash, scopes) select 'key_' || g, 'acct_' || g % 50, '', sha256(g::text::bytea), '{}' from generate_series(1, 3000) g`,
	} {
		if _, err := pool.Exec(context.Background(), sql); err != nil {
			t.Fatalf("%.60s: %v", sql, err)
		}
	}
	// Whoever looks at that moment, such as autovacuum, keeps rows from being known
	// as visible to all, and that changes plans.
	for deadline := time.Now().Add(time.Minute); ; {
		var hidden []string
		if _, err := pool.Exec(context.Background(), "vacuum analyze"); err != nil {
			t.Fatal(err)
		}
		rows, err := pool.Query(context.Background(), `select relname from pg_class where relkind = 'r' and relallvisible < relpages
			and relnamespace = (select relnamespace from pg_class where oid = 'job'::regclass)`)
		if err == nil {
			hidden, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(hidden) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("rows of %v are not visible to all", hidden)
		}
	}
}

// plan is a node of EXPLAIN's answer.
type plan struct {
	Node  string `json:"Node Type"`
	Table string `json:"Relation Name"`
	Index string `json:"Index Name"`
	Cond  string `json:"Index Cond"`
	Plans []plan `json:"Plans"`
}

func (p plan) each(fn func(plan)) {
	fn(p)
	for _, q := range p.Plans {
		q.each(fn)
	}
}

// The hot queries read by their index, as the planner sees it of its own free
// will: reading tables end to end is allowed here, other than in the product.
func TestHotQueriesUseTheirIndex(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, Migrations())
	fill(t, pool)
	some := func(prefix string) (out []string) {
		for _, n := range strings.Fields("17 4711 29999 123 5") {
			out = append(out, prefix+n)
		}
		return out
	}
	usage := func(q *videov1.QueryUsageRequest) (string, []any) {
		q.From, q.To = "2026-02-01", "2026-02-28"
		sql, args, err := usageQuery("acct_7", q)
		if err != nil {
			t.Fatal(err)
		}
		return sql, args
	}
	byDay, dayArgs := usage(&videov1.QueryUsageRequest{GroupBy: []videov1.UsageGroup{videov1.UsageGroup_USAGE_GROUP_DAY, videov1.UsageGroup_USAGE_GROUP_MODEL}})
	user := "user_9"
	ofUser, userArgs := usage(&videov1.QueryUsageRequest{User: &user, GroupBy: []videov1.UsageGroup{videov1.UsageGroup_USAGE_GROUP_DAY}})
	byUser, byUserArgs := usage(&videov1.QueryUsageRequest{GroupBy: []videov1.UsageGroup{videov1.UsageGroup_USAGE_GROUP_USER}, Limit: 10})
	var job string
	if err := pool.QueryRow(context.Background(), "select id from job offset 1000 limit 1").Scan(&job); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		index, sql string
		args       []any
		partial    bool // reads all of a partial index, which is small by its condition
	}{
		"lock jobs":                {"job_pkey", lockJobsSQL, []any{append(some("video_"), job)}, false},
		"attempts of jobs":         {"attempt_job_id_number_key", attemptsSQL, []any{some("video_")}, false},
		"known facts":              {"observation_pkey", knownFactsSQL, []any{some("video_"), some("fact_")}, false},
		"owners of tasks":          {"attempt_by_task", taskOwnersSQL, []any{slices.Repeat([]string{"kling"}, len(some("task_"))), some("task_")}, false},
		"due messages":             {"outbox_pkey", dueSQL, []any{relayBatch}, false},
		"sent messages":            {"outbox_pkey", sentSQL, []any{[]time.Time{time.Now(), time.Now()}, []int64{1, 2}}, false},
		"tasks at a provider":      {"attempt_running", runningSQL, []any{"kling"}, true},
		"sweep":                    {"job_live", sweepSQL, []any{time.Minute, time.Hour, sweepBatch, time.Hour, time.Minute}, true},
		"next turns":               {"queue_by_model", nextTurnsSQL, []any{"kling", []string{"m0", "m1"}, []int{window, share}}, false},
		"models that wait":         {"queue_by_model", waitingModelsSQL, []any{"kling"}, false},
		"jobs ahead in the queue":  {"queue_pkey", aheadSQL, []any{"kling", 900, "video_900"}, false},
		"turns that came":          {"queue_pkey", unqueueSQL, []any{[]string{"kling"}, []int64{17}, []string{"video_17"}}, false},
		"list of an account":       {"job_by_account", listSQL(false, false), []any{"acct_7", job, "", "", 21}, false},
		"list of a user":           {"job_by_user", listSQL(true, false), []any{"acct_7", "", "user_9", "", 21}, false},
		"next jobs of a chore":     {"job_pkey", nextJobsSQL, []any{job, time.Hour, choreBatch}, false},
		"old files of accounts":    {"job_by_account", dueOwnSQL, []any{3600.0, ownBatch, choreBatch}, false},
		"jobs of a user":           {"job_by_user", jobsOfUser, []any{"acct_7", "user_9", eraseBatch}, false},
		"keys of old jobs":         {"idempotency_by_job", forgetKeysSQL, []any{some("video_")}, false},
		"observations of old jobs": {"observation_pkey", forgetFactsSQL, []any{some("video_")}, false},
		"tasks of an invoice":      {"attempt_by_task", findTasksSQL, []any{"kling", some("task_")}, false},
		"tasks of a time":          {"attempt_of_provider", listTasksSQL, []any{"kling", time.Now().Add(-time.Hour), time.Now(), "", 1001}, false},
		"the task of a webhook":    {"attempt_by_task", findAttemptSQL, []any{"kling", "task_17"}, false},
		"its last part":            {"attempt_by_task_end", findAttemptSQL, []any{"kling", "task_17"}, false},
		"last verdicts":            {"attempt_verdict", trustSQL, []any{trustWindow, promptly}, true},
		"usage by day and model":   {"usage_day_pkey", byDay, dayArgs, false},
		"usage of a user":          {"usage_user_day_pkey", ofUser, userArgs, false},
		"unfinished of an account": {"job_live", unfinishedSQL(false), []any{"acct_7", "", "", 101}, true},
		"unfinished of a user":     {"job_by_user", unfinishedSQL(true), []any{"acct_7", "", "user_9", 101}, false},
		"sources of jobs":          {"job_pkey", lockSourcesSQL, []any{append(some("video_"), job)}, false},
		"sources that are needed":  {"job_source_by_source", sourcesSQL, []any{some("video_")}, false},
		"held deletions":           {"artifact_deletion_by_asked", releasedSQL, []any{sweepBatch}, false},
		"sources that went":        {"job_source_by_source", forgetSourcesSQL, []any{some("video_")}, false},
		"a key that was used":      {"idempotency_pkey", "select from job where " + replayWhere, []any{"acct_7", "key_7", []byte{1}, []byte{2}}, false},
		"ended tokens":             {"realtime_revocation_pkey", endedTokensSQL, []any{[]string{"rtok_1"}, []string{"acct_7"}, []string{"key_1"}}, false},
		"an inspected job":         {"job_pkey", inspectJobSQL, []any{job}, false},
		"its observations":         {"observation_pkey", inspectObservationsSQL, []any{"video_17", 1001}, false},
		"its postings":             {"posting_key_key", inspectPostingsSQL, []any{"video_17", 1001}, false},
		"its review":               {"review_pkey", inspectReviewSQL, []any{"video_17"}, false},
		"its deliveries":           {"webhook_delivery_by_job", inspectDeliveriesSQL, []any{"video_17", 1001}, false},
		"their last attempts":      {"webhook_attempt_pkey", inspectDeliveriesSQL, []any{"video_17", 1001}, false},
		"its letters":              {"mail_pkey", inspectMailsSQL, []any{"video_17", "acct_1"}, false},
		"its removals":             {"artifact_deletion_pkey", inspectRemovalsSQL, []any{"video_17", "acct_1"}, false},
		"its own address":          {"webhook_callback_pkey", inspectAddressesSQL, []any{"video_17"}, false},
		"its own letter":           {"job_mail_pkey", inspectAddressesSQL, []any{"video_17"}, false},
		"the job of an attempt":    {"attempt_pkey", attemptJobSQL, []any{"att_17"}, false},
		"a page of usage by user":  {"usage_user_day_pkey", byUser, byUserArgs, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tx, err := pool.Begin(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(context.Background()) }()
			used := explain(t, tx, c.sql, c.args, c.partial)
			if !slices.Contains(used, c.index) {
				t.Errorf("reads by %v, want %s", used, c.index)
			}
		})
	}
}

// explain returns the indexes that a statement reads by, those of partitions
// under their parent's name, and fails for one that reads without a condition.
func explain(t *testing.T, tx pgx.Tx, sql string, args []any, partial bool) (used []string) {
	t.Helper()
	ctx := context.Background()
	if _, err := tx.Exec(ctx, "set local enable_seqscan = on"); err != nil {
		t.Fatal(err)
	}
	var raw []byte
	if err := tx.QueryRow(ctx, "explain (format json) "+sql, args...).Scan(&raw); err != nil {
		t.Fatal(err)
	}
	var out []struct{ Plan plan }
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	var names, whole []string
	out[0].Plan.each(func(p plan) {
		if p.Node == "Seq Scan" || p.Index != "" && p.Cond == "" && !partial {
			whole = append(whole, p.Table)
		}
		if p.Index != "" {
			names = append(names, p.Index)
		}
	})
	var large int // the month's partition; those to come are empty
	if err := tx.QueryRow(ctx, "select count(*) from pg_class where relname = any($1) and reltuples > 1000", whole).Scan(&large); err != nil {
		t.Fatal(err)
	}
	if large > 0 {
		t.Errorf("reads %v from end to end: %s", whole, raw)
	}
	rows, err := tx.Query(ctx, `select distinct coalesce(p.relname, c.relname) from pg_class c left join pg_inherits i on i.inhrelid = c.oid
		left join pg_class p on p.oid = i.inhparent where c.relname = any($1)`, names)
	if err != nil {
		t.Fatal(err)
	}
	if used, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		t.Fatal(err)
	}
	return used
}
