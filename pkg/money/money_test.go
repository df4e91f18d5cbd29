package money_test

import (
	"errors"
	"math"
	"testing"

	"reelway.dev/pkg/money"
)

func TestParseIsExact(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{
		"0": 0, "-0": 0, "10": 10_000_000, "0.5": 500_000, "0.000001": 1, "1.100000000": 1_100_000, "-2.25": -2_250_000, "007": 7_000_000,
		"9007199254.740993":    9_007_199_254_740_993, // a float64 cannot hold it
		"9223372036854.775807": math.MaxInt64, "-9223372036854.775808": math.MinInt64,
	} {
		if got, err := money.Parse(in); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "-", ".", "1.", ".5", "+1", "--1", "1e3", "1/2", "0x1", "1_000", "1,5", " 1", "1 ", "1.2.3", "٣", "NaN",
		"0.0000001", "9223372036854.775808", "99999999999999999999999999"} {
		if got, err := money.Parse(in); !errors.Is(err, money.ErrSyntax) {
			t.Errorf("%q: %d, %v; want ErrSyntax", in, got, err)
		}
	}
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for in, want := range map[int64]string{0: "0.000000", 1: "0.000001", -1: "-0.000001", 12_500_000: "12.500000",
		math.MaxInt64: "9223372036854.775807", math.MinInt64: "-9223372036854.775808"} {
		if got := money.Format(in); got != want {
			t.Errorf("%d: %s, want %s", in, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0", "1.5", "-0.000001", "9223372036854.775807", "1e3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		micros, err := money.Parse(in)
		if err != nil {
			return
		}
		if again, err := money.Parse(money.Format(micros)); err != nil || again != micros {
			t.Errorf("%q is %d, written %s, read again %d, %v", in, micros, money.Format(micros), again, err)
		}
	})
}
