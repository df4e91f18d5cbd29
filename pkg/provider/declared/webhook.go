package declared

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"reelway.dev/pkg/webhooksig"
)

// Webhook is how callbacks are proven.
type Webhook struct {
	// Signature is "standard" for Standard Webhooks; "hmac-sha256",
	// "hmac-sha512" or "ed25519" for a signature of the body, or of a time and
	// the body; or "none": hints.
	Signature string `yaml:"signature"`
	// SecretFile holds the secrets, two separated by a comma in a rotation: of
	// whsec_ for "standard", as they are for HMACs.
	SecretFile string `yaml:"secret_file"`
	// PublicKeys are Ed25519's, each of 32 bytes in base64 or hexadecimal.
	PublicKeys []string `yaml:"public_keys"`
	// Header holds the signature, in the Encoding "hex" (when left out) or
	// "base64", after Prefix.
	Header   string `yaml:"header"`
	Encoding string `yaml:"encoding"`
	Prefix   string `yaml:"prefix"`
	// TimestampHeader holds the time of the signature, which is signed with
	// Separator ("." when left out) and the body. Older or later than Tolerance
	// (5m when left out), a callback is refused.
	TimestampHeader string        `yaml:"timestamp_header"`
	Separator       *string       `yaml:"separator"`
	Tolerance       time.Duration `yaml:"tolerance"`
}

const (
	standard = "standard"
	unsigned = "none"
	encHex   = "hex"
	enc64    = "base64"

	maxTolerance = time.Hour
	minSecret    = 16 // bytes
)

var (
	headerForm    = regexp.MustCompile(`^[A-Za-z0-9-]{1,100}$`)
	prefixForm    = regexp.MustCompile(`^[!-+\--~]{0,32}$`) // visible, and no comma
	separatorForm = regexp.MustCompile(`^[^0-9]{0,8}$`)     // a digit could be the time's
)

// Scheme is the signature that a description tells the parts of; false for
// "standard" and "none".
func (w Webhook) Scheme() (webhooksig.Scheme, bool) {
	s := webhooksig.Scheme{Algorithm: w.Signature, Header: w.Header, Base64: w.Encoding == enc64, Prefix: w.Prefix,
		TimestampHeader: w.TimestampHeader, Separator: ".", Tolerance: w.Tolerance}
	if w.Separator != nil {
		s.Separator = *w.Separator
	}
	if s.Tolerance == 0 {
		s.Tolerance = webhooksig.Tolerance
	}
	return s, w.Signature != standard && w.Signature != unsigned
}

// Keys are what callbacks are verified with: the secrets in the text of
// SecretFile, or PublicKeys. None means that callbacks are hints. Its errors tell
// no secret.
func (w Webhook) Keys(secrets string) (keys [][]byte, err error) {
	switch {
	case w.Signature == unsigned:
		return nil, nil
	case w.Signature == webhooksig.EdDSA:
		for _, text := range w.PublicKeys {
			key, err := publicKey(text)
			if err != nil {
				return nil, err
			}
			keys = append(keys, key)
		}
		return keys, nil
	case secrets == "" && w.Signature == standard:
		return nil, nil
	}
	for secret := range strings.SplitSeq(secrets, ",") {
		secret = strings.TrimSpace(secret)
		key := []byte(secret)
		if w.Signature == standard {
			key, err = webhooksig.StandardKey(secret)
		} else if len(key) < minSecret {
			err = fmt.Errorf("webhook.secret_file: a secret must have %d bytes at least", minSecret)
		}
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func publicKey(text string) ([]byte, error) {
	for _, decode := range []func(string) ([]byte, error){hex.DecodeString, base64.StdEncoding.DecodeString, base64.RawURLEncoding.DecodeString} {
		if key, err := decode(text); err == nil && len(key) == ed25519.PublicKeySize {
			return key, nil
		}
	}
	return nil, fmt.Errorf("webhook.public_keys: %q is not the base64 or hexadecimal of an Ed25519 public key, which has 32 bytes", text)
}

// check names every fault.
func (w Webhook) check() (errs []error) {
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("webhook."+format, a...)) }
	switch w.Signature {
	case standard, unsigned, webhooksig.HMACSHA256, webhooksig.HMACSHA512, webhooksig.EdDSA:
	default:
		bad("signature is %q: use standard, hmac-sha256, hmac-sha512, ed25519 or none", w.Signature)
		return errs
	}
	ed := w.Signature == webhooksig.EdDSA
	if (ed || w.Signature == unsigned) && w.SecretFile != "" {
		bad("secret_file has no meaning with %s", w.Signature)
	}
	if !ed && len(w.PublicKeys) > 0 {
		bad("public_keys are for ed25519, not for %s", w.Signature)
	}
	s, own := w.Scheme()
	if !own {
		if w.Header+w.Encoding+w.Prefix+w.TimestampHeader != "" || w.Separator != nil || w.Tolerance != 0 {
			bad("signature %s takes no header, encoding, prefix, timestamp_header, separator or tolerance: they are for hmac-sha256, hmac-sha512 and ed25519", w.Signature)
		}
		return errs
	}
	if ed && len(w.PublicKeys) == 0 {
		bad("public_keys are needed with ed25519")
	} else if ed {
		_, err := w.Keys("")
		errs = append(errs, err)
	}
	if !ed && w.SecretFile == "" {
		bad("secret_file is needed with %s", w.Signature)
	}
	if !headerForm.MatchString(w.Header) {
		bad("header is %q: name the header that holds the signature", w.Header)
	}
	if w.Encoding != "" && w.Encoding != encHex && w.Encoding != enc64 {
		bad("encoding is %q: use hex or base64", w.Encoding)
	}
	if !prefixForm.MatchString(w.Prefix) {
		bad("prefix is %q: up to 32 visible characters without a comma are allowed, such as sha256=", w.Prefix)
	}
	return append(errs, w.checkTime(s))
}

// checkTime names the faults of what a signature's time needs.
func (w Webhook) checkTime(s webhooksig.Scheme) error {
	switch {
	case w.TimestampHeader == "" && (w.Separator != nil || w.Tolerance != 0):
		return errors.New("webhook.separator and webhook.tolerance need a timestamp_header: without one the body alone is signed")
	case w.TimestampHeader == "":
		return nil
	case !headerForm.MatchString(w.TimestampHeader) || strings.EqualFold(w.TimestampHeader, w.Header):
		return fmt.Errorf("webhook.timestamp_header is %q: name a header other than the signature's", w.TimestampHeader)
	case !separatorForm.MatchString(s.Separator):
		return fmt.Errorf("webhook.separator is %q: up to 8 characters are allowed, and no digit", s.Separator)
	case s.Tolerance < time.Second || s.Tolerance > maxTolerance:
		return fmt.Errorf("webhook.tolerance is %s: use 1s to %s", s.Tolerance, maxTolerance)
	}
	return nil
}
