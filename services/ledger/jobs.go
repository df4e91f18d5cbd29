package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/postgres"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// moneyTimeout bounds a transaction that moves money. It is detached from the
// caller's context: a hang-up must not cut a commit in two.
const moneyTimeout = 15 * time.Second

func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), moneyTimeout)
}

type jobServer struct {
	ledgerv1.UnimplementedJobServiceServer
	s *Service
}

// OpenJob commits job, hold, event and submit command together.
func (g *jobServer) OpenJob(ctx context.Context, r *ledgerv1.OpenJobRequest) (*ledgerv1.OpenJobResponse, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	params, err := proto.Marshal(r.GetParams())
	if err != nil {
		return nil, fmt.Errorf("marshal params: %w", err)
	}
	if r.Metadata == nil {
		r.Metadata = map[string]string{}
	}
	metadata, err := json.Marshal(r.GetMetadata())
	if err != nil {
		return nil, fmt.Errorf("marshal metadata: %w", err)
	}
	var key *string
	if r.GetIdempotencyKey() != "" {
		key = &r.IdempotencyKey
	}
	var j *record
	replayed := false
	err = postgres.InTx(ctx, g.s.pool, func(tx pgx.Tx) error {
		replayed = false
		jobID := id.New(id.Video)
		tag, err := tx.Exec(ctx, `insert into job (id, state, account_id, provider, quote_micros, idempotency_key, request_hash,
				api_key_id, end_user, params, metadata, traceparent)
			values ($1, 'queued', $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
			on conflict (account_id, idempotency_key) where idempotency_key is not null do nothing`,
			jobID, r.GetAccountId(), r.GetProvider(), r.GetQuoteMicros(), key, r.GetRequestHash(),
			r.GetApiKeyId(), r.GetUser(), params, metadata, traceparent(ctx))
		if err != nil {
			return fmt.Errorf("insert job: %w", err)
		}
		if tag.RowsAffected() == 0 {
			replayed = true
			j, err = one(ctx, tx, "account_id = $1 and idempotency_key = $2", r.GetAccountId(), key)
			return err
		}
		if err := placeHold(ctx, tx, r.GetAccountId(), jobID, r.GetQuoteMicros()); err != nil {
			return err
		}
		if j, err = one(ctx, tx, "id = $1", jobID); err != nil {
			return err
		}
		if err := j.announce(ctx, tx); err != nil {
			return err
		}
		return j.command(ctx, tx, j.ID+"-submit-1", 0)
	})
	if errors.Is(err, errShort) {
		b, berr := g.s.balance(ctx, r.GetAccountId())
		if berr != nil {
			return nil, berr
		}
		return nil, insufficient(r.GetQuoteMicros(), b.GetAvailableMicros())
	}
	if err != nil {
		return nil, err
	}
	if replayed && !bytes.Equal(j.RequestHash, r.GetRequestHash()) {
		e := fault.New(fault.Conflict, "this Idempotency-Key was used before with another request; use a new key for a new video")
		e.Fields = []fault.Field{{Name: "Idempotency-Key", Message: "already used by " + j.ID}}
		return nil, e
	}
	g.s.wake()
	v, err := g.s.full(ctx, j)
	if err != nil {
		return nil, err
	}
	return &ledgerv1.OpenJobResponse{Video: v, Replayed: replayed}, nil
}

func (s *Service) full(ctx context.Context, j *record) (*videov1.Video, error) {
	v, err := j.video()
	if err != nil {
		return nil, err
	}
	if err := attempts(ctx, s.pool, v); err != nil {
		return nil, err
	}
	if j.State == job.Running {
		// Progress lives in the read model alone.
		if st, ok, err := s.bus.Status(ctx, j.ID); err == nil && ok && st.GetVersion() == v.GetVersion() {
			v.Progress = st.GetProgress()
		}
	}
	return v, nil
}

// GetJob reads one job; another account's is not found.
func (g *jobServer) GetJob(ctx context.Context, r *ledgerv1.GetJobRequest) (*ledgerv1.GetJobResponse, error) {
	j, err := one(ctx, g.s.pool, "id = $1 and ($2 = '' or account_id = $2) and deleted_at is null", r.GetJobId(), r.GetAccountId())
	if err != nil {
		return nil, err
	}
	v, err := g.s.full(ctx, j)
	if err != nil {
		return nil, err
	}
	return &ledgerv1.GetJobResponse{Video: v}, nil
}

// ListJobs pages through an account's jobs by id, which sorts by time.
func (g *jobServer) ListJobs(ctx context.Context, r *ledgerv1.ListJobsRequest) (*ledgerv1.ListJobsResponse, error) {
	limit := int(r.GetLimit())
	if limit <= 0 || limit > 100 {
		limit = 20
	}
	order, past := "desc", "<"
	if r.GetAscending() {
		order, past = "asc", ">"
	}
	rows, err := g.s.pool.Query(ctx, `select `+columns+` from job where account_id = $1 and deleted_at is null
		and ($2 = '' or id `+past+` $2) and ($3 = '' or end_user = $3) and ($4 = '' or state = $4)
		order by id `+order+` limit $5`,
		r.GetAccountId(), r.GetAfter(), r.GetUser(), string(job.FromProto(r.GetState())), limit+1)
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	jobs, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	resp := &ledgerv1.ListJobsResponse{}
	if len(jobs) > limit {
		jobs, resp.HasMore = jobs[:limit], true
	}
	for _, j := range jobs {
		v, err := j.video()
		if err != nil {
			return nil, err
		}
		resp.Videos = append(resp.Videos, v)
	}
	return resp, nil
}

// CancelJob ends a job that no provider has begun. Asking again is a success.
func (g *jobServer) CancelJob(ctx context.Context, r *ledgerv1.CancelJobRequest) (*ledgerv1.CancelJobResponse, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	var j *record
	err := postgres.InTx(ctx, g.s.pool, func(tx pgx.Tx) (err error) {
		if j, err = one(ctx, tx, "id = $1 and account_id = $2 and deleted_at is null for update", r.GetJobId(), r.GetAccountId()); err != nil {
			return err
		}
		if j.State == job.Canceled {
			return nil
		}
		ok, err := j.advance(ctx, tx, job.Cancel)
		if err == nil && !ok {
			if j.State.Terminal() {
				return fault.New(fault.Conflict, "the video is %s already and cannot be canceled", j.State)
			}
			return fault.New(fault.Conflict, "the video is %s: %s has begun it and offers no way to cancel; it goes on and is charged when it succeeds", j.State, j.Provider)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	g.s.wake()
	v, err := g.s.full(ctx, j)
	if err != nil {
		return nil, err
	}
	// Who has canceled reads a canceled job from now on. The projection does
	// the same when this fails.
	if err := g.s.bus.PutStatus(ctx, v); err != nil {
		g.s.log.WarnContext(ctx, "status not written", "job_id", j.ID, "error", err.Error())
	}
	return &ledgerv1.CancelJobResponse{Video: v}, nil
}

// DeleteJob hides a final job from its owner. The postings remain.
func (g *jobServer) DeleteJob(ctx context.Context, r *ledgerv1.DeleteJobRequest) (*ledgerv1.DeleteJobResponse, error) {
	tag, err := g.s.pool.Exec(ctx, `update job set deleted_at = now()
		where id = $1 and account_id = $2 and deleted_at is null and completed_at is not null`, r.GetJobId(), r.GetAccountId())
	if err != nil {
		return nil, fmt.Errorf("delete job: %w", err)
	}
	if tag.RowsAffected() == 0 {
		j, err := one(ctx, g.s.pool, "id = $1 and account_id = $2 and deleted_at is null", r.GetJobId(), r.GetAccountId())
		if err != nil {
			return nil, err
		}
		return nil, fault.New(fault.Conflict, "the video is %s; only a finished one can be deleted", j.State)
	}
	return &ledgerv1.DeleteJobResponse{}, nil
}

// BeginAttempt commits the intent to submit, once per attempt.
func (g *jobServer) BeginAttempt(ctx context.Context, r *ledgerv1.BeginAttemptRequest) (*ledgerv1.BeginAttemptResponse, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	resp := &ledgerv1.BeginAttemptResponse{}
	err := postgres.InTx(ctx, g.s.pool, func(tx pgx.Tx) error {
		resp.Reset()
		j, err := one(ctx, tx, "id = $1 for update", r.GetJobId())
		if err != nil {
			return err
		}
		resp.AccountId = j.Account
		if j.State == job.Submitting && j.AttemptID != nil {
			resp.OpenAttemptId = *j.AttemptID
			return nil
		}
		// The database's clock, as everywhere: replicas' clocks may differ.
		var now time.Time
		if err := tx.QueryRow(ctx, "select now()").Scan(&now); err != nil {
			return fmt.Errorf("read clock: %w", err)
		}
		if j.State != job.Queued || j.Provider != r.GetProvider() || j.SubmitAfter.After(now) {
			return nil
		}
		attempt := id.New(id.Attempt)
		deadline := now.Add(g.s.cfg.MaxRuntime).UTC()
		j.AttemptCount++
		j.AttemptID, j.DeadlineAt = &attempt, &deadline
		if _, err := tx.Exec(ctx, `insert into attempt (id, job_id, number, provider, state) values ($1, $2, $3, $4, 'intended')`,
			attempt, j.ID, j.AttemptCount, j.Provider); err != nil {
			return fmt.Errorf("insert attempt: %w", err)
		}
		if _, err := j.advance(ctx, tx, job.Begin); err != nil {
			return err
		}
		resp.Granted, resp.AttemptId, resp.Number = true, attempt, int32(j.AttemptCount)
		resp.Params = &videov1.VideoParams{}
		return proto.Unmarshal(j.Params, resp.Params)
	})
	if err != nil {
		return nil, err
	}
	g.s.wake()
	return resp, nil
}

// GetAttempt reads what a poll needs.
func (g *jobServer) GetAttempt(ctx context.Context, r *ledgerv1.GetAttemptRequest) (*ledgerv1.GetAttemptResponse, error) {
	resp := &ledgerv1.GetAttemptResponse{AttemptId: r.GetAttemptId(), Params: &videov1.VideoParams{}}
	var params []byte
	var created time.Time
	var state job.State
	var current *string
	err := g.s.pool.QueryRow(ctx, `select a.job_id, a.provider, a.state, coalesce(a.provider_task_id, ''), a.created_at, a.number,
			j.params, j.state, j.attempt_id
		from attempt a join job j on j.id = a.job_id where a.id = $1`, r.GetAttemptId()).
		Scan(&resp.JobId, &resp.Provider, &resp.State, &resp.ProviderTaskId, &created, &resp.Number, &params, &state, &current)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "no such attempt")
	}
	if err != nil {
		return nil, fmt.Errorf("read attempt: %w", err)
	}
	resp.CreatedAt = timestamppb.New(created)
	resp.Settled = state != job.Submitting && state != job.Running || current == nil || *current != r.GetAttemptId()
	return resp, proto.Unmarshal(params, resp.Params)
}
