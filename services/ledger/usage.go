package ledger

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/job"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// usageKey names a row of usage_user_day; without its user, one of usage_day.
type usageKey struct{ account, user, day, model, provider, key string }

func (k usageKey) compare(o usageKey) int {
	return cmp.Or(strings.Compare(k.account, o.account), strings.Compare(k.user, o.user), strings.Compare(k.day, o.day),
		strings.Compare(k.model, o.model), strings.Compare(k.provider, o.provider), strings.Compare(k.key, o.key))
}

// usage is what jobs that ended add to a row.
type usage struct {
	usageKey
	jobs, succeeded, failed, canceled, expired, needsReview, seconds int64
	captured                                                         int64
	latency                                                          histogram
}

func (x *usage) add(j *record, seconds int64) {
	x.jobs++
	switch j.State {
	case job.Succeeded:
		x.succeeded++
		x.seconds += seconds
		x.captured += j.Captured
		x.latency.add(j.CompletedAt.Sub(j.CreatedAt))
	case job.Failed:
		x.failed++
	case job.Canceled:
		x.canceled++
	case job.Expired:
		x.expired++
	case job.NeedsReview:
		x.needsReview++
	}
}

// count puts a job that has just become final into the usage of its day, once.
func (u *unit) count(j *record) error {
	model, seconds := j.Model, int64(0)
	if model == "" || j.State == job.Succeeded {
		var p videov1.VideoParams
		if err := proto.Unmarshal(j.Params, &p); err != nil {
			return fmt.Errorf("count %s: %w", j.ID, err)
		}
		model = p.GetModel()
		made, asked, err := j.length()
		if err != nil {
			return err
		}
		if seconds = made; made <= 0 {
			seconds = asked
		}
	}
	j.Counted = true
	k := usageKey{j.Account, j.User, j.CompletedAt.UTC().Format("2006-01-02"), model, j.Provider, j.Key}
	if u.byUser == nil {
		u.byDay, u.byUser = map[usageKey]*usage{}, map[usageKey]*usage{}
	}
	row(u.byUser, k).add(j, seconds)
	k.user = ""
	row(u.byDay, k).add(j, seconds)
	return nil
}

func row(of map[usageKey]*usage, k usageKey) *usage {
	if of[k] == nil {
		of[k] = &usage{usageKey: k}
	}
	return of[k]
}

// length is how many seconds of video were made, 0 when that is not known, and
// how many were asked for.
func (j *record) length() (made, asked int64, _ error) {
	var a videov1.Artifact
	var p videov1.VideoParams
	if err := errors.Join(proto.Unmarshal(j.Artifact, &a), proto.Unmarshal(j.Params, &p)); err != nil {
		return 0, 0, fmt.Errorf("measure %s: %w", j.ID, err)
	}
	return (a.GetDurationMs() + 500) / 1000, int64(p.GetDurationSeconds()), nil
}

// usageSums are the columns that are added up.
const usageSums = "jobs, succeeded, failed, canceled, expired, needs_review, seconds, captured_micros, latency"

// The two tables of usage, each with its key.
var (
	addByDay  = addUsage("usage_day", "account_id", "day", "model", "provider", "api_key_id")
	addByUser = addUsage("usage_user_day", "account_id", "end_user", "day", "model", "provider", "api_key_id")
)

// onUsage adds what is inserted, as excluded, to the row u that is there.
const onUsage = ` do update set jobs = u.jobs + excluded.jobs, succeeded = u.succeeded + excluded.succeeded, failed = u.failed + excluded.failed,
	canceled = u.canceled + excluded.canceled, expired = u.expired + excluded.expired, needs_review = u.needs_review + excluded.needs_review,
	seconds = u.seconds + excluded.seconds, captured_micros = u.captured_micros + excluded.captured_micros, latency = u.latency + excluded.latency`

// addUsage is the statement that adds rows to a table, given by column: its
// keys, then usageSums.
func addUsage(table string, keys ...string) string {
	var args []string
	for _, k := range keys {
		args = append(args, map[bool]string{false: "text[]", true: "text[]::date[]"}[k == "day"])
	}
	for range 7 {
		args = append(args, "int[]")
	}
	args = append(args, "bigint[]", "text[]::numeric[]")
	for i := range args {
		args[i] = fmt.Sprintf("$%d::%s", i+1, args[i])
	}
	key := strings.Join(keys, ", ")
	return "insert into " + table + " as u (" + key + ", " + usageSums + ") select * from unnest(" + strings.Join(args, ", ") + ") on conflict (" + key + ")" + onUsage
}

// writeUsage adds what was counted. The balances of its accounts are locked, so
// nobody else changes these rows meanwhile.
func (u *unit) writeUsage(b *pgx.Batch) {
	if len(u.byDay) == 0 {
		return
	}
	b.Queue(addByDay, usageColumns(u.byDay, false)...)
	b.Queue(addByUser, usageColumns(u.byUser, true)...)
}

func usageColumns(of map[usageKey]*usage, byUser bool) []any {
	rows := slices.SortedFunc(maps.Values(of), func(a, b *usage) int { return a.compare(b.usageKey) })
	var t table
	column(&t, rows, func(x *usage) string { return x.account })
	if byUser {
		column(&t, rows, func(x *usage) string { return x.user })
	}
	column(&t, rows, func(x *usage) string { return x.day })
	column(&t, rows, func(x *usage) string { return x.model })
	column(&t, rows, func(x *usage) string { return x.provider })
	column(&t, rows, func(x *usage) string { return x.key })
	column(&t, rows, func(x *usage) int64 { return x.jobs })
	column(&t, rows, func(x *usage) int64 { return x.succeeded })
	column(&t, rows, func(x *usage) int64 { return x.failed })
	column(&t, rows, func(x *usage) int64 { return x.canceled })
	column(&t, rows, func(x *usage) int64 { return x.expired })
	column(&t, rows, func(x *usage) int64 { return x.needsReview })
	column(&t, rows, func(x *usage) int64 { return x.seconds })
	column(&t, rows, func(x *usage) int64 { return x.captured })
	column(&t, rows, func(x *usage) string { return x.latency.String() })
	return t.columns
}
