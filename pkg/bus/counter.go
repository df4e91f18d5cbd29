package bus

import (
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/synadia-io/orbit.go/counters"
)

// Counters are numbers that all replicas share, each by its name: added to by
// the server, so that nobody reads before writing. They live for minutes and in
// memory; they may be lost, and hold no fact.
type Counters struct{ c counters.Counter }

// Counters opens the counters that Ensure has made.
func (b *Bus) Counters(ctx context.Context) (*Counters, error) {
	st, err := b.js.Stream(ctx, StreamLimits)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", StreamLimits, err)
	}
	c, err := counters.NewCounterFromStream(b.js, st)
	if err != nil {
		return nil, fmt.Errorf("open counters: %w", err)
	}
	return &Counters{c}, nil
}

// Add adds n to a counter and returns its value afterwards.
func (c *Counters) Add(ctx context.Context, n int64, name ...string) (int64, error) {
	v, err := c.c.Add(ctx, counterSubject(name), big.NewInt(n))
	if err != nil {
		return 0, fmt.Errorf("add to counter: %w", err)
	}
	return v.Int64(), nil
}

// Value reads a counter; one that was never added to is 0.
func (c *Counters) Value(ctx context.Context, name ...string) (int64, error) {
	v, err := c.c.Load(ctx, counterSubject(name))
	if errors.Is(err, counters.ErrNoCounterForSubject) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read counter: %w", err)
	}
	return v.Int64(), nil
}

func counterSubject(name []string) string {
	s := "limit"
	for _, n := range name {
		s += "." + token(n)
	}
	return s
}
