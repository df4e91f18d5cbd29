package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/postgres"
	"reelway.dev/pkg/run"
	"reelway.dev/services/ledger"
)

// migrate brings the schema and the streams to what this version works with and
// returns the exit code: 0 done, 1 failed and may be run again, 2 wrong
// settings. It may run while older versions work, any number of times; the
// ledger does the same at its start, so that this only brings it forward.
func migrate() int {
	cfg, nats, db := &run.Config{}, &bus.Config{}, &postgres.Config{}
	if err := run.Load(os.Environ(), nil, cfg, nats, db); err != nil {
		fmt.Fprintf(os.Stderr, "ledger migrate: %v\n", err)
		return 2
	}
	log, err := run.NewLogger(os.Stderr, cfg.LogLevel)
	if err != nil {
		fmt.Fprintf(os.Stderr, "ledger migrate: %v\n", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bringForward(ctx, nats, db); err != nil {
		log.Error("not migrated", "error", err.Error())
		return 1
	}
	log.Info("migrated")
	return 0
}

func bringForward(ctx context.Context, nats *bus.Config, db *postgres.Config) error {
	pool, err := postgres.Open(ctx, db.URL, db.MaxConns)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := postgres.Migrate(ctx, pool, ledger.Migrations()); err != nil {
		return err
	}
	_, shut, err := bus.Connect(ctx, *nats, "ledger")
	if err != nil {
		return err
	}
	shut()
	return nil
}
