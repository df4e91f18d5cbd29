package intake

import (
	"net/mail"
	"strings"

	"reelway.dev/pkg/fault"
)

// maxAddress is the length of an e-mail address at the most (RFC 5321, 4.5.3.1.3).
const maxAddress = 254

// checkNotify judges notify_email. The fault does not repeat the address: it
// stands in answers and logs.
func checkNotify(address string) []fault.Field {
	if address == "" {
		return nil
	}
	a, err := mail.ParseAddress(address)
	if err != nil || a.Address != address || len(address) > maxAddress || !plainASCII(address) {
		return []fault.Field{{Name: "notify_email", Message: "must be an e-mail address, such as ada@example.com, without a name"}}
	}
	return nil
}

// plainASCII reports whether an address has neither quotes nor what no server
// takes without agreeing on it first.
func plainASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"\<>()[]`, r) })
}
