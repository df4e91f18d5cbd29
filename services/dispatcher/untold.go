package dispatcher

import (
	"context"

	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// untold is how many acceptances are kept in memory: more than are under way at
// all providers.
const untold = 16_384

// keep holds an acceptance that the bus did not take while its command was in hand.
// Nobody else may know the task's id: of a provider without webhooks the task could
// not be found any more, and costs. It is logged, for a process that ends before the
// bus comes back.
func (s *Service) keep(ctx context.Context, o *eventv1.Observation) {
	if o.GetAccepted() == nil {
		return // what a poll saw is seen again
	}
	s.d.Logger.ErrorContext(ctx, "the bus did not take an accepted task, it is told when it does", "job_id", o.GetJobId(), "attempt_id", o.GetAttemptId(),
		"provider", o.GetProvider(), "provider_task_id", o.GetAccepted().GetProviderTaskId())
	select {
	case s.untold <- o:
	default:
	}
}

// tellLater publishes what was kept, until ctx is done.
func (s *Service) tellLater(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-s.untold:
			_ = s.publish(ctx, o) // it returns when it has, or at the process's end
		}
	}
}
