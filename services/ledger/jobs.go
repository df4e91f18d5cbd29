package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/job"
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

// full is a job with its attempts, and its progress, which lives in the read
// model alone.
func (s *Service) full(ctx context.Context, j *record) (*videov1.Video, error) {
	if j.Attempts == nil {
		if err := loadAttempts(ctx, s.pool, map[string]*record{j.ID: j}); err != nil {
			return nil, err
		}
	}
	v, err := j.video(s.cfg.RetainVideos)
	if err != nil {
		return nil, err
	}
	var ahead int64
	if j.State == job.Queued {
		n, waits, err := s.position(ctx, j)
		if err != nil {
			return nil, err
		}
		if ahead = n; waits {
			v.QueuePosition = &ahead
		}
	}
	s.times.expect(v, j, time.Now(), ahead)
	if j.State == job.Running {
		if st, ok, err := s.bus.Status(ctx, j.ID); err == nil && ok && st.GetVersion() == v.GetVersion() {
			v.Progress, v.ProgressEstimated = st.GetProgress(), st.GetProgressEstimated()
		}
	}
	return v, nil
}

const replayWhere = "id = (select job_id from idempotency where account_id = $1 and key = $2 and (request_hash = $3 or named_hash = $4))"

// ReplayJob implements JobService.
func (g *jobServer) ReplayJob(ctx context.Context, r *ledgerv1.ReplayJobRequest) (*ledgerv1.ReplayJobResponse, error) {
	j, err := one(ctx, g.s.pool, replayWhere, r.GetAccountId(), r.GetIdempotencyKey(), r.GetRequestHash(), r.GetNamedHash())
	if err != nil {
		return nil, err
	}
	v, err := g.s.full(ctx, j)
	return &ledgerv1.ReplayJobResponse{Video: v}, err
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

// listSQL lists an account's jobs, or those of one of its users, each by an
// index of its own.
func listSQL(ofUser, ascending bool) string {
	order, past, whose := "desc", "<", "$3 = ''"
	if ascending {
		order, past = "asc", ">"
	}
	if ofUser {
		whose = "end_user = $3 and end_user <> ''"
	}
	return "select " + columns + " from job where account_id = $1 and deleted_at is null and ($2 = '' or id " + past + " $2) and " + whose +
		" and ($4 = '' or state = $4) order by id " + order + " limit $5"
}

// ListJobs pages through an account's jobs by id, which sorts by time.
func (g *jobServer) ListJobs(ctx context.Context, r *ledgerv1.ListJobsRequest) (*ledgerv1.ListJobsResponse, error) {
	limit := int(r.GetLimit())
	if limit <= 0 || limit > 100 {
		limit = 20
	}
	rows, err := g.s.pool.Query(ctx, listSQL(r.GetUser() != "", r.GetAscending()),
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
	byID := map[string]*record{}
	for _, j := range jobs {
		byID[j.ID] = j
	}
	if err := loadAttempts(ctx, g.s.pool, byID); err != nil {
		return nil, err
	}
	for _, j := range jobs {
		v, err := j.video(g.s.cfg.RetainVideos)
		if err != nil {
			return nil, err
		}
		resp.Videos = append(resp.Videos, v)
	}
	return resp, nil
}

// DeleteJob hides a final job from its owner and has its file deleted. The
// postings remain.
func (g *jobServer) DeleteJob(ctx context.Context, r *ledgerv1.DeleteJobRequest) (*ledgerv1.DeleteJobResponse, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	err := g.s.write(ctx, func(ctx context.Context, u *unit) error {
		jobs, err := u.lockJobs(ctx, []string{r.GetJobId()})
		if err != nil {
			return err
		}
		j := jobs[r.GetJobId()]
		switch {
		case j == nil || j.Account != r.GetAccountId() || j.Deleted:
			return notFound()
		case !j.State.Terminal():
			return fault.New(fault.Conflict, "the video is %s; only a finished one can be deleted", j.State)
		}
		if _, err := u.remove(ctx, j); err != nil {
			return err
		}
		_, err = u.tx.Exec(ctx, "update job set deleted_at = now() where id = $1", j.ID)
		return err
	})
	if err != nil {
		return nil, err
	}
	g.s.wake()
	return &ledgerv1.DeleteJobResponse{}, nil
}
