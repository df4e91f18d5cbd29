package test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"reelway.dev/pkg/natstest"
)

// NATS goes away and comes back with nothing while everything runs and watchers
// are attached: every job ends, every watcher is told so, nothing twice, and the
// read model is filled again.
func TestStreamsWipedWhileRunning(t *testing.T) {
	t.Parallel()
	nats := natstest.NewServer(t)
	s := setup(t, "REELWAY_NATS_URL="+nats.URL(), "REELWAY_MAX_RUNTIME=40s")
	ids := []string{}
	for i := range 8 {
		ids = append(ids, s.call(http.MethodPost, "/v1/videos", request([]string{"seedance-2.0", "kling-v2-6"}[i%2], "x")).video.ID)
	}
	begun := make(chan struct{}, len(ids))
	var wg sync.WaitGroup
	for i, id := range ids {
		// Half come again after each event, half stay until they are sent away.
		n := []int{1, 1000}[i/2%2]
		if n > 1 {
			begun <- struct{}{}
		}
		wg.Go(func() {
			seen := map[string]bool{}
			after := ""
			deadline, pause := time.After(90*time.Second), time.NewTicker(100*time.Millisecond)
			defer pause.Stop()
			for cuts := 0; ; cuts++ {
				events, last, final := sse(t, s, id, after, n)
				if cuts == 0 && n == 1 {
					begun <- struct{}{}
				}
				for _, e := range events {
					if seen[e] {
						t.Errorf("%s: %q came twice", id, e)
					}
					seen[e] = true
				}
				if final {
					return
				}
				if last != "" {
					after = last
				}
				select {
				case <-deadline:
					t.Errorf("%s: its watcher saw no end in %v", id, seen)
					return
				case <-pause.C:
				}
			}
		})
	}
	for range ids {
		<-begun
	}
	nats.Wipe()
	later := ""
	s.eventually(60*time.Second, "a video is accepted", func() bool {
		a, err := s.try(http.MethodPost, "/v1/videos", request("seedance-2.0", "x"), "Idempotency-Key", "later")
		later = a.video.ID
		return err == nil && a.status == http.StatusOK
	})
	ids = append(ids, later)
	states := map[string]int{}
	for _, id := range ids {
		v := s.await(90*time.Second, id)
		states[v.State]++
		if n := len(s.tasks(id)); n > 1 || v.State == "succeeded" && n != 1 {
			t.Errorf("%s %s: the provider accepted %d tasks", id, v.State, n)
		}
	}
	wg.Wait()
	if states["succeeded"]+states["needs_review"] != len(ids) || states["succeeded"] == 0 {
		t.Errorf("states %v: only an unknown outcome may keep a job from success", states)
	}
	// Its events all came after the wipe.
	b := nats.Bus()
	s.eventually(time.Minute, "the read model knows "+later, func() bool {
		v, ok, err := b.Status(t.Context(), later)
		return err == nil && ok && fmt.Sprint(v.GetState()) == "VIDEO_STATE_SUCCEEDED"
	})
	s.books(-1)
}
