package ledger

import (
	"context"
	"sync"

	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// projectors is how many status entries are written at the same time.
const projectors = 8

// Project writes events into the status read model and returns an error for
// each, in order. Events may come twice or late; PutStatus keeps the newest.
func (s *Service) Project(ctxs []context.Context, evs []*eventv1.JobEvent) []error {
	errs := make([]error, len(evs))
	slots := make(chan struct{}, projectors)
	var wg sync.WaitGroup
	for i, ev := range evs {
		if ev.GetTransient() {
			continue // written where it was made
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = s.bus.PutStatus(ctxs[i], ev.GetVideo())
		})
	}
	wg.Wait()
	return errs
}
