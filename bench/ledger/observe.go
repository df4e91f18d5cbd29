package main

import (
	"context"
	"fmt"
	"time"

	"github.com/riverqueue/river"

	"reelway.dev/bench/stand"
)

// observations measures the last observation of jobs: state, capture, posting
// and event, beside River fetching and completing a job that does nothing.
func observations(ctx context.Context, s *stand.Stand, rounds int, length time.Duration) error {
	b, err := newBook(ctx, s, "observations")
	if err != nil {
		return err
	}
	if err := b.Fund(ctx); err != nil {
		return err
	}
	const jobs = 600_000
	group, err := b.Finisher(ctx, jobs)
	if err != nil {
		return err
	}
	asItComes, err := riverWorked(ctx, s, "river_work", river.FetchCooldownDefault, length*time.Duration(rounds))
	if err != nil {
		return err
	}
	hurried, err := riverWorked(ctx, s, "river_hurried", river.FetchCooldownMin, length*time.Duration(rounds))
	if err != nil {
		return err
	}
	out, err := stand.Compare(ctx, "Applying an observation: state, capture, posting and event", []stand.Subject{
		{Name: "Observe, 1 at a time, 2 callers", Callers: 2, Op: group(1)},
		{Name: "Observe, 16 at a time, 2 callers", Callers: 2, Op: group(16)},
		{Name: "Observe, 256 at a time, 2 callers", Callers: 2, Op: group(256)},
	}, rounds, length)
	if err != nil {
		return err
	}
	rate := out["Observe, 256 at a time, 2 callers"].Rate
	stand.Say("River, fetch, no-op, complete: %.0f jobs/s as it comes, %.0f with the shortest fetch cooldown\n256 at a time: %.1f x River's worked rate (goal 3), %.1f x with the shortest cooldown\n",
		asItComes, hurried, rate/asItComes, rate/hurried)
	return nil
}

// riverWorked is how many jobs a second River fetches and completes from a full
// queue.
func riverWorked(ctx context.Context, s *stand.Stand, database string, cooldown, length time.Duration) (float64, error) {
	pool, err := s.Database(ctx, database, 32)
	if err != nil {
		return 0, err
	}
	c, err := newRiver(ctx, pool, &river.Config{FetchCooldown: cooldown, Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 1000}}})
	if err != nil {
		return 0, err
	}
	n := int(length.Seconds() * 40_000) // more than it can do
	for range n / 1000 {
		params := make([]river.InsertManyParams, 1000)
		for i := range params {
			params[i] = river.InsertManyParams{Args: riverArgs()}
		}
		if _, err := c.InsertManyFast(ctx, params); err != nil {
			return 0, fmt.Errorf("fill river's queue: %w", err)
		}
	}
	before, start := worked.Load(), time.Now()
	if err := c.Start(ctx); err != nil {
		return 0, fmt.Errorf("start river: %w", err)
	}
	<-time.After(length)
	if err := c.Stop(ctx); err != nil { // what is fetched is completed first
		return 0, fmt.Errorf("stop river: %w", err)
	}
	did := worked.Load() - before
	if did >= int64(n) {
		return 0, fmt.Errorf("river did all of %d jobs: make more", n)
	}
	return float64(did) / time.Since(start).Seconds(), nil
}
