package test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The whole process is killed at random points under load and started again on
// the same data: every accepted job ends, no task is submitted twice, and the
// books agree.
func TestKilledAtRandomPoints(t *testing.T) {
	t.Parallel()
	crash(t, false)
}

// The same, with all of JetStream's files removed while the process is dead.
func TestStreamsWipedBetweenKillAndRestart(t *testing.T) {
	t.Parallel()
	crash(t, true)
}

func crash(t *testing.T, wipe bool) {
	s := setup(t, "REELWAY_MAX_RUNTIME=25s", "REELWAY_SUBMIT_TIMEOUT=2s")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const jobs, kills = 50, 3
	ids := make([]string, jobs)
	var wg sync.WaitGroup
	// Callers as they should be: one key a video, and the same again until
	// there is an answer.
	for i := range jobs {
		wg.Go(func() {
			model := []string{"seedance-2.0", "kling-v2-6"}[i%2]
			pause := time.NewTicker(time.Duration(50+10*i) * time.Millisecond)
			defer pause.Stop()
			for range 2000 {
				<-pause.C
				a, err := s.try(http.MethodPost, "/v1/videos", request(model, "x"), "Idempotency-Key", fmt.Sprint("order-", i))
				if err == nil && a.status == http.StatusOK {
					ids[i] = a.video.ID
					return
				}
				if err == nil && a.status < 500 {
					t.Errorf("%d %s", a.status, a.raw)
					return
				}
			}
		})
	}
	for range kills {
		wait := time.NewTimer(100*time.Millisecond + time.Duration(rng.Int64N(int64(900*time.Millisecond))))
		<-wait.C
		s.stop(syscall.SIGKILL)
		if wipe {
			if err := os.RemoveAll(filepath.Join(s.dir, "data/nats")); err != nil {
				t.Fatal(err)
			}
		}
		s.start()
	}
	wg.Wait()
	states := map[string]int{}
	for i, id := range ids {
		if id == "" {
			t.Fatalf("video %d was never accepted", i)
		}
		v := s.await(90*time.Second, id)
		states[v.State]++
		if n := len(s.tasks(id)); n > 1 || v.State == "succeeded" && n != 1 {
			t.Errorf("%s %s: the provider accepted %d tasks", id, v.State, n)
		}
	}
	t.Logf("%d jobs, %d kills: %v", len(ids), kills, states)
	if states["succeeded"]+states["needs_review"] != len(ids) || states["succeeded"] < len(ids)/2 {
		t.Errorf("states %v: only an unknown outcome may keep a job from success", states)
	}
	if n := len(s.tasks("")); n > jobs {
		t.Errorf("the provider accepted %d tasks for %d videos", n, jobs)
	}
	s.books(-1)
}
