package livetoken_test

import (
	"encoding/base64"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/livetoken"
)

func open(t *testing.T, secret, previous string) *livetoken.Tokens {
	t.Helper()
	x, err := livetoken.Open(livetoken.Config{Secret: secret, Previous: previous})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestTokens(t *testing.T) {
	t.Parallel()
	old, fresh := strings.Repeat("o", 32), strings.Repeat("n", 32)
	g := livetoken.Grant{ID: "rtok_1", AccountID: "acct_1", KeyID: "key_1", Videos: []string{"video_1"}, User: "alice", ExpiresAt: time.Now().Add(time.Hour).Truncate(time.Second)}
	token, err := open(t, old, "").Sign(g)
	if err != nil {
		t.Fatal(err)
	}
	got, err := open(t, fresh, old).Verify(token)
	if err != nil || !got.ExpiresAt.Equal(g.ExpiresAt) {
		t.Fatalf("%+v %v", got, err)
	}
	if got.ExpiresAt = g.ExpiresAt; !reflect.DeepEqual(got, g) {
		t.Errorf("%+v, want %+v", got, g)
	}
	g.ExpiresAt = time.Now().Add(-time.Second)
	expired, err := open(t, fresh, "").Sign(g)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(m jwt.SigningMethod, key any, c jwt.MapClaims) string {
		s, err := jwt.NewWithClaims(m, c).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	far, parts := time.Now().Add(time.Hour).Unix(), strings.Split(token, ".")
	for name, bad := range map[string]string{
		"empty": "", "noise": "a.b.c", "of a secret that is no more": token, "expired": expired,
		"changed":           parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"acct_2","aud":["reelway-live"],"exp":9999999999}`)) + "." + parts[2],
		"unsigned":          sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"sub": "acct_1", "aud": "reelway-live", "exp": far}),
		"another algorithm": sign(jwt.SigningMethodHS512, []byte(fresh), jwt.MapClaims{"sub": "acct_1", "aud": "reelway-live", "exp": far}),
		"for another use":   sign(jwt.SigningMethodHS256, []byte(fresh), jwt.MapClaims{"sub": "acct_1", "aud": "other", "exp": far}),
		"without an end":    sign(jwt.SigningMethodHS256, []byte(fresh), jwt.MapClaims{"sub": "acct_1", "aud": "reelway-live"}),
	} {
		got, err := open(t, fresh, "").Verify(bad)
		if f := fault.From(err); f.Code != fault.Unauthenticated || f.Retryable || !reflect.DeepEqual(got, livetoken.Grant{}) {
			t.Errorf("%s: %+v %v", name, got, err)
		}
		if name == "expired" && !strings.Contains(err.Error(), "expired") {
			t.Error(err)
		}
	}
}

func TestWithoutASecret(t *testing.T) {
	t.Parallel()
	x := open(t, "", "")
	_, serr := x.Sign(livetoken.Grant{})
	_, verr := x.Verify("a.b.c")
	for _, err := range []error{serr, verr} {
		if f := fault.From(err); f.Code != fault.Unavailable || f.Retryable || !strings.Contains(f.Message, "REELWAY_REALTIME_SECRET") {
			t.Error(err)
		}
	}
	for _, cfg := range []livetoken.Config{{Secret: "short"}, {Previous: strings.Repeat("o", 32)}, {Secret: strings.Repeat("o", 32), Previous: "short"}} {
		if _, err := livetoken.Open(cfg); err == nil {
			t.Errorf("%d and %d characters are taken", len(cfg.Secret), len(cfg.Previous))
		}
	}
}

func TestAllows(t *testing.T) {
	t.Parallel()
	g := livetoken.Grant{Videos: []string{"video_1"}}
	if !g.Allows("video_1", "bob") || g.Allows("video_2", "bob") || g.Allows("video_2", "") {
		t.Error("videos")
	}
	g = livetoken.Grant{User: "alice"}
	if !g.Allows("video_1", "alice") || g.Allows("video_1", "bob") || g.Allows("video_1", "") {
		t.Error("user")
	}
}
