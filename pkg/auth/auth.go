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

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// The scopes of a key. Admin includes them all.
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
}

// Require returns a permission_denied fault unless p has the scope.
func (p Principal) Require(scope string) error {
	if slices.Contains(p.Scopes, scope) || slices.Contains(p.Scopes, Admin) {
		return nil
	}
	return fault.New(fault.PermissionDenied, "this API key lacks the scope %s", scope)
}

// Authenticator asks the ledger, and remembers a good answer for a second, so
// that a revoked key is out within one. It is safe for concurrent use.
type Authenticator struct {
	accounts ledgerv1.AccountServiceClient
	now      func() time.Time

	mu    sync.Mutex
	known map[[32]byte]entry
}

type entry struct {
	p     Principal
	until time.Time
}

const (
	cacheLife = time.Second
	cacheSize = 10_000
)

// New returns an Authenticator on the ledger's accounts.
func New(accounts ledgerv1.AccountServiceClient, now func() time.Time) *Authenticator {
	return &Authenticator{accounts: accounts, now: now, known: map[[32]byte]entry{}}
}

// Authenticate returns the owner of key, or an unauthenticated fault.
func (a *Authenticator) Authenticate(ctx context.Context, key string) (Principal, error) {
	if key == "" {
		return Principal{}, fault.New(fault.Unauthenticated, "no API key: send Authorization: Bearer YOUR_KEY")
	}
	hash := sha256.Sum256([]byte(key))
	now := a.now()
	a.mu.Lock()
	e, ok := a.known[hash]
	a.mu.Unlock()
	if ok && now.Before(e.until) {
		return e.p, nil
	}
	r, err := a.accounts.Authenticate(ctx, &ledgerv1.AuthenticateRequest{KeyHash: hash[:]})
	if err != nil {
		return Principal{}, fault.FromStatus(err)
	}
	p := Principal{AccountID: r.GetAccountId(), KeyID: r.GetKeyId(), Scopes: r.GetScopes(), Tier: r.GetTier()}
	a.mu.Lock()
	if len(a.known) >= cacheSize {
		clear(a.known)
	}
	a.known[hash] = entry{p, now.Add(cacheLife)}
	a.mu.Unlock()
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
