// Command dispatcher measures the dispatcher's sending side on one PostgreSQL, one
// NATS, one ledger and the simulated Kling: how many jobs a second a replica
// submits beside the bare calls that this takes, and what a replica costs at rest
// with many jobs running. Replicas are processes of their own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"reelway.dev/bench/stand"
	"reelway.dev/services/simulator"
)

func main() {
	jobs := flag.Int("jobs", 10_000, "jobs that one measurement submits")
	rest := flag.Duration("rest", 10*time.Second, "how long a replica is watched at rest")
	workers := flag.Int("workers", 200, "submissions under way in one replica")
	flag.Parse()
	err := replica(context.Background())
	if errors.Is(err, errNoReplica) {
		err = measure(context.Background(), *jobs, *workers, *rest)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// posted counts the submits that reached the provider.
var posted atomic.Int64

// simulated is a provider whose renders do not end while anybody measures.
func simulated(ctx context.Context) (url string, stop func(), err error) {
	sim, err := simulator.New(simulator.Config{TimeScale: 1, Render: 24 * time.Hour, KlingAccess: key, KlingSecret: "s"},
		simulator.Deps{Client: http.DefaultClient, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return "", nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("listen: %w", err)
	}
	h := sim.Handler()
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			posted.Add(1)
		}
		h.ServeHTTP(w, r)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	return "http://" + l.Addr().String(), func() { _ = srv.Close(); sim.Close(); wg.Wait() }, nil
}

func measure(ctx context.Context, jobs, workers int, rest time.Duration) error {
	s, err := stand.New(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	url, stop, err := simulated(ctx)
	if err != nil {
		return err
	}
	defer stop()
	b, err := s.Ledger(ctx, "sending", true)
	if err != nil {
		return err
	}
	if err := b.Fund(ctx); err != nil {
		return err
	}
	bare, err := bareSubmits(ctx, url, workers)
	if err != nil {
		return err
	}
	stand.Say("The bare POST to the simulator, %d at a time: %.0f/s\n", workers, bare)
	few := max(jobs/10, 1)
	small, err := submitAll(ctx, s, b, url, few, workers, rest, 0)
	if err != nil {
		return err
	}
	large, err := submitAll(ctx, s, b, url, jobs-few, workers, rest, few)
	if err != nil {
		return err
	}
	limited, err := submitAll(ctx, s, b, url, jobs/2, workers, 0, jobs, "REELWAY_PROVIDER_RUNNING=1000000")
	if err != nil {
		return err
	}
	stand.Say("One replica, from the bus to the provider: %.0f submits/s, %.2f of the bare POST; it computes %s for each (goal: at least 1000/s)\n", large.rate, large.rate/bare, large.each)
	stand.Say("Until the ledger has observed that they run: %.0f/s\n", large.observed)
	stand.Say("The same with a limit on running tasks, %d of them counted: %.0f/s, %.2f of that without\n", jobs, limited.rate, limited.rate/large.rate)
	stand.Say("At rest with %d running jobs: %.1f MB, %.1f %% of a core; with %d: %.1f MB, %.1f %% (goal: under 200 MB and 100 %%, and no growth with the jobs)\n",
		few, small.megabytes, small.cpu, jobs, large.megabytes, large.cpu)
	return nil
}
