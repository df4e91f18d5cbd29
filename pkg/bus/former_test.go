package bus_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/natstest"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// A dispatcher reads a provider's commands beside what the version before left there,
// a consumer of their subject included.
func TestFormerCommandsAreReadBesideTheNew(t *testing.T) {
	t.Parallel()
	b := natstest.Bus(t)
	// The new one first: the former consumer goes past it.
	for _, x := range [][2]string{{bus.SubmitSubject("kling", "m"), "video_new"}, {"jobs.submit.kling", "video_old"}} {
		m, err := bus.NewMessage(x[0], x[1], &eventv1.SubmitJob{JobId: x[1]})
		if err == nil {
			err = b.Publish(t.Context(), m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	read := func(consumers map[bus.Consumer]string) {
		t.Helper()
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		var wg sync.WaitGroup
		came := make(chan string, 16)
		for c, want := range consumers {
			wg.Go(func() {
				_ = bus.Consume(ctx, b, c, 1, func(_ context.Context, m *eventv1.SubmitJob) error {
					if m.GetJobId() != want {
						t.Errorf("%s reads %s", c.Name, m.GetJobId())
					}
					came <- m.GetJobId()
					return nil
				})
			})
		}
		for range consumers {
			select {
			case <-came:
			case <-ctx.Done():
				t.Error("a command was passed over")
			}
		}
		stop()
		wg.Wait()
	}
	read(map[bus.Consumer]string{bus.FormerSubmitConsumer("kling"): "video_old"}) // as that version does
	m, err := bus.NewMessage("jobs.submit.kling", "again", &eventv1.SubmitJob{JobId: "video_left"})
	if err == nil {
		err = b.Publish(t.Context(), m)
	}
	if err != nil {
		t.Fatal(err)
	}
	read(map[bus.Consumer]string{bus.SubmitConsumer("kling"): "video_new", bus.FormerSubmitConsumer("kling"): "video_left"})
	eventually(t, "no command is left", func() bool { l, err := b.Commands(t.Context()); return err == nil && l.Of("kling") == 0 })
}
