// Package archiver copies finished results from the provider into the
// operator's bucket: streamed, hashed, verified. It changes no job; it reports
// what it stored.
package archiver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/run"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Config is what an operator may set.
type Config struct {
	MaxBytes int64         `env:"REELWAY_ARCHIVE_MAX_BYTES" min:"1" envDefault:"4294967296" desc:"largest result that is copied, in bytes"`
	Timeout  time.Duration `env:"REELWAY_ARCHIVE_TIMEOUT" min:"1s" envDefault:"15m" desc:"longest time for one copy"`
	Workers  int           `env:"REELWAY_ARCHIVE_WORKERS" min:"1" max:"1000" envDefault:"8" desc:"copies at the same time by one replica"`
	Patience time.Duration `env:"REELWAY_ARCHIVE_PATIENCE" min:"0s" envDefault:"30s" desc:"how long a result that the provider denies is asked for again before the job fails"`
}

// Deps are the archiver's neighbours.
type Deps struct {
	Bus    *bus.Bus
	Bucket *bucket.Bucket
	Client *http.Client // guarded: result URLs are a provider's word
	Logger *slog.Logger
	// ResultHeader, when set, is what to send with the GET of a provider's
	// result: its key, and only to the provider's own origin.
	ResultHeader func(provider, rawURL string) http.Header
}

// Service copies results. Any number of replicas may run.
type Service struct {
	cfg Config
	d   Deps
}

// New returns an archiver; every field of d but ResultHeader is required.
func New(cfg Config, d Deps) (*Service, error) {
	if d.Bus == nil || d.Bucket == nil || d.Client == nil || d.Logger == nil {
		return nil, errors.New("archiver: Bus, Bucket, Client and Logger are required")
	}
	return &Service{cfg: cfg, d: d}, nil
}

// Components are the archiver's consumers.
func (s *Service) Components() []run.Component {
	return []run.Component{{Name: "archiver", Run: func(ctx context.Context) error {
		c := bus.ArchiveConsumer
		c.Timeout = s.cfg.Timeout + time.Minute
		return bus.Consume(ctx, s.d.Bus, c, s.cfg.Workers, s.archive)
	}}}
}

// lostError says that asking again will not bring the result.
type lostError struct{ reason string }

func (e *lostError) Error() string { return e.reason }

func (s *Service) archive(ctx context.Context, ev *eventv1.JobEvent) error {
	v := ev.GetVideo()
	o := &eventv1.Observation{JobId: v.GetId(), AttemptId: ev.GetAttemptId(), Provider: v.GetProvider(), Source: "archiver", ObservedAt: timestamppb.Now()}
	artifact, err := s.copy(ctx, v, ev.GetAttemptId(), ev.GetResultUrl())
	var lost *lostError
	switch {
	case errors.As(err, &lost):
		if time.Since(ev.GetOccurredAt().AsTime()) < s.cfg.Patience {
			return bus.After(2*time.Second, err)
		}
		o.Id = ev.GetAttemptId() + "-archive-failed"
		o.Fact = &eventv1.Observation_ArchiveFailed{ArchiveFailed: &eventv1.ArchiveFailed{Error: &videov1.VideoError{
			Code: string(fault.ProviderRejected), Provider: v.GetProvider(), ProviderCode: "result_lost",
			Message: "the provider finished the video but its result cannot be fetched (" + lost.reason + "); nothing was charged",
		}}}
	case err != nil:
		return err
	default:
		o.Id = ev.GetAttemptId() + "-archived"
		o.Fact = &eventv1.Observation_Archived{Archived: &eventv1.Archived{Artifact: artifact}}
	}
	if err := s.d.Bus.PublishObservation(ctx, o); err != nil {
		return err
	}
	s.d.Logger.InfoContext(ctx, "result archived", "job_id", v.GetId(), "fact_id", o.GetId(), "bytes", artifact.GetSizeBytes())
	return nil
}

// copy streams the result into the bucket with constant memory.
func (s *Service) copy(ctx context.Context, v *videov1.Video, attempt, url string) (*videov1.Artifact, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, &lostError{"the result's address is not a URL"}
	}
	if s.d.ResultHeader != nil {
		for k, v := range s.d.ResultHeader(v.GetProvider(), url) {
			req.Header[k] = v
		}
	}
	resp, err := s.d.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("fetch result: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return nil, fmt.Errorf("fetch result: status %d", resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return nil, &lostError{fmt.Sprintf("status %d", resp.StatusCode)}
	case resp.ContentLength > s.cfg.MaxBytes:
		return nil, &lostError{"it is larger than the operator allows"}
	}
	head := make([]byte, 12)
	if _, err := io.ReadFull(resp.Body, head); err != nil {
		return nil, fmt.Errorf("read result: %w", err)
	}
	if ct := resp.Header.Get("Content-Type"); string(head[4:8]) != "ftyp" || strings.HasPrefix(ct, "text/") {
		return nil, &lostError{"it is not an MP4 video"}
	}
	key := "videos/" + v.GetAccountId() + "/" + v.GetId() + "/" + attempt + ".mp4"
	wctx, abandon := context.WithCancel(ctx)
	defer abandon()
	w, err := s.d.Bucket.Writer(wctx, key, "video/mp4")
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	body := io.MultiReader(strings.NewReader(string(head)), io.LimitReader(resp.Body, s.cfg.MaxBytes))
	n, err := io.Copy(io.MultiWriter(w, sum), body)
	if err == nil && resp.ContentLength >= 0 && n != resp.ContentLength {
		err = fmt.Errorf("%d of %d bytes came", n, resp.ContentLength)
	}
	if err != nil {
		abandon() // Close after a cancel discards what was written
		_ = w.Close()
		return nil, fmt.Errorf("copy result: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("store result: %w", err)
	}
	a := &videov1.Artifact{Key: key, ContentType: "video/mp4", SizeBytes: n, Sha256: hex.EncodeToString(sum.Sum(nil))}
	m, err := probe(n, func(off, length int64) ([]byte, error) { return s.d.Bucket.Range(ctx, key, off, length) })
	if err != nil {
		return nil, &lostError{"it is a broken MP4: " + err.Error()}
	}
	a.Width, a.Height, a.DurationMs = m.width, m.height, m.durationMS
	return a, nil
}
