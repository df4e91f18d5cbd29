// Package archiver copies finished results from the provider into the
// operator's bucket: streamed, hashed, verified. It changes no job; it reports
// what it stored.
package archiver

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/safehttp"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Config is what an operator may set.
type Config struct {
	MaxBytes int64         `env:"REELWAY_ARCHIVE_MAX_BYTES" min:"1" envDefault:"4294967296" desc:"largest result that is copied, in bytes"`
	Timeout  time.Duration `env:"REELWAY_ARCHIVE_TIMEOUT" min:"1s" envDefault:"15m" desc:"longest time for one copy"`
	Workers  int           `env:"REELWAY_ARCHIVE_WORKERS" min:"1" max:"1000" envDefault:"8" desc:"copies at the same time by one replica"`
	Stall    time.Duration `env:"REELWAY_ARCHIVE_STALL" min:"100ms" envDefault:"30s" desc:"longest time for 256 KiB of a result; one that comes more slowly is given up and tried again later, so that it is in nobody's way"`
	Patience time.Duration `env:"REELWAY_ARCHIVE_PATIENCE" min:"0s" envDefault:"30s" desc:"how long a result that the provider denies, or that is no whole video, is asked for again before the job fails"`
	GiveUp   time.Duration `env:"REELWAY_ARCHIVE_GIVE_UP" min:"0s" envDefault:"24h" desc:"how long, since it was rendered, a result that cannot be copied now is tried again before the job fails"`

	Variants        string        `env:"REELWAY_VARIANTS" oneof:"auto off" envDefault:"auto" desc:"thumbnail, sprite sheet and media probe of each video: auto makes them where ffmpeg and ffprobe are installed"`
	FFmpeg          string        `env:"REELWAY_FFMPEG" envDefault:"ffmpeg" desc:"the ffmpeg that makes them: a name in PATH, or a path with ffprobe beside it"`
	VariantsTimeout time.Duration `env:"REELWAY_VARIANTS_TIMEOUT" min:"1s" envDefault:"30s" desc:"longest time for making them of one video, which succeeds without them otherwise"`
}

// Deps are the archiver's neighbours.
type Deps struct {
	Bus    *bus.Bus
	Bucket *bucket.Bucket
	Client *safehttp.Client // guarded: result URLs are a provider's word
	Logger *slog.Logger
	// ResultHeader, when set, is what to send with the GET of a provider's
	// result: the key that has the task, and only to the provider's own origin.
	ResultHeader func(provider, keyID, rawURL string) http.Header
}

// Service copies results. Any number of replicas may run.
type Service struct {
	cfg     Config
	d       Deps
	took    metric.Float64Histogram
	studio  *studio // nil when no variants are made
	missing string  // why, then

	mu     sync.Mutex
	denied map[string]time.Time // by attempt: when its result was first denied
}

// New returns an archiver; every field of d but ResultHeader is required.
func New(cfg Config, d Deps) (*Service, error) {
	if d.Bus == nil || d.Bucket == nil || d.Client == nil || d.Logger == nil {
		return nil, errors.New("archiver: Bus, Bucket, Client and Logger are required")
	}
	took, err := otel.Meter("reelway.dev/services/archiver").Float64Histogram("reelway.archiver.copy.duration", metric.WithUnit("s"),
		metric.WithDescription("copying a result into the bucket and making its variants, by provider and result: stored, lost (the provider has none), failed (to be tried again)"),
		metric.WithExplicitBucketBoundaries(.1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600))
	if err != nil {
		return nil, fmt.Errorf("make metrics: %w", err)
	}
	s := &Service{cfg: cfg, d: d, took: took, denied: map[string]time.Time{}}
	sweepSpools(cfg.Timeout + time.Hour)
	s.studio, s.missing = newStudio(context.Background(), cfg)
	d.Logger.Info("variants of videos", "made", s.studio != nil, "missing", s.missing)
	return s, nil
}

// Components are the archiver's consumers.
func (s *Service) Components() []run.Component {
	return []run.Component{{Name: "archiver", Run: func(ctx context.Context) error {
		c := bus.ArchiveConsumer
		c.Timeout = s.cfg.Timeout + time.Minute
		return bus.Consume(ctx, s.d.Bus, c, s.cfg.Workers, s.archive)
	}}, {Name: "archiver-delete", Run: func(ctx context.Context) error {
		return bus.Consume(ctx, s.d.Bus, bus.DeleteConsumer, deleters, s.delete)
	}}}
}

// deleters is how many files one replica deletes at the same time.
const deleters = 4

// delete removes a stored result with its variants and reports it gone once the
// bucket has none of them; one that is gone already is reported again. Only results
// and uploads are deleted, whatever the command says.
func (s *Service) delete(ctx context.Context, c *eventv1.DeleteArtifact) error {
	upload := strings.HasPrefix(c.GetKey(), uploads)
	if !upload && !strings.HasPrefix(c.GetKey(), results) || strings.Contains(c.GetKey(), "..") {
		return bus.Terminate(fmt.Errorf("delete result: the key of %s is not a result's", c.GetJobId()))
	}
	if upload {
		if err := s.d.Bucket.Discard(ctx, c.GetKey()); err != nil { // whoever was writing it may have been killed
			return err
		}
	}
	for _, key := range family(c.GetKey()) {
		if err := s.d.Bucket.Delete(ctx, key); err != nil {
			return err
		}
	}
	return s.publish(ctx, "deleted", &eventv1.Observation{JobId: c.GetJobId(), AttemptId: c.GetAttemptId(), Provider: c.GetProvider(),
		Fact: &eventv1.Observation_ArtifactDeleted{ArtifactDeleted: &eventv1.ArtifactDeleted{Key: c.GetKey()}}})
}

// Where they lie in the bucket.
const (
	results = "videos/"
	uploads = "uploads/"
)

func keyOf(v *videov1.Video, attempt string) string {
	return results + v.GetAccountId() + "/" + v.GetId() + "/" + attempt + suffixes[0]
}

// lostError says that the result is not there, or is no video: asking again
// helps only if the provider was not ready yet.
type lostError struct {
	reason  string
	certain bool // not even then
}

// Error implements error.
func (e *lostError) Error() string { return e.reason }

// archive copies one result. Its message ends when the job does: neither a
// provider nor a bucket that is down for hours may leave it in the dead letters.
func (s *Service) archive(ctx context.Context, ev *eventv1.JobEvent) error {
	v, attempt := ev.GetVideo(), ev.GetAttemptId()
	artifact, err := s.measured(ctx, v.GetProvider(), func(ctx context.Context) (*videov1.Artifact, error) {
		return s.copy(ctx, v, attempt, ev.GetKeyId(), ev.GetResultUrl())
	})
	if err == nil {
		return s.report(ctx, ev, "archived", &eventv1.Observation{Fact: &eventv1.Observation_Archived{Archived: &eventv1.Archived{Artifact: artifact}}})
	}
	var lost *lostError
	reason, wait := "it could not be copied in time", retryDelay(time.Since(began(ev)))
	over := time.Since(began(ev)) >= s.cfg.GiveUp
	if errors.As(err, &lost) {
		reason, wait = lost.reason, min(max(s.cfg.Patience/8, 200*time.Millisecond), 5*time.Second)
		over = over || lost.certain || time.Since(s.firstDenial(attempt)) >= s.cfg.Patience
	}
	s.d.Logger.WarnContext(ctx, "result not copied", "job_id", v.GetId(), "attempt_id", attempt, "lost", lost != nil, "final", over, "error", err.Error())
	if over {
		if err := s.d.Bucket.Discard(ctx, keyOf(v, attempt)); err != nil { // a replica that was killed may have left parts
			s.d.Logger.WarnContext(ctx, "unfinished uploads not looked for", "job_id", v.GetId(), "error", err.Error())
		}
		return s.report(ctx, ev, "archive-failed", &eventv1.Observation{Fact: &eventv1.Observation_ArchiveFailed{ArchiveFailed: &eventv1.ArchiveFailed{Error: &videov1.VideoError{
			Code: string(fault.ProviderRejected), Provider: v.GetProvider(), ProviderCode: "result_lost",
			Message: "the provider finished the video but its result cannot be fetched (" + reason + "); nothing was charged",
		}}}})
	}
	if lost == nil && ev.GetTransient() {
		// The sweep's reminder of a job that is tried already. Were each kept,
		// a long outage would multiply them; the sweep will send the next.
		return nil
	}
	return bus.After(wait, err)
}

// measured gives a copy a span and a place in the metrics.
func (s *Service) measured(ctx context.Context, provider string, do func(context.Context) (*videov1.Artifact, error)) (*videov1.Artifact, error) {
	start := time.Now()
	ctx, span := otel.Tracer("reelway.dev/services/archiver").Start(ctx, "copy result")
	defer span.End()
	artifact, err := do(ctx)
	result := "stored"
	var lost *lostError
	switch {
	case errors.As(err, &lost):
		result = "lost"
	case err != nil:
		result = "failed"
	}
	if err != nil {
		span.SetStatus(codes.Error, result) // not the error: it may hold the result's address
	}
	s.took.Record(ctx, time.Since(start).Seconds(), metric.WithAttributes(attribute.String("provider", provider), attribute.String("result", result)))
	return artifact, err
}

// report tells the ledger how it ended.
func (s *Service) report(ctx context.Context, ev *eventv1.JobEvent, how string, o *eventv1.Observation) error {
	o.JobId, o.AttemptId, o.Provider = ev.GetVideo().GetId(), ev.GetAttemptId(), ev.GetVideo().GetProvider()
	if err := s.publish(ctx, how, o); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.denied, o.GetAttemptId())
	s.mu.Unlock()
	return nil
}

// publish is the end of what was done with an attempt's result.
func (s *Service) publish(ctx context.Context, how string, o *eventv1.Observation) error {
	o.Id, o.Source, o.ObservedAt = o.GetAttemptId()+"-"+how, "archiver", timestamppb.Now()
	if err := s.d.Bus.PublishObservation(ctx, o); err != nil {
		return bus.After(time.Second, err)
	}
	s.d.Logger.InfoContext(ctx, "archiving ended", "job_id", o.GetJobId(), "fact_id", o.GetId(), "bytes", o.GetArchived().GetArtifact().GetSizeBytes())
	return nil
}

// began is when the job began storing: when its attempt was rendered. An event
// that the sweep sends again has a time of its own.
func began(ev *eventv1.JobEvent) time.Time {
	for _, a := range ev.GetVideo().GetAttempts() {
		if a.GetId() == ev.GetAttemptId() && a.GetEndedAt() != nil {
			return a.GetEndedAt().AsTime()
		}
	}
	return ev.GetOccurredAt().AsTime()
}

// retryDelay grows with the time that has passed: a quarter of it, so that it
// needs no memory, with jitter against a crowd after an outage.
func retryDelay(passed time.Duration) time.Duration {
	d := min(max(passed/4, time.Second), 5*time.Minute)
	return d*3/4 + rand.N(d/2)
}

// firstDenial is when the result of an attempt was first denied, which is now
// when it was not yet. It is in memory alone: after a restart, or on another
// replica, patience begins anew, which costs the job some of it once more.
func (s *Service) firstDenial(attempt string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if t, ok := s.denied[attempt]; ok {
		return t
	}
	for k, t := range s.denied {
		if now.Sub(t) > s.cfg.Patience+time.Hour {
			delete(s.denied, k) // it ended elsewhere
		}
	}
	s.denied[attempt] = now
	return now
}

// copy streams the result into the bucket with constant memory. The object
// appears only when all of it has come and is a video from end to end.
func (s *Service) copy(ctx context.Context, v *videov1.Video, attempt, keyID, url string) (*videov1.Artifact, error) {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, &lostError{"its address is not a URL", true}
	}
	if s.d.ResultHeader != nil {
		for k, v := range s.d.ResultHeader(v.GetProvider(), keyID, url) {
			req.Header[k] = v
		}
	}
	req.Header.Set("Accept-Encoding", "identity") // the length that is told is the length that comes
	answer := time.AfterFunc(s.cfg.Stall, func() { stop(errStalled) })
	resp, err := s.d.Client.Do(req)
	answer.Stop()
	if errors.Is(err, safehttp.ErrForbidden) {
		return nil, &lostError{reason: "its address is not allowed"}
	}
	if err != nil {
		return nil, fmt.Errorf("fetch result: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout || resp.StatusCode == http.StatusTooEarly:
		return nil, fmt.Errorf("fetch result: status %d", resp.StatusCode)
	case resp.StatusCode != http.StatusOK:
		return nil, &lostError{reason: fmt.Sprintf("status %d", resp.StatusCode)}
	case resp.ContentLength > s.cfg.MaxBytes:
		return nil, &lostError{tooLarge, true}
	}
	content := newBrisk(resp.Body, stop, s.cfg.Stall)
	head, err := io.ReadAll(io.LimitReader(content, 12))
	if err != nil {
		return nil, fmt.Errorf("read result: %w", err)
	}
	if ct := resp.Header.Get("Content-Type"); len(head) < 12 || string(head[4:8]) != "ftyp" || strings.HasPrefix(ct, "text/") {
		return nil, &lostError{reason: "it is not an MP4 video"}
	}
	key := keyOf(v, attempt)
	wctx, abandon := context.WithCancel(ctx)
	defer abandon()
	w, err := s.d.Bucket.Writer(wctx, key, "video/mp4")
	if err != nil {
		return nil, err
	}
	sum, mp4, local := sha256.New(), &probe{}, s.newSpool()
	defer local.remove()
	body := io.MultiReader(bytes.NewReader(head), io.LimitReader(content, s.cfg.MaxBytes)) // one byte too many is seen
	n, err := io.Copy(io.MultiWriter(w, sum, mp4, local), body)
	var m media
	switch {
	case err != nil:
		err = fmt.Errorf("copy result: %w", cmp.Or(context.Cause(ctx), err))
	case n > s.cfg.MaxBytes:
		err = &lostError{tooLarge, true}
	default:
		framed := resp.ContentLength >= 0 || len(resp.TransferEncoding) > 0 || resp.ProtoMajor > 1
		var broken error
		if m, broken = mp4.end(framed); broken != nil {
			err = &lostError{reason: "it is a broken MP4: " + broken.Error()}
		}
	}
	if err != nil {
		abandon() // Close after a cancel discards what was written
		_ = w.Close()
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("store result: %w", err)
	}
	a := &videov1.Artifact{Key: key, ContentType: "video/mp4", SizeBytes: n, Sha256: hex.EncodeToString(sum.Sum(nil)),
		Width: m.width, Height: m.height, DurationMs: m.durationMS}
	if err := s.decorate(ctx, local, m, a); err != nil {
		if outer.Err() != nil {
			return nil, err // we are stopping: whoever is next makes them
		}
		s.d.Logger.WarnContext(ctx, "variants not made", "job_id", v.GetId(), "attempt_id", attempt, "error", err.Error())
	}
	return a, nil
}

const tooLarge = "it is larger than the operator allows"
