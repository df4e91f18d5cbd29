package auth

import (
	"context"
	"errors"
	"sync"
	"time"

	"reelway.dev/pkg/fault"
)

// holdRecheck is how often a held key is asked for without being told to. It
// finds keys that ended by themselves, and bounds what a lost broadcast costs.
const holdRecheck = 10 * time.Second

// held are keys that are held, and whose accounts were changed since they were
// asked for. One goroutine keeps them all, while there are any: streams are
// many, and rest.
type held struct {
	keeping bool
	all     map[*hold]struct{}
	changed map[string]struct{} // accounts
	wake    chan struct{}
}

type hold struct {
	account, key string
	end          context.CancelCauseFunc
}

// Hold returns a context for an answer that goes on, such as a stream of
// events. It ends with ctx, and when the key that p came by no longer
// authenticates: then the fault is its cause. Revocation arrives at once, an
// expiry within 10 s. A ledger that cannot be asked ends nothing. The function
// returned frees what is held; call it.
func (a *Authenticator) Hold(ctx context.Context, p Principal, key string) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	h := &hold{p.AccountID, key, end}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held.all[h] = struct{}{}
	if !a.held.keeping {
		a.held.keeping = true
		go a.keep()
	}
	return ctx, func() {
		end(nil)
		a.mu.Lock()
		defer a.mu.Unlock()
		if delete(a.held.all, h); len(a.held.all) == 0 {
			a.held.signal()
		}
	}
}

// signal wakes the keeper, if it is not awake; the caller holds mu.
func (h *held) signal() {
	select {
	case h.wake <- struct{}{}:
	default: // it has yet to look at the last change
	}
}

// keep asks for held keys until none is held.
func (a *Authenticator) keep() {
	tick := time.NewTicker(holdRecheck)
	defer tick.Stop()
	for {
		every := false
		select {
		case <-a.held.wake:
		case <-tick.C:
			every = true
		}
		keys := map[string][]*hold{}
		a.mu.Lock()
		for h := range a.held.all {
			if _, changed := a.held.changed[h.account]; every || changed {
				keys[h.key] = append(keys[h.key], h)
			}
		}
		clear(a.held.changed)
		if len(a.held.all) == 0 {
			a.held.keeping = false
			a.mu.Unlock()
			return
		}
		a.mu.Unlock()
		a.ask(keys)
	}
}

// ask ends the holds of those keys that no longer authenticate.
func (a *Authenticator) ask(keys map[string][]*hold) {
	ctx, cancel := context.WithTimeout(context.Background(), holdRecheck)
	defer cancel()
	slots := make(chan struct{}, 16)
	var wg sync.WaitGroup
	for key, holds := range keys {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			_, err := a.Authenticate(ctx, key)
			var f *fault.Error
			if errors.As(err, &f) && f.Code == fault.Unauthenticated {
				for _, h := range holds {
					h.end(f)
				}
			}
		})
	}
	wg.Wait()
}
