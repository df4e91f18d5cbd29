package intake

import (
	"context"
	"sync"
	"time"

	"reelway.dev/pkg/fault"
)

// turnWait is how long a request waits for its turn to store a file.
const turnWait = 10 * time.Second

// places bounds how many files are stored at the same time, for each needs memory
// for the parts under way; half of them are one account's at the most, however
// slowly it sends.
type places struct {
	all chan struct{}
	mu  sync.Mutex
	of  map[string]*share
}

type share struct {
	taken chan struct{}
	users int // who hold or want one; under places.mu
}

func newPlaces(n int) *places {
	return &places{all: make(chan struct{}, max(n, 1)), of: map[string]*share{}}
}

// take waits until a place is free, for turnWait at the most.
func (p *places) take(ctx context.Context, account string) (done func(), _ error) {
	p.mu.Lock()
	own := p.of[account]
	if own == nil {
		own = &share{taken: make(chan struct{}, max(cap(p.all)/2, 1))}
		p.of[account] = own
	}
	own.users++
	p.mu.Unlock()
	leave := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(p.of, account)
		}
	}
	wait, cancel := context.WithTimeout(ctx, turnWait)
	defer cancel()
	for _, c := range []chan struct{}{own.taken, p.all} {
		select {
		case c <- struct{}{}:
			continue
		case <-wait.Done():
		}
		if c == p.all {
			<-own.taken
		}
		leave()
		e := fault.New(fault.Unavailable, "too many files are being stored just now; try again")
		e.RetryAfter = time.Second
		return nil, e
	}
	return func() { <-p.all; <-own.taken; leave() }, nil
}
