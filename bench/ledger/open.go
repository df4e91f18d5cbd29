package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"reelway.dev/bench/stand"
)

// book is a ledger with what is measured on it.
type book struct{ *stand.Book }

func newBook(ctx context.Context, s *stand.Stand, name string) (book, error) {
	b, err := s.Ledger(ctx, name, false)
	return book{b}, err
}

func (b book) open(ctx context.Context, _ int) (int, error) {
	_, err := b.Direct.OpenJob(ctx, stand.OpenRequest())
	return 1, err
}

func (b book) openRemote(ctx context.Context, _ int) (int, error) {
	_, err := b.Remote.OpenJob(ctx, stand.OpenRequest())
	return 1, err
}

type renderArgs struct {
	Model, Prompt, Resolution, Ratio, Account string
	Seconds                                   int
	Quote                                     int64
}

// Kind implements river.JobArgs.
func (renderArgs) Kind() string { return "render" }

type noop struct {
	river.WorkerDefaults[renderArgs]
}

// Work implements river.Worker.
func (noop) Work(context.Context, *river.Job[renderArgs]) error { worked.Add(1); return nil }

var worked atomic.Int64

// newRiver returns a client on a migrated database; one with queues works.
func newRiver(ctx context.Context, pool *pgxpool.Pool, cfg *river.Config) (*river.Client[pgx.Tx], error) {
	m, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return nil, fmt.Errorf("migrate river: %w", err)
	}
	if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, fmt.Errorf("migrate river: %w", err)
	}
	if len(cfg.Queues) > 0 {
		cfg.Workers = river.NewWorkers()
		river.AddWorker(cfg.Workers, noop{})
	}
	c, err := river.NewClient(riverpgxv5.New(pool), cfg)
	if err != nil {
		return nil, fmt.Errorf("make river client: %w", err)
	}
	return c, nil
}

func riverArgs() renderArgs {
	return renderArgs{"kling-v2-6", "A paper boat sails down a rainy street at night", "720p", "16:9", stand.Account, 5, stand.Quote}
}

// opens measures opening jobs on one hot account.
func opens(ctx context.Context, s *stand.Stand, rounds int, length time.Duration) error {
	rp, err := s.Database(ctx, "river_insert", 64)
	if err != nil {
		return err
	}
	rc, err := newRiver(ctx, rp, &river.Config{})
	if err != nil {
		return err
	}
	b, err := newBook(ctx, s, "opens")
	if err != nil {
		return err
	}
	if err := b.Fund(ctx); err != nil {
		return err
	}
	raw, err := newBook(ctx, s, "raw_opens")
	if err != nil {
		return err
	}
	if err := raw.Fund(ctx); err != nil {
		return err
	}
	riverInsert := func(ctx context.Context, _ int) (int, error) {
		_, err := rc.Insert(ctx, riverArgs(), nil)
		return 1, err
	}
	out, err := stand.Compare(ctx, "Opening a job: job, hold, posting, event and command, on one hot account", []stand.Subject{
		{Name: "River, Insert, 64 callers", Callers: 64, Op: riverInsert},
		{Name: "raw SQL, 256 jobs a transaction, 2 callers", Callers: 2, Op: raw.rawOpen},
		{Name: "raw SQL, one job a transaction, 1 caller", Callers: 1, Op: raw.rawOpenOne},
		{Name: "OpenJob, 1 caller", Callers: 1, Op: b.open},
		{Name: "OpenJob, 8 callers", Callers: 8, Op: b.open},
		{Name: "OpenJob, 64 callers", Callers: 64, Op: b.open},
		{Name: "OpenJob, 512 callers", Callers: 512, Op: b.open},
		{Name: "OpenJob over gRPC, 64 callers", Callers: 64, Op: b.openRemote},
		{Name: "OpenJob over gRPC, 512 callers", Callers: 512, Op: b.openRemote},
	}, rounds, length)
	if err != nil {
		return err
	}
	hot := out["OpenJob, 512 callers"]
	stand.Say("\n512 callers: %.1f x River's insert (goal 5), %.0f %% of the raw batched SQL (goal 50)\n1 caller: %s above a plain transaction (goal: at most 2 ms)\n",
		hot.Rate/out["River, Insert, 64 callers"].Rate, 100*hot.Rate/out["raw SQL, 256 jobs a transaction, 2 callers"].Rate,
		(out["OpenJob, 1 caller"].P50 - out["raw SQL, one job a transaction, 1 caller"].P50).Round(time.Microsecond))
	return nil
}
