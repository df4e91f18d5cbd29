// Package seal encrypts small secrets that have to be used again, for a
// database: AES-256-GCM with a random nonce, bound to what the secret belongs
// to. It keeps nothing.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Config is what those who seal and those who open have to share.
type Config struct {
	Keys []string `env:"REELWAY_WEBHOOK_SECRET_KEY" desc:"encrypts the secrets of webhook endpoints in the database: 32 random characters or more, the same for ledger and notifier; after a rotation the new key, a comma and the old one. Empty: a fixed one, which protects nothing"`
}

// development is the key of installations that set none.
const development = "reelway-development-key-that-protects-nothing"

// Keys seals with the first key and opens with each. It is safe for concurrent
// use.
type Keys struct{ aeads []cipher.AEAD }

// Open returns the Keys of a configuration. Without any, they are the same
// everywhere: fit for development.
func Open(cfg Config) (*Keys, error) {
	if len(cfg.Keys) == 0 {
		return New(development)
	}
	k, err := New(cfg.Keys...)
	if err != nil {
		return nil, fmt.Errorf("REELWAY_WEBHOOK_SECRET_KEY: %w", err)
	}
	return k, nil
}

// New returns Keys derived from texts of at least 32 bytes by HKDF (RFC 5869).
func New(texts ...string) (*Keys, error) {
	if len(texts) == 0 {
		return nil, errors.New("a key is needed")
	}
	k := &Keys{}
	for _, text := range texts {
		if len(text) < 32 {
			return nil, errors.New("a key needs 32 characters or more")
		}
		raw, err := hkdf.Key(sha256.New, []byte(text), nil, "reelway seal", 32)
		if err != nil {
			return nil, fmt.Errorf("derive key: %w", err)
		}
		block, err := aes.NewCipher(raw)
		if err != nil {
			return nil, fmt.Errorf("open cipher: %w", err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("open cipher: %w", err)
		}
		k.aeads = append(k.aeads, aead)
	}
	return k, nil
}

// Seal encrypts a secret of owner: only with the same owner it opens.
func (k *Keys) Seal(secret []byte, owner string) []byte {
	return k.aeads[0].Seal(nil, nil, secret, []byte(owner)) //nolint:gosec // the AEAD makes a random nonce by itself
}

// Current reports whether the first key sealed a secret of owner.
func (k *Keys) Current(sealed []byte, owner string) bool {
	_, err := k.aeads[0].Open(nil, nil, sealed, []byte(owner))
	return err == nil
}

// ErrSealed says that no key opens a secret, or that it belongs to another.
var ErrSealed = errors.New("no key opens the secret; was REELWAY_WEBHOOK_SECRET_KEY changed without keeping the old one?")

// Open decrypts what Seal made, or returns ErrSealed.
func (k *Keys) Open(sealed []byte, owner string) ([]byte, error) {
	for _, aead := range k.aeads {
		if secret, err := aead.Open(nil, nil, sealed, []byte(owner)); err == nil {
			return secret, nil
		}
	}
	return nil, ErrSealed
}
