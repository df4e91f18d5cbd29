package webhooksig_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"reelway.dev/pkg/webhooksig"
)

// Vectors: GitHub's published one, and others that Python's hmac and cryptography
// made.
func TestSchemeVectors(t *testing.T) {
	t.Parallel()
	const body, stamp = `{"id":"t1","status":"succeeded"}`, "1800000000"
	public, _ := hex.DecodeString("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8")
	secret := []byte("a-secret-of-some-bytes")
	for _, v := range []struct {
		s         webhooksig.Scheme
		key       []byte
		body, sig string
	}{
		{webhooksig.Scheme{Algorithm: webhooksig.HMACSHA256, Prefix: "sha256="}, []byte("It's a Secret to Everybody"), "Hello, World!",
			"sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
		{webhooksig.Scheme{Algorithm: webhooksig.HMACSHA256}, secret, body, "529dac4836c2d9d672aa3ab9c02ed2c6545c4aa7487b6bb07390086166c85f41"},
		{webhooksig.Scheme{Algorithm: webhooksig.HMACSHA256, Base64: true, TimestampHeader: "x-time", Separator: "."}, secret, body, "Nq30IKQpcDL/WM9ARKhC1TkpuaPssjp+Qd+yd2f6UAE="},
		{webhooksig.Scheme{Algorithm: webhooksig.HMACSHA256, Base64: true, TimestampHeader: "x-time", Separator: "."}, secret, body, "Nq30IKQpcDL_WM9ARKhC1TkpuaPssjp-Qd-yd2f6UAE"},
		{webhooksig.Scheme{Algorithm: webhooksig.HMACSHA512, TimestampHeader: "x-time", Separator: ":"}, secret, body,
			"4fdde1d2820e973b273ee33ec408dde407787c5947e633a49a1590edd5a21a24083294e016051081db4b3779b3cafa2785973a7f51458c95898f6f1ee29fb7d9"},
		{webhooksig.Scheme{Algorithm: webhooksig.EdDSA, TimestampHeader: "x-time"}, public, body,
			"5d0350ea24ab097a347b4815f9541b6e20b805011585ed4498e19ede762ba1f78eb334825b384e5f8a8f84c6dc4dfbeaf4ee7e1b9b109b6aafe124d54194b705"},
		{webhooksig.Scheme{Algorithm: webhooksig.EdDSA, Base64: true}, public, body, "DNmG8tnY0pgT6MK84QTJjkQ1CAJfWTEsS/gjy7TfYTyrfssqliHso7S3XpMjw0z1WhxQaH833rbf3wrNtKpfCA=="},
	} {
		v.s.Header, v.s.Tolerance = "x-sig", time.Minute
		if err := v.s.Verify([][]byte{v.key}, header("x-sig", v.sig, "x-time", stamp), []byte(v.body), time.Unix(1_800_000_000, 0)); err != nil {
			t.Errorf("%+v: %v", v.s, err)
		}
	}
}

// What is true is taken, and nothing that differs from it in any way.
func TestSchemes(t *testing.T) {
	t.Parallel()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	public, _ := private.Public().(ed25519.PublicKey)
	secret, other := []byte("a-secret-of-some-bytes"), []byte("another-key-that-is-32-bytes-too")
	now, body := time.Unix(1_800_000_000, 0), []byte(`{"id":"t1"}`)
	for _, s := range []webhooksig.Scheme{
		{Algorithm: webhooksig.HMACSHA256, Prefix: "sha256=", Tolerance: 5 * time.Minute},
		{Algorithm: webhooksig.HMACSHA512, Base64: true, TimestampHeader: "x-time", Separator: ".", Tolerance: 5 * time.Minute},
		{Algorithm: webhooksig.EdDSA, TimestampHeader: "x-time", Tolerance: 5 * time.Minute},
		{Algorithm: webhooksig.EdDSA, Base64: true, Prefix: "v1=", Tolerance: 5 * time.Minute},
	} {
		s.Header = "x-sig"
		signing, verifying := secret, secret
		if s.Algorithm == webhooksig.EdDSA {
			signing, verifying = private, public
		}
		h := s.Sign(signing, body, now)
		with := func(name, value string) http.Header {
			c := h.Clone()
			c.Del(name)
			if value != "" {
				c.Set(name, value)
			}
			return c
		}
		sig, dated := h.Get("x-sig"), s.TimestampHeader != ""
		for name, c := range map[string]struct {
			h    http.Header
			keys [][]byte
			body []byte
			at   time.Time
			ok   bool
		}{
			"true":              {h, [][]byte{verifying}, body, now, true},
			"by the second key": {h, [][]byte{other, verifying}, body, now, true},
			"the second of two": {with("x-sig", s.Prefix+"00, "+sig), [][]byte{verifying}, body, now, true},
			"in milliseconds":   {with("x-time", "1800000000000"), [][]byte{verifying}, body, now, !dated}, // other text
			"just in time":      {h, [][]byte{verifying}, body, now.Add(5 * time.Minute), true},
			"too old":           {h, [][]byte{verifying}, body, now.Add(5*time.Minute + time.Second), !dated},
			"from ahead":        {h, [][]byte{verifying}, body, now.Add(-5*time.Minute - time.Second), !dated},
			"dated anew":        {with("x-time", "1800000001"), [][]byte{verifying}, body, now, !dated},
			"no time":           {with("x-time", ""), [][]byte{verifying}, body, now, !dated},
			"a time with signs": {with("x-time", "+1800000000"), [][]byte{verifying}, body, now, !dated},
			"no header":         {with("x-sig", ""), [][]byte{verifying}, body, now, false},
			"altered body":      {h, [][]byte{verifying}, []byte(`{"id":"t2"}`), now, false},
			"longer body":       {h, [][]byte{verifying}, slices.Concat(body, []byte(" ")), now, false},
			"another key":       {h, [][]byte{other}, body, now, false},
			"no key":            {h, nil, body, now, false},
			"an empty key":      {h, [][]byte{{}}, body, now, false},
			"cut":               {with("x-sig", sig[:len(sig)/2]), [][]byte{verifying}, body, now, false},
			"garbage":           {with("x-sig", s.Prefix+"%%"), [][]byte{verifying}, body, now, false},
			"the ninth of many": {with("x-sig", strings.Repeat(s.Prefix+"00,", 8)+sig), [][]byte{verifying}, body, now, false},
			"without prefix":    {with("x-sig", strings.TrimPrefix(sig, s.Prefix)), [][]byte{verifying}, body, now, s.Prefix == ""},
		} {
			if err := s.Verify(c.keys, c.h, c.body, c.at); (err == nil) != c.ok || err != nil && !errors.Is(err, webhooksig.ErrMismatch) {
				t.Errorf("%s, %s: %v", s.Algorithm, name, err)
			}
		}
		if err := (webhooksig.Scheme{Header: "x-sig"}).Verify([][]byte{verifying}, h, body, now); err == nil {
			t.Error("no algorithm verifies")
		}
	}
}

// A time in milliseconds is signed as it is written.
func TestSchemeInMilliseconds(t *testing.T) {
	t.Parallel()
	s := webhooksig.Scheme{Algorithm: webhooksig.HMACSHA256, Header: "x-sig", TimestampHeader: "x-time", Separator: ".", Tolerance: time.Minute}
	undated, secret, body, now := s, []byte("a-secret-of-some-bytes"), `{"id":"t1"}`, time.UnixMilli(1_800_000_000_123)
	undated.TimestampHeader = ""
	for at, ok := range map[time.Time]bool{now: true, now.Add(-time.Minute): true, now.Add(-2 * time.Minute): false} {
		stamp := strconv.FormatInt(at.UnixMilli(), 10)
		h := undated.Sign(secret, []byte(stamp+"."+body), at)
		h.Set("x-time", stamp)
		if err := s.Verify([][]byte{secret}, h, []byte(body), now); (err == nil) != ok {
			t.Errorf("%s: %v", stamp, err)
		}
	}
}
