package dispatcher

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// gate is what one provider allows: a rate, and a pause for all jobs after it
// asked one to wait.
type gate struct {
	limit *rate.Limiter

	mu    sync.Mutex
	until time.Time
}

func (g *gate) pause(until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until.After(g.until) {
		g.until = until
	}
}

// closed is how long the gate stays shut.
func (g *gate) closed(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.until.Sub(now)
}
