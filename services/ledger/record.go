package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	ID, Account, Provider, User string
	State                       job.State
	Version                     int64
	Quote, Captured             int64
	AttemptCount                int
	AttemptID                   *string
	CreatedAt, SubmitAfter      time.Time
	DeadlineAt, CompletedAt     *time.Time
	Late                        bool
	RequestHash                 []byte
	Params, Error, Artifact     []byte
	Metadata                    []byte
	ResultURL                   *string
	Traceparent                 string
}

const columns = `id, account_id, provider, end_user, state, version, quote_micros, captured_micros, attempt_count,
	attempt_id, created_at, submit_after, deadline_at, completed_at, late_result, request_hash, params, error, artifact,
	metadata, result_url, traceparent`

func scan(r pgx.CollectableRow) (*record, error) {
	var j record
	err := r.Scan(&j.ID, &j.Account, &j.Provider, &j.User, &j.State, &j.Version, &j.Quote, &j.Captured, &j.AttemptCount,
		&j.AttemptID, &j.CreatedAt, &j.SubmitAfter, &j.DeadlineAt, &j.CompletedAt, &j.Late, &j.RequestHash, &j.Params,
		&j.Error, &j.Artifact, &j.Metadata, &j.ResultURL, &j.Traceparent)
	return &j, err
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// one reads a single job; where is a condition on its arguments.
func one(ctx context.Context, q querier, where string, args ...any) (*record, error) {
	rows, err := q.Query(ctx, "select "+columns+" from job where "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read job: %w", err)
	}
	j, err := pgx.CollectExactlyOneRow(rows, scan)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "no such video")
	}
	if err != nil {
		return nil, fmt.Errorf("read job: %w", err)
	}
	return j, nil
}

// video is the job as its owner sees it.
func (j *record) video() (*videov1.Video, error) {
	v := &videov1.Video{
		Id: j.ID, AccountId: j.Account, State: j.State.Proto(), Provider: j.Provider, User: j.User,
		QuoteMicros: j.Quote, CapturedMicros: j.Captured, Version: j.Version, LateResult: j.Late,
		CreatedAt: timestamppb.New(j.CreatedAt), Params: &videov1.VideoParams{},
	}
	if !j.State.Terminal() {
		v.HeldMicros = j.Quote
	}
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
	}
	errs = errors.Join(errs, json.Unmarshal(j.Metadata, &v.Metadata))
	if errs != nil {
		return nil, fmt.Errorf("decode job %s: %w", j.ID, errs)
	}
	return v, nil
}

// attempts fills v's attempts, oldest first.
func attempts(ctx context.Context, q querier, v *videov1.Video) error {
	rows, err := q.Query(ctx, `select id, provider, state, coalesce(provider_task_id, ''), error, created_at, ended_at
		from attempt where job_id = $1 order by number`, v.GetId())
	if err != nil {
		return fmt.Errorf("read attempts: %w", err)
	}
	v.Attempts, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (*videov1.Attempt, error) {
		a := &videov1.Attempt{}
		var raw []byte
		var created time.Time
		var ended *time.Time
		if err := r.Scan(&a.Id, &a.Provider, &a.State, &a.ProviderTaskId, &raw, &created, &ended); err != nil {
			return nil, err
		}
		a.CreatedAt = timestamppb.New(created)
		if ended != nil {
			a.EndedAt = timestamppb.New(*ended)
		}
		var e videov1.VideoError
		if len(raw) > 0 {
			if err := proto.Unmarshal(raw, &e); err != nil {
				return nil, err
			}
			a.ErrorCode, a.ErrorMessage = e.GetCode(), e.GetMessage()
		}
		return a, nil
	})
	if err != nil {
		return fmt.Errorf("read attempts: %w", err)
	}
	return nil
}

// announce puts the job's present state into the outbox as an event.
func (j *record) announce(ctx context.Context, tx pgx.Tx) error {
	v, err := j.video()
	if err != nil {
		return err
	}
	if err := attempts(ctx, tx, v); err != nil {
		return err
	}
	ev := &eventv1.JobEvent{Video: v, OccurredAt: timestamppb.Now()}
	if j.AttemptID != nil {
		ev.AttemptId = *j.AttemptID
	}
	if j.State == job.Storing && j.ResultURL != nil {
		ev.ResultUrl = *j.ResultURL
	}
	m, err := bus.NewMessage(bus.EventSubject(j.Account, j.ID, string(j.State)), fmt.Sprintf("%s-v%d", j.ID, j.Version), ev)
	if err != nil {
		return err
	}
	return appendOutbox(ctx, tx, m, 0)
}

// command puts a submit command for a queued job into the outbox.
func (j *record) command(ctx context.Context, tx pgx.Tx, id string, delay time.Duration) error {
	m, err := bus.NewMessage(bus.SubmitSubject(j.Provider), id, &eventv1.SubmitJob{JobId: j.ID, AccountId: j.Account, Provider: j.Provider})
	if err != nil {
		return err
	}
	return appendOutbox(ctx, tx, m, delay)
}

// advance moves the job by an input, if the table allows it; false when not.
// It writes the row with its new version and settles the hold when the new
// state is final. The caller holds the row's lock.
func (j *record) advance(ctx context.Context, tx pgx.Tx, in job.Input) (bool, error) {
	to, ok := job.Next(j.State, in)
	if !ok {
		return false, nil
	}
	capture := int64(0)
	if to == job.Succeeded {
		capture = j.Quote
	}
	if to.Terminal() {
		if err := settleHold(ctx, tx, j.ID, capture); err != nil {
			return false, err
		}
	}
	j.Captured = capture
	j.State = to
	var completed *time.Time
	err := tx.QueryRow(ctx, `update job set state = $2, version = version + 1, captured_micros = $3, updated_at = now(), swept_at = now(),
			completed_at = case when $4 then now() end, error = $5, artifact = $6, result_url = $7, attempt_id = $8,
			attempt_count = $9, submit_after = $10, deadline_at = $11
		where id = $1 returning version, completed_at`,
		j.ID, j.State, capture, to.Terminal(), j.Error, j.Artifact, j.ResultURL, j.AttemptID, j.AttemptCount, j.SubmitAfter, j.DeadlineAt).
		Scan(&j.Version, &completed)
	if err != nil {
		return false, fmt.Errorf("update job: %w", err)
	}
	j.CompletedAt = completed
	return true, j.announce(ctx, tx)
}
