// Command ledger runs the ledger service: gRPC on REELWAY_LEDGER_ADDR. Its verb
// migrate brings the schema and the streams up to date, and ends; its verb restored
// prepares a database that was restored from a backup, and ends.
package main

import (
	"context"
	"os"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/postgres"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/seal"
	"reelway.dev/services/ledger"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "migrate" {
		os.Exit(migrate())
	}
	if len(os.Args) == 2 && os.Args[1] == "restored" {
		os.Exit(restored())
	}
	ledger.CollectLess()
	cfg, nats, db, door, keys, callers := &ledger.Config{}, &bus.Config{}, &postgres.Config{}, &rpc.LedgerConfig{}, &seal.Config{}, &rpc.CallersConfig{}
	os.Exit(run.Main("ledger", "owns Postgres: jobs, attempts, holds, postings and the outbox", os.Args[1:], func(ctx context.Context, h *run.Host) error {
		l, err := h.Listen("REELWAY_LEDGER_ADDR", door.Addr)
		if err != nil {
			return err
		}
		pool, err := postgres.Open(ctx, db.URL, db.MaxConns)
		if err != nil {
			return err
		}
		h.OnClose(pool.Close)
		h.Ready(pool.Ping)
		if err := postgres.Migrate(ctx, pool, ledger.Migrations()); err != nil {
			return err
		}
		b, shut, err := bus.Connect(ctx, *nats, "ledger")
		if err != nil {
			return err
		}
		h.OnClose(shut)
		h.Ready(b.Ready)
		secrets, err := seal.Open(*keys)
		if err != nil {
			return err
		}
		if len(keys.Keys) == 0 {
			h.Log.Warn("secrets of webhook endpoints are not protected: set REELWAY_WEBHOOK_SECRET_KEY, for the notifier too")
		}
		s, err := ledger.New(*cfg, ledger.Deps{Pool: pool, Bus: b, Logger: h.Log, Seal: secrets})
		if err != nil {
			return err
		}
		if cfg.AdminAPIKey != "" {
			if err := s.ProvisionOperator(ctx, cfg.AdminAPIKey); err != nil {
				return err
			}
		}
		if err := s.Reseal(ctx); err != nil {
			return err
		}
		srv, err := rpc.NewLedgerServer(*door, *callers)
		if err != nil {
			return err
		}
		s.Register(srv)
		h.Add(run.Doors, rpc.Component("grpc", srv, l))
		h.Add(run.Relays, s.Components()...)
		return nil
	}, cfg, nats, db, door, keys, callers))
}
