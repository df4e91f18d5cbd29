package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/job"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// cancellation is the caller's wish for the end of a job that a provider has.
type cancellation struct {
	At      *time.Time // nil: there is none
	Refused string     // why the provider does not do it: unsupported, too_late
}

// open reports whether the provider is still to be asked.
func (c cancellation) open() bool { return c.At != nil && c.Refused == "" }

// CancelJob ends a job that no provider has begun. One that a provider has is
// canceled there, where it can be: the answer says that it was asked for, and
// only the provider's word ends the job. Asking again is a success.
func (g *jobServer) CancelJob(ctx context.Context, r *ledgerv1.CancelJobRequest) (*ledgerv1.CancelJobResponse, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	var j *record
	err := g.s.write(ctx, func(ctx context.Context, u *unit) error {
		jobs, err := u.lockJobs(ctx, []string{r.GetJobId()})
		if err != nil {
			return err
		}
		if j = jobs[r.GetJobId()]; j == nil || j.Account != r.GetAccountId() || j.Deleted {
			return notFound()
		}
		if j.State == job.Canceled {
			return nil
		}
		ok, err := u.advance(ctx, j, job.Cancel)
		switch {
		case err != nil || ok:
			return err
		case j.State.Terminal():
			return fault.New(fault.Conflict, "the video is %s already and cannot be canceled", j.State)
		case j.State == job.Storing:
			return fault.New(fault.Conflict, "%s has finished the video; it is being stored and is charged", j.Provider)
		case j.Cancel.At != nil:
			return nil // asked for before
		}
		return u.requestCancel(ctx, j)
	})
	if err != nil {
		return nil, err
	}
	g.s.wake()
	v, err := g.s.full(ctx, j)
	if err != nil {
		return nil, err
	}
	// Who has canceled reads so from now on. The projection does the same when
	// this fails.
	if err := g.s.bus.PutStatus(ctx, v); err != nil {
		g.s.log.WarnContext(ctx, "status not written", "job_id", j.ID, "error", err.Error())
	}
	return &ledgerv1.CancelJobResponse{Video: v}, nil
}

// requestCancel notes the wish and passes it on, at once or when the provider
// has accepted the task.
func (u *unit) requestCancel(ctx context.Context, j *record) error {
	j.Cancel.At = &u.now
	if err := u.changeCancel(ctx, j); err != nil {
		return err
	}
	return u.passCancel(ctx, j)
}

// changeCancel writes and announces what has become of the wish.
func (u *unit) changeCancel(ctx context.Context, j *record) error {
	j.Version++
	u.change(j)
	u.cancels = append(u.cancels, j)
	return u.announce(ctx, j)
}

// passCancel tells the dispatcher to cancel a running task, if that is wanted.
// Losing the command costs time only: each poll asks whether it is.
func (u *unit) passCancel(ctx context.Context, j *record) error {
	a := j.current()
	if !j.Cancel.open() || j.State != job.Running || a == nil || a.TaskID == "" {
		return nil
	}
	m, err := bus.NewMessage(bus.CancelSubject(j.Provider), a.ID+"-cancel", &eventv1.CancelAttempt{JobId: j.ID, AttemptId: a.ID, Provider: j.Provider})
	if err != nil {
		return fmt.Errorf("command cancel: %w", err)
	}
	u.tell(ctx, m, 0)
	return nil
}

// refuseCancel notes that the provider does not end the task of a job.
func (u *unit) refuseCancel(ctx context.Context, j *record, reason string) (string, error) {
	if !j.Cancel.open() || j.State != job.Running || reason != "unsupported" && reason != "too_late" {
		return ignored, nil
	}
	j.Cancel.Refused = reason
	return applied, u.changeCancel(ctx, j)
}

func (u *unit) writeCancels(b *pgx.Batch) {
	for _, j := range u.cancels {
		b.Queue("update job set cancel_requested_at = $2, cancel_refused = $3 where id = $1", j.ID, j.Cancel.At, j.Cancel.Refused)
	}
}
