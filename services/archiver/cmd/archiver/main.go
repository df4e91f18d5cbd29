// Command archiver runs the archiver service.
package main

import (
	"context"
	"os"

	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/safehttp"
	"reelway.dev/services/archiver"
)

func main() {
	cfg, nats, bkt, reg, guard := &archiver.Config{}, &bus.Config{}, &bucket.Config{}, &registry.Config{}, &safehttp.Config{Redirects: 3}
	os.Exit(run.Main("archiver", "copies results into the bucket", os.Args[1:], func(ctx context.Context, h *run.Host) error {
		files, err := bucket.Open(ctx, *bkt)
		if err != nil {
			return err
		}
		h.OnClose(func() { _ = files.Close() })
		providers, err := registry.Open(*reg)
		if err != nil {
			return err
		}
		b, shut, err := bus.Connect(ctx, *nats, "archiver")
		if err != nil {
			return err
		}
		h.OnClose(shut)
		h.Ready(b.Ready)
		s, err := archiver.New(*cfg, archiver.Deps{Bus: b, Bucket: files, Client: guard.Client(), Logger: h.Log, ResultHeader: providers.ResultHeader})
		if err != nil {
			return err
		}
		h.Add(run.Consumers, providers.Component(h.Log))
		h.Add(run.Consumers, s.Components()...)
		return nil
	}, cfg, nats, bkt, reg, guard))
}
