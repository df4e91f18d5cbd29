package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/job"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// record is a row of job.
type record struct {
	ID, Account, Provider, User, Key string
	State                            job.State
	Version                          int64
	Quote, Captured                  int64
	Granted, Refunded                int64  // of the hold; of the capture
	Cost                             int64  // millionths of CostCurrency
	Model, CostCurrency, CostSource  string // Model is empty when an older version opened the job
	AttemptCount                     int
	AttemptID                        *string
	CreatedAt, SubmitAfter           time.Time
	DeadlineAt, CompletedAt          *time.Time
	Late, Deleted                    bool
	Restored                         bool // it may have been submitted in what a restored database does not know
	Counted                          bool // in usage
	RequestHash                      []byte
	NotifyEmail                      string // of one that is being opened; kept apart
	Params, Error, Artifact          []byte
	Metadata                         []byte
	ResultURL                        *string
	Traceparent                      string
	Budgets                          []counted // where its money is counted
	Plan                             routePlan
	Route                            int    // of Plan: the one that Provider, Model, Params and the cost are of
	Turn                             *int64 // in the queue; nil when an older version opened the job
	Cancel                           cancellation
	Keep                             *int64 // seconds that the account keeps files; nil when it has no age of its own, or no file is near

	Attempts []*attempt // in order; loaded where they are needed
	touched  bool       // is in its unit's list of changes
	planned  []byte     // Plan, to be written with a new or a redacted job
}

const columns = `id, account_id, provider, end_user, api_key_id, state, version, quote_micros, captured_micros, attempt_count,
	attempt_id, created_at, submit_after, deadline_at, completed_at, late_result, request_hash, params, error, artifact,
	metadata, result_url, traceparent, deleted_at is not null, counted_in, model, counted,
	granted_micros, refunded_micros, cost_micros, cost_currency, cost_source, turn, cancel_requested_at, cancel_refused, plan, route, restored, ` + keepColumn

func scan(r pgx.CollectableRow) (*record, error) {
	var j record
	return &j, r.Scan(j.fields()...)
}

// fields are where columns are read to.
func (j *record) fields() []any {
	return []any{&j.ID, &j.Account, &j.Provider, &j.User, &j.Key, &j.State, &j.Version, &j.Quote, &j.Captured, &j.AttemptCount,
		&j.AttemptID, &j.CreatedAt, &j.SubmitAfter, &j.DeadlineAt, &j.CompletedAt, &j.Late, &j.RequestHash, &j.Params,
		&j.Error, &j.Artifact, &j.Metadata, &j.ResultURL, &j.Traceparent, &j.Deleted, &j.Budgets, &j.Model, &j.Counted,
		&j.Granted, &j.Refunded, &j.Cost, &j.CostCurrency, &j.CostSource, &j.Turn, &j.Cancel.At, &j.Cancel.Refused, &j.Plan, &j.Route, &j.Restored, &j.Keep}
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func notFound() error { return fault.New(fault.NotFound, "no such video") }

// one reads a single job; where is a condition on its arguments.
func one(ctx context.Context, q querier, where string, args ...any) (*record, error) {
	rows, err := q.Query(ctx, "select "+columns+" from job where "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read job: %w", err)
	}
	j, err := pgx.CollectExactlyOneRow(rows, scan)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, notFound()
	}
	if err != nil {
		return nil, fmt.Errorf("read job: %w", err)
	}
	return j, nil
}

// video is the job as its owner sees it. keep is how long results are kept when
// the account has no age of its own, 0 for ever.
func (j *record) video(keep time.Duration) (*videov1.Video, error) {
	keep = j.kept(keep)
	v := &videov1.Video{
		Id: j.ID, AccountId: j.Account, State: j.State.Proto(), Provider: j.Provider, User: j.User,
		QuoteMicros: j.Quote, CapturedMicros: j.Captured, RefundedMicros: j.Refunded, Version: j.Version, LateResult: j.Late,
		CreatedAt: timestamppb.New(j.CreatedAt), Params: &videov1.VideoParams{},
		Route: j.Plan.GetAlias(), Dropped: j.routeAt(j.Route).GetDropped(),
	}
	if !j.State.Terminal() {
		v.HeldMicros = j.Quote
		v.CancelRequested = j.Cancel.At != nil
	}
	v.CancelRefused = j.Cancel.Refused
	switch j.State {
	case job.Storing:
		v.Progress = 99 // rendered; what is left is ours
	case job.Succeeded:
		v.Progress = 100
	}
	if j.CompletedAt != nil {
		v.CompletedAt = timestamppb.New(*j.CompletedAt)
	}
	errs := proto.Unmarshal(j.Params, v.Params)
	if len(j.Error) > 0 {
		v.Error = &videov1.VideoError{}
		errs = errors.Join(errs, proto.Unmarshal(j.Error, v.Error))
	}
	if len(j.Artifact) > 0 {
		v.Artifact = &videov1.Artifact{}
		errs = errors.Join(errs, proto.Unmarshal(j.Artifact, v.Artifact))
		if keep > 0 && j.State == job.Succeeded && j.CompletedAt != nil {
			v.ExpiresAt = timestamppb.New(j.CompletedAt.Add(keep))
		}
	}
	if len(j.Metadata) > 2 { // not {}
		errs = errors.Join(errs, json.Unmarshal(j.Metadata, &v.Metadata))
	}
	for _, a := range j.Attempts {
		p, err := a.proto(j)
		errs = errors.Join(errs, err)
		v.Attempts = append(v.Attempts, p)
	}
	if errs != nil {
		return nil, fmt.Errorf("decode job %s: %w", j.ID, errs)
	}
	return v, nil
}

// announce puts the job's present state into the outbox as an event. Its
// attempts have to be loaded.
func (u *unit) announce(ctx context.Context, j *record) error {
	v, err := j.video(u.keep)
	if err != nil {
		return err
	}
	u.times.expect(v, j, u.now, 0)
	ev := &eventv1.JobEvent{Video: v, OccurredAt: timestamppb.New(u.now), HeardAt: u.heard}
	if j.AttemptID != nil {
		ev.AttemptId = *j.AttemptID
	}
	if a := j.current(); a != nil {
		ev.KeyId = a.KeyID
	}
	if j.State == job.Storing && j.ResultURL != nil {
		ev.ResultUrl = *j.ResultURL
	}
	m, err := bus.NewMessage(bus.EventSubject(j.Account, j.ID, string(j.State)), fmt.Sprintf("%s-v%d", j.ID, j.Version), ev)
	if err != nil {
		return err
	}
	u.tell(ctx, m, 0)
	return nil
}

// command puts a submit command for a queued job into the outbox.
func (u *unit) command(ctx context.Context, j *record, id string, delay time.Duration) error {
	m, err := bus.NewMessage(bus.SubmitSubject(j.Provider, j.Model), id, &eventv1.SubmitJob{JobId: j.ID, AccountId: j.Account, Provider: j.Provider, Model: j.Model})
	if err != nil {
		return err
	}
	u.tell(ctx, m, delay)
	return nil
}

// change marks a locked job to be written.
func (u *unit) change(j *record) {
	if !j.touched {
		j.touched = true
		u.changed = append(u.changed, j)
	}
}

// advance moves a locked job by an input, if the table allows it; false when
// not. When the new state is final its hold is settled, last of all; the event is
// announced.
func (u *unit) advance(ctx context.Context, j *record, in job.Input) (bool, error) {
	to, ok := job.Next(j.State, in)
	if !ok {
		return false, nil
	}
	if to == job.Succeeded {
		var err error
		if j.Captured, err = j.price(); err != nil {
			return false, err
		}
	}
	if to.Terminal() {
		u.later(j.Account, func(b *balance) error { return u.settle(b, j) })
		if j.Granted > 0 {
			u.settles = append(u.settles, j.ID)
		}
		j.CompletedAt = &u.now
		if j.State == job.Queued && j.Turn != nil {
			u.unqueued = append(u.unqueued, j)
		}
	}
	j.State = to
	if to.Terminal() {
		if err := u.count(j); err != nil {
			return false, err
		}
	}
	j.Version++
	u.change(j)
	u.note(ctx, j, in)
	u.hook(ctx, j)
	return true, u.announce(ctx, j)
}

// price is what a stored result costs: the price of the route that made it, or
// its share when the provider made fewer seconds than were asked for and paid. It
// is rounded up once and never above the hold.
func (j *record) price() (int64, error) {
	made, asked, err := j.length()
	if err != nil {
		return 0, err
	}
	whole := j.priceAt(j.Route)
	if made <= 0 || made >= asked {
		return whole, nil
	}
	hi, lo := bits.Mul64(uint64(whole), uint64(made))
	quo, rem := bits.Div64(hi, lo, uint64(asked)) // made < asked: it fits
	if rem > 0 {
		quo++
	}
	return int64(quo), nil
}

func (u *unit) writeOpened(b *pgx.Batch) {
	if len(u.opened) == 0 {
		return
	}
	u.writeNotify(b)
	var t table
	column(&t, u.opened, func(j *record) string { return j.ID })
	column(&t, u.opened, func(j *record) string { return j.Account })
	column(&t, u.opened, func(j *record) string { return j.Provider })
	column(&t, u.opened, func(j *record) int64 { return j.Quote })
	column(&t, u.opened, func(j *record) []byte { return j.RequestHash })
	column(&t, u.opened, func(j *record) string { return j.Key })
	column(&t, u.opened, func(j *record) string { return j.User })
	column(&t, u.opened, func(j *record) []byte { return j.Params })
	column(&t, u.opened, func(j *record) string { return string(j.Metadata) })
	column(&t, u.opened, func(j *record) string { return j.Traceparent })
	column(&t, u.opened, func(j *record) string { return j.Model })
	column(&t, u.opened, func(j *record) int64 { return j.Granted })
	column(&t, u.opened, func(j *record) int64 { return j.Cost })
	column(&t, u.opened, func(j *record) string { return j.CostCurrency })
	column(&t, u.opened, func(j *record) string { return j.CostSource })
	column(&t, u.opened, func(j *record) *string { return j.countedJSON() })
	column(&t, u.opened, func(j *record) []byte { return j.planned })
	t.columns = append(t.columns, u.now)
	column(&t, u.opened, func(j *record) int64 { return *j.Turn })
	column(&t, u.opened, func(j *record) int { return len(j.Plan.GetRoutes()) })
	b.Queue(`insert into job (id, state, account_id, provider, quote_micros, request_hash, api_key_id, end_user, params, metadata, traceparent,
			model, granted_micros, cost_micros, cost_currency, cost_source, counted_in, plan, created_at, updated_at, swept_at, submit_after, turn, routes)
		select id, 'queued', account, provider, quote, hash, key, end_user, params, metadata::jsonb, trace,
			model, granted, cost, currency, cost_source, counted::jsonb, plan, $18, $18, $18, $18, turn, routes
		from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bytea[], $6::text[], $7::text[], $8::bytea[], $9::text[], $10::text[],
			$11::text[], $12::bigint[], $13::bigint[], $14::text[], $15::text[], $16::text[], $17::bytea[], $19::bigint[], $20::int[])
			as x (id, account, provider, quote, hash, key, end_user, params, metadata, trace, model, granted, cost, currency, cost_source, counted, plan, turn, routes)`, t.columns...)
}

func (u *unit) writeChanged(b *pgx.Batch) {
	if len(u.changed) == 0 {
		return
	}
	var t table
	column(&t, u.changed, func(j *record) string { return j.ID })
	column(&t, u.changed, func(j *record) string { return string(j.State) })
	column(&t, u.changed, func(j *record) int64 { return j.Version })
	column(&t, u.changed, func(j *record) int64 { return j.Captured })
	column(&t, u.changed, func(j *record) string { return holdState(j) })
	column(&t, u.changed, func(j *record) *time.Time { return j.CompletedAt })
	column(&t, u.changed, func(j *record) []byte { return j.Error })
	column(&t, u.changed, func(j *record) []byte { return j.Artifact })
	column(&t, u.changed, func(j *record) *string { return j.ResultURL })
	column(&t, u.changed, func(j *record) *string { return j.AttemptID })
	column(&t, u.changed, func(j *record) int { return j.AttemptCount })
	column(&t, u.changed, func(j *record) time.Time { return j.SubmitAfter })
	column(&t, u.changed, func(j *record) *time.Time { return j.DeadlineAt })
	column(&t, u.changed, func(j *record) bool { return j.Late })
	column(&t, u.changed, func(j *record) bool { return j.Counted })
	column(&t, u.changed, func(j *record) int64 { return j.Refunded })
	column(&t, u.changed, func(j *record) int64 { return j.Cost })
	column(&t, u.changed, func(j *record) string { return j.CostCurrency })
	column(&t, u.changed, func(j *record) string { return j.CostSource })
	column(&t, u.changed, func(j *record) bool { return j.Restored })
	b.Queue(`update job set state = x.state, version = x.version, captured_micros = x.captured, hold_state = x.hold_state,
			completed_at = x.completed_at, error = x.error, artifact = x.artifact, result_url = x.result_url, attempt_id = x.attempt_id,
			attempt_count = x.attempt_count, submit_after = x.submit_after, deadline_at = x.deadline_at, late_result = x.late, counted = x.counted,
			refunded_micros = x.refunded, cost_micros = x.cost, cost_currency = x.currency, cost_source = x.cost_source, restored = x.restored,
			updated_at = case when job.version = x.version then updated_at else now() end, swept_at = now()
		from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::timestamptz[], $7::bytea[], $8::bytea[], $9::text[],
			$10::text[], $11::int[], $12::timestamptz[], $13::timestamptz[], $14::boolean[], $15::boolean[], $16::bigint[], $17::bigint[], $18::text[], $19::text[], $20::boolean[])
			as x (id, state, version, captured, hold_state, completed_at, error, artifact, result_url, attempt_id, attempt_count,
				submit_after, deadline_at, late, counted, refunded, cost, currency, cost_source, restored)
		where job.id = x.id`, t.columns...)
}

func holdState(j *record) string {
	switch {
	case !j.State.Terminal():
		return "held"
	case j.Captured > 0:
		return "captured"
	}
	return "released"
}
