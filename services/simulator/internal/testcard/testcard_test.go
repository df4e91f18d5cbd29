package testcard_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"reelway.dev/services/simulator/internal/testcard"
)

// The judge is a decoder that is not ours.
func TestDecodersAgree(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ w, h, s int }{{1280, 720, 5}, {720, 1280, 3}, {1920, 1080, 2}, {960, 960, 1}, {854, 480, 10}, {1080, 1920, 1}} {
		t.Run(fmt.Sprintf("%dx%d", c.w, c.h), func(t *testing.T) {
			t.Parallel()
			data, err := testcard.Render(c.w, c.h, c.s)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "x.mp4")
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("ffprobe", "-v", "error", "-count_frames", "-select_streams", "v", "-of", "csv=p=0",
				"-show_entries", "stream=codec_name,width,height,nb_read_frames", file).CombinedOutput()
			if want := fmt.Sprintf("h264,%d,%d,%d", c.w, c.h, c.s*testcard.FPS); err != nil || strings.TrimSpace(string(out)) != want {
				t.Errorf("ffprobe says %q (%v), want %q; ffmpeg is needed: make setup", out, err, want)
			}
			out, err = exec.Command("ffmpeg", "-v", "error", "-i", file, "-f", "null", "-").CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("ffmpeg complains: %v %s", err, out)
			}
		})
	}
}

func TestImpossibleSizesAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range [][3]int{{0, 720, 5}, {1280, 721, 5}, {8192, 720, 5}, {1280, 720, 0}} {
		if _, err := testcard.Render(c[0], c[1], c[2]); err == nil {
			t.Errorf("%v was drawn", c)
		}
	}
}
