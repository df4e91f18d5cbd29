// Package livetoken makes and reads the tokens that browsers hold: signed, short
// of life, good for watching some videos or an end user's, and for nothing else.
// Whether one was revoked is the ledger's to say.
package livetoken

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"reelway.dev/pkg/fault"
)

// The bounds of a token's life.
const (
	DefaultLife = 15 * time.Minute
	MaxLife     = 24 * time.Hour
)

// Config is what intake, which makes tokens, and notifier, which reads them,
// have to share.
type Config struct {
	Secret   string `env:"REELWAY_REALTIME_SECRET" desc:"signs browser tokens, 32 characters or more; when empty none are made or accepted"`
	Previous string `env:"REELWAY_REALTIME_SECRET_PREVIOUS" desc:"the secret before the last rotation, accepted still"`
}

// Grant is what a token allows: to watch Videos, and all videos of User.
type Grant struct {
	ID        string
	AccountID string
	KeyID     string // the API key that it was made with, and ends with
	Videos    []string
	User      string
	ExpiresAt time.Time
}

// Allows reports whether a video of g's account, with this end user, may be
// watched.
func (g Grant) Allows(videoID, user string) bool {
	return slices.Contains(g.Videos, videoID) || g.User != "" && g.User == user
}

// Tokens signs with the first secret and accepts each. It is safe for
// concurrent use.
type Tokens struct {
	secrets [][]byte
	parser  *jwt.Parser
}

// Open returns the Tokens of a configuration. Without a secret they refuse
// everything.
func Open(cfg Config) (*Tokens, error) {
	t := &Tokens{parser: jwt.NewParser(jwt.WithValidMethods([]string{method.Alg()}), jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithStrictDecoding())}
	for name, s := range map[string]string{"REELWAY_REALTIME_SECRET": cfg.Secret, "REELWAY_REALTIME_SECRET_PREVIOUS": cfg.Previous} {
		if s != "" && len(s) < 32 {
			return nil, fmt.Errorf("%s has fewer than 32 characters", name)
		}
	}
	if cfg.Secret == "" && cfg.Previous != "" {
		return nil, errors.New("REELWAY_REALTIME_SECRET_PREVIOUS is set without REELWAY_REALTIME_SECRET")
	}
	for _, s := range []string{cfg.Secret, cfg.Previous} {
		if s != "" {
			t.secrets = append(t.secrets, []byte(s))
		}
	}
	return t, nil
}

// audience keeps tokens that the same secret might have signed for something
// else from being taken for these.
const audience = "reelway-live"

var method = jwt.SigningMethodHS256

type claims struct {
	jwt.RegisteredClaims

	Key    string   `json:"key"`
	Videos []string `json:"videos,omitempty"`
	User   string   `json:"user,omitempty"`
}

// Sign makes the token of a grant. Its content can be read by whoever holds it.
func (t *Tokens) Sign(g Grant) (string, error) {
	if len(t.secrets) == 0 {
		return "", off()
	}
	s, err := jwt.NewWithClaims(method, claims{Key: g.KeyID, Videos: g.Videos, User: g.User, RegisteredClaims: jwt.RegisteredClaims{
		ID: g.ID, Subject: g.AccountID, Audience: jwt.ClaimStrings{audience}, ExpiresAt: jwt.NewNumericDate(g.ExpiresAt)}}).SignedString(t.secrets[0])
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return s, nil
}

// Verify reads a token that was signed here and has not expired; otherwise the
// error is an unauthenticated fault.
func (t *Tokens) Verify(token string) (Grant, error) {
	if len(t.secrets) == 0 {
		return Grant{}, off()
	}
	why := "it was not made here"
	for _, s := range t.secrets {
		var c claims
		_, err := t.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return s, nil })
		if err == nil {
			return Grant{ID: c.ID, AccountID: c.Subject, KeyID: c.Key, Videos: c.Videos, User: c.User, ExpiresAt: c.ExpiresAt.Time}, nil
		}
		// The signature is judged before the time.
		if errors.Is(err, jwt.ErrTokenExpired) {
			why = "it has expired"
		}
	}
	return Grant{}, fault.New(fault.Unauthenticated, "the token is not good: %s; ask your own back end for another", why)
}

// off says that an operator has to set a secret first.
func off() error {
	e := fault.New(fault.Unavailable, "browser tokens are off: an operator sets REELWAY_REALTIME_SECRET for intake and notifier")
	e.Retryable = false
	return e
}
