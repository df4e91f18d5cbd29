package catalog

import (
	"math"
	"testing"

	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

func TestCostIsTheModelsOwnOrItsPrice(t *testing.T) {
	t.Parallel()
	m := Model{CostPerSecond: map[string]int64{"720p": 40_000, "1080p": math.MaxInt64}}
	for _, c := range []struct {
		resolution string
		seconds    int32
		want       int64
	}{
		{"720p", 5, 200_000},
		{"480p", 5, 99},  // no cost known
		{"1080p", 5, 99}, // does not fit
		{"720p", 0, 99},
	} {
		if got := m.Cost(&videov1.VideoParams{Resolution: c.resolution, DurationSeconds: c.seconds}, 99); got != c.want {
			t.Errorf("%d s at %s cost %d; want %d", c.seconds, c.resolution, got, c.want)
		}
	}
}
