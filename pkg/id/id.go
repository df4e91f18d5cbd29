// Package id makes identifiers: a type prefix and a UUIDv7 (RFC 9562), so that
// ids sort by time and say what they name.
package id

import (
	"regexp"

	"github.com/google/uuid"
)

// The prefixes of what Reelway names.
const (
	Video   = "video"
	Account = "acct"
	Attempt = "att"
	Key     = "key"
	Request = "req"
	Audit   = "audit"
	Lot     = "lot"
	Budget  = "budget"
	// Endpoint takes an account's webhooks.
	Endpoint = "whe"
	Token    = "rtok" // of a browser
	// Upload is a file that a video is to be made from.
	Upload = "upload"
)

// New returns a fresh id, for example "video_0197…". Its 74 random bits come
// from crypto/rand; it panics only when the system has no randomness.
func New(prefix string) string {
	return prefix + "_" + uuid.Must(uuid.NewV7()).String()
}

var safe = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Safe reports whether s may become part of a subject, path, header or key.
func Safe(s string) bool { return safe.MatchString(s) }
