package ledger_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// blocked holds the account's balance as another transaction would, so that
// what arrives meanwhile shares a group.
func (x *bundle) blocked(t *testing.T, while func()) {
	t.Helper()
	tx, err := x.pool.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(context.Background(), "select from balance where account_id = $1 for update", x.acct); err != nil {
		t.Fatal(err)
	}
	while()
	if err := tx.Rollback(context.Background()); err != nil {
		t.Error(err)
	}
}

func (x *bundle) waiting(t *testing.T) (n int) {
	t.Helper()
	if err := x.pool.QueryRow(context.Background(), `select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A call that the database refuses fails alone.
func TestOneBadCallFailsNoNeighbour(t *testing.T) {
	t.Parallel()
	x := setup(t, 100*price)
	hash := sha256.Sum256([]byte("body"))
	var good, bad atomic.Int64
	var wg sync.WaitGroup
	x.blocked(t, func() {
		for i := range 60 {
			wg.Go(func() {
				user := "someone"
				if i%20 == 7 {
					user = "a\x00b" // which PostgreSQL does not take
				}
				_, err := x.jobs.OpenJob(context.Background(), &ledgerv1.OpenJobRequest{AccountId: x.acct, Provider: "testprovider", RequestHash: hash[:],
					QuoteMicros: price, User: user, Params: &videov1.VideoParams{Model: "m", Prompt: "p"}})
				switch {
				case user == "someone" && err == nil:
					good.Add(1)
				case user != "someone" && err != nil:
					bad.Add(1)
				default:
					t.Errorf("user %q: %v", user, err)
				}
			})
		}
		eventually(t, "both workers wait for the balance", func() bool { return x.waiting(t) == 2 })
	})
	wg.Wait()
	if good.Load() != 57 || bad.Load() != 3 {
		t.Errorf("%d were opened and %d failed", good.Load(), bad.Load())
	}
	x.balance(t, 43*price, 57*price)
}

// What cannot wait any more is refused at once with when to come again, and
// nothing that was taken is lost.
func TestTooManyWaitingAreToldToComeAgain(t *testing.T) {
	t.Parallel()
	x := setup(t, 1000*price, func(c *ledgerConfig) { c.Waiting, c.Group = 16, 4 })
	var opened, refused atomic.Int64
	var wg sync.WaitGroup
	x.blocked(t, func() {
		for range 200 {
			wg.Go(func() {
				_, err := x.open("")
				f := fault.FromStatus(err)
				switch {
				case err == nil:
					opened.Add(1)
				case f.Code == fault.Unavailable && f.Retryable && f.RetryAfter > 0:
					refused.Add(1)
				default:
					t.Errorf("%v", errors.Join(err))
				}
			})
		}
		eventually(t, "the queue is full", func() bool { return refused.Load() >= 200-16-2*4 })
	})
	wg.Wait()
	if n := opened.Load(); n == 0 || n > 16+2*4 || n+refused.Load() != 200 {
		t.Errorf("%d were opened and %d refused", n, refused.Load())
	}
	x.balance(t, 1000*price-opened.Load()*price, opened.Load()*price)
}
