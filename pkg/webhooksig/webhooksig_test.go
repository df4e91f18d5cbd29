package webhooksig_test

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"reelway.dev/pkg/webhooksig"
)

func header(kv ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(kv); i += 2 {
		h.Set(kv[i], kv[i+1])
	}
	return h
}

// Vectors: Kling's published one, and that of the Standard Webhooks libraries.
func TestPublishedVectors(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ secret, id, ts, body, sig string }{
		{"whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI=", "9876543210", "1781080794",
			`{"id":"1234567890","status":"succeeded","message":"","create_time":1781080778802,"update_time":1781080794151}`,
			"v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4="},
		{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330",
			`{"test": 2432232314}`, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	} {
		key, err := webhooksig.StandardKey(v.secret)
		if err != nil {
			t.Fatal(err)
		}
		sec, _ := strconv.ParseInt(v.ts, 10, 64)
		now := time.Unix(sec, 0)
		h := header("webhook-id", v.id, "webhook-timestamp", v.ts, "webhook-signature", v.sig)
		if err := webhooksig.Standard([][]byte{key}, h, []byte(v.body), now); err != nil {
			t.Errorf("%s: %v", v.id, err)
		}
	}
}

func TestStandardTable(t *testing.T) {
	t.Parallel()
	key, other := []byte("0123456789abcdef01234567"), []byte("another-key-of-some-bytes")
	now := time.Unix(1_800_000_000, 0)
	body := []byte(`{"a":1}`)
	sign := func(k []byte, id string, at time.Time) string {
		return "v1," + base64.StdEncoding.EncodeToString(webhooksig.StandardMAC(k, id, strconv.FormatInt(at.Unix(), 10), body))
	}
	good := sign(key, "m1", now)
	ts := strconv.FormatInt(now.Unix(), 10)
	at := func(d time.Duration) []string {
		s := strconv.FormatInt(now.Add(d).Unix(), 10)
		return []string{"webhook-id", "m1", "webhook-timestamp", s, "webhook-signature", sign(key, "m1", now.Add(d))}
	}
	for name, c := range map[string]struct {
		h  []string
		ok bool
	}{
		"valid":               {[]string{"webhook-id", "m1", "webhook-timestamp", ts, "webhook-signature", good}, true},
		"valid among several": {[]string{"webhook-id", "m1", "webhook-timestamp", ts, "webhook-signature", "v1,AAAA " + good + " v2,x"}, true},
		"rotated key":         {[]string{"webhook-id", "m1", "webhook-timestamp", ts, "webhook-signature", sign(other, "m1", now)}, true},
		"just in time":        {at(-5 * time.Minute), true},
		"too old":             {at(-5*time.Minute - time.Second), false},
		"too new":             {at(5*time.Minute + time.Second), false},
		"no id":               {[]string{"webhook-timestamp", ts, "webhook-signature", good}, false},
		"no timestamp":        {[]string{"webhook-id", "m1", "webhook-signature", good}, false},
		"no signature":        {[]string{"webhook-id", "m1", "webhook-timestamp", ts}, false},
		"empty v1":            {[]string{"webhook-id", "m1", "webhook-timestamp", ts, "webhook-signature", "v1,"}, false},
		"v2 only":             {[]string{"webhook-id", "m1", "webhook-timestamp", ts, "webhook-signature", "v2" + good[2:]}, false},
		"other id":            {[]string{"webhook-id", "m2", "webhook-timestamp", ts, "webhook-signature", good}, false},
		"dotted id":           {[]string{"webhook-id", "m.1", "webhook-timestamp", ts, "webhook-signature", sign(key, "m.1", now)}, false},
		"bad timestamp":       {[]string{"webhook-id", "m1", "webhook-timestamp", "x", "webhook-signature", good}, false},
	} {
		err := webhooksig.Standard([][]byte{key, other}, header(c.h...), body, now)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	h := header("webhook-id", "m1", "webhook-timestamp", ts, "webhook-signature", good)
	for i := range body {
		for bit := range 8 {
			forged := append([]byte{}, body...)
			forged[i] ^= 1 << bit
			if webhooksig.Standard([][]byte{key}, h, forged, now) == nil {
				t.Fatalf("bit %d of byte %d may be flipped", bit, i)
			}
		}
	}
}

func TestHMACHex(t *testing.T) {
	t.Parallel()
	m := hmac.New(sha256.New, []byte("secret"))
	m.Write([]byte("body"))
	sig := hex.EncodeToString(m.Sum(nil))
	if err := webhooksig.HMACHex([]byte("secret"), sig, []byte("body")); err != nil {
		t.Error(err)
	}
	for _, s := range []string{"", "zz", sig[:62], sig + "00"} {
		if webhooksig.HMACHex([]byte("secret"), s, []byte("body")) == nil {
			t.Errorf("%q passes", s)
		}
	}
}

// A forged key id must not make us fetch more than once a minute.
func TestJWKSFetchesAreBounded(t *testing.T) {
	t.Parallel()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	fetches := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches++
		_, _ = fmt.Fprintf(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":%q}]}`, base64.RawURLEncoding.EncodeToString(pub))
	}))
	defer srv.Close()
	j := &webhooksig.JWKS{URL: srv.URL, Client: srv.Client()}
	now := time.Unix(1_800_000_000, 0)
	for i := range 1000 {
		if _, err := j.Key(context.Background(), fmt.Sprintf("forged-%d", i), now); !errors.Is(err, webhooksig.ErrMismatch) {
			t.Fatal(err)
		}
	}
	key, err := j.Key(context.Background(), "a", now.Add(time.Second))
	if err != nil || fetches != 1 {
		t.Fatalf("%v after %d fetches", err, fetches)
	}
	ts := strconv.FormatInt(now.Unix(), 10)
	sig := base64.RawURLEncoding.EncodeToString(ed25519.Sign(priv, []byte(ts+".body")))
	if err := webhooksig.Ed25519(key, sig, ts, []byte("body"), now); err != nil {
		t.Error(err)
	}
	if webhooksig.Ed25519(key, sig, ts, []byte("bodY"), now) == nil || webhooksig.Ed25519(key, sig, ts, []byte("body"), now.Add(time.Hour)) == nil {
		t.Error("a forged body or an old stamp passes")
	}
	srv.Close()
	if _, err := j.Key(context.Background(), "b", now.Add(2*time.Minute)); !errors.Is(err, webhooksig.ErrKeysUnavailable) {
		t.Error(err)
	}
	if _, err := j.Key(context.Background(), "b", now.Add(2*time.Minute+time.Second)); !errors.Is(err, webhooksig.ErrKeysUnavailable) {
		t.Errorf("a key that may be new is refused for good while the set cannot be fetched: %v", err)
	}
	if _, err := j.Key(context.Background(), "a", now.Add(48*time.Hour)); err != nil {
		t.Error("an old key is better than none:", err)
	}
}
