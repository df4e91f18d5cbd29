package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// stored fills the ledger with n jobs whose renders are being stored, so that
// the next observation of each is its last and moves its money.
func (b *book) stored(ctx context.Context, n int) error {
	params := openRequest().GetParams()
	raw, err := proto.Marshal(params)
	if err != nil {
		return err
	}
	if _, err := b.pool.Exec(ctx, `with made as (
			insert into job (id, state, account_id, provider, quote_micros, params, attempt_count, attempt_id, result_url, version)
			select job_id_at(clock_timestamp()) || lpad(g::text, 9, '0'), 'storing', $1, 'kling', $2, $3, 1, 'att_' || g, 'https://e.example/x.mp4', 4
			from generate_series(1, $4) g returning id, attempt_id),
		tried as (insert into attempt (id, job_id, number, provider, state, provider_task_id) select attempt_id, id, 1, 'kling', 'succeeded', 'task_' || id from made)
		insert into posting (key, kind, account_id, job_id, source, destination, amount_micros, available_micros, held_micros)
		select id || '/hold', 'hold', $1, id, 'available', 'held', $2, 0, 0 from made`, account, int64(quote), raw, n); err != nil {
		return fmt.Errorf("make jobs: %w", err)
	}
	_, err = b.pool.Exec(ctx, `update balance set available_micros = available_micros - $2, held_micros = held_micros + $2 where account_id = $1`, account, int64(n)*quote)
	return err
}

// observations measures the last observation of jobs: state, capture, posting
// and event, beside River fetching and completing a job that does nothing.
func observations(ctx context.Context, s *stand, rounds int, length time.Duration) error {
	b, err := s.ledger(ctx, "observations", false)
	if err != nil {
		return err
	}
	if err := b.fund(ctx); err != nil {
		return err
	}
	const jobs = 600_000
	if err := b.stored(ctx, jobs); err != nil {
		return err
	}
	rows, err := b.pool.Query(ctx, "select id, attempt_id from job where state = 'storing'")
	if err != nil {
		return fmt.Errorf("read jobs: %w", err)
	}
	type pair struct{ job, attempt string }
	var all []pair
	for rows.Next() {
		var p pair
		if err := rows.Scan(&p.job, &p.attempt); err != nil {
			return fmt.Errorf("read jobs: %w", err)
		}
		all = append(all, p)
	}
	if _, err := b.pool.Exec(ctx, "vacuum analyze"); err != nil {
		return fmt.Errorf("vacuum: %w", err)
	}
	var next atomic.Int64
	group := func(n int) func(context.Context, int) (int, error) {
		return func(ctx context.Context, _ int) (int, error) {
			ctxs := make([]context.Context, n)
			os := make([]*eventv1.Observation, n)
			for i := range n {
				k := next.Add(1) - 1
				if k >= jobs {
					return 0, fmt.Errorf("more than %d observations: make more jobs", jobs)
				}
				p := all[k]
				ctxs[i] = ctx
				os[i] = &eventv1.Observation{Id: p.attempt + "-archived", JobId: p.job, AttemptId: p.attempt, Provider: "kling", Source: "archiver", ObservedAt: timestamppb.Now(),
					Fact: &eventv1.Observation_Archived{Archived: &eventv1.Archived{Artifact: &videov1.Artifact{Key: "videos/" + p.job, ContentType: "video/mp4",
						SizeBytes: 1 << 20, Sha256: "0000000000000000000000000000000000000000000000000000000000000000", Width: 1280, Height: 720, DurationMs: 5000}}}}
			}
			for _, err := range b.svc.Observe(ctxs, os) {
				if err != nil {
					return 0, err
				}
			}
			return n, nil
		}
	}
	rp, err := s.database(ctx, "river_work", 32)
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
	out, err := compare(ctx, "Applying an observation: state, capture, posting and event", []subject{
		{"Observe, 1 at a time, 2 callers", 2, group(1)},
		{"Observe, 16 at a time, 2 callers", 2, group(16)},
		{"Observe, 256 at a time, 2 callers", 2, group(256)},
	}, rounds, length)
	if err != nil {
		return err
	}
	say("River, fetch, no-op, complete: %.0f jobs/s\n256 at a time: %.1f x River's worked rate (goal 3)\n",
		riverRate, out["Observe, 256 at a time, 2 callers"].rate/riverRate)
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
