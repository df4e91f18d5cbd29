package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
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
	rp, err := s.Database(ctx, "river_work", 32)
	if err != nil {
		return err
	}
	client, err := newRiver(ctx, rp, 1000)
	if err != nil {
		return err
	}
	riverRate, err := riverWorked(ctx, client, rounds, length)
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
	stand.Say("River, fetch, no-op, complete: %.0f jobs/s\n256 at a time: %.1f x River's worked rate (goal 3)\n",
		riverRate, out["Observe, 256 at a time, 2 callers"].Rate/riverRate)
	return nil
}

// riverWorked is how many jobs a second River fetches and completes from a full
// queue.
func riverWorked(ctx context.Context, c *river.Client[pgx.Tx], rounds int, length time.Duration) (float64, error) {
	n := int(length.Seconds()*15_000) * rounds
	for range n / 1000 {
		params := make([]river.InsertManyParams, 1000)
		for i := range params {
			params[i] = river.InsertManyParams{Args: riverArgs()}
		}
		if _, err := c.InsertManyFast(ctx, params); err != nil {
			return 0, fmt.Errorf("fill river's queue: %w", err)
		}
	}
	start := time.Now()
	if err := c.Start(ctx); err != nil {
		return 0, fmt.Errorf("start river: %w", err)
	}
	<-time.After(length * time.Duration(rounds))
	if err := c.Stop(ctx); err != nil { // what is fetched is completed first
		return 0, fmt.Errorf("stop river: %w", err)
	}
	return float64(worked.Load()) / time.Since(start).Seconds(), nil
}
