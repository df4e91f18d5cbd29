package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/job"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// attempt is a row of attempt: one submission of a job to one provider.
type attempt struct {
	ID, JobID, Provider, State string
	KeyID, Model               string // of the provider's keys; the job's
	Number, Route              int    // Route is of the job's plan
	TaskID                     string
	Cost                       int64 // expected, in the provider's currency; 0 once refused
	Error                      []byte
	CreatedAt                  time.Time
	EndedAt                    *time.Time
	GivenUp                    bool       // waited for no longer: another followed
	VerdictSource              string     // who told its end
	Nonce                      int64      // of the call that began it; 0 for none
	WebhookAt                  *time.Time // when the provider called after a poll had told it
	touched                    bool
}

// proto is an attempt of j as its owner sees it.
func (a *attempt) proto(j *record) (*videov1.Attempt, error) {
	p := &videov1.Attempt{Id: a.ID, Provider: a.Provider, State: a.State, ProviderTaskId: a.TaskID, CreatedAt: timestamppb.New(a.CreatedAt),
		Model: cmp.Or(a.Model, j.Model), PriceMicros: j.priceAt(a.Route), Dropped: j.routeAt(a.Route).GetDropped()}
	if a.GivenUp {
		p.State = "given_up"
	}
	if a == j.current() {
		p.CapturedMicros = j.Captured
	}
	if a.EndedAt != nil {
		p.EndedAt = timestamppb.New(*a.EndedAt)
	}
	if len(a.Error) > 0 {
		var e videov1.VideoError
		if err := proto.Unmarshal(a.Error, &e); err != nil {
			return nil, err
		}
		p.ErrorCode, p.ErrorMessage = e.GetCode(), e.GetMessage()
	}
	return p, nil
}

const attemptsSQL = `select id, job_id, number, route, provider, state, coalesce(provider_task_id, ''), error, created_at, ended_at, key_id, model, cost_micros,
	given_up, verdict_source, webhook_at, nonce
	from attempt where job_id = any($1) order by job_id, number`

// loadAttempts fills the attempts of jobs, oldest first.
func loadAttempts(ctx context.Context, q querier, jobs map[string]*record) error {
	rows, err := q.Query(ctx, attemptsSQL, slices.Collect(maps.Keys(jobs)))
	if err == nil {
		err = collectAttempts(rows, jobs)
	}
	if err != nil {
		return fmt.Errorf("read attempts: %w", err)
	}
	return nil
}

func collectAttempts(rows pgx.Rows, jobs map[string]*record) error {
	all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (*attempt, error) {
		var a attempt
		err := r.Scan(&a.ID, &a.JobID, &a.Number, &a.Route, &a.Provider, &a.State, &a.TaskID, &a.Error, &a.CreatedAt, &a.EndedAt, &a.KeyID, &a.Model, &a.Cost,
			&a.GivenUp, &a.VerdictSource, &a.WebhookAt, &a.Nonce)
		return &a, err
	})
	for _, a := range all {
		if j := jobs[a.JobID]; j != nil {
			j.Attempts = append(j.Attempts, a)
		}
	}
	return err
}

// current is the attempt that the job waits on; nil without one.
func (j *record) current() *attempt {
	if j.AttemptID == nil {
		return nil
	}
	return j.attempt(*j.AttemptID)
}

func (j *record) attempt(id string) *attempt {
	for _, a := range j.Attempts {
		if a.ID == id {
			return a
		}
	}
	return nil
}

// changeAttempt marks an attempt to be written.
func (u *unit) changeAttempt(a *attempt) {
	if !a.touched {
		a.touched = true
		u.ended = append(u.ended, a)
	}
}

func (u *unit) writeAttempts(b *pgx.Batch) {
	u.writeSpend(b)
	if len(u.begun) > 0 {
		var t table
		column(&t, u.begun, func(a *attempt) string { return a.ID })
		column(&t, u.begun, func(a *attempt) string { return a.JobID })
		column(&t, u.begun, func(a *attempt) int { return a.Number })
		column(&t, u.begun, func(a *attempt) string { return a.Provider })
		column(&t, u.begun, func(a *attempt) string { return a.KeyID })
		column(&t, u.begun, func(a *attempt) string { return a.Model })
		column(&t, u.begun, func(a *attempt) int64 { return a.Cost })
		column(&t, u.begun, func(a *attempt) int { return a.Route })
		column(&t, u.begun, func(a *attempt) int64 { return a.Nonce })
		b.Queue(`insert into attempt (id, job_id, number, provider, state, key_id, model, cost_micros, route, nonce)
			select id, job_id, number, provider, 'intended', key, model, cost, route, nonce
			from unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::int[], $9::bigint[])
				as x (id, job_id, number, provider, key, model, cost, route, nonce)`, t.columns...)
	}
	if len(u.ended) > 0 {
		var t table
		column(&t, u.ended, func(a *attempt) string { return a.ID })
		column(&t, u.ended, func(a *attempt) string { return a.State })
		column(&t, u.ended, func(a *attempt) string { return a.TaskID })
		column(&t, u.ended, func(a *attempt) []byte { return a.Error })
		column(&t, u.ended, func(a *attempt) *time.Time { return a.EndedAt })
		column(&t, u.ended, func(a *attempt) int64 { return a.Cost })
		column(&t, u.ended, func(a *attempt) bool { return a.GivenUp })
		column(&t, u.ended, func(a *attempt) string { return a.VerdictSource })
		column(&t, u.ended, func(a *attempt) *time.Time { return a.WebhookAt })
		b.Queue(`update attempt set state = x.state, provider_task_id = nullif(x.task, ''), error = x.error, ended_at = x.ended_at, cost_micros = x.cost,
				given_up = x.given_up, verdict_source = x.verdict_source, webhook_at = x.webhook_at
			from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::timestamptz[], $6::bigint[], $7::boolean[], $8::text[], $9::timestamptz[])
				as x (id, state, task, error, ended_at, cost, given_up, verdict_source, webhook_at)
			where attempt.id = x.id`, t.columns...)
	}
}

// GetAttempt reads what a poll needs.
func (g *jobServer) GetAttempt(ctx context.Context, r *ledgerv1.GetAttemptRequest) (*ledgerv1.GetAttemptResponse, error) {
	resp := &ledgerv1.GetAttemptResponse{AttemptId: r.GetAttemptId(), Params: &videov1.VideoParams{}}
	j := &record{}
	var route int
	var created time.Time
	var state job.State
	var current *string
	err := g.s.pool.QueryRow(ctx, `select a.job_id, a.provider, a.state, coalesce(a.provider_task_id, ''), a.created_at, a.number,
			(extract(epoch from clock_timestamp() - a.created_at) * 1000)::bigint, j.params, j.plan, a.route, j.state, j.attempt_id, j.model, a.key_id,
			j.cancel_requested_at is not null and j.cancel_refused = '' and j.state = 'running',
			exists (select from review v where v.job_id = j.id and v.attempt_id = a.id and v.outcome is null and v.opened_at > now() - $2::interval), j.restored
		from attempt a join job j on j.id = a.job_id where a.id = $1`, r.GetAttemptId(), g.s.cfg.ReviewFor).
		Scan(&resp.JobId, &resp.Provider, &resp.State, &resp.ProviderTaskId, &created, &resp.Number, &resp.AgeMs, &j.Params, &j.Plan, &route, &state, &current, &j.Model, &resp.KeyId,
			&resp.CancelRequested, &resp.InReview, &resp.Restored)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "no such attempt")
	}
	if err != nil {
		return nil, fmt.Errorf("read attempt: %w", err)
	}
	resp.WebhookTrust = g.s.trustOf(ctx, resp.GetProvider())
	resp.CreatedAt = timestamppb.New(created)
	if r := j.routeAt(route); r != nil {
		j.Model, resp.Params = r.GetParams().GetModel(), r.GetParams()
	} else if err := proto.Unmarshal(j.Params, resp.Params); err != nil {
		return nil, fmt.Errorf("decode params: %w", err)
	}
	x := g.s.times.render(resp.GetProvider(), j.Model)
	resp.TypicalMs, resp.SlowMs = x.typical.Milliseconds(), x.slow.Milliseconds()
	resp.Settled = !resp.GetInReview() && (state != job.Submitting && state != job.Running || current == nil || *current != r.GetAttemptId())
	return resp, nil
}
