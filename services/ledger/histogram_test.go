package ledger

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	t.Parallel()
	var h histogram
	if h.String() != "0" || h.percentile(.5) != 0 {
		t.Errorf("an empty histogram is %s with a median of %s", h.String(), h.percentile(.5))
	}
	for d := 110 * time.Millisecond; d < 28*time.Hour; d += d / 7 {
		var one histogram
		one.add(d)
		got := one.percentile(.99)
		if off := float64(got-d) / float64(d); off > .0451 || off < -.0451 {
			t.Errorf("%s is read as %s, %.1f %% off", d, got, 100*off)
		}
		h.add(d)
	}
	h.add(0)
	h.add(1000 * time.Hour)
	for range 1000 {
		h.add(time.Duration(rand.Int64N(int64(time.Hour))))
	}
	back, err := parseHistogram(h.String())
	if err != nil || back != h {
		t.Errorf("%v came back as %v, %v", h, back, err)
	}
	if back.percentile(.9) < back.percentile(.5) {
		t.Error("percentiles are not in order")
	}
	for _, bad := range []string{"x", "1" + h.String() + h.String()} {
		if _, err := parseHistogram(bad); err == nil {
			t.Errorf("%.20s is taken for a histogram", bad)
		}
	}
}
