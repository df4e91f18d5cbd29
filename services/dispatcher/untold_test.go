package dispatcher

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/natstest"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// The bus is away for longer than a command may be in hand: what a provider accepted
// is told all the same, when it is back.
func TestAnAcceptedTaskOutlastsTheBus(t *testing.T) {
	t.Parallel()
	n := natstest.NewServer(t)
	b := n.Bus()
	s := &Service{d: Deps{Bus: b, Logger: slog.New(slog.DiscardHandler)}, untold: make(chan *eventv1.Observation, 2)}
	n.Stop()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	accepted := &eventv1.Observation{Id: "att_1-accepted", JobId: "video_1", AttemptId: "att_1", Provider: "acme",
		Fact: &eventv1.Observation_Accepted{Accepted: &eventv1.Accepted{ProviderTaskId: "t1"}}}
	unknown := &eventv1.Observation{Id: "att_2-unknown", JobId: "video_2", AttemptId: "att_2", Provider: "acme", Fact: &eventv1.Observation_Unknown{Unknown: &eventv1.Unknown{}}}
	for _, o := range []*eventv1.Observation{unknown, accepted} {
		if err := s.publish(over, o); err == nil {
			t.Fatal("a bus that is away took something")
		}
	}
	n.Start()
	ctx, stop := context.WithCancel(t.Context())
	seen := make(chan *eventv1.Observation, 2)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.tellLater(ctx) })
	wg.Go(func() {
		_ = bus.Consume(ctx, b, bus.ObservationConsumer, 1, func(_ context.Context, o *eventv1.Observation) error { seen <- o; return nil })
	})
	defer func() { stop(); wg.Wait() }()
	select {
	case o := <-seen:
		if o.GetAccepted().GetProviderTaskId() != "t1" {
			t.Errorf("%v", o)
		}
	case <-time.After(60 * time.Second):
		t.Error("the accepted task was never told of")
	}
}
