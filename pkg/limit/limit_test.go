package limit_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"reelway.dev/pkg/limit"
	"reelway.dev/pkg/natstest"
)

// clock is set by hand; both replicas read it.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(0, c.at.Load()) }

func (c *clock) pass(d time.Duration) { c.at.Add(int64(d)) }

// newClock shows the beginning of a minute.
func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

// replicas are two limiters on the counters of one NATS.
func replicas(t *testing.T, c *clock) [2]*limit.Limiter {
	t.Helper()
	b := natstest.Bus(t)
	var ls [2]*limit.Limiter
	for i := range ls {
		counters, err := b.Counters(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ls[i] = limit.New(counters, c.now, slog.New(slog.DiscardHandler))
	}
	return ls
}

func TestReplicasShareOneLimit(t *testing.T) {
	t.Parallel()
	c := newClock()
	ls := replicas(t, c)
	burst := func(n int) (allowed, refused int64) {
		var ok, no atomic.Int64
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if ls[i%2].Take(t.Context(), "key_1", 10).Allowed {
					ok.Add(1)
				} else {
					no.Add(1)
				}
			})
		}
		wg.Wait()
		return ok.Load(), no.Load()
	}
	for _, step := range []struct {
		after   time.Duration
		allowed int64
	}{
		{0, 10},
		{59 * time.Second, 0},
		{31 * time.Second, 5}, // half of the last minute weighs, and the refused were not counted
		{5 * time.Second, 0},  // 10×25/60 + 5 leaves less than one
		{time.Second, 1},      // 10×24/60 + 5 leaves one
		{3 * time.Minute, 10},
	} {
		c.pass(step.after)
		if ok, no := burst(200); ok != step.allowed || ok+no != 200 {
			t.Errorf("after %v: %d allowed, want %d", step.after, ok, step.allowed)
		}
	}
	if v := ls[0].Take(t.Context(), "key_2", 10); !v.Allowed {
		t.Error("another key's limit")
	}
}

func TestVerdictSaysWhenToComeAgain(t *testing.T) {
	t.Parallel()
	c := newClock()
	ls := replicas(t, c)
	c.pass(15 * time.Second)
	for i := range 3 {
		if v := ls[i%2].Take(t.Context(), "key_1", 3); v != (limit.Verdict{Allowed: true, Counted: true, Limit: 3, Remaining: 2 - i, Reset: 105 * time.Second}) {
			t.Errorf("request %d: %+v", i, v)
		}
	}
	// A third of the three has to be gone: 20 s into the next minute.
	want := limit.Verdict{Counted: true, Limit: 3, Reset: 105 * time.Second, RetryAfter: 65 * time.Second}
	for i := range 4 {
		if v := ls[i%2].Take(t.Context(), "key_1", 3); v != want {
			t.Errorf("refused: %+v, want %+v", v, want)
		}
	}
	c.pass(want.RetryAfter - time.Millisecond)
	if v := ls[0].Take(t.Context(), "key_1", 3); v.Allowed || v.RetryAfter != time.Millisecond {
		t.Errorf("too early: %+v", v)
	}
	// A limit that was raised holds at once.
	if v := ls[0].Take(t.Context(), "key_1", 4); !v.Allowed {
		t.Errorf("raised: %+v", v)
	}
	c.pass(40*time.Second + time.Millisecond)
	if v := ls[1].Take(t.Context(), "key_1", 3); !v.Allowed {
		t.Errorf("in time: %+v", v)
	}
}

// untouchable fails the test's patience: nothing may ask it.
type untouchable struct{ asked atomic.Int64 }

func (u *untouchable) Add(context.Context, int64, ...string) (int64, error) {
	u.asked.Add(1)
	return 0, errors.New("no NATS")
}

func (u *untouchable) Value(context.Context, ...string) (int64, error) {
	u.asked.Add(1)
	return 0, errors.New("no NATS")
}

func TestWithoutCountersEverythingPasses(t *testing.T) {
	t.Parallel()
	c, u := newClock(), &untouchable{}
	l := limit.New(u, c.now, slog.New(slog.DiscardHandler))
	if v := l.Take(t.Context(), "key_1", 0); v != (limit.Verdict{Allowed: true}) || u.asked.Load() != 0 {
		t.Errorf("no limit: %+v, asked %d times", v, u.asked.Load())
	}
	for range 100 {
		if v := l.Take(t.Context(), "key_1", 1); v != (limit.Verdict{Allowed: true}) {
			t.Errorf("%+v", v)
		}
	}
	if u.asked.Load() != 1 {
		t.Errorf("asked %d times in one moment, want once", u.asked.Load())
	}
	c.pass(time.Second)
	l.Take(t.Context(), "key_1", 1)
	if u.asked.Load() != 2 {
		t.Errorf("asked %d times, want again after a second", u.asked.Load())
	}
}
