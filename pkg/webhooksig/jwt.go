package webhooksig

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// RS256 verifies a JWT of an RSA key in the set and returns its claims. The
// algorithm is pinned, a token without an expiry is refused, and so is one for
// another audience when audience is not empty. It returns ErrMismatch, or
// ErrKeysUnavailable when there are no keys to verify with.
//
// A JWT in a header binds no body: what stands in the body is a hint.
func RS256(ctx context.Context, keys *JWKS, token, audience string, now time.Time) (jwt.MapClaims, error) {
	opts := []jwt.ParserOption{jwt.WithValidMethods([]string{"RS256"}), jwt.WithExpirationRequired(),
		jwt.WithTimeFunc(func() time.Time { return now }), jwt.WithLeeway(30 * time.Second), jwt.WithIssuedAt()}
	if audience != "" {
		opts = append(opts, jwt.WithAudience(audience))
	}
	claims := jwt.MapClaims{}
	_, err := jwt.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		kid, _ := t.Header["kid"].(string)
		return keys.RSA(ctx, kid, now)
	}, opts...)
	switch {
	case errors.Is(err, ErrKeysUnavailable):
		return nil, fmt.Errorf("%w", ErrKeysUnavailable)
	case err != nil:
		return nil, ErrMismatch
	}
	return claims, nil
}
