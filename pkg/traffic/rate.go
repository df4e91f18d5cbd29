package traffic

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Lane is whose rate a request counts for; an empty Key or Model is all of them.
type Lane struct {
	Provider, Key, Model string
	// Limit is requests a second; 0: none of its own, until the provider asks to
	// slow down.
	Limit float64
}

// lane is what one replica has of a shared rate: some of its moments, taken
// together so that a crowd costs one journey to the store.
type lane struct {
	waiting atomic.Int64

	mu    sync.Mutex
	next  time.Time // the first moment that is left
	step  time.Duration
	left  int
	until time.Time     // what is left counts no longer
	local *rate.Limiter // while the store does not answer
}

const (
	// longestHold is how far ahead a moment is taken. Who would wait longer comes
	// again instead.
	longestHold = 2 * time.Second
	// burst is how much of what was not used counts.
	burst = time.Second
	// slowest is a rate that still finds out when the provider has recovered.
	slowest = 0.05
)

// Take waits for a request's turn in a lane. With wait above 0 its turn is too
// far away, and nothing was taken: come again then. Turns are shared by all
// replicas. While the store does not answer, each replica keeps to the last known
// rate by itself. The error is ctx's.
func (t *Traffic) Take(ctx context.Context, l Lane) (wait time.Duration, err error) {
	name := [3]string{l.Provider, l.Key, l.Model}
	now := t.now()
	t.mu.Lock()
	known := t.state.rates[name]
	if l.Limit == 0 && !known.Slowed(now) {
		t.mu.Unlock()
		return 0, nil
	}
	key := l.Provider + "." + l.Key + "." + l.Model
	mine := t.lanes[key]
	if mine == nil {
		mine = &lane{}
		t.lanes[key] = mine
	}
	t.mu.Unlock()
	if d := known.Next.Sub(now); known.Base > 0 && d > longestHold {
		return d, nil
	}
	mine.waiting.Add(1)
	at, wait, err := mine.turn(ctx, t, l, known)
	mine.waiting.Add(-1)
	if err != nil || wait > 0 {
		return wait, err
	}
	return 0, sleep(ctx, at.Sub(t.now()))
}

// turn takes one moment, of those that are left or of new ones.
func (m *lane) turn(ctx context.Context, t *Traffic, l Lane, known Rate) (at time.Time, wait time.Duration, err error) {
	m.mu.Lock()
	now := t.now()
	if m.left == 0 || now.After(m.until) || m.next.Before(known.Since) && now.Before(known.Next) {
		wait, err = m.reserve(ctx, t, l, now)
	}
	if err == nil && wait == 0 {
		at = m.next
		m.next, m.left = m.next.Add(m.step), m.left-1
	}
	local := m.local
	m.mu.Unlock()
	if err == nil {
		return at, wait, nil
	}
	return t.now(), 0, local.Wait(ctx)
}

// reserve takes as many moments as there are requests waiting, up to a quarter
// of a second's.
func (m *lane) reserve(ctx context.Context, t *Traffic, l Lane, now time.Time) (wait time.Duration, err error) {
	var perSecond float64
	err = change(ctx, t, "rate", func(r *record) **Rate { return &r.Rate }, func(r *Rate) bool {
		r.Provider, r.Key, r.Model = l.Provider, l.Key, l.Model
		if l.Limit > 0 {
			r.Limit = l.Limit
		}
		perSecond = max(r.At(now), slowest)
		first := r.Next
		if idle := now.Add(-burst); first.Before(idle) {
			first = idle
		}
		if wait = first.Sub(now); wait > longestHold {
			return false
		}
		wait = 0
		n := min(int(m.waiting.Load()), int(perSecond/4)+1)
		// From now on, not from first: of a lane that was idle that lies as far
		// back as counts, and all but the first moment would be too old at once.
		m.until = now.Add(burst)
		m.next, m.left, m.step = first, max(n, 1), time.Duration(float64(time.Second)/perSecond)
		r.Next = first.Add(time.Duration(m.left) * m.step)
		return true
	}, l.Provider, orAll(l.Key), orAll(l.Model))
	if err != nil {
		m.left = 0
		if perSecond == 0 {
			t.mu.Lock()
			known := t.state.rates[[3]string{l.Provider, l.Key, l.Model}]
			t.mu.Unlock()
			if known.Limit == 0 {
				known.Limit = l.Limit
			}
			perSecond = max(known.At(now), slowest)
		}
		if m.local == nil {
			m.local = rate.NewLimiter(rate.Limit(perSecond), max(int(perSecond), 1))
		}
		m.local.SetLimit(rate.Limit(perSecond))
	}
	return wait, err
}

// Slow answers a provider that asked to slow down: the lane is closed for as long
// as it asked, at least a second, for all replicas, and opens at half its rate.
// What was under way at the time and is refused as well halves nothing again.
// limit is the rate that it may recover to.
func (t *Traffic) Slow(ctx context.Context, l Lane, limit float64, retryAfter time.Duration) {
	now := t.now()
	pause := max(retryAfter, time.Second)
	_ = change(ctx, t, "rate", func(r *record) **Rate { return &r.Rate }, func(r *Rate) bool {
		r.Provider, r.Key, r.Model, r.Limit = l.Provider, l.Key, l.Model, max(limit, slowest)
		if r.Base == 0 || now.After(r.Since) {
			r.Base = max(math.Min(r.At(now), limit)/2, slowest)
			r.Since = now.Add(pause)
		}
		if until := now.Add(pause); r.Next.Before(until) {
			r.Next = until
		}
		return true
	}, l.Provider, orAll(l.Key), orAll(l.Model)) // logged; the provider will say it again
}

// Slowed are the rates of a provider that have not recovered.
func (t *Traffic) Slowed(provider string, now time.Time) (out []Rate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.state.rates {
		if r.Provider == provider && r.Slowed(now) {
			out = append(out, r)
		}
	}
	return out
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
