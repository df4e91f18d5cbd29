// Command flood measures how long an account's single jobs wait for their turn
// at a provider that takes a hundred a second: alone, and while another account
// has thousands waiting there. Beside it stands what one row for all would cost:
// the time until the flood's own last job has its turn.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"reelway.dev/bench/stand"
	"reelway.dev/pkg/bus"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

const (
	provider = "kling"
	pace     = 100 // turns a second
	quiet    = "acct_quiet"
)

func main() {
	flood := flag.Int("flood", 3000, "jobs that the other account has waiting")
	jobs := flag.Int("jobs", 20, "single jobs that are measured, one after the other")
	flag.Parse()
	if err := measure(context.Background(), *flood, *jobs); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// turns tells when each job had its turn.
type turns struct {
	mu  sync.Mutex
	at  map[string]time.Time
	has chan struct{} // closed and made anew at each
}

func (t *turns) note(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.at[id]; !ok {
		t.at[id] = time.Now()
		close(t.has)
		t.has = make(chan struct{})
	}
}

func (t *turns) wait(ctx context.Context, id string) (time.Time, error) {
	for {
		t.mu.Lock()
		at, ok := t.at[id]
		has := t.has
		t.mu.Unlock()
		if ok {
			return at, nil
		}
		select {
		case <-ctx.Done():
			return at, ctx.Err()
		case <-has:
		}
	}
}

func measure(ctx context.Context, flood, jobs int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	s, err := stand.New(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	b, err := s.Ledger(ctx, "flood", true)
	if err != nil {
		return err
	}
	for _, account := range []string{stand.Account, quiet} {
		if err := b.FundAccount(ctx, account); err != nil {
			return err
		}
	}
	seen := &turns{at: map[string]time.Time{}, has: make(chan struct{})}
	serving, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	limit := rate.NewLimiter(pace, 1)
	wg.Go(func() {
		_ = bus.Consume(serving, s.Bus(), bus.SubmitConsumer(provider), 1, func(ctx context.Context, m *eventv1.SubmitJob) error {
			if err := limit.Wait(ctx); err != nil {
				return err
			}
			r, err := b.Direct.BeginAttempt(ctx, &ledgerv1.BeginAttemptRequest{JobId: m.GetJobId(), Provider: provider})
			if err == nil && r.GetGranted() {
				seen.note(m.GetJobId())
			}
			return err
		})
	})
	open := func(account string) (string, time.Time, error) {
		q := stand.OpenRequest()
		q.AccountId = account
		r, err := b.Direct.OpenJob(ctx, q)
		return r.GetVideo().GetId(), time.Now(), err
	}
	single := func() (time.Duration, error) {
		id, opened, err := open(quiet)
		if err != nil {
			return 0, err
		}
		at, err := seen.wait(ctx, id)
		return at.Sub(opened), err
	}
	median := func() (half, worst time.Duration, err error) {
		var took []time.Duration
		for range jobs {
			d, err := single()
			if err != nil {
				return 0, 0, err
			}
			took = append(took, d)
		}
		slices.Sort(took)
		return took[len(took)/2], took[len(took)-1], nil
	}
	alone, aloneWorst, err := median()
	if err != nil {
		return err
	}
	var last string
	start := time.Now()
	var opening sync.WaitGroup
	var mu sync.Mutex
	for range flood {
		opening.Go(func() {
			if id, _, err := open(stand.Account); err == nil {
				mu.Lock()
				last = max(last, id)
				mu.Unlock()
			}
		})
	}
	opening.Wait()
	beside, besideWorst, err := median()
	if err != nil {
		return err
	}
	end, err := seen.wait(ctx, last)
	if err != nil {
		return err
	}
	row := end.Sub(start)
	stand.Say("\nOne job of a quiet account, at %d turns a second (%d jobs, one after the other)\n%-42s %10s %10s\n", pace, jobs, "", "median", "worst")
	stand.Say("%-42s %10s %10s\n", "alone", alone.Round(time.Millisecond), aloneWorst.Round(time.Millisecond))
	stand.Say("%-42s %10s %10s\n", fmt.Sprintf("while another account has %d waiting", flood), beside.Round(time.Millisecond), besideWorst.Round(time.Millisecond))
	stand.Say("%-42s %10s\n", "in one row behind them it were", row.Round(time.Millisecond))
	stand.Say("\n%.0f %% of the wait in one row; what lies on the bus already, 256 commands, takes %s\n", 100*float64(beside)/float64(row), 256*time.Second/pace)
	return nil
}
