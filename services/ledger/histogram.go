package ledger

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// histogram counts durations in buckets that grow by a constant factor: eight
// to a doubling, from a tenth of a second to 29 hours. A percentile read from it
// is the middle of its bucket and thus at most 4.5 % from the true one.
type histogram [buckets]int64

const (
	shortest    = 100 * time.Millisecond // all shorter ones share the first bucket
	perDoubling = 8
	buckets     = 20*perDoubling + 2 // and all longer ones the last
)

func (h *histogram) add(d time.Duration) { h[bucket(d)]++ }

func bucket(d time.Duration) int {
	if d < shortest {
		return 0
	}
	return min(1+int(math.Log2(float64(d)/float64(shortest))*perDoubling), buckets-1)
}

// percentile is the duration below which a share of all lies, 0 without any.
func (h *histogram) percentile(share float64) time.Duration {
	var all int64
	for _, n := range h {
		all += n
	}
	rank := max(int64(math.Ceil(share*float64(all))), 1)
	for i, n := range h {
		if rank -= n; rank <= 0 {
			return time.Duration(float64(shortest) * math.Exp2((float64(i)-0.5)/perDoubling))
		}
	}
	return 0
}

// digits is how many decimal digits a bucket has in the stored number: a count
// below a million million, so that the sum of any table stays within them.
const digits = 12

// String is the number that the database stores, with the last bucket first.
// PostgreSQL keeps only the digits between the first and the last that is not
// zero, and adds such numbers some thousand times faster than arrays.
func (h *histogram) String() string {
	var b strings.Builder
	for i := buckets - 1; i >= 0; i-- {
		if b.Len() > 0 || h[i] != 0 {
			fmt.Fprintf(&b, "%0*d", digits, h[i])
		}
	}
	if b.Len() == 0 {
		return "0"
	}
	return b.String()
}

// parseHistogram reads what String wrote, or a sum of such numbers.
func parseHistogram(s string) (h histogram, err error) {
	for i := range h {
		if s == "" {
			break
		}
		at := max(len(s)-digits, 0)
		if h[i], err = strconv.ParseInt(s[at:], 10, 64); err != nil {
			return h, fmt.Errorf("read histogram: %w", err)
		}
		s = s[:at]
	}
	if s != "" {
		return h, fmt.Errorf("read histogram: %d digits too many", len(s))
	}
	return h, nil
}
