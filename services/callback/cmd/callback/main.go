// Command callback runs the callback service: HTTP on REELWAY_CALLBACK_ADDR.
package main

import (
	"context"
	"os"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/callbacktoken"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/run"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	"reelway.dev/services/callback"
)

type config struct {
	Addr string `env:"REELWAY_CALLBACK_ADDR" envDefault:"127.0.0.1:8081" desc:"address for providers' webhooks"`
}

func main() {
	cfg, nats, led, reg, tok := &config{}, &bus.Config{}, &rpc.LedgerConfig{}, &registry.Config{}, &callbacktoken.Config{}
	os.Exit(run.Main("callback", "takes providers' webhooks", os.Args[1:], func(ctx context.Context, h *run.Host) error {
		l, err := h.Listen("REELWAY_CALLBACK_ADDR", cfg.Addr)
		if err != nil {
			return err
		}
		tokens, err := callbacktoken.Open(*tok)
		if err != nil {
			return err
		}
		providers, err := registry.Open(*reg)
		if err != nil {
			return err
		}
		b, shut, err := bus.Connect(ctx, *nats, "callback")
		if err != nil {
			return err
		}
		h.OnClose(shut)
		h.Ready(b.Ready)
		conn, err := rpc.DialLedger(*led) // lazily: only webhooks without a job in their address need it
		if err != nil {
			return err
		}
		h.OnClose(func() { _ = conn.Close() })
		s, err := callback.New(callback.Deps{Bus: b, Parsers: providers.Parsers, Tokens: tokens, Logger: h.Log, Now: time.Now,
			Find: callback.Lookup(ledgerv1.NewJobServiceClient(conn))})
		if err != nil {
			return err
		}
		h.Add(run.Consumers, providers.Component(h.Log))
		h.Add(run.Doors, run.HTTP("http", l, s.Handler()))
		return nil
	}, cfg, nats, led, reg, tok))
}
