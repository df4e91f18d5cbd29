// Command notifier runs the notifier service: SSE and WebSocket on
// REELWAY_NOTIFIER_ADDR, gRPC watch on REELWAY_GRPC_ADDR.
package main

import (
	"context"
	"os"
	"time"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/livetoken"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/run"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	"reelway.dev/services/notifier"
)

type config struct {
	Addr     string `env:"REELWAY_NOTIFIER_ADDR" envDefault:"127.0.0.1:8082" desc:"address of SSE and WebSocket"`
	GRPCAddr string `env:"REELWAY_GRPC_ADDR" envDefault:"127.0.0.1:9092" desc:"address of gRPC watch"`
}

func main() {
	door, cfg, nats, led, bkt, live := &config{}, &notifier.Config{}, &bus.Config{}, &rpc.LedgerConfig{}, &bucket.Config{}, &livetoken.Config{}
	os.Exit(run.Main("notifier", "pushes progress and results to watchers", os.Args[1:], func(ctx context.Context, h *run.Host) error {
		l, err := h.Listen("REELWAY_NOTIFIER_ADDR", door.Addr)
		if err != nil {
			return err
		}
		gl, err := h.Listen("REELWAY_GRPC_ADDR", door.GRPCAddr)
		if err != nil {
			return err
		}
		files, err := bucket.Open(ctx, *bkt)
		if err != nil {
			return err
		}
		h.OnClose(func() { _ = files.Close() })
		b, shut, err := bus.Connect(ctx, *nats, "notifier")
		if err != nil {
			return err
		}
		h.OnClose(shut)
		h.Ready(b.Ready)
		conn, err := rpc.Dial(led.Addr)
		if err != nil {
			return err
		}
		h.OnClose(func() { _ = conn.Close() })
		authn := auth.New(ledgerv1.NewAccountServiceClient(conn), time.Now)
		tokens, err := livetoken.Open(*live)
		if err != nil {
			return err
		}
		s, err := notifier.New(*cfg, notifier.Deps{Bus: b, Jobs: ledgerv1.NewJobServiceClient(conn), Auth: authn, Files: files, Tokens: tokens, Realtime: ledgerv1.NewRealtimeServiceClient(conn), Logger: h.Log})
		if err != nil {
			return err
		}
		srv := rpc.NewServer()
		s.Register(srv)
		h.Add(run.Doors, run.HTTP("http", l, s.Handler()), rpc.Component("grpc", srv, gl))
		h.Add(run.Consumers, s.Components()...)
		h.Add(run.Consumers, authn.Components(b)...)
		return nil
	}, door, cfg, nats, led, bkt, live))
}
