package simulator

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"reelway.dev/services/simulator/internal/testcard"
)

// serveMedia draws the video of a task, padded with a free box on demand.
func (s *Service) serveMedia(w http.ResponseWriter, id string) {
	t, ok := s.find(id)
	if !ok || t.State != "succeeded" {
		http.Error(w, "this result has expired", http.StatusNotFound)
		return
	}
	key := fmt.Sprintf("%dx%d/%d", t.width, t.height, t.seconds)
	s.mu.Lock()
	data := s.media[key]
	s.mu.Unlock()
	if data == nil {
		var err error
		if data, err = testcard.Render(t.width, t.height, t.seconds); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.mu.Lock()
		s.media[key] = data
		s.mu.Unlock()
	}
	pad := max(t.size-int64(len(data)), 0)
	if pad > 0 {
		pad = max(pad, 8)
	}
	w.Header().Set("Content-Type", "video/mp4")
	w.Header().Set("Content-Length", strconv.FormatInt(int64(len(data))+pad, 10))
	if _, err := w.Write(data); err != nil || pad == 0 {
		return
	}
	if _, err := w.Write([]byte{byte(pad >> 24), byte(pad >> 16), byte(pad >> 8), byte(pad), 'f', 'r', 'e', 'e'}); err != nil {
		return
	}
	chunk := make([]byte, 64<<10)
	for left := pad - 8; left > 0; left -= int64(len(chunk)) {
		if _, err := w.Write(chunk[:min(left, int64(len(chunk)))]); err != nil {
			return
		}
	}
}

// pixels follows the providers: a resolution's short side at a ratio.
func pixels(resolution, ratio string) (w, h int) {
	short := 720
	switch strings.ToLower(resolution) {
	case "480p":
		short = 480
	case "540p":
		short = 540
	case "768p":
		short = 768
	case "1080p":
		short = 1080
	case "1440p", "2k":
		short = 1440
	case "2160p", "4k":
		short = 2160
	}
	if ratio == "1:1" {
		side := short * 4 / 3
		return side, side
	}
	a, b, _ := strings.Cut(ratio, ":")
	x, _ := strconv.Atoi(a)
	y, _ := strconv.Atoi(b)
	if x <= 0 || y <= 0 {
		x, y = 16, 9
	}
	long := (short*max(x, y)/min(x, y) + 1) / 2 * 2
	if x > y {
		return long, short
	}
	return short, long
}
