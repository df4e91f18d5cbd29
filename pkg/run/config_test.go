package run_test

import (
	"strings"
	"testing"

	"reelway.dev/pkg/run"
)

// A number that is none, or has no end, is within no bounds.
func TestNumbersAreFinite(t *testing.T) {
	t.Parallel()
	for value, good := range map[string]bool{"0.5": true, "NaN": false, "Inf": false, "-inf": false, "0.05": false, "half": false} {
		var c struct {
			Rate float64 `env:"REELWAY_RATE" min:"0.1"`
		}
		err := run.Load([]string{"REELWAY_RATE=" + value}, nil, &c)
		if (err == nil) != good || err != nil && !strings.HasPrefix(err.Error(), "REELWAY_RATE: ") {
			t.Errorf("%s: %v", value, err)
		}
	}
}
