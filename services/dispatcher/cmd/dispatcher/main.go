// Command dispatcher runs the dispatcher service.
package main

import (
	"context"
	"os"
	"time"

	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/callbacktoken"
	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/run"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	"reelway.dev/services/dispatcher"
)

func main() {
	cfg, nats, led, reg, tok := &dispatcher.Config{}, &bus.Config{}, &rpc.LedgerConfig{}, &registry.Config{}, &callbacktoken.Config{}
	models, bkt := &catalog.Config{}, &bucket.Config{}
	os.Exit(run.Main("dispatcher", "submits queued jobs to providers and watches them", os.Args[1:], func(ctx context.Context, h *run.Host) error {
		tokens, err := callbacktoken.Open(*tok)
		if err != nil {
			return err
		}
		providers, err := registry.Open(*reg)
		if err != nil {
			return err
		}
		cat, err := catalog.Open(*models, func(name string) bool { return providers.Adapters[name] != nil }, h.Log)
		if err != nil {
			return err
		}
		files, err := bucket.Open(ctx, *bkt)
		if err != nil {
			return err
		}
		h.OnClose(func() { _ = files.Close() })
		b, shut, err := bus.Connect(ctx, *nats, "dispatcher")
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
		s, err := dispatcher.New(*cfg, dispatcher.Deps{Bus: b, Jobs: ledgerv1.NewJobServiceClient(conn), Providers: providers.Adapters, Keys: providers.Keys,
			Model: cat.ProviderModel, OnUncertain: cat.OnUncertain, MaxRuntime: cat.MaxRuntime, Tokens: tokens, Files: files, Logger: h.Log, Now: time.Now})
		if err != nil {
			return err
		}
		h.Add(run.Consumers, providers.Component(h.Log))
		h.Add(run.Consumers, s.Components()...)
		h.Add(run.Consumers, cat.Components()...)
		return nil
	}, cfg, nats, led, reg, tok, models, bkt))
}
