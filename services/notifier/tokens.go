package notifier

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/livetoken"
	"reelway.dev/pkg/run"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// tokens are the browser tokens of the connections that are open, and end them
// when the token ends. It is safe for concurrent use.
type tokens struct {
	ledger ledgerv1.RealtimeServiceClient
	log    *slog.Logger

	mu   sync.Mutex
	held map[*heldToken]struct{}
}

type heldToken struct {
	grant livetoken.Grant
	end   context.CancelCauseFunc
}

const (
	// tokensEvery bounds what a lost broadcast costs, and finds keys that ended by
	// themselves.
	tokensEvery  = 10 * time.Second
	tokensAtOnce = 1000
)

// hold returns a context that ends with ctx, and when the token expires or is
// revoked: then a fault is its cause. It fails when the token has ended, or the
// ledger cannot be asked. The function returned frees what is held; call it.
func (t *tokens) hold(ctx context.Context, g livetoken.Grant) (context.Context, context.CancelFunc, error) {
	held, end := context.WithCancelCause(ctx)
	h := &heldToken{g, end}
	// First held, then asked about: what happens in between is told of h.
	t.mu.Lock()
	t.held[h] = struct{}{}
	t.mu.Unlock()
	expiry := time.AfterFunc(time.Until(g.ExpiresAt), func() {
		end(fault.New(fault.Unauthenticated, "the token has expired; resume with another and your cursors"))
	})
	free := func() {
		expiry.Stop()
		t.mu.Lock()
		delete(t.held, h)
		t.mu.Unlock()
		end(nil)
	}
	err := t.judge(ctx, []*heldToken{h})
	if err == nil {
		err = context.Cause(held)
	}
	if err != nil {
		free()
		return nil, nil, err
	}
	return held, free, nil
}

// judge ends those tokens that the ledger says have ended.
func (t *tokens) judge(ctx context.Context, hs []*heldToken) error {
	for some := range slices.Chunk(hs, tokensAtOnce) {
		req, named := &ledgerv1.ListEndedRealtimeTokensRequest{}, map[string][]*heldToken{}
		for _, h := range some {
			id := h.grant.ID
			if named[id] == nil {
				req.Tokens = append(req.Tokens, &ledgerv1.RealtimeTokenRef{TokenId: id, AccountId: h.grant.AccountID, KeyId: h.grant.KeyID})
			}
			named[id] = append(named[id], h)
		}
		actx, cancel := context.WithTimeout(ctx, 5*time.Second)
		r, err := t.ledger.ListEndedRealtimeTokens(actx, req)
		cancel()
		if err != nil {
			return fault.FromStatus(err)
		}
		for _, id := range r.GetTokenIds() {
			for _, h := range named[id] {
				h.end(fault.New(fault.Unauthenticated, "the token was revoked, or the key that made it has ended; ask your own back end for another"))
			}
		}
	}
	return nil
}

// those are the held tokens that match.
func (t *tokens) those(match func(livetoken.Grant) bool) (out []*heldToken) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for h := range t.held {
		if match(h.grant) {
			out = append(out, h)
		}
	}
	return out
}

// run asks about tokens whose account was changed, at once, and about all from
// time to time. A ledger that cannot be asked ends nothing.
func (t *tokens) run(ctx context.Context, b *bus.Bus) error {
	ask := func(match func(livetoken.Grant) bool) {
		if err := t.judge(ctx, t.those(match)); err != nil && ctx.Err() == nil {
			t.log.WarnContext(ctx, "tokens not asked about", "error", err.Error())
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		run.Every(ctx, tokensEvery, func() { ask(func(livetoken.Grant) bool { return true }) })
	})
	return bus.Listen(ctx, b, bus.AccessChangedSubject, func(m *eventv1.AccessChanged) {
		ask(func(g livetoken.Grant) bool {
			return g.AccountID == m.GetAccountId() && (m.GetTokenId() == "" || m.GetTokenId() == g.ID)
		})
	})
}
