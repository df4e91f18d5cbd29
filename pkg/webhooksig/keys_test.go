package webhooksig_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"reelway.dev/pkg/webhooksig"
)

var now = time.Unix(1_800_000_000, 0)

// serve is a key set at a URL, and how often it was fetched.
func serve(t *testing.T, keys ...string) (*webhooksig.JWKS, *atomic.Int64) {
	t.Helper()
	var n atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n.Add(1)
		_, _ = fmt.Fprint(w, `{"keys":[`)
		for i, k := range keys {
			if i > 0 {
				_, _ = fmt.Fprint(w, ",")
			}
			_, _ = fmt.Fprint(w, k)
		}
		_, _ = fmt.Fprint(w, `]}`)
	}))
	t.Cleanup(srv.Close)
	return &webhooksig.JWKS{URL: srv.URL, Client: srv.Client()}, &n
}

func edJWK(pub ed25519.PublicKey) string {
	return fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","x":%q}`, base64.RawURLEncoding.EncodeToString(pub))
}

func rsaJWK(kid string, pub *rsa.PublicKey) string {
	return fmt.Sprintf(`{"kty":"RSA","kid":%q,"n":%q,"e":%q}`, kid, base64.RawURLEncoding.EncodeToString(pub.N.Bytes()),
		base64.RawURLEncoding.EncodeToString(big.NewInt(int64(pub.E)).Bytes()))
}

func TestFal(t *testing.T) {
	t.Parallel()
	other, _, _ := ed25519.GenerateKey(nil)
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	keys, fetches := serve(t, edJWK(other), edJWK(pub)) // neither has an id: every key is tried
	body := []byte(`{"request_id":"r"}`)
	sign := func(request, user string, at time.Time, body []byte) []string {
		stamp := strconv.FormatInt(at.Unix(), 10)
		return []string{"X-Fal-Webhook-Request-Id", request, "X-Fal-Webhook-User-Id", user, "X-Fal-Webhook-Timestamp", stamp,
			"X-Fal-Webhook-Signature", hex.EncodeToString(ed25519.Sign(priv, webhooksig.FalMessage(request, user, stamp, body)))}
	}
	for name, c := range map[string]struct {
		h  http.Header
		ok bool
	}{
		"valid":         {header(sign("r", "u", now, body)...), true},
		"without user":  {header(sign("r", "", now, body)...), true},
		"stale":         {header(sign("r", "u", now.Add(-6*time.Minute), body)...), false},
		"another body":  {header(sign("r", "u", now, []byte("x"))...), false},
		"no signature":  {header(sign("r", "u", now, body)[:6]...), false},
		"no request id": {header(sign("", "u", now, body)...), false},
		"moved line":    {header(sign("r\nu", "", now, body)...), false},
		"another id":    {header(append(sign("r", "u", now, body), "X-Fal-Webhook-Request-Id", "s")...), false},
	} {
		if err := webhooksig.Fal(context.Background(), keys, c.h, body, now); (err == nil) != c.ok || err != nil && !errors.Is(err, webhooksig.ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if fetches.Load() != 1 {
		t.Errorf("%d fetches", fetches.Load())
	}
	if webhooksig.FalMessage("a", "b", "1", nil)[0] != 'a' || string(webhooksig.FalMessage("a", "b", "1", []byte("x"))) !=
		"a\nb\n1\n2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881" {
		t.Error("the message is not four lines without a last line break")
	}
}

// The second address is asked when the first gives no keys.
func TestFallback(t *testing.T) {
	t.Parallel()
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	good, fetches := serve(t, edJWK(pub))
	empty, _ := serve(t)
	j := &webhooksig.JWKS{URL: empty.URL, Fallback: good.URL, Client: http.DefaultClient}
	if err := j.Any(context.Background(), now, func(k ed25519.PublicKey) bool { return k.Equal(pub) }); err != nil || fetches.Load() != 1 {
		t.Errorf("%v after %d fetches", err, fetches.Load())
	}
	j = &webhooksig.JWKS{URL: empty.URL, Client: http.DefaultClient}
	if err := j.Any(context.Background(), now, func(ed25519.PublicKey) bool { return true }); !errors.Is(err, webhooksig.ErrKeysUnavailable) {
		t.Error(err)
	}
}

func TestRS256(t *testing.T) {
	t.Parallel()
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	other, oerr := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil || oerr != nil {
		t.Fatal(err, oerr)
	}
	keys, fetches := serve(t, rsaJWK("a", &priv.PublicKey))
	sign := func(m jwt.SigningMethod, kid string, key any, c jwt.MapClaims) string {
		tok := jwt.NewWithClaims(m, c)
		tok.Header["kid"] = kid
		s, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	soon := jwt.MapClaims{"exp": now.Add(time.Minute).Unix(), "aud": "us"}
	good := sign(jwt.SigningMethodRS256, "a", priv, soon)
	for name, c := range map[string]struct {
		token, audience string
		ok              bool
	}{
		"valid":            {good, "us", true},
		"any audience":     {good, "", true},
		"another audience": {good, "them", false},
		"no audience":      {sign(jwt.SigningMethodRS256, "a", priv, jwt.MapClaims{"exp": now.Add(time.Minute).Unix()}), "us", false},
		"expired":          {sign(jwt.SigningMethodRS256, "a", priv, jwt.MapClaims{"exp": now.Add(-time.Minute).Unix()}), "", false},
		"no expiry":        {sign(jwt.SigningMethodRS256, "a", priv, jwt.MapClaims{"aud": "us"}), "", false},
		"another key":      {sign(jwt.SigningMethodRS256, "a", other, soon), "us", false},
		"unknown kid":      {sign(jwt.SigningMethodRS256, "b", priv, soon), "us", false},
		"another alg":      {sign(jwt.SigningMethodRS512, "a", priv, soon), "us", false},
		"alg none":         {sign(jwt.SigningMethodNone, "a", jwt.UnsafeAllowNoneSignatureType, soon), "us", false},
		// The classic confusion: the public key's bytes as an HMAC secret.
		"alg HS256": {sign(jwt.SigningMethodHS256, "a", priv.N.Bytes(), soon), "us", false},
		"PS256":     {sign(&jwt.SigningMethodRSAPSS{SigningMethodRSA: &jwt.SigningMethodRSA{Name: "PS256", Hash: crypto.SHA256}, Options: &rsa.PSSOptions{SaltLength: 32}}, "a", priv, soon), "us", false},
		"empty":     {"", "", false},
		"cut":       {good[:len(good)-4], "us", false},
	} {
		if _, err := webhooksig.RS256(context.Background(), keys, c.token, c.audience, now); (err == nil) != c.ok || err != nil && !errors.Is(err, webhooksig.ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if fetches.Load() != 1 {
		t.Errorf("%d fetches", fetches.Load())
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weak, _ := serve(t, rsaJWK("a", &short.PublicKey))
	if _, err := webhooksig.RS256(context.Background(), weak, good, "", now); !errors.Is(err, webhooksig.ErrKeysUnavailable) {
		t.Errorf("a key of 1024 bits: %v", err)
	}
}
