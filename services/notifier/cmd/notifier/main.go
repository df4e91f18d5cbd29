// Command notifier runs the notifier service: SSE, WebSocket and the links of
// letters on REELWAY_NOTIFIER_ADDR, gRPC watch on REELWAY_GRPC_ADDR, webhooks and
// e-mail.
package main

import (
	"context"
	"net/http"
	"os"
	"time"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/livetoken"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/safehttp"
	"reelway.dev/pkg/seal"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
	"reelway.dev/services/notifier"
	"reelway.dev/services/notifier/mail"
)

type config struct {
	Addr     string `env:"REELWAY_NOTIFIER_ADDR" envDefault:"127.0.0.1:8082" desc:"address of SSE and WebSocket"`
	GRPCAddr string `env:"REELWAY_GRPC_ADDR" envDefault:"127.0.0.1:9092" desc:"address of gRPC watch"`
}

func main() {
	door, cfg, nats, led, bkt, letter := &config{}, &notifier.Config{}, &bus.Config{}, &rpc.LedgerConfig{}, &bucket.Config{}, &mail.Config{}
	hooks, keys, guard, live, tls := &notifier.WebhookConfig{}, &seal.Config{}, &safehttp.Config{}, &livetoken.Config{}, &rpc.DoorConfig{}
	os.Exit(run.Main("notifier", "pushes progress and results to watchers and webhooks", os.Args[1:], func(ctx context.Context, h *run.Host) error {
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
		conn, err := rpc.DialLedger(*led)
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
		secrets, err := seal.Open(*keys)
		if err != nil {
			return err
		}
		out, err := notifier.NewWebhooks(*hooks, notifier.WebhookDeps{Deliveries: webhookv1.NewDeliveryServiceClient(conn), Seal: secrets, Guard: *guard, Files: files, Logger: h.Log})
		if err != nil {
			return err
		}
		letters, err := mail.New(*letter, mail.Deps{Bus: b, Ledger: ledgerv1.NewMailServiceClient(conn), Jobs: ledgerv1.NewJobServiceClient(conn), Files: files, Logger: h.Log, Now: time.Now})
		if err != nil {
			return err
		}
		mux := http.NewServeMux()
		mux.Handle("/", s.Handler())
		mux.Handle(mail.Path, letters.Handler())
		srv, err := rpc.NewDoor(*tls)
		if err != nil {
			return err
		}
		s.Register(srv)
		h.Add(run.Doors, run.HTTP("http", l, mux), rpc.Component("grpc", srv, gl))
		h.Add(run.Consumers, s.Components()...)
		h.Add(run.Consumers, out.Components()...)
		h.Add(run.Consumers, letters.Components()...)
		h.Add(run.Consumers, authn.Components(b)...)
		return nil
	}, door, cfg, nats, led, bkt, letter, hooks, keys, guard, live, tls))
}
