// Package money reads and writes credits: decimals for people, micro-credits
// in int64 everywhere else. No amount ever passes through a float.
package money

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Micros is how many micro-credits make one credit.
const Micros = 1_000_000

// decimals is how many digits after the point a micro-credit has.
const decimals = 6

// ErrSyntax says that a text is no decimal credits, or too many of them.
var ErrSyntax = errors.New("must be credits, such as 12.5, with at most 6 decimals")

// Parse turns decimal credits into micro-credits, exactly. A minus may lead;
// zeros may follow past the sixth decimal. Anything else, an exponent for one,
// and what does not fit int64, is ErrSyntax.
func Parse(credits string) (int64, error) {
	number, negative := strings.CutPrefix(credits, "-")
	whole, fraction, point := strings.Cut(number, ".")
	if whole == "" || point && fraction == "" || !digits(whole) || !digits(fraction) {
		return 0, ErrSyntax
	}
	if len(fraction) > decimals {
		if strings.Trim(fraction[decimals:], "0") != "" {
			return 0, ErrSyntax
		}
		fraction = fraction[:decimals]
	}
	sign := ""
	if negative {
		sign = "-"
	}
	micros, err := strconv.ParseInt(sign+whole+fraction+strings.Repeat("0", decimals-len(fraction)), 10, 64)
	if err != nil {
		return 0, ErrSyntax
	}
	return micros, nil
}

func digits(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' })
}

// Format writes micro-credits as decimal credits with six decimals, exactly.
func Format(micros int64) string {
	sign, amount := "", uint64(micros)
	if micros < 0 {
		sign, amount = "-", -amount // wraps to the right amount, for the least int64 too
	}
	return fmt.Sprintf("%s%d.%06d", sign, amount/Micros, amount%Micros)
}
