package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/postgres"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/seal"
	"reelway.dev/services/ledger"
)

// restored prepares a database that was set back to an earlier time, before any
// service runs on it, and returns the exit code: 0 done, 1 failed and may be run
// again, 2 wrong settings.
func restored() int {
	cfg, db := &run.Config{}, &postgres.Config{}
	// The ledger's own environment will do.
	if err := run.Load(os.Environ(), nil, cfg, db, &ledger.Config{}, &bus.Config{}, &rpc.LedgerConfig{}, &seal.Config{}); err != nil {
		fmt.Fprintf(os.Stderr, "ledger restored: %v\n", err)
		return 2
	}
	log, err := run.NewLogger(os.Stderr, cfg.LogLevel)
	if err != nil {
		fmt.Fprintf(os.Stderr, "ledger restored: %v\n", err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	n, err := ledger.Restored(ctx, db.URL)
	if err != nil {
		log.Error("not prepared", "error", err.Error())
		return 1
	}
	log.Info("prepared; queued jobs will be looked for at their providers before they are submitted", "queued", n)
	return 0
}
