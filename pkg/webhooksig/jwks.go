package webhooksig

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// The life of a fetched key set, and the floor between two fetches: a forged
// key id must not be able to make us fetch.
const (
	jwksLife  = 24 * time.Hour
	jwksFloor = time.Minute
)

// ErrKeysUnavailable says that the key set cannot be fetched now.
var ErrKeysUnavailable = errors.New("verification keys cannot be fetched now")

// JWKS is a cached set of Ed25519 keys (RFC 8037). It is safe for concurrent use.
type JWKS struct {
	URL    string
	Client *http.Client

	mu      sync.Mutex
	keys    map[string]ed25519.PublicKey
	fetched time.Time // last success
	tried   time.Time // last try
}

// Key returns the key named kid; ErrMismatch when the set has none,
// ErrKeysUnavailable when there is no set to look into.
func (j *JWKS) Key(ctx context.Context, kid string, now time.Time) (ed25519.PublicKey, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	key, ok := j.keys[kid]
	if ok && now.Sub(j.fetched) < jwksLife {
		return key, nil
	}
	if j.tried.IsZero() || now.Sub(j.tried) >= jwksFloor {
		j.tried = now
		if err := j.fetch(ctx); err != nil {
			if ok {
				return key, nil // better an old key than to turn good callbacks away
			}
			return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
		}
		j.fetched = now
		key, ok = j.keys[kid]
	}
	switch {
	case ok:
		return key, nil
	case j.fetched.IsZero():
		return nil, ErrKeysUnavailable
	}
	return nil, ErrMismatch
}

func (j *JWKS) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.URL, nil)
	if err != nil {
		return err
	}
	resp, err := j.Client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	var set struct {
		Keys []struct{ Kty, Crv, Kid, X string }
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&set); err != nil {
		return err
	}
	keys := map[string]ed25519.PublicKey{}
	for _, k := range set.Keys {
		x, err := base64.RawURLEncoding.DecodeString(k.X)
		if k.Kty == "OKP" && k.Crv == "Ed25519" && err == nil && len(x) == ed25519.PublicKeySize {
			keys[k.Kid] = x
		}
	}
	if len(keys) == 0 {
		return errors.New("no Ed25519 key in the set")
	}
	j.keys = keys
	return nil
}
