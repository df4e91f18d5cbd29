package archiver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Why an artifact has no variants; reelway.video.v1.Artifact.variants_missing.
const (
	variantsOff    = "off"
	variantsAbsent = "no_ffmpeg"
	variantsFailed = "failed"
)

// The shape of the images. A sprite sheet has the same number of pictures for
// every length, so that a player needs no second request to know it.
const (
	thumbnailWidth = 640
	tileWidth      = 160
	tiles          = 5 // in a row, and in a column
	// saidBytes is how much of ffmpeg's own words is logged.
	saidBytes = 400
)

// studio makes images of videos by ffmpeg. It is safe for concurrent use.
type studio struct {
	ffmpeg, ffprobe string
	webp            bool
	timeout         time.Duration
	desks           chan struct{} // videos worked on at the same time: a core each
}

// newStudio looks for ffmpeg once; nil and why when nothing is made.
func newStudio(ctx context.Context, cfg Config) (*studio, string) {
	if cfg.Variants != "auto" {
		return nil, variantsOff
	}
	s := &studio{timeout: cfg.VariantsTimeout, desks: make(chan struct{}, max(runtime.GOMAXPROCS(0)/2, 1))}
	var err1, err2 error
	s.ffmpeg, err1 = exec.LookPath(cfg.FFmpeg)
	beside := "ffprobe"
	if filepath.Base(cfg.FFmpeg) != cfg.FFmpeg {
		beside = filepath.Join(filepath.Dir(cfg.FFmpeg), beside)
	}
	s.ffprobe, err2 = exec.LookPath(beside)
	if err1 != nil || err2 != nil {
		return nil, variantsAbsent
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	encoders, err := s.run(ctx, "", s.ffmpeg, "-hide_banner", "-encoders")
	if err != nil {
		return nil, variantsAbsent // a program that does not run
	}
	s.webp = bytes.Contains(encoders, []byte(" libwebp "))
	return s, ""
}

// run runs a program that reads a stranger's file: without the environment's
// secrets, and with nothing to read from.
func (s *studio) run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = dir, []string{"LC_ALL=C"}, &out, &said, time.Second
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(program), err, said.Bytes()[:min(said.Len(), saidBytes)])
	}
	return out.Bytes(), nil
}

// source is the input, which is taken for nothing but an MP4 in a file: a
// playlist in its place would make ffmpeg fetch what it names.
func source(args ...string) []string {
	return append(args, "-f", "mov", "-protocol_whitelist", "file", "-i", spoolName)
}

// probe reads what a file holds.
func (s *studio) probe(ctx context.Context, dir string) (*videov1.MediaProbe, error) {
	raw, err := s.run(ctx, dir, s.ffprobe, source("-v", "error", "-of", "json", "-show_format", "-show_streams")...)
	if err != nil {
		return nil, err
	}
	var said struct {
		Streams []struct {
			Kind  string `json:"codec_type"`
			Codec string `json:"codec_name"`
			Rate  string `json:"avg_frame_rate"` // 24000/1001
		}
		Format struct {
			BitRate string `json:"bit_rate"`
		}
	}
	if err := json.Unmarshal(raw, &said); err != nil {
		return nil, fmt.Errorf("parse ffprobe's answer: %w", err)
	}
	m := &videov1.MediaProbe{}
	m.BitRate, _ = strconv.ParseInt(said.Format.BitRate, 10, 64) // 0 when it is not known
	for _, st := range said.Streams {
		switch {
		case st.Kind == "video" && m.VideoCodec == "":
			m.VideoCodec = st.Codec
			num, den, _ := strings.Cut(st.Rate, "/")
			n, err1 := strconv.ParseFloat(num, 64)
			d, err2 := strconv.ParseFloat(den, 64)
			if err1 == nil && err2 == nil && d > 0 {
				m.FrameRate = math.Round(n/d*1000) / 1000
			}
		case st.Kind == "audio" && m.AudioCodec == "":
			m.AudioCodec = st.Codec
		}
	}
	if m.VideoCodec == "" {
		return nil, errors.New("ffprobe finds no video in the file")
	}
	return m, nil
}

// fit is the height of a picture of some width, even as encoders want it.
func fit(m media, width int32) int32 {
	return max(int32(math.Round(float64(m.height)*float64(width)/float64(m.width)/2))*2, 2)
}

// image is a file that was made and what is to be said of it.
type image struct {
	file   string
	suffix string
	v      *videov1.Variant
}

// thumbnail makes a still of an early moment, past a fade from black.
func (s *studio) thumbnail(ctx context.Context, dir string, m media) (image, error) {
	width := max(min(thumbnailWidth, m.width/2*2), 2)
	v := &videov1.Variant{ContentType: "image/jpeg", Width: width, Height: fit(m, width)}
	x, encoder := image{"thumbnail.jpg", ".thumbnail.jpg", v}, []string{"-c:v", "mjpeg", "-q:v", "3"}
	if s.webp {
		v.ContentType = "image/webp"
		x, encoder = image{"thumbnail.webp", ".thumbnail.webp", v}, []string{"-c:v", "libwebp", "-quality", "80"}
	}
	at := strconv.FormatFloat(min(1, float64(m.durationMS)/2000), 'f', 3, 64)
	args := slices.Concat(source("-nostdin", "-v", "error", "-threads", "1", "-ss", at), []string{"-frames:v", "1",
		"-vf", fmt.Sprintf("scale=%d:%d", v.GetWidth(), v.GetHeight())}, encoder, []string{"-y", x.file})
	_, err := s.run(ctx, dir, s.ffmpeg, args...)
	return x, err
}

// spritesheet makes one image of pictures at even distances.
func (s *studio) spritesheet(ctx context.Context, dir string, m media) (image, error) {
	height := fit(m, tileWidth)
	x := image{"spritesheet.jpg", ".spritesheet.jpg", &videov1.Variant{ContentType: "image/jpeg", Width: tiles * tileWidth, Height: tiles * height,
		Columns: tiles, Rows: tiles, IntervalMs: max(m.durationMS/(tiles*tiles), 1)}}
	args := append(source("-nostdin", "-v", "error", "-threads", "1"), "-an", "-frames:v", "1",
		"-vf", fmt.Sprintf("fps=%d/%d,scale=%d:%d,tile=%dx%d", tiles*tiles*1000, m.durationMS, tileWidth, height, tiles, tiles), "-c:v", "mjpeg", "-q:v", "4", "-y", x.file)
	_, err := s.run(ctx, dir, s.ffmpeg, args...)
	return x, err
}
