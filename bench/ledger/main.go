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
	"time"

	"reelway.dev/bench/stand"
	"reelway.dev/services/ledger"
)

func main() {
	rounds := flag.Int("rounds", 3, "interleaved rounds; the median counts")
	length := flag.Duration("length", 2*time.Second, "length of one measurement")
	only := flag.String("only", "", "opens or observations; all when empty")
	flag.Parse()
	ledger.CollectLess() // as its command does, here for both sides
	if err := measureAll(context.Background(), *only, *rounds, *length); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measureAll(ctx context.Context, only string, rounds int, length time.Duration) error {
	s, err := stand.New(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	for name, part := range map[string]func(context.Context, *stand.Stand, int, time.Duration) error{"opens": opens, "observations": observations} {
		if only == "" || only == name {
			if err := part(ctx, s, rounds, length); err != nil {
				return err
			}
		}
	}
	return nil
}
