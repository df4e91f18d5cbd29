package bus_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/natstest"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// A message that died is shown in the order of dying, comes back to its consumer
// once it is revived, and is dropped for good.
func TestDeadLettersComeBack(t *testing.T) {
	t.Parallel()
	b := natstest.Bus(t)
	ctx, cancel := context.WithCancel(t.Context())
	var mended atomic.Bool
	handled := make(chan string, 8)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = bus.Consume(ctx, b, bus.SubmitConsumer("kling"), 1, func(_ context.Context, m *eventv1.SubmitJob) error {
			if !mended.Load() {
				return bus.Terminate(errors.New("it is broken"))
			}
			handled <- m.GetJobId()
			return nil
		})
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	for _, id := range []string{"video_1", "video_2", "video_3"} {
		m, err := bus.NewMessage(bus.SubmitSubject("kling", "kling-v2-6"), id, &eventv1.SubmitJob{JobId: id})
		if err == nil {
			err = b.Publish(ctx, m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	dead := func() (out []bus.Dead) {
		if err := b.DeadLetters(ctx, 0, func(d bus.Dead) bool { out = append(out, d); return true }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	eventually(t, "all are dead", func() bool { return len(dead()) == 3 })
	all := dead()
	for i, d := range all {
		if d.Letter.GetReason() != "it is broken" || d.Letter.GetSubject() != "jobs.submit.kling.kling-v2-6" || d.Letter.GetConsumer() != "submit-kling" || d.Seq != uint64(i+1) {
			t.Errorf("%+v", d)
		}
	}
	var few []bus.Dead
	if err := b.DeadLetters(ctx, all[0].Seq, func(d bus.Dead) bool { few = append(few, d); return false }); err != nil || len(few) != 1 || few[0].Seq != all[1].Seq {
		t.Errorf("%v, %v", few, err)
	}
	mended.Store(true)
	if _, err := b.Revive(ctx, all[1].Seq); err != nil {
		t.Fatal(err)
	}
	if got := <-handled; got != "video_2" {
		t.Errorf("%s came back", got)
	}
	if err := b.Drop(ctx, all[0].Seq); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"revived twice": func() error { _, err := b.Revive(ctx, all[1].Seq); return err }(),
		"dropped twice": b.Drop(ctx, all[0].Seq),
		"never there":   func() error { _, err := b.DeadLetter(ctx, 999); return err }(),
	} {
		if !errors.Is(err, bus.ErrNoLetter) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left := dead(); len(left) != 1 || left[0].Seq != all[2].Seq {
		t.Errorf("%v are left", left)
	}
	s, err := b.JetStream().Stream(ctx, bus.StreamJobs)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing waits", func() bool {
		info, err := s.Info(ctx, jetstream.WithDeletedDetails(false))
		return err == nil && info.State.Msgs == 0
	})
}
