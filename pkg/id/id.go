// Package id makes identifiers: a type prefix and a UUIDv7 (RFC 9562), so that
// ids sort by time and say what they name.
package id

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strings"

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

// Nth returns the id of the n-th thing that belongs to another: the same for the
// same two, wherever and whenever it is asked for. It is a UUIDv7 with the other's
// time, and a hash in the place of randomness, so it can be guessed.
func Nth(prefix, of string, n int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", prefix, of, n))
	u := uuid.UUID(sum[:16])
	if i := strings.LastIndexByte(of, '_'); i >= 0 {
		if parent, err := uuid.Parse(of[i+1:]); err == nil {
			copy(u[:6], parent[:6])
		}
	}
	u[6] = u[6]&0x0f | 0x70
	u[8] = u[8]&0x3f | 0x80
	return prefix + "_" + u.String()
}

var safe = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// Safe reports whether s may become part of a subject, path, header or key.
func Safe(s string) bool { return safe.MatchString(s) }
