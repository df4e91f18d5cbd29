// Package webhooksig verifies the signatures of callbacks over their raw
// bytes: Standard Webhooks (HMAC-SHA256), Ed25519 with a JWKS in two forms, a JWT
// of RSA keys, a bare HMAC-SHA256, and what is described as a Scheme. All
// comparisons are constant-time.
package webhooksig

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Tolerance is how far a timestamp may lie from now, either way.
const Tolerance = 5 * time.Minute

// ErrMismatch says that a signature is absent, stale or wrong.
var ErrMismatch = errors.New("signature does not verify")

func fresh(stamp string, now time.Time) bool {
	n, err := strconv.ParseInt(stamp, 10, 64)
	return err == nil && now.Sub(time.Unix(n, 0)).Abs() <= Tolerance
}

// StandardKey decodes a "whsec_…" secret to its 24 to 64 bytes.
// Source: standardwebhooks.com, specification, section on secrets.
func StandardKey(secret string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) < 16 {
		return nil, errors.New("a webhook secret is whsec_ and the base64 of 24 to 64 bytes")
	}
	return key, nil
}

// Standard verifies a Standard Webhooks message with any of the keys.
func Standard(keys [][]byte, h http.Header, body []byte, now time.Time) error {
	id, stamp := h.Get("webhook-id"), h.Get("webhook-timestamp")
	// A dot in the id would make "id.timestamp.body" ambiguous.
	if id == "" || strings.Contains(id, ".") || !fresh(stamp, now) {
		return ErrMismatch
	}
	sigs := strings.Fields(h.Get("webhook-signature"))
	for i, s := range sigs {
		raw, ok := strings.CutPrefix(s, "v1,")
		if !ok || i >= 8 {
			continue
		}
		got, err := base64.StdEncoding.DecodeString(raw)
		if err != nil {
			continue
		}
		for _, key := range keys {
			if hmac.Equal(got, StandardMAC(key, id, stamp, body)) {
				return nil
			}
		}
	}
	return ErrMismatch
}

// StandardMAC is the HMAC of a Standard Webhooks message.
func StandardMAC(key []byte, id, stamp string, body []byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(id + "." + stamp + "."))
	m.Write(body)
	return m.Sum(nil)
}

// HMACHex verifies a hexadecimal HMAC-SHA256 of the raw body.
func HMACHex(secret []byte, signature string, body []byte) error {
	got, err := hex.DecodeString(strings.TrimPrefix(signature, "sha256="))
	m := hmac.New(sha256.New, secret)
	m.Write(body)
	if err != nil || !hmac.Equal(got, m.Sum(nil)) {
		return ErrMismatch
	}
	return nil
}

// Ed25519 verifies base64url(signature) over "timestamp.body".
func Ed25519(key ed25519.PublicKey, signature, stamp string, body []byte, now time.Time) error {
	sig, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(signature, "="))
	if err != nil || len(sig) != ed25519.SignatureSize || !fresh(stamp, now) {
		return ErrMismatch
	}
	if !ed25519.Verify(key, append([]byte(stamp+"."), body...), sig) {
		return ErrMismatch
	}
	return nil
}
