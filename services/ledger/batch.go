package ledger

import (
	"context"
	"errors"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/postgres"
)

// batcher groups concurrent calls into transactions. It never waits to fill a
// group: while one is being committed the next gathers, so that a lone caller
// pays nothing and a crowd shares. Each caller is answered after the commit.
type batcher[Q, R any] struct {
	queue chan *call[Q, R]
	limit int // calls in one transaction
	// run does the calls of one group in one transaction and sets each call's
	// verdict. An error means that nothing was committed.
	run func(ctx context.Context, group []*call[Q, R]) error
}

// call is one caller's wait.
type call[Q, R any] struct {
	ctx  context.Context
	req  Q
	resp R
	err  error // the verdict on this call alone
	done chan struct{}
}

// newBatcher returns a batcher of which at most waiting calls may queue.
func newBatcher[Q, R any](waiting, limit int, run func(ctx context.Context, group []*call[Q, R]) error) *batcher[Q, R] {
	return &batcher[Q, R]{queue: make(chan *call[Q, R], waiting), limit: limit, run: run}
}

// do hands in a call and waits for its verdict. A caller that gives up does not
// stop its call once it has begun. With too many calls waiting it is refused.
func (b *batcher[Q, R]) do(ctx context.Context, req Q) (R, error) {
	c := &call[Q, R]{ctx: ctx, req: req, done: make(chan struct{})}
	select {
	case b.queue <- c:
	default:
		var none R
		e := fault.New(fault.Unavailable, "too many requests are waiting; retry with the same Idempotency-Key")
		e.RetryAfter = time.Second
		return none, e
	}
	select {
	case <-c.done:
		return c.resp, c.err
	case <-ctx.Done():
		var none R
		return none, ctx.Err()
	}
}

// work runs groups until ctx is done and the queue is empty.
func (b *batcher[Q, R]) work(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			// The doors closed before: what is queued now is the last.
			for group := b.more(nil); len(group) > 0; group = b.more(nil) {
				b.commit(group)
			}
			return nil
		case c := <-b.queue:
			b.commit(b.more([]*call[Q, R]{c}))
		}
	}
}

// more fills a group with what waits already.
func (b *batcher[Q, R]) more(group []*call[Q, R]) []*call[Q, R] {
	for len(group) < b.limit {
		select {
		case c := <-b.queue:
			group = append(group, c)
		default:
			return group
		}
	}
	return group
}

// commit runs a group. One that fails is split, so that a call that cannot be
// done never fails its neighbours.
func (b *batcher[Q, R]) commit(group []*call[Q, R]) {
	// Detached: a hang-up must not cut a commit in two. The trace is the first
	// caller's, who would have paid for the transaction alone.
	tx, cancel := detached(group[0].ctx)
	err := b.run(tx, group)
	cancel()
	switch {
	case err == nil:
	case len(group) == 1 || errors.Is(err, postgres.ErrUnknown):
		for _, c := range group { // run again, it might be done twice
			c.err = err
		}
	default:
		half := len(group) / 2
		b.commit(group[:half])
		b.commit(group[half:])
		return
	}
	for _, c := range group {
		close(c.done)
	}
}
