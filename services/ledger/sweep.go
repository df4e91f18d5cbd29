package ledger

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/job"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// sweep re-publishes whatever has made no progress. It is what makes the bus
// expendable: any stream may be wiped and every live job goes on.
func (s *Service) sweep(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.SweepInterval)
	defer tick.Stop()
	for {
		for _, once := range []func(context.Context) error{s.sweepOnce, s.deleteUploads, s.releaseSources, s.askAgain, s.expireGrants, s.pollReviews} {
			if err := once(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "sweep failed", "error", err.Error())
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

const (
	sweepBatch = 500
	sweepSQL   = "select now(), " + columns + ` from job where completed_at is null and submit_after < now() - $1::interval
			and swept_at < now() - case when state in ('running', 'storing') then $2::interval else $1::interval end
			and (state <> 'queued' or turn is null or created_at < now() - $4::interval
				or $5 > interval '0' and route + 1 < routes and submit_after < now() - $5 or (
				select q.turn from queue q where q.provider = job.provider and q.turn = job.turn and q.job_id = job.id) is null) -- it waits for its turn
		order by swept_at limit $3 for update skip locked`
)

func (s *Service) sweepOnce(ctx context.Context) error {
	// Before any job is locked; without the bus the rest goes on.
	lying, counted := s.bus.Commands(ctx)
	return s.write(ctx, func(ctx context.Context, u *unit) error {
		rows, err := u.tx.Query(ctx, sweepSQL, s.cfg.SweepAfter, s.cfg.WatchAfter+s.cfg.SweepAfter, sweepBatch, s.cfg.QueueLife, s.cfg.RouteWait)
		if err != nil {
			return fmt.Errorf("read silent jobs: %w", err)
		}
		jobs, err := u.collect(rows)
		if err != nil {
			return fmt.Errorf("read silent jobs: %w", err)
		}
		silent := map[string]*record{}
		for _, j := range jobs {
			silent[j.ID] = j
		}
		if len(jobs) == 0 {
			return nil
		}
		if err := loadAttempts(ctx, u.tx, silent); err != nil {
			return err
		}
		for _, j := range jobs {
			if err := s.revive(ctx, u, j, counted == nil && fits(lying, j.Provider, j.Model)); err != nil {
				return err
			}
			u.change(j) // which marks it swept
			s.meters.swept.Add(ctx, 1, metric.WithAttributes(attribute.String("state", string(j.State))))
			s.log.InfoContext(ctx, "silent job published again", "job_id", j.ID, "state", j.State)
		}
		return nil
	})
}

func (s *Service) waitedTooLong(u *unit, j *record) bool {
	since := j.CreatedAt
	if j.Restored {
		since = j.SubmitAfter // it has not waited while nothing ran, and is to be looked for
	}
	return j.State == job.Queued && u.now.Sub(since) > s.cfg.QueueLife
}

// revive publishes again what a silent job waits for; a command only where there
// is room: a full row of commands is not lost, and more of them would only be in
// its way.
func (s *Service) revive(ctx context.Context, u *unit, j *record, room bool) error {
	// What follows belongs to the job's own trace.
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": j.Traceparent})
	unique := fmt.Sprintf("%s-sweep-%d", j.ID, u.now.UnixMilli())
	overdue := j.DeadlineAt != nil && u.now.After(j.DeadlineAt.Add(s.cfg.MaxRuntime/10))
	switch {
	case s.waitedTooLong(u, j):
		j.Error = mustError(fault.Timeout, "no provider could take the video in time; nothing was charged")
		_, err := u.advance(ctx, j, job.Expire)
		return err
	case s.routeWaitedTooLong(u, j):
		return s.leave(ctx, u, j)
	case (j.State == job.Submitting || j.State == job.Running) && overdue:
		// The watchdog should have said so; the ledger does not depend on it.
		o := &eventv1.Observation{JobId: j.ID, AttemptId: *j.AttemptID, Provider: j.Provider, Id: *j.AttemptID + "-timed-out",
			Source: "sweep", ObservedAt: timestamppb.New(u.now), Fact: &eventv1.Observation_TimedOut{TimedOut: &eventv1.TimedOut{Reason: "deadline"}}}
		m, err := bus.NewMessage(bus.ObservedSubject(j.Provider, j.ID), "", o)
		if err != nil {
			return err
		}
		u.tell(ctx, m, 0)
	case j.State == job.Storing && j.DeadlineAt != nil && u.now.After(*j.DeadlineAt):
		// The archiver should have given up; the ledger does not depend on it.
		o := &eventv1.Observation{JobId: j.ID, AttemptId: *j.AttemptID, Provider: j.Provider, Id: *j.AttemptID + "-archive-failed",
			Source: "sweep", ObservedAt: timestamppb.New(u.now), Fact: &eventv1.Observation_ArchiveFailed{ArchiveFailed: &eventv1.ArchiveFailed{
				Error: &videov1.VideoError{Code: string(fault.ProviderRejected), Provider: j.Provider, ProviderCode: "result_lost",
					Message: "the provider finished the video but its result could not be copied in time; nothing was charged"}}}}
		m, err := bus.NewMessage(bus.ObservedSubject(j.Provider, j.ID), "", o)
		if err != nil {
			return err
		}
		u.tell(ctx, m, 0)
	case j.State == job.Queued && j.Turn != nil && !room:
		// Back to its old turn, which is the next. A command that lies on the bus all
		// the same makes the new one a duplicate to JetStream.
		u.queued = append(u.queued, j)
	case (j.State == job.Queued || j.State == job.Submitting) && !room:
	case j.State == job.Queued, j.State == job.Submitting:
		return u.command(ctx, j, unique, 0)
	case j.State == job.Running:
		return s.bus.SchedulePoll(ctx, &eventv1.PollAttempt{JobId: j.ID, AttemptId: *j.AttemptID, Provider: j.Provider}, u.now)
	case j.State == job.Storing:
		v, err := j.video(s.cfg.RetainVideos)
		if err != nil {
			return err
		}
		ev := &eventv1.JobEvent{Video: v, OccurredAt: timestamppb.New(u.now), AttemptId: *j.AttemptID, ResultUrl: *j.ResultURL, Transient: true}
		if a := j.current(); a != nil {
			ev.KeyId = a.KeyID
		}
		m, err := bus.NewMessage(bus.EventSubject(j.Account, j.ID, string(j.State)), unique, ev)
		if err != nil {
			return err
		}
		u.tell(ctx, m, 0)
	}
	return nil
}

func mustError(code fault.Code, message string) []byte {
	raw, err := proto.Marshal(&videov1.VideoError{Code: string(code), Message: message})
	if err != nil {
		panic(err) // two constant strings
	}
	return raw
}
