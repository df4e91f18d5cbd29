package ledger_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

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

// cutConn loses its connection when the server says that it has committed.
type cutConn struct {
	net.Conn
	after *atomic.Int64 // commits until then
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bytes.Contains(p[:n], []byte("COMMIT\x00")) && c.after.Add(-1) == 0 {
		_ = c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// A group of which nobody knows whether it was committed is not run again: its
// callers may have no key that would tell.
func TestUnknownCommitIsNotRunAgain(t *testing.T) {
	t.Parallel()
	x := setup(t, 1000*price, still)
	var after atomic.Int64
	cfg := x.pool.Config().Copy()
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		return &cutConn{c, &after}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	const group = 20
	_, conn := serve(t, ledgerConfig{MaxAttempts: 3, MaxRuntime: time.Hour, QueueLife: time.Hour, Workers: 1, Group: group, Waiting: group}, pool, x.bus, []string{"ledger-opens"})
	x.jobs = ledgerv1.NewJobServiceClient(conn)
	after.Store(2) // the first is the call's that waits for the balance
	var opened, unknown, refused atomic.Int64
	var wg sync.WaitGroup
	call := func() {
		_, err := x.open("")
		switch f := fault.FromStatus(err); {
		case err == nil:
			opened.Add(1)
		case f.Code == fault.Unavailable && f.RetryAfter > 0: // no place was left
			refused.Add(1)
		case f.Code == fault.Unavailable && !f.Retryable:
			unknown.Add(1)
		default:
			t.Error(err)
		}
	}
	x.blocked(t, func() {
		wg.Go(call)
		eventually(t, "it waits", func() bool { return x.waiting(t) == 1 })
		for range 2 * group {
			wg.Go(call)
		}
		eventually(t, "the next group is full", func() bool { return refused.Load() == group })
	})
	wg.Wait()
	if n := x.number(t, "select count(*) from job"); n != 1+group || opened.Load() != 1 || unknown.Load() != group {
		t.Errorf("%d jobs of %d calls; %d were answered, to %d it is unknown", n, 1+group, opened.Load(), unknown.Load())
	}
}
