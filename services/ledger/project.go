package ledger

import (
	"context"

	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// Project writes an event into the status read model. Events may come twice or
// late; PutStatus keeps the newest.
func (s *Service) Project(ctx context.Context, ev *eventv1.JobEvent) error {
	if ev.GetTransient() {
		return nil // written where it was made
	}
	return s.bus.PutStatus(ctx, ev.GetVideo())
}
