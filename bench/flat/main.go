// Command flat measures whether opening and finishing jobs costs the same
// however many jobs there are: groups of both, with ten thousand, a million and
// ten million finished jobs in this month's partition.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"google.golang.org/protobuf/proto"

	"reelway.dev/bench/stand"
)

func main() {
	most := flag.Int("most", 10_000_000, "the largest number of jobs; ten million take about 7 GB and some minutes")
	rounds := flag.Int("rounds", 3, "measurements at each size; the median counts")
	length := flag.Duration("length", 1500*time.Millisecond, "length of one measurement")
	flag.Parse()
	if err := measure(context.Background(), *most, *rounds, *length); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// chunk is how many jobs are made in one statement.
const chunk = 500_000

// grow makes finished jobs until there are n, all of this month: the worst case.
// Their pages are filled to the brim, since nobody changes them any more.
func grow(ctx context.Context, b *stand.Book, from, n int) error {
	// Less log on the disk while the table is made than in production.
	if err := limitLog(ctx, b, "'1GB'"); err != nil {
		return err
	}
	defer func() { _ = limitLog(ctx, b, "default") }()
	raw, err := proto.Marshal(stand.OpenRequest().GetParams())
	if err != nil {
		return fmt.Errorf("marshal params: %w", err)
	}
	var part string
	if err := b.Pool.QueryRow(ctx, "select 'job_' || to_char(now() at time zone 'UTC', 'YYYY_MM')").Scan(&part); err != nil {
		return fmt.Errorf("name partition: %w", err)
	}
	if _, err := b.Pool.Exec(ctx, "alter table "+part+" set (fillfactor = 100)"); err != nil {
		return fmt.Errorf("fill pages: %w", err)
	}
	for from < n {
		to := min(from+chunk, n)
		if _, err := b.Pool.Exec(ctx, `insert into job (id, state, account_id, provider, hold_state, quote_micros, completed_at, counted, params, model)
			select job_id_at(date_trunc('month', now()) + g * interval '150 ms') || '-' || lpad(g::text, 8, '0'), 'failed', 'acct_' || g % 1000, 'kling', 'released', 210000, now(), true, $3, 'kling-v2-6'
			from generate_series($1::int, $2::int - 1) g`, from, to, raw); err != nil {
			return fmt.Errorf("make jobs: %w", err)
		}
		from = to
	}
	_, err = b.Pool.Exec(ctx, "alter table "+part+" set (fillfactor = 60)")
	if err != nil {
		return fmt.Errorf("fill pages: %w", err)
	}
	return nil
}

func limitLog(ctx context.Context, b *stand.Book, size string) error {
	for _, sql := range []string{"alter system set max_wal_size = " + size, "select pg_reload_conf()"} {
		if _, err := b.Pool.Exec(ctx, sql); err != nil {
			return fmt.Errorf("limit log: %w", err)
		}
	}
	return nil
}

func measure(ctx context.Context, most, rounds int, length time.Duration) error {
	s, err := stand.New(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	// What else the machine does changes from minute to minute: a ledger that
	// stays small is measured in turn with the one that grows.
	small, err := newBook(ctx, s, "small")
	if err != nil {
		return err
	}
	grown, err := newBook(ctx, s, "grown")
	if err != nil {
		return err
	}
	if err := grow(ctx, small, 0, sizes[0]); err != nil {
		return err
	}
	made := 0
	for _, n := range sizes {
		if n > most {
			break
		}
		if err := grow(ctx, grown, made, n); err != nil {
			return err
		}
		made = n
		var subjects []stand.Subject
		for _, b := range []struct {
			name string
			*stand.Book
		}{{"small", small}, {"grown", grown}} {
			finish, err := b.Finisher(ctx, int(length.Seconds()*40_000)*(rounds+1))
			if err != nil {
				return err
			}
			subjects = append(subjects, stand.Subject{Name: "OpenJob, 256 callers, " + b.name, Callers: 256, Op: func(ctx context.Context, _ int) (int, error) {
				_, err := b.Direct.OpenJob(ctx, stand.OpenRequest())
				return 1, err
			}}, stand.Subject{Name: "Observe, 256 at a time, 2 callers, " + b.name, Callers: 2, Op: finish(256)})
		}
		// What was written goes to disk now and not while time is taken.
		if _, err := grown.Pool.Exec(ctx, "checkpoint"); err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		for i := range subjects {
			if _, _, _, err := stand.Measure(ctx, subjects[i], length/2); err != nil { // warm
				return err
			}
		}
		out, err := stand.Compare(ctx, fmt.Sprintf("%d jobs (small) beside %d (grown)", sizes[0], n), subjects, rounds, length)
		if err != nil {
			return err
		}
		stand.Say("%d jobs: opening %.2f, finishing %.2f of the rate with %d\n", n, out[subjects[2].Name].Rate/out[subjects[0].Name].Rate,
			out[subjects[3].Name].Rate/out[subjects[1].Name].Rate, sizes[0])
	}
	return nil
}

var sizes = []int{10_000, 1_000_000, 10_000_000}

func newBook(ctx context.Context, s *stand.Stand, name string) (*stand.Book, error) {
	b, err := s.Ledger(ctx, name, false)
	if err != nil {
		return nil, err
	}
	return b, b.Fund(ctx)
}
