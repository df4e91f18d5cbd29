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

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

const (
	account = "acct_bench"
	quote   = 210_000
)

func (b *book) fund(ctx context.Context) error {
	if _, err := b.accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "bench", AccountId: account}); err != nil {
		return fmt.Errorf("create account: %w", err)
	}
	_, err := b.money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: account, AmountMicros: 1 << 60, IdempotencyKey: "bench"})
	return err
}

func openRequest() *ledgerv1.OpenJobRequest {
	return &ledgerv1.OpenJobRequest{AccountId: account, ApiKeyId: "key_bench", Provider: "kling", QuoteMicros: quote, RequestHash: make([]byte, 32),
		Params: &videov1.VideoParams{Model: "kling-v2-6", Prompt: "A paper boat sails down a rainy street at night", DurationSeconds: 5,
			Resolution: "720p", AspectRatio: "16:9", Width: 1280, Height: 720}}
}

func (b *book) open(ctx context.Context, _ int) (int, error) {
	_, err := b.direct.OpenJob(ctx, openRequest())
	return 1, err
}

func (b *book) openRemote(ctx context.Context, _ int) (int, error) {
	_, err := b.remote.OpenJob(ctx, openRequest())
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

func newRiver(ctx context.Context, pool *pgxpool.Pool, workers int) (*river.Client[pgx.Tx], error) {
	m, err := rivermigrate.New(riverpgxv5.New(pool), nil)
	if err != nil {
		return nil, fmt.Errorf("migrate river: %w", err)
	}
	if _, err := m.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, fmt.Errorf("migrate river: %w", err)
	}
	cfg := &river.Config{}
	if workers > 0 {
		cfg.Workers = river.NewWorkers()
		river.AddWorker(cfg.Workers, noop{})
		// As fast as River fetches: its defaults favour small machines.
		cfg.FetchCooldown = time.Millisecond
		cfg.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: workers}}
	}
	c, err := river.NewClient(riverpgxv5.New(pool), cfg)
	if err != nil {
		return nil, fmt.Errorf("make river client: %w", err)
	}
	return c, nil
}

func riverArgs() renderArgs {
	return renderArgs{"kling-v2-6", "A paper boat sails down a rainy street at night", "720p", "16:9", account, 5, quote}
}

// opens measures opening jobs on one hot account.
func opens(ctx context.Context, s *stand, rounds int, length time.Duration) error {
	rp, err := s.database(ctx, "river_insert", 64)
	if err != nil {
		return err
	}
	rc, err := newRiver(ctx, rp, 0)
	if err != nil {
		return err
	}
	b, err := s.ledger(ctx, "opens", false)
	if err != nil {
		return err
	}
	if err := b.fund(ctx); err != nil {
		return err
	}
	raw, err := s.ledger(ctx, "raw_opens", false)
	if err != nil {
		return err
	}
	if err := raw.fund(ctx); err != nil {
		return err
	}
	riverInsert := func(ctx context.Context, _ int) (int, error) {
		_, err := rc.Insert(ctx, riverArgs(), nil)
		return 1, err
	}
	out, err := compare(ctx, "Opening a job: job, hold, posting, event and command, on one hot account", []subject{
		{"River, Insert, 64 callers", 64, riverInsert},
		{"raw SQL, 256 jobs a transaction, 2 callers", 2, raw.rawOpen},
		{"raw SQL, one job a transaction, 1 caller", 1, raw.rawOpenOne},
		{"OpenJob, 1 caller", 1, b.open},
		{"OpenJob, 8 callers", 8, b.open},
		{"OpenJob, 64 callers", 64, b.open},
		{"OpenJob, 512 callers", 512, b.open},
		{"OpenJob over gRPC, 64 callers", 64, b.openRemote},
		{"OpenJob over gRPC, 512 callers", 512, b.openRemote},
	}, rounds, length)
	if err != nil {
		return err
	}
	hot := out["OpenJob, 512 callers"]
	say("\n512 callers: %.1f x River's insert (goal 5), %.0f %% of the raw batched SQL (goal 50)\n1 caller: %s above a plain transaction (goal: at most 2 ms)\n",
		hot.rate/out["River, Insert, 64 callers"].rate, 100*hot.rate/out["raw SQL, 256 jobs a transaction, 2 callers"].rate,
		(out["OpenJob, 1 caller"].p50 - out["raw SQL, one job a transaction, 1 caller"].p50).Round(time.Microsecond))
	return nil
}
