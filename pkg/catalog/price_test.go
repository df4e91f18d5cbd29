package catalog

import (
	"math"
	"testing"

	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

func TestCostIsTheModelsOwnOrItsPrice(t *testing.T) {
	t.Parallel()
	m := Model{Costs: map[string]Price{"720p": {Second: 40_000, SecondWithAudio: 50_000, Clip: map[int32]int64{10: 300_000}}, "1080p": {Second: math.MaxInt64}}}
	for _, c := range []struct {
		resolution string
		seconds    int32
		audio      bool
		want       int64
	}{
		{"720p", 5, false, 200_000},
		{"720p", 5, true, 250_000},
		{"720p", 10, false, 300_000},
		{"480p", 5, false, 99},  // no cost known
		{"1080p", 5, false, 99}, // does not fit
		{"720p", 0, false, 99},
	} {
		if got := m.Cost(&videov1.VideoParams{Resolution: c.resolution, DurationSeconds: c.seconds, Audio: c.audio}, 99); got != c.want {
			t.Errorf("%d s at %s, sound %v, cost %d; want %d", c.seconds, c.resolution, c.audio, got, c.want)
		}
	}
}
