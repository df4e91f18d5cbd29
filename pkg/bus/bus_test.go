package bus_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/natstest"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func running(version int64, progress int32) *videov1.Video {
	return &videov1.Video{Id: "video_1", AccountId: "acct_1", State: videov1.VideoState_VIDEO_STATE_RUNNING, Version: version, Progress: progress}
}

func TestStatusKeepsTheNewest(t *testing.T) {
	t.Parallel()
	b, ctx := natstest.Bus(t), t.Context()
	if _, ok, err := b.Status(ctx, "video_1"); ok || err != nil {
		t.Fatalf("before: %v %v", ok, err)
	}
	var wg sync.WaitGroup
	for i := range int32(20) {
		wg.Go(func() {
			if err := b.PutStatus(ctx, running(3, i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := b.PutStatus(ctx, running(2, 99)); err != nil {
		t.Fatal(err)
	}
	if v, ok, err := b.Status(ctx, "video_1"); err != nil || !ok || v.GetVersion() != 3 || v.GetProgress() != 19 {
		t.Errorf("%v %v %v", v, ok, err)
	}
}

// A status read is never worth waiting for: Postgres knows it too.
func TestStatusFailsAtOnceWithTheBusDown(t *testing.T) {
	t.Parallel()
	s := natstest.NewServer(t)
	b := s.Bus()
	if err := b.PutStatus(t.Context(), running(1, 0)); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	eventually(t, "the connection is seen to be lost", func() bool { return b.Ready(t.Context()) != nil })
	start := time.Now()
	_, _, err := b.Status(t.Context(), "video_1")
	if perr := b.PutStatus(t.Context(), running(2, 0)); !errors.Is(err, bus.ErrDown) || !errors.Is(perr, bus.ErrDown) {
		t.Errorf("%v, %v", err, perr)
	}
	if d := time.Since(start); d > 100*time.Millisecond {
		t.Errorf("it took %v to fail", d)
	}
	s.Start()
	eventually(t, "the status is read again", func() bool { _, ok, err := b.Status(t.Context(), "video_1"); return ok && err == nil })
}

// The bucket alone vanishes: no consumer notices, the writer does.
func TestStatusBucketIsMadeAgain(t *testing.T) {
	t.Parallel()
	b := natstest.Bus(t)
	if err := b.JetStream().DeleteKeyValue(t.Context(), bus.StatusBucket); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a status is written", func() bool { return b.PutStatus(t.Context(), running(1, 0)) == nil })
}

// The store is wiped under a running consumer: it goes on, and everything that
// the bus owns is there again, not only what it reads itself.
func TestTopologyIsMadeAgainAfterAWipe(t *testing.T) {
	t.Parallel()
	s := natstest.NewServer(t)
	b := s.Bus()
	ctx, stop := context.WithCancel(t.Context())
	got := make(chan string, 64)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = bus.Consume(ctx, b, bus.ProjectionConsumer, 1, func(_ context.Context, ev *eventv1.JobEvent) error {
			got <- ev.GetVideo().GetId()
			return nil
		})
	})
	defer wg.Wait()
	defer stop()
	publish := func(id string) error {
		m, err := bus.NewMessage(bus.EventSubject("acct_1", id, "running"), id, &eventv1.JobEvent{Video: &videov1.Video{Id: id}})
		if err != nil {
			t.Fatal(err)
		}
		return b.Publish(ctx, m)
	}
	if err := publish("before"); err != nil {
		t.Fatal(err)
	}
	<-got
	s.Wipe()
	eventually(t, "an event is published again", func() bool { return publish("after") == nil })
	for id := range got {
		if id == "after" {
			break
		}
	}
	if err := b.PutStatus(ctx, running(1, 0)); err != nil {
		t.Error(err)
	}
	for _, name := range []string{bus.StreamJobs, bus.StreamObservations, bus.StreamEvents, bus.StreamWatchdog, bus.StreamDead} {
		if _, err := b.JetStream().Stream(ctx, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
