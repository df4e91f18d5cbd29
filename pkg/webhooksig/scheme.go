package webhooksig

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The algorithms of a Scheme.
const (
	HMACSHA256 = "hmac-sha256"
	HMACSHA512 = "hmac-sha512"
	EdDSA      = "ed25519"
)

// Scheme is a signature as most providers make their own: of the body, or of a
// time, a separator and the body, written into a header. Its fields are used as
// they are; the zero value verifies nothing.
type Scheme struct {
	Algorithm string // HMACSHA256, HMACSHA512 or EdDSA
	Header    string // holds the signature, or several with commas or spaces between
	Base64    bool   // of either alphabet; hexadecimal when false
	Prefix    string // stands before each signature, such as "sha256="
	// TimestampHeader holds the Unix time of the signature, in seconds or
	// milliseconds. Without one the body alone is signed, at no time.
	TimestampHeader string
	Separator       string        // between the time and the body
	Tolerance       time.Duration // how far that time may lie from now, either way
}

// maxSignatures bounds how many signatures of one header are looked at.
const maxSignatures = 8

// Verify returns nil when one of the signatures is that of one of the keys:
// secrets, or Ed25519's public keys of 32 bytes. All else is ErrMismatch.
func (s Scheme) Verify(keys [][]byte, h http.Header, body []byte, now time.Time) error {
	if s.TimestampHeader != "" {
		stamp := h.Get(s.TimestampHeader)
		at, ok := moment(stamp)
		if !ok || now.Sub(at).Abs() > s.Tolerance {
			return ErrMismatch
		}
		body = s.text(stamp, body)
	}
	sigs := strings.FieldsFunc(strings.Join(h.Values(s.Header), ","), func(r rune) bool { return r == ',' || r == ' ' })
	for _, sig := range sigs[:min(len(sigs), maxSignatures)] {
		raw, ok := strings.CutPrefix(sig, s.Prefix)
		got, err := s.decode(raw)
		if !ok || err != nil {
			continue
		}
		if slices.ContainsFunc(keys, func(k []byte) bool { return s.matches(k, body, got) }) {
			return nil
		}
	}
	return ErrMismatch
}

// Sign is the headers that Verify takes, for simulated providers and tests. key is
// a secret, or an Ed25519 private key.
func (s Scheme) Sign(key, body []byte, at time.Time) http.Header {
	h := http.Header{}
	if s.TimestampHeader != "" {
		stamp := strconv.FormatInt(at.Unix(), 10)
		h.Set(s.TimestampHeader, stamp)
		body = s.text(stamp, body)
	}
	var sig []byte
	if s.Algorithm == EdDSA {
		sig = ed25519.Sign(key, body)
	} else {
		sig = s.mac(key, body)
	}
	text := hex.EncodeToString(sig)
	if s.Base64 {
		text = base64.StdEncoding.EncodeToString(sig)
	}
	h.Set(s.Header, s.Prefix+text)
	return h
}

func (s Scheme) text(stamp string, body []byte) []byte {
	return slices.Concat([]byte(stamp+s.Separator), body)
}

func (s Scheme) matches(key, text, sig []byte) bool {
	switch s.Algorithm {
	case EdDSA:
		return len(key) == ed25519.PublicKeySize && len(sig) == ed25519.SignatureSize && ed25519.Verify(key, text, sig)
	case HMACSHA256, HMACSHA512:
		return len(key) > 0 && hmac.Equal(sig, s.mac(key, text))
	}
	return false
}

func (s Scheme) mac(key, text []byte) []byte {
	of := sha256.New
	if s.Algorithm == HMACSHA512 {
		of = sha512.New
	}
	m := hmac.New(of, key)
	m.Write(text)
	return m.Sum(nil)
}

func (s Scheme) decode(sig string) ([]byte, error) {
	if !s.Base64 {
		return hex.DecodeString(sig)
	}
	return base64.RawStdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(sig, "=")))
}

// moment reads a Unix time of digits alone: 12 and more of them are milliseconds.
func moment(stamp string) (time.Time, bool) {
	n, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || strings.Trim(stamp, "0123456789") != "" {
		return time.Time{}, false
	}
	if len(stamp) >= 12 {
		return time.UnixMilli(n), true
	}
	return time.Unix(n, 0), true
}
