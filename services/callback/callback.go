// Package callback is the door for providers' webhooks: verify, parse, publish,
// acknowledge. It draws no conclusions, needs no database, and answers 2xx only
// after JetStream has the observation.
package callback

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/callbacktoken"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/run"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// MaxBody bounds a callback, in bytes.
const MaxBody = 1 << 20

// Publisher takes what was seen. bus.Bus is one.
type Publisher interface {
	PublishObservation(ctx context.Context, o *eventv1.Observation) error
	SchedulePoll(ctx context.Context, p *eventv1.PollAttempt, at time.Time) error
}

// Deps are the callback service's neighbours.
type Deps struct {
	Bus     Publisher
	Parsers map[string]provider.WebhookParser // by provider name
	Tokens  *callbacktoken.Tokens
	Logger  *slog.Logger
	Now     func() time.Time
}

// Service handles callbacks. It is stateless and safe for concurrent use.
type Service struct {
	d     Deps
	count metric.Int64Counter
}

// New returns a Service; every field of d is required.
func New(d Deps) (*Service, error) {
	if d.Bus == nil || d.Tokens == nil || d.Logger == nil || d.Now == nil {
		return nil, errors.New("callback: Bus, Tokens, Logger and Now are required")
	}
	count, err := otel.Meter("reelway.dev/services/callback").Int64Counter("reelway.callback.received",
		metric.WithDescription("callbacks by provider and result"), metric.WithUnit("{callback}"))
	if err != nil {
		return nil, fmt.Errorf("make counter: %w", err)
	}
	return &Service{d: d, count: count}, nil
}

// Handler serves POST /v1/callbacks/{provider}/{job_id}.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+HealthPath, healthy)
	mux.HandleFunc("POST /v1/callbacks/{provider}/{job}", func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("provider")
		if _, known := s.d.Parsers[name]; !known {
			name = "unknown" // a stranger's word must not become a metric's label
		}
		status, reason, body := s.receive(w, r)
		s.count.Add(r.Context(), 1, metric.WithAttributes(attribute.String("provider", name), attribute.String("result", reason)))
		if status != http.StatusOK {
			s.d.Logger.WarnContext(r.Context(), "callback refused", "provider", name, "status", status, "reason", reason)
		}
		w.Header().Set("Content-Type", "application/json")
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "2")
		}
		w.WriteHeader(status)
		if body == nil {
			body = fmt.Appendf(nil, "{\"result\":%q}\n", reason)
		}
		_, _ = w.Write(body)
	})
	return continueTrace(run.Traced(mux))
}

// continueTrace makes a callback part of its job's trace, which its URL names;
// a provider's own traceparent is not ours to follow. It goes around whatever
// makes the server's span.
func continueTrace(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Tracestate")
		r.Header.Del("Traceparent")
		if tp := r.URL.Query().Get("trace"); tp != "" {
			r.Header.Set("Traceparent", tp)
		}
		next.ServeHTTP(w, r)
	})
}

// receive handles one callback: the status to answer with, the reason for logs
// and metrics, and the body where the provider wants a certain one.
func (s *Service) receive(w http.ResponseWriter, r *http.Request) (status int, reason string, answer []byte) {
	name, job := r.PathValue("provider"), r.PathValue("job")
	attempt := r.URL.Query().Get("attempt")
	parser := s.d.Parsers[name]
	if parser == nil {
		return http.StatusNotFound, "unknown_provider", nil
	}
	if !id.Safe(job) || !id.Safe(attempt) {
		return http.StatusNotFound, "unknown_job", nil
	}
	// The token proves that we made this URL, and so that the job exists.
	if !s.d.Tokens.Verify(name, job, attempt, r.URL.Query().Get("token")) {
		return http.StatusUnauthorized, "bad_token", nil
	}
	// A body that trickles in must not hold a connection for ever.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(15 * time.Second))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return http.StatusRequestEntityTooLarge, "too_large", nil
	}
	if err != nil {
		return http.StatusBadRequest, "unreadable", nil
	}
	if c, ok := parser.(provider.Challenger); ok {
		if answer, ok := c.Challenge(body); ok {
			return http.StatusOK, "challenge", answer
		}
	}
	now := s.d.Now().UTC()
	report, err := parser.ParseWebhook(r.Context(), r.Header, body, now)
	switch {
	case errors.Is(err, provider.ErrBadSignature):
		return http.StatusUnauthorized, "bad_signature", nil
	case errors.Is(err, provider.ErrKeysUnavailable):
		return http.StatusServiceUnavailable, "keys_unavailable", nil
	case err != nil:
		return http.StatusBadRequest, "garbage", nil
	}
	if report.UnknownWord != "" {
		s.d.Logger.ErrorContext(r.Context(), "unknown status word", "provider", name, "job_id", job, "word", report.UnknownWord)
	}
	if report.Hint {
		p := &eventv1.PollAttempt{JobId: job, AttemptId: attempt, Provider: name}
		if err := s.d.Bus.SchedulePoll(r.Context(), p, now); err != nil {
			return http.StatusServiceUnavailable, "bus_unavailable", nil
		}
		return http.StatusOK, "hint", nil
	}
	o := provider.Observe(report, provider.Seen{JobID: job, AttemptID: attempt, Provider: name, Source: "webhook", At: now})
	if report.State != provider.Succeeded && report.State != provider.Failed {
		sum := sha256.Sum256(body)
		o.Id = attempt + "-webhook-" + hex.EncodeToString(sum[:8])
	}
	o.ObservedAt = timestamppb.New(now)
	if err := s.d.Bus.PublishObservation(r.Context(), o); err != nil {
		s.d.Logger.WarnContext(r.Context(), "callback not published", "job_id", job, "error", err.Error())
		return http.StatusServiceUnavailable, "bus_unavailable", nil
	}
	return http.StatusOK, "accepted", nil
}
