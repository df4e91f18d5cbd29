// Command simulator runs the simulated providers.
package main

import (
	"context"
	"net/http"
	"os"
	"time"

	"reelway.dev/pkg/run"
	"reelway.dev/services/simulator"
)

func main() {
	cfg := &simulator.Config{}
	os.Exit(run.Main("simulator", "stands in for the providers; never in production", os.Args[1:], func(_ context.Context, h *run.Host) error {
		l, err := h.Listen("REELWAY_SIMULATOR_ADDR", cfg.Addr)
		if err != nil {
			return err
		}
		s, err := simulator.New(*cfg, simulator.Deps{Client: &http.Client{Timeout: 15 * time.Second}, Logger: h.Log})
		if err != nil {
			return err
		}
		h.Add(run.Doors, run.HTTP("http", l, s.Handler()))
		h.Add(run.Last, s.Components()...)
		return nil
	}, cfg))
}
