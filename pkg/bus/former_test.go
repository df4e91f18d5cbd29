package bus_test

import (
	"context"
	"sync"
	"testing"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/natstest"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// A dispatcher reads a provider's commands beside what the version before left there,
// a consumer of their subject included.
func TestFormerCommandsAreReadBesideTheNew(t *testing.T) {
	t.Parallel()
	b := natstest.Bus(t)
	for subject, id := range map[string]string{"jobs.submit.kling": "video_old", bus.SubmitSubject("kling", "m"): "video_new"} {
		m, err := bus.NewMessage(subject, id, &eventv1.SubmitJob{JobId: id})
		if err == nil {
			err = b.Publish(t.Context(), m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	read := func(consumers map[bus.Consumer]string) {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var all, wg sync.WaitGroup
		for c, want := range consumers {
			all.Add(1)
			wg.Go(func() {
				_ = bus.Consume(ctx, b, c, 1, func(_ context.Context, m *eventv1.SubmitJob) error {
					if m.GetJobId() != want {
						t.Errorf("%s reads %s", c.Name, m.GetJobId())
					}
					all.Done()
					return nil
				})
			})
		}
		all.Wait()
		stop()
		wg.Wait()
	}
	before := bus.SubmitConsumer("kling")
	before.Filter = "jobs.submit.kling"
	read(map[bus.Consumer]string{before: "video_old"})
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
