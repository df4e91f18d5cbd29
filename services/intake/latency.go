package intake

import (
	"context"
	"sync/atomic"
	"time"

	"reelway.dev/pkg/run"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// latencies is how long models take, as the ledger measured it last. It is safe
// for concurrent use.
type latencies struct {
	byModel atomic.Pointer[map[string]time.Duration]
}

// of is how long 95 of 100 videos of a model took; 0 when that is not known.
func (l *latencies) of(model string) time.Duration {
	if m := l.byModel.Load(); m != nil {
		return (*m)[model]
	}
	return 0
}

// Components ask the ledger for latencies while an alias has a ceiling of one.
func (s *Service) Components() []run.Component {
	return []run.Component{{Name: "intake-latencies", Run: func(ctx context.Context) error {
		run.Every(ctx, s.cfg.LatencyEvery, func() {
			if s.d.Routes.Table().NeedsLatency() {
				s.measure(ctx)
			}
		})
		return nil
	}}}
}

// measure keeps what was known when the ledger does not answer: a route that was
// fast enough is still the best guess.
func (s *Service) measure(ctx context.Context) {
	r, err := s.d.Jobs.ListLatencies(ctx, &ledgerv1.ListLatenciesRequest{})
	if err != nil {
		if ctx.Err() == nil {
			s.d.Logger.WarnContext(ctx, "latencies not read", "error", err.Error())
		}
		return
	}
	took := map[string]time.Duration{}
	for _, x := range r.GetLatencies() {
		took[x.GetModel()] = time.Duration(x.GetSlowMs()) * time.Millisecond
	}
	s.took.byModel.Store(&took)
}
