// Package callbacktoken makes and checks the URLs that providers call back: a
// token binds each to one provider, job and attempt, so that a callback of a
// provider that signs nothing still cannot be forged.
package callbacktoken

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Tokens signs with the first secret and accepts each. It is safe for
// concurrent use.
type Tokens struct {
	secrets [][]byte
	base    string
}

// Config is what dispatcher and callback have to share.
type Config struct {
	URL      string `env:"REELWAY_CALLBACK_URL" url:"true" desc:"how providers reach the callback service, https"`
	Secret   string `env:"REELWAY_CALLBACK_SECRET" desc:"signs callback URLs, 32 characters or more"`
	Previous string `env:"REELWAY_CALLBACK_SECRET_PREVIOUS" desc:"the secret before the last rotation, accepted still"`
}

// Open returns the Tokens of a configuration.
func Open(cfg Config) (*Tokens, error) {
	if cfg.URL == "" {
		return nil, errors.New("REELWAY_CALLBACK_URL is not set")
	}
	secrets := [][]byte{[]byte(cfg.Secret)}
	if cfg.Previous != "" {
		secrets = append(secrets, []byte(cfg.Previous))
	}
	t, err := New(cfg.URL, secrets...)
	if err != nil {
		return nil, fmt.Errorf("REELWAY_CALLBACK_SECRET: %w", err)
	}
	return t, nil
}

// New returns Tokens for callbacks under base, for example
// "https://callbacks.example.com". During a rotation the new secret comes
// first. A secret has at least 32 bytes.
func New(base string, secrets ...[]byte) (*Tokens, error) {
	if len(secrets) == 0 {
		return nil, errors.New("callback tokens need a secret")
	}
	for _, s := range secrets {
		if len(s) < 32 {
			return nil, errors.New("a callback token secret needs at least 32 bytes")
		}
	}
	return &Tokens{secrets: secrets, base: strings.TrimRight(base, "/")}, nil
}

// URL is where provider calls back for an attempt of a job. A W3C traceparent,
// when given, travels along, so that the callback continues the job's trace.
func (t *Tokens) URL(provider, job, attempt, traceparent string) string {
	q := url.Values{"attempt": {attempt}, "token": {sign(t.secrets[0], provider, job, attempt)}}
	if traceparent != "" {
		q.Set("trace", traceparent)
	}
	return t.base + "/v1/callbacks/" + url.PathEscape(provider) + "/" + url.PathEscape(job) + "?" + q.Encode()
}

// Verify reports whether token was made for exactly these, in constant time.
func (t *Tokens) Verify(provider, job, attempt, token string) bool {
	ok := false
	for _, s := range t.secrets {
		ok = hmac.Equal([]byte(sign(s, provider, job, attempt)), []byte(token)) || ok
	}
	return ok
}

func sign(secret []byte, provider, job, attempt string) string {
	m := hmac.New(sha256.New, secret)
	// Ids never hold a line feed, so the parts cannot be shifted.
	m.Write([]byte(provider + "\n" + job + "\n" + attempt))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}
