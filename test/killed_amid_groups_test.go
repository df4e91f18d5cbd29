package test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The process is killed while many submits share each transaction: whoever got
// an answer has the job, whoever got none may ask again with the same key, and
// no key has two jobs.
func TestKilledAmidGroupedSubmits(t *testing.T) {
	t.Parallel()
	// No provider is called: the jobs stay in the queue, and only money moves.
	s := setup(t, "REELWAY_PROVIDER_RATE=0.001", "REELWAY_DEV_CREDITS=100000")
	const callers, kills = 48, 4
	var mu sync.Mutex
	answered := map[string]string{} // key → job
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("caller-%d-%d", c, n)
				for ctx.Err() == nil {
					a, err := s.try(http.MethodPost, "/v1/videos", request("kling-v2-6", "x"), "Idempotency-Key", key)
					if err != nil || a.status >= 500 {
						pause := time.NewTimer(20 * time.Millisecond)
						<-pause.C
						continue
					}
					if a.status != http.StatusOK {
						t.Errorf("%s: %d %s", key, a.status, a.raw)
						return
					}
					mu.Lock()
					answered[key] = a.video.ID
					mu.Unlock()
					break
				}
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(answered) }
	for range kills {
		before := count()
		s.eventually(time.Minute, "submits are answered", func() bool { return count() > before+100 })
		wait := time.NewTimer(time.Duration(rand.Int64N(int64(200 * time.Millisecond))))
		<-wait.C
		s.stop(syscall.SIGKILL)
		s.start()
	}
	stop()
	wg.Wait()
	jobs := map[string]string{}
	for key, id := range answered {
		if other := jobs[id]; other != "" {
			t.Fatalf("%s and %s have the same job", key, other)
		}
		jobs[id] = key
		if a := s.call(http.MethodPost, "/v1/videos", request("kling-v2-6", "x"), "Idempotency-Key", key); a.video.ID != id {
			t.Fatalf("%s was %s and is %s now", key, id, a.raw)
		}
		if len(jobs) == 300 {
			break // as good as all, and sooner
		}
	}
	s.books(-1)
	var keys, held int
	s.sql(`select count(*), coalesce(sum(quote_micros), 0) from job`, &keys, &held)
	t.Logf("%d answered, %d jobs, %d kills", len(answered), keys, kills)
	if keys < len(answered) {
		t.Errorf("%d jobs for %d answers", keys, len(answered))
	}
	var twice []string
	s.sql(`select coalesce(array_agg(key), '{}') from (select key from idempotency i where not exists (select from job where id = i.job_id)) x`, &twice)
	if len(twice) > 0 {
		t.Errorf("keys without a job: %s", strings.Join(twice, " "))
	}
}
