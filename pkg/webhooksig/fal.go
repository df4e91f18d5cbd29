package webhooksig

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"time"
)

// falPrefix begins the names of fal's headers.
const falPrefix = "X-Fal-Webhook-"

// Fal verifies fal's webhook signature with any key of the set: hexadecimal
// Ed25519 over four lines. It returns ErrMismatch, or ErrKeysUnavailable when
// there are no keys to verify with. Source: docs.fal.ai, webhooks.
func Fal(ctx context.Context, keys *JWKS, h http.Header, body []byte, now time.Time) error {
	request, user, stamp := h.Get(falPrefix+"Request-Id"), h.Get(falPrefix+"User-Id"), h.Get(falPrefix+"Timestamp")
	sig, err := hex.DecodeString(h.Get(falPrefix + "Signature"))
	// A line break in a field would make the message ambiguous.
	if err != nil || len(sig) != ed25519.SignatureSize || !fresh(stamp, now) || request == "" || strings.ContainsAny(request+user, "\r\n") {
		return ErrMismatch
	}
	msg := FalMessage(request, user, stamp, body)
	err = keys.Any(ctx, now, func(k ed25519.PublicKey) bool { return ed25519.Verify(k, msg, sig) })
	if errors.Is(err, ErrKeysUnavailable) {
		return err
	}
	if err != nil {
		return ErrMismatch
	}
	return nil
}

// FalMessage is the message that fal signs.
func FalMessage(requestID, userID, stamp string, body []byte) []byte {
	sum := sha256.Sum256(body)
	return []byte(strings.Join([]string{requestID, userID, stamp, hex.EncodeToString(sum[:])}, "\n"))
}
