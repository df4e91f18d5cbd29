package archiver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// suffixes are what a stored result and all that may be made of it end in.
var suffixes = []string{".mp4", ".thumbnail.webp", ".thumbnail.jpg", ".spritesheet.jpg"}

// family is every key that may lie in the bucket beside a result's, itself
// included: which of them were made is not asked, so that none is left.
func family(key string) (keys []string) {
	base := strings.TrimSuffix(key, suffixes[0])
	if base == key {
		return []string{key}
	}
	for _, s := range suffixes {
		keys = append(keys, base+s)
	}
	return keys
}

// spoolName is a video's in its own directory.
const spoolName = "video.mp4"

// spoolBytes is the largest video that is kept on the disk for ffmpeg.
const spoolBytes = 1 << 30

// spools is what their directories are called.
const spools = "reelway-archive-"

// sweepSpools removes what processes that were killed have left on the disk: a
// copy is not worked on for longer than its time allows.
func sweepSpools(longest time.Duration) {
	old, err := filepath.Glob(filepath.Join(os.TempDir(), spools+"*"))
	if err != nil {
		return // the pattern is a constant
	}
	for _, dir := range old {
		if st, err := os.Stat(dir); err == nil && time.Since(st.ModTime()) > longest {
			_ = os.RemoveAll(dir)
		}
	}
}

// spool keeps a copy of a result on the disk while it streams by. It never
// fails: without it there are no variants, but there is a video.
type spool struct {
	dir  string
	f    *os.File
	size int64
	err  error
}

// newSpool is one that keeps nothing when nothing is made.
func (s *Service) newSpool() *spool {
	if s.studio == nil {
		return &spool{err: errors.New(s.missing)}
	}
	sp := &spool{}
	if sp.dir, sp.err = os.MkdirTemp("", spools); sp.err == nil {
		sp.f, sp.err = os.Create(filepath.Join(sp.dir, spoolName))
	}
	return sp
}

// Write implements io.Writer.
func (sp *spool) Write(b []byte) (int, error) {
	if sp.size += int64(len(b)); sp.err == nil && sp.size > spoolBytes {
		sp.err = errors.New("the video is too large to make images of")
	}
	if sp.err == nil {
		_, sp.err = sp.f.Write(b)
	}
	return len(b), nil
}

// remove removes the copy and all that was made of it.
func (sp *spool) remove() {
	if sp.f != nil {
		_ = sp.f.Close()
	}
	if sp.dir != "" {
		_ = os.RemoveAll(sp.dir)
	}
}

// decorate makes the images of a stored result, stores them beside it and says
// so in a. A result without them is a result all the same.
func (s *Service) decorate(ctx context.Context, sp *spool, m media, a *videov1.Artifact) error {
	if s.studio == nil {
		a.VariantsMissing = s.missing
		return nil
	}
	if err := s.make(ctx, sp, m, a); err != nil {
		a.Thumbnail, a.Spritesheet, a.VariantsMissing = nil, nil, variantsFailed
		return err
	}
	return nil
}

func (s *Service) make(ctx context.Context, sp *spool, m media, a *videov1.Artifact) error {
	if sp.err != nil {
		return sp.err
	}
	select {
	case s.studio.desks <- struct{}{}:
		defer func() { <-s.studio.desks }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, s.studio.timeout)
	defer cancel()
	var err error
	if a.Media, err = s.studio.probe(ctx, sp.dir); err != nil {
		return err
	}
	for _, step := range []struct {
		make func(context.Context, string, media) (image, error)
		into **videov1.Variant
	}{{s.studio.thumbnail, &a.Thumbnail}, {s.studio.spritesheet, &a.Spritesheet}} {
		x, err := step.make(ctx, sp.dir, m)
		if err != nil {
			return err
		}
		if err := s.keep(ctx, filepath.Join(sp.dir, x.file), strings.TrimSuffix(a.GetKey(), suffixes[0])+x.suffix, x.v); err != nil {
			return err
		}
		*step.into = x.v
	}
	return nil
}

// keep puts an image into the bucket.
func (s *Service) keep(ctx context.Context, file, key string, v *videov1.Variant) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("open image: %w", err)
	}
	defer func() { _ = f.Close() }()
	ctx, abandon := context.WithCancel(ctx)
	defer abandon()
	w, err := s.d.Bucket.Writer(ctx, key, v.GetContentType())
	if err != nil {
		return err
	}
	n, err := io.Copy(w, f)
	if err == nil && n == 0 {
		err = errors.New("it is empty")
	}
	if err != nil {
		abandon()
		_ = w.Close()
		return fmt.Errorf("store image: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("store image: %w", err)
	}
	v.Key, v.SizeBytes = key, n
	return nil
}
