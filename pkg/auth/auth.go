// Package auth finds out who calls: the account behind an API key. Keys are
// compared by SHA-256 alone.
package auth

import (
	"context"
	"crypto/sha256"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/run"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// The scopes of a key. Admin includes them all, and is for operators: at the
// admin door it reaches every account.
const (
	VideosWrite = "videos:write"
	VideosRead  = "videos:read"
	BillingRead = "billing:read"
	Admin       = "admin"
)

// Principal is who calls.
type Principal struct {
	AccountID, KeyID string
	Scopes           []string
	Tier             string
	CapResolution    string // the account's own cap; empty when the tier decides
	SuspendedReason  string // empty while the account is active
	PerMinute        int    // requests of the key; 0: no limit
	QueueWeight      int32  // the account's share of the queue, 1 to 100
	TopPriority      videov1.Priority
}

// Require returns a permission_denied fault unless p has the scope.
func (p Principal) Require(scope string) error {
	if slices.Contains(p.Scopes, scope) || slices.Contains(p.Scopes, Admin) {
		return nil
	}
	return fault.New(fault.PermissionDenied, "this API key lacks the scope %s", scope)
}

// Active returns a permission_denied fault while p's account is suspended.
// Reading, and canceling what is not yet begun, need no Active account.
func (p Principal) Active() error {
	if p.SuspendedReason == "" {
		return nil
	}
	return fault.New(fault.PermissionDenied, "the account is suspended: %s", p.SuspendedReason)
}

// Ledger knows the keys; ledgerv1.AccountServiceClient is one.
type Ledger interface {
	Authenticate(ctx context.Context, r *ledgerv1.AuthenticateRequest, opts ...grpc.CallOption) (*ledgerv1.AuthenticateResponse, error)
}

// Authenticator asks the ledger, and remembers a good answer for 800 ms at
// most, counted from before the question: a revoked key is out within a second
// even when no broadcast arrives. It is safe for concurrent use.
type Authenticator struct {
	ledger Ledger
	now    func() time.Time

	mu     sync.Mutex
	known  map[[32]byte]entry
	change uint64 // grows with every Forget
	held   held
}

type entry struct {
	p     Principal
	until time.Time
}

const (
	cacheLife = 800 * time.Millisecond
	cacheSize = 10_000
)

// New returns an Authenticator on the ledger's accounts.
func New(ledger Ledger, now func() time.Time) *Authenticator {
	return &Authenticator{ledger: ledger, now: now, known: map[[32]byte]entry{},
		held: held{all: map[*hold]struct{}{}, changed: map[string]struct{}{}, wake: make(chan struct{}, 1)}}
}

// Components make a forget what the ledger says was changed, at once.
func (a *Authenticator) Components(b *bus.Bus) []run.Component {
	return []run.Component{{Name: "auth-changes", Run: func(ctx context.Context) error {
		return bus.Listen(ctx, b, bus.AccessChangedSubject, func(m *eventv1.AccessChanged) { a.Forget(m.GetAccountId()) })
	}}}
}

// Forget drops what is remembered of an account's keys, and has those that are
// held asked for again. An answer that is on
// its way meanwhile, and may be older than the change, is not remembered.
func (a *Authenticator) Forget(account string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.change++
	for hash, e := range a.known {
		if e.p.AccountID == account {
			delete(a.known, hash)
		}
	}
	if len(a.held.all) > 0 {
		a.held.changed[account] = struct{}{}
		a.held.signal()
	}
}

// Authenticate returns the owner of key, or an unauthenticated fault. A
// suspended account's keys authenticate: see Principal.Active.
func (a *Authenticator) Authenticate(ctx context.Context, key string) (Principal, error) {
	if key == "" {
		return Principal{}, fault.New(fault.Unauthenticated, "no API key: send Authorization: Bearer YOUR_KEY")
	}
	hash := sha256.Sum256([]byte(key))
	now := a.now()
	a.mu.Lock()
	e, ok := a.known[hash]
	change := a.change
	a.mu.Unlock()
	if ok && now.Before(e.until) {
		return e.p, nil
	}
	r, err := a.ledger.Authenticate(ctx, &ledgerv1.AuthenticateRequest{KeyHash: hash[:]})
	if err != nil {
		return Principal{}, fault.FromStatus(err)
	}
	p := Principal{AccountID: r.GetAccountId(), KeyID: r.GetKeyId(), Scopes: r.GetScopes(), Tier: r.GetTier(),
		CapResolution: r.GetCapResolution(), SuspendedReason: r.GetSuspendedReason(), PerMinute: int(r.GetRequestsPerMinute()),
		QueueWeight: r.GetQueueWeight(), TopPriority: r.GetTopPriority()}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.change != change {
		return p, nil
	}
	if len(a.known) >= cacheSize {
		clear(a.known)
	}
	a.known[hash] = entry{p, now.Add(cacheLife)}
	return p, nil
}

// Bearer is the key of an Authorization header; empty when it holds none.
func Bearer(h string) string {
	scheme, key, ok := strings.Cut(strings.TrimSpace(h), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(key)
}

// Request authenticates an HTTP request and requires a scope of it.
func (a *Authenticator) Request(r *http.Request, scope string) (Principal, error) {
	p, err := a.Authenticate(r.Context(), Bearer(r.Header.Get("Authorization")))
	if err != nil {
		return p, err
	}
	return p, p.Require(scope)
}
