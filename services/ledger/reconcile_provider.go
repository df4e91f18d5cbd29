package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// A job's cost is its current attempt's; an attempt that ended without a video
// costs nothing, and of every other nothing is known.
const providerTaskSQL = `select a.id, a.job_id, coalesce(a.provider_task_id, ''), a.state, a.created_at, j.account_id, j.model,
		case when a.state = 'succeeded' and a.id = j.attempt_id then j.cost_micros else 0 end,
		case when a.state = 'succeeded' and a.id = j.attempt_id or a.state in ('refused', 'failed', 'canceled') then j.cost_currency else '' end
	from attempt a join job j on j.id = a.job_id where a.provider = $1 and `

const (
	findTasksSQL = providerTaskSQL + "a.provider_task_id = any($2)"
	// Ids begin with their milliseconds, as job_id_at has it for jobs.
	listTasksSQL = providerTaskSQL + `a.id >= greatest($4, replace(job_id_at($2), 'video_', 'att_') collate "C") and a.id <> $4
			and a.id < replace(job_id_at($3), 'video_', 'att_') collate "C"
		order by a.id limit $5`
	// Where a task's id is a path, a webhook may name its last part only.
	findAttemptSQL = `select job_id, id from attempt where provider = $1 and provider_task_id = $2
		union all
		select job_id, id from attempt where provider = $1 and provider_task_id like '%/%' and substring(provider_task_id from '[^/]*$') = $2
		limit 1`
)

func scanProviderTask(row pgx.CollectableRow) (*ledgerv1.ProviderTask, error) {
	var t ledgerv1.ProviderTask
	var created time.Time
	err := row.Scan(&t.AttemptId, &t.JobId, &t.ProviderTaskId, &t.State, &created, &t.AccountId, &t.Model, &t.CostMicros, &t.CostCurrency)
	t.CreatedAt = timestamppb.New(created)
	return &t, err
}

// FindProviderTasks looks for tasks by the provider's ids, as an invoice names
// them.
func (g *moneyServer) FindProviderTasks(ctx context.Context, r *ledgerv1.FindProviderTasksRequest) (*ledgerv1.FindProviderTasksResponse, error) {
	rows, err := g.s.pool.Query(ctx, findTasksSQL, r.GetProvider(), r.GetProviderTaskIds())
	if err != nil {
		return nil, fmt.Errorf("find tasks: %w", err)
	}
	tasks, err := pgx.CollectRows(rows, scanProviderTask)
	if err != nil {
		return nil, fmt.Errorf("find tasks: %w", err)
	}
	return &ledgerv1.FindProviderTasksResponse{Tasks: tasks}, nil
}

// ListProviderTasks pages through the attempts at a provider that began in a
// time, those without a task id among them.
func (g *moneyServer) ListProviderTasks(ctx context.Context, r *ledgerv1.ListProviderTasksRequest) (*ledgerv1.ListProviderTasksResponse, error) {
	if !r.GetFrom().AsTime().Before(r.GetTo().AsTime()) {
		f := fault.New(fault.InvalidRequest, "the time must end after it begins")
		f.Fields = []fault.Field{{Name: "to", Message: "must be after from"}}
		return nil, f
	}
	limit := int(r.GetLimit())
	if limit == 0 {
		limit = 1000
	}
	rows, err := g.s.pool.Query(ctx, listTasksSQL, r.GetProvider(), r.GetFrom().AsTime(), r.GetTo().AsTime(), r.GetAfter(), limit+1)
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	tasks, err := pgx.CollectRows(rows, scanProviderTask)
	if err != nil {
		return nil, fmt.Errorf("list tasks: %w", err)
	}
	resp := &ledgerv1.ListProviderTasksResponse{Tasks: tasks}
	if len(tasks) > limit {
		resp.Tasks, resp.HasMore = tasks[:limit], true
	}
	return resp, nil
}

// FindAttempt finds whose a provider's task is.
func (g *jobServer) FindAttempt(ctx context.Context, r *ledgerv1.FindAttemptRequest) (*ledgerv1.FindAttemptResponse, error) {
	resp := &ledgerv1.FindAttemptResponse{}
	err := g.s.pool.QueryRow(ctx, findAttemptSQL, r.GetProvider(), r.GetProviderTaskId()).
		Scan(&resp.JobId, &resp.AttemptId)
	if errors.Is(err, pgx.ErrNoRows) {
		err = g.s.pool.QueryRow(ctx, "select exists (select from job where completed_at is null and state = 'submitting' and provider = $1)", r.GetProvider()).Scan(&resp.SubmitOpen)
	}
	if err != nil {
		return nil, fmt.Errorf("find attempt: %w", err)
	}
	return resp, nil
}
