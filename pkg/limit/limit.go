// Package limit keeps to a number of requests per minute, over all replicas. It
// owns no fact: when its counters cannot be reached it lets everything through,
// for money is guarded where jobs are opened, in Postgres.
package limit

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"
)

// Counters are numbers that all replicas share; *bus.Counters is one.
type Counters interface {
	// Add adds n to a counter and returns its value afterwards.
	Add(ctx context.Context, n int64, name ...string) (int64, error)
	// Value reads a counter; one that was never added to is 0.
	Value(ctx context.Context, name ...string) (int64, error)
}

// Verdict is what became of one request.
type Verdict struct {
	Allowed bool
	// Counted is false when there is no limit, or when the counters could not be
	// reached; then the rest is zero.
	Counted   bool
	Limit     int
	Remaining int
	// Reset is when nothing of what was counted weighs any more.
	Reset time.Duration
	// RetryAfter is when a refused request fits, if nobody else comes first.
	RetryAfter time.Duration
}

// Limiter counts in a sliding window of two buckets, this minute's and the one
// before, which weighs less the older it grows. Refused requests are not
// counted: whoever hammers is let in again as soon as anybody. A Limiter is safe
// for concurrent use.
type Limiter struct {
	counters Counters
	now      func() time.Time
	log      *slog.Logger

	mu   sync.Mutex
	keys map[string]state
	down time.Time // the counters are not asked before
}

// state is what one replica remembers of a key, so that most requests cost one
// journey to the counters and refused ones none.
type state struct {
	minute int64
	before int64 // the bucket of the minute before, which grows no more
	full   time.Time
	limit  int // for which full holds
}

const (
	window  = time.Minute
	timeout = 250 * time.Millisecond // a limit must not cost more than the request
	downFor = time.Second
	maxKeys = 10_000
)

// New returns a Limiter. Replicas whose clocks differ by less than a few seconds
// count alike.
func New(c Counters, now func() time.Time, log *slog.Logger) *Limiter {
	return &Limiter{counters: c, now: now, log: log, keys: map[string]state{}}
}

// Take counts one request of a key, unless it is too many. With perMinute 0
// there is no limit and nothing is counted.
func (l *Limiter) Take(ctx context.Context, key string, perMinute int) Verdict {
	if perMinute <= 0 {
		return Verdict{Allowed: true}
	}
	now := l.now()
	minute, elapsed := now.Unix()/60, now.Sub(now.Truncate(window))
	l.mu.Lock()
	s, down := l.keys[key], now.Before(l.down)
	l.mu.Unlock()
	switch {
	case down:
		return Verdict{Allowed: true}
	case s.limit == perMinute && now.Before(s.full):
		return Verdict{Counted: true, Limit: perMinute, Reset: 2*window - elapsed, RetryAfter: s.full.Sub(now)}
	}
	// Detached: who hangs up must neither go uncounted nor seem to be a failure.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if s.minute != minute {
		before, err := l.counters.Value(ctx, key, strconv.FormatInt(minute-1, 10))
		if err != nil {
			return l.lost(ctx, now, err)
		}
		s = state{minute: minute, before: before}
	}
	bucket := strconv.FormatInt(minute, 10)
	count, err := l.counters.Add(ctx, 1, key, bucket)
	if err != nil {
		return l.lost(ctx, now, err)
	}
	v := Verdict{Allowed: true, Counted: true, Limit: perMinute, Reset: 2*window - elapsed}
	// In nanoseconds of a request: fractions count, and nothing is rounded.
	room := int64(perMinute-int(count))*int64(window) - s.before*int64(window-elapsed)
	if room < 0 {
		// If it stays, the window is a request narrower.
		if c, err := l.counters.Add(ctx, -1, key, bucket); err == nil {
			count = c
		}
		v.Allowed, v.RetryAfter = false, wait(int64(perMinute), s.before, min(count, int64(perMinute)), elapsed)
	} else {
		v.Remaining = int(room / int64(window))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.keys) >= maxKeys {
		clear(l.keys)
	}
	if !v.Allowed {
		// Others that are being refused at this moment may still be in count: the
		// last of them knows best, which is the earliest.
		s.full, s.limit = now.Add(v.RetryAfter), perMinute
		if o := l.keys[key]; o.limit == perMinute && now.Before(o.full) && o.full.Before(s.full) {
			s.full = o.full
		}
	}
	l.keys[key] = s
	return v
}

// wait is how long until one more request fits beside count in this minute and
// before in the last.
func wait(limit, before, count int64, elapsed time.Duration) time.Duration {
	if count < limit { // when enough of the last minute has passed
		if before <= 0 {
			return time.Millisecond // the counters were lost meanwhile
		}
		weight := (limit - count - 1) * int64(window) / before
		return max(window-time.Duration(weight)-elapsed, time.Millisecond)
	}
	// When this minute is the last one, and enough of it has passed.
	weight := (limit - 1) * int64(window) / count
	return 2*window - time.Duration(weight) - elapsed
}

// lost lets a request through whose counter could not be reached, and the ones
// of the next moment without asking.
func (l *Limiter) lost(ctx context.Context, now time.Time, err error) Verdict {
	l.mu.Lock()
	l.down = now.Add(downFor)
	l.mu.Unlock()
	l.log.WarnContext(ctx, "requests are not limited", "error", err.Error())
	return Verdict{Allowed: true}
}
