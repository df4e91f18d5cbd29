package webhooksig

import (
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
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

// JWKS is a cached set of Ed25519 (RFC 8037) and RSA keys (RFC 7518 §6.3). It
// is safe for concurrent use.
type JWKS struct {
	URL string
	// Fallback, when set, is asked when URL gives no keys.
	Fallback string
	Client   *http.Client

	mu      sync.Mutex
	keys    keySet
	fetched time.Time // last success
	tried   time.Time // last try
}

// keySet is what a fetch found. Ed25519 keys may lack an id.
type keySet struct {
	ed  map[string]ed25519.PublicKey
	all []ed25519.PublicKey
	rsa map[string]*rsa.PublicKey
}

// Key returns the Ed25519 key named kid; ErrMismatch when the set has none,
// ErrKeysUnavailable when there is no set to look into.
func (j *JWKS) Key(ctx context.Context, kid string, now time.Time) (key ed25519.PublicKey, err error) {
	err = j.look(ctx, now, func(s keySet) (ok bool) { key, ok = s.ed[kid]; return ok })
	return key, err
}

// RSA returns the RSA key named kid; errors are those of Key.
func (j *JWKS) RSA(ctx context.Context, kid string, now time.Time) (key *rsa.PublicKey, err error) {
	err = j.look(ctx, now, func(s keySet) (ok bool) { key, ok = s.rsa[kid]; return ok })
	return key, err
}

// Any tries every Ed25519 key, for a signature that names none; errors are
// those of Key.
func (j *JWKS) Any(ctx context.Context, now time.Time, verifies func(ed25519.PublicKey) bool) error {
	return j.look(ctx, now, func(s keySet) bool {
		for _, k := range s.all {
			if verifies(k) {
				return true
			}
		}
		return false
	})
}

// look asks the cached set, and a fresh one when the cached is old or does not
// satisfy and the floor allows.
func (j *JWKS) look(ctx context.Context, now time.Time, satisfies func(keySet) bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	ok := satisfies(j.keys)
	if ok && now.Sub(j.fetched) < jwksLife {
		return nil
	}
	if j.tried.IsZero() || now.Sub(j.tried) >= jwksFloor {
		j.tried = now
		if err := j.refresh(ctx); err != nil {
			if ok {
				return nil // better an old key than to turn good callbacks away
			}
			return fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
		}
		j.fetched = now
		ok = satisfies(j.keys)
	}
	switch {
	case ok:
		return nil
	case j.fetched.IsZero() || j.fetched.Before(j.tried):
		return ErrKeysUnavailable // the last try found no set: a new key may be in it
	}
	return ErrMismatch
}

func (j *JWKS) refresh(ctx context.Context) error {
	// Detached: a caller that hangs up must not cost everybody the next minute.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	keys, err := j.fetch(ctx, j.URL)
	if err != nil && j.Fallback != "" {
		var second error
		if keys, second = j.fetch(ctx, j.Fallback); second != nil {
			return errors.Join(err, second)
		}
		err = nil
	}
	if err == nil {
		j.keys = keys
	}
	return err
}

func (j *JWKS) fetch(ctx context.Context, url string) (keySet, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return keySet{}, err
	}
	resp, err := j.Client.Do(req)
	if err != nil {
		return keySet{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return keySet{}, fmt.Errorf("status %d", resp.StatusCode)
	}
	var set struct {
		Keys []struct{ Kty, Crv, Kid, X, N, E string }
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&set); err != nil {
		return keySet{}, err
	}
	out := keySet{ed: map[string]ed25519.PublicKey{}, rsa: map[string]*rsa.PublicKey{}}
	for _, k := range set.Keys {
		switch x, n, e := unb64(k.X), unb64(k.N), unb64(k.E); {
		case k.Kty == "OKP" && k.Crv == "Ed25519" && len(x) == ed25519.PublicKeySize:
			out.ed[k.Kid] = x
			out.all = append(out.all, x)
		// 2048 to 8192 bits, and an exponent that fits an int everywhere.
		case k.Kty == "RSA" && len(n) >= 256 && len(n) <= 1024 && len(e) > 0 && len(e) <= 3:
			out.rsa[k.Kid] = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
		}
	}
	if len(out.all)+len(out.rsa) == 0 {
		return keySet{}, errors.New("no usable key in the set")
	}
	return out, nil
}

func unb64(s string) []byte {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return nil
	}
	return b
}
