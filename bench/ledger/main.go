// Command ledger measures the ledger's two hot paths, opening jobs and applying
// observations, side by side with River and with the bare batched SQL on one
// PostgreSQL in one run. What counts are the ratios: absolute figures belong to
// the machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 3, "interleaved rounds; the median counts")
	length := flag.Duration("length", 2*time.Second, "length of one measurement")
	only := flag.String("only", "", "opens or observations; all when empty")
	flag.Parse()
	if err := measureAll(context.Background(), *only, *rounds, *length); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// subject is one thing that is measured; op does one unit of it and returns how
// many jobs that was.
type subject struct {
	name    string
	callers int
	op      func(ctx context.Context, caller int) (int, error)
}

// measure lets a subject's callers run for a while.
func measure(ctx context.Context, s subject, length time.Duration) (rate float64, p50, p99 time.Duration, err error) {
	var done atomic.Int64
	var failed atomic.Pointer[error]
	took := make([][]time.Duration, s.callers)
	deadline := time.Now().Add(length)
	var wg sync.WaitGroup
	start := time.Now()
	for c := range s.callers {
		wg.Go(func() {
			for time.Now().Before(deadline) && failed.Load() == nil {
				began := time.Now()
				n, err := s.op(ctx, c)
				if err != nil {
					failed.Store(&err)
					return
				}
				took[c] = append(took[c], time.Since(began))
				done.Add(int64(n))
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	if e := failed.Load(); e != nil {
		return 0, 0, 0, fmt.Errorf("%s: %w", s.name, *e)
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	return float64(done.Load()) / elapsed.Seconds(), all[len(all)/2], all[len(all)*99/100], nil
}

// say writes to standard output, which is this command's whole product.
func say(format string, args ...any) { _, _ = fmt.Fprintf(os.Stdout, format, args...) }

// result is one subject's medians over the rounds.
type result struct {
	rate     float64
	p50, p99 time.Duration
}

func median(rs []result) result {
	by := func(less func(a, b result) int) result { slices.SortFunc(rs, less); return rs[len(rs)/2] }
	return result{
		rate: by(func(a, b result) int { return int(a.rate - b.rate) }).rate,
		p50:  by(func(a, b result) int { return int(a.p50 - b.p50) }).p50,
		p99:  by(func(a, b result) int { return int(a.p99 - b.p99) }).p99,
	}
}

// compare measures subjects in turn, round by round, and prints each beside the
// first.
func compare(ctx context.Context, title string, subjects []subject, rounds int, length time.Duration) (map[string]result, error) {
	seen := map[string][]result{}
	for range rounds {
		for _, s := range subjects {
			rate, p50, p99, err := measure(ctx, s, length)
			if err != nil {
				return nil, err
			}
			seen[s.name] = append(seen[s.name], result{rate, p50, p99})
		}
	}
	say("\n%s (median of %d rounds)\n%-52s %10s %8s %10s %10s\n", title, rounds, "", "jobs/s", "ratio", "p50", "p99")
	out := map[string]result{}
	for _, s := range subjects {
		m := median(seen[s.name])
		out[s.name] = m
		say("%-52s %10.0f %8.2f %10s %10s\n", s.name, m.rate, m.rate/out[subjects[0].name].rate, m.p50.Round(time.Microsecond), m.p99.Round(time.Microsecond))
	}
	return out, nil
}

func measureAll(ctx context.Context, only string, rounds int, length time.Duration) error {
	s, err := newStand(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	for name, part := range map[string]func(context.Context, *stand, int, time.Duration) error{"opens": opens, "observations": observations} {
		if only == "" || only == name {
			if err := part(ctx, s, rounds, length); err != nil {
				return err
			}
		}
	}
	return nil
}
