package auth

import (
	"context"
	"errors"
	"time"

	"reelway.dev/pkg/fault"
)

// holdRecheck is how often a held key is asked for without being told to. It
// finds keys that ended by themselves, and bounds what a lost broadcast costs.
const holdRecheck = 10 * time.Second

// Hold returns a context for an answer that goes on, such as a stream of
// events. It ends with ctx, and when the key that p came by no longer
// authenticates: then the fault is its cause. Revocation arrives at once, an
// expiry within 10 s. A ledger that cannot be asked ends nothing. The function
// returned frees what is held; call it.
func (a *Authenticator) Hold(ctx context.Context, p Principal, key string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	wake := make(chan struct{}, 1)
	a.mu.Lock()
	if a.held[p.AccountID] == nil {
		a.held[p.AccountID] = map[chan struct{}]struct{}{}
	}
	a.held[p.AccountID][wake] = struct{}{}
	a.mu.Unlock()
	go func() {
		defer a.release(p.AccountID, wake)
		tick := time.NewTicker(holdRecheck)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-wake:
			case <-tick.C:
			}
			_, err := a.Authenticate(ctx, key)
			var f *fault.Error
			if errors.As(err, &f) && f.Code == fault.Unauthenticated {
				cancel(f)
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}

func (a *Authenticator) release(account string, wake chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.held[account], wake)
	if len(a.held[account]) == 0 {
		delete(a.held, account)
	}
}
