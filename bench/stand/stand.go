// Package stand is what benchmarks are measured on: one PostgreSQL as durable as
// in production, an embedded NATS, ledgers on databases of their own, and a clock.
package stand

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/postgres"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/run"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	"reelway.dev/services/ledger"
)

// Stand is one PostgreSQL with a database for each subject, and one NATS.
type Stand struct {
	pg  *postgres.Private
	bus *bus.Bus
	end []func()

	// NATS is where other processes reach the bus.
	NATS string
}

// Close stops everything and removes its files.
func (s *Stand) Close() {
	for i := len(s.end) - 1; i >= 0; i-- {
		s.end[i]()
	}
}

// New starts a stand.
func New(ctx context.Context) (_ *Stand, err error) {
	s := &Stand{}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	dir, err := os.MkdirTemp("", "reelway-bench-")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	s.end = append(s.end, func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the postgres user enters it
		return nil, fmt.Errorf("open directory: %w", err)
	}
	if s.pg, err = postgres.StartPrivate(ctx, filepath.Join(dir, "postgres"), false); err != nil {
		return nil, err
	}
	s.end = append(s.end, func() { _ = s.pg.Stop(context.WithoutCancel(ctx)) })
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, JetStreamMaxStore: bus.Reserved(), StoreDir: filepath.Join(dir, "nats"), NoSigs: true, NoLog: true})
	if err != nil {
		return nil, fmt.Errorf("embed NATS: %w", err)
	}
	ns.Start()
	s.end = append(s.end, func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("NATS is not ready")
	}
	s.NATS = ns.ClientURL()
	nc, err := nats.Connect("", nats.InProcessServer(ns))
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	s.end = append(s.end, nc.Close)
	if s.bus, err = bus.New(nc); err != nil {
		return nil, err
	}
	return s, s.bus.Ensure(ctx, 1)
}

// Bus is the stand's.
func (s *Stand) Bus() *bus.Bus { return s.bus }

// Database returns a pool on a fresh database.
func (s *Stand) Database(ctx context.Context, name string, conns int32) (*pgxpool.Pool, error) {
	admin, err := postgres.Open(ctx, s.pg.URL, 1)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	if _, err := admin.Exec(ctx, "create database "+name); err != nil {
		return nil, fmt.Errorf("create database: %w", err)
	}
	pool, err := postgres.Open(ctx, strings.Replace(s.pg.URL, "/reelway?", "/"+name+"?", 1), conns)
	if err != nil {
		return nil, err
	}
	s.end = append(s.end, pool.Close)
	return pool, nil
}

// Book is a ledger, with its jobs opened by a call and over gRPC.
type Book struct {
	Svc    *ledger.Service
	Pool   *pgxpool.Pool
	Direct ledgerv1.JobServiceServer
	Remote ledgerv1.JobServiceClient
	Usage  ledgerv1.UsageServiceServer
	Addr   string // of its gRPC
	money  ledgerv1.LedgerServiceServer
	accts  ledgerv1.AccountServiceServer
}

// registrar catches the ledger's servers, to call them without a network.
type registrar struct{ b *Book }

// RegisterService implements grpc.ServiceRegistrar.
func (r registrar) RegisterService(_ *grpc.ServiceDesc, impl any) {
	switch s := impl.(type) {
	case ledgerv1.JobServiceServer:
		r.b.Direct = s
	case ledgerv1.UsageServiceServer:
		r.b.Usage = s
	case ledgerv1.LedgerServiceServer:
		r.b.money = s
	case ledgerv1.AccountServiceServer:
		r.b.accts = s
	}
}

// Ledger returns a running ledger; with relay also its background parts.
func (s *Stand) Ledger(ctx context.Context, name string, relay bool) (*Book, error) {
	pool, err := s.Database(ctx, name, 16)
	if err != nil {
		return nil, err
	}
	if err := postgres.Migrate(ctx, pool, ledger.Migrations()); err != nil {
		return nil, err
	}
	var cfg ledger.Config
	if err := run.Load(nil, nil, &cfg); err != nil {
		return nil, err
	}
	svc, err := ledger.New(cfg, ledger.Deps{Pool: pool, Bus: s.bus, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	b := &Book{Svc: svc, Pool: pool}
	svc.Register(registrar{b})
	live, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	for _, c := range svc.Components() {
		if relay || c.Name == "ledger-opens" || c.Name == "ledger-begins" {
			wg.Go(func() { _ = c.Run(live) })
		}
	}
	srv := rpc.NewServer()
	svc.Register(srv)
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		stop()
		return nil, fmt.Errorf("listen: %w", err)
	}
	wg.Go(func() { _ = srv.Serve(l) })
	conn, err := rpc.Dial(l.Addr().String())
	if err != nil {
		stop()
		return nil, err
	}
	b.Remote, b.Addr = ledgerv1.NewJobServiceClient(conn), l.Addr().String()
	s.end = append(s.end, func() { _ = conn.Close(); srv.Stop(); stop(); wg.Wait() })
	return b, nil
}
