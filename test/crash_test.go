package test

import (
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
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
	s := setup(t, "REELWAY_MAX_RUNTIME=25s")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var ids []string
	const jobs, kills = 50, 3
	for round := range kills {
		for len(ids) < jobs*(round+1)/kills {
			model := []string{"seedance-2.0", "kling-v2-6"}[len(ids)%2]
			a := s.call(http.MethodPost, "/v1/videos", request(model, "x"))
			if a.status != http.StatusOK {
				t.Fatalf("%d %s", a.status, a.raw)
			}
			ids = append(ids, a.video.ID)
		}
		wait := time.NewTimer(time.Duration(rng.Int64N(int64(600 * time.Millisecond))))
		<-wait.C
		s.stop(syscall.SIGKILL)
		if wipe {
			if err := os.RemoveAll(filepath.Join(s.dir, "data/nats")); err != nil {
				t.Fatal(err)
			}
		}
		s.start()
	}
	states := map[string]int{}
	for _, id := range ids {
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
	s.books(-1, 0)
}
