package stand

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Subject is one thing that is measured; Op does one unit of it and returns how
// many jobs that was.
type Subject struct {
	Name    string
	Callers int
	Op      func(ctx context.Context, caller int) (int, error)
}

// Measure lets a subject's callers run for a while.
func Measure(ctx context.Context, s Subject, length time.Duration) (rate float64, p50, p99 time.Duration, err error) {
	var done atomic.Int64
	var failed atomic.Pointer[error]
	took := make([][]time.Duration, s.Callers)
	deadline := time.Now().Add(length)
	var wg sync.WaitGroup
	start := time.Now()
	for c := range s.Callers {
		wg.Go(func() {
			for time.Now().Before(deadline) && failed.Load() == nil {
				began := time.Now()
				n, err := s.Op(ctx, c)
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
		return 0, 0, 0, fmt.Errorf("%s: %w", s.Name, *e)
	}
	all := slices.Concat(took...)
	slices.Sort(all)
	return float64(done.Load()) / elapsed.Seconds(), all[len(all)/2], all[len(all)*99/100], nil
}

// Say writes to standard output, which is a benchmark's whole product.
func Say(format string, args ...any) { _, _ = fmt.Fprintf(os.Stdout, format, args...) }

// Result is one subject's medians over the rounds.
type Result struct {
	Rate     float64
	P50, P99 time.Duration
}

func median(rs []Result) Result {
	by := func(less func(a, b Result) int) Result { slices.SortFunc(rs, less); return rs[len(rs)/2] }
	return Result{
		Rate: by(func(a, b Result) int { return int(a.Rate - b.Rate) }).Rate,
		P50:  by(func(a, b Result) int { return int(a.P50 - b.P50) }).P50,
		P99:  by(func(a, b Result) int { return int(a.P99 - b.P99) }).P99,
	}
}

// Compare measures subjects in turn, round by round, and prints each beside the
// first.
func Compare(ctx context.Context, title string, subjects []Subject, rounds int, length time.Duration) (map[string]Result, error) {
	seen := map[string][]Result{}
	for range rounds {
		for _, s := range subjects {
			rate, p50, p99, err := Measure(ctx, s, length)
			if err != nil {
				return nil, err
			}
			seen[s.Name] = append(seen[s.Name], Result{rate, p50, p99})
		}
	}
	Say("\n%s (median of %d rounds)\n%-52s %10s %8s %10s %10s\n", title, rounds, "", "jobs/s", "ratio", "p50", "p99")
	out := map[string]Result{}
	for _, s := range subjects {
		m := median(seen[s.Name])
		out[s.Name] = m
		Say("%-52s %10.0f %8.2f %10s %10s\n", s.Name, m.Rate, m.Rate/out[subjects[0].Name].Rate, m.P50.Round(time.Microsecond), m.P99.Round(time.Microsecond))
	}
	return out, nil
}
