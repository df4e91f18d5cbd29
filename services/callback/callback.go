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

	"reelway.dev/pkg/callbacktoken"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/run"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// MaxBody bounds a callback, in bytes.
const MaxBody = 1 << 20

// Found is whose a provider's task is. Its job is empty when the task is nobody's;
// SubmitOpen then says that it may soon be somebody's.
type Found struct {
	JobID, AttemptID string
	SubmitOpen       bool
}

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
	// Find finds whose task a webhook without a job in its address is about.
	// Without it there is no such address.
	Find func(ctx context.Context, provider, taskID string) (Found, error)
}

// Service handles callbacks. It is stateless and safe for concurrent use.
type Service struct {
	d     Deps
	count metric.Int64Counter
	words metric.Int64Counter
}

// New returns a Service; every field of d but Find is required.
func New(d Deps) (*Service, error) {
	if d.Bus == nil || d.Tokens == nil || d.Logger == nil || d.Now == nil {
		return nil, errors.New("callback: Bus, Tokens, Logger and Now are required")
	}
	meter := otel.Meter("reelway.dev/services/callback")
	count, err1 := meter.Int64Counter("reelway.callback.received",
		metric.WithDescription("callbacks by provider and result"), metric.WithUnit("{callback}"))
	words, err2 := meter.Int64Counter("reelway.callback.unknown_words", metric.WithUnit("{callback}"),
		metric.WithDescription("callbacks with a status word that the adapter does not know, by provider; the API has changed"))
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("make counters: %w", err)
	}
	return &Service{d: d, count: count, words: words}, nil
}

// Handler serves POST /v1/callbacks/{provider}/{job_id}, the address that a submit
// names, and POST /v1/callbacks/{provider}, which is registered at a provider for
// all of a project's tasks.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+HealthPath, healthy)
	mux.HandleFunc("POST /v1/callbacks/{provider}/{job}", s.serve(s.receive))
	mux.HandleFunc("POST /v1/callbacks/{provider}", s.serve(s.receiveStatic))
	return continueTrace(run.Traced(mux))
}

// serve answers with what receive makes of a callback: the status, the reason
// for logs and metrics, and the body where the provider wants a certain one.
func (s *Service) serve(receive func(w http.ResponseWriter, r *http.Request) (status int, reason string, answer []byte)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		name := r.PathValue("provider")
		if _, known := s.d.Parsers[name]; !known {
			name = "unknown" // a stranger's word must not become a metric's label
		}
		status, reason, body := receive(w, r)
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
	}
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

// receive handles a callback of one job.
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
	body, status, reason := readBody(w, r)
	if status != http.StatusOK {
		return status, reason, nil
	}
	if c, ok := parser.(provider.Challenger); ok {
		if answer, ok := c.Challenge(body); ok {
			return http.StatusOK, "challenge", answer
		}
	}
	now := s.d.Now().UTC()
	report, err := parser.ParseWebhook(r.Context(), r.Header, body, now)
	if err != nil {
		status, reason := unparsed(err)
		return status, reason, nil
	}
	status, reason = s.accept(r.Context(), provider.Seen{JobID: job, AttemptID: attempt, Provider: name, Source: "webhook", At: now}, report, body)
	return status, reason, nil
}

// receiveStatic handles a callback whose address names no job. Only what its
// provider signed is taken, and the task's id tells whose it is. One that is
// nobody's is refused: with 503 while a submit to the provider has no answer
// yet, for it may be that one's; with 404 otherwise. Both kinds of provider send
// it again, and the watchdog asks in any case: nothing is kept here.
func (s *Service) receiveStatic(w http.ResponseWriter, r *http.Request) (status int, reason string, answer []byte) {
	name := r.PathValue("provider")
	parser := s.d.Parsers[name]
	if v, ok := parser.(provider.Verifier); !ok || !v.VerifiesWebhooks() || s.d.Find == nil {
		return http.StatusNotFound, "unknown_provider", nil
	}
	body, status, reason := readBody(w, r)
	if status != http.StatusOK {
		return status, reason, nil
	}
	now := s.d.Now().UTC()
	report, err := parser.ParseWebhook(r.Context(), r.Header, body, now)
	if err != nil {
		status, reason := unparsed(err)
		return status, reason, nil
	}
	if report.TaskID == "" {
		return http.StatusBadRequest, "garbage", nil
	}
	found, err := s.d.Find(r.Context(), name, report.TaskID)
	switch {
	case err != nil:
		s.d.Logger.WarnContext(r.Context(), "task not looked up", "provider", name, "error", err.Error())
		return http.StatusServiceUnavailable, "lookup_unavailable", nil
	case found.JobID == "" && found.SubmitOpen:
		return http.StatusServiceUnavailable, "early", nil
	case found.JobID == "":
		return http.StatusNotFound, "unknown_task", nil
	}
	status, reason = s.accept(r.Context(), provider.Seen{JobID: found.JobID, AttemptID: found.AttemptID, Provider: name, Source: "webhook", At: now}, report, body)
	return status, reason, nil
}

func readBody(w http.ResponseWriter, r *http.Request) (body []byte, status int, reason string) {
	// A body that trickles in must not hold a connection for ever.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(15 * time.Second))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, http.StatusRequestEntityTooLarge, "too_large"
	case err != nil:
		return nil, http.StatusBadRequest, "unreadable"
	}
	return body, http.StatusOK, ""
}

// unparsed is the answer to what a parser refuses.
func unparsed(err error) (status int, reason string) {
	switch {
	case errors.Is(err, provider.ErrBadSignature):
		return http.StatusUnauthorized, "bad_signature"
	case errors.Is(err, provider.ErrKeysUnavailable):
		return http.StatusServiceUnavailable, "keys_unavailable"
	}
	return http.StatusBadRequest, "garbage"
}

// accept publishes what a callback says; of one that proves nothing, a poll.
func (s *Service) accept(ctx context.Context, seen provider.Seen, report provider.Report, body []byte) (status int, reason string) {
	if report.UnknownWord != "" {
		s.words.Add(ctx, 1, metric.WithAttributes(attribute.String("provider", seen.Provider)))
		s.d.Logger.ErrorContext(ctx, "unknown status word", "provider", seen.Provider, "job_id", seen.JobID, "word", report.UnknownWord)
	}
	if report.Hint {
		p := &eventv1.PollAttempt{JobId: seen.JobID, AttemptId: seen.AttemptID, Provider: seen.Provider, Hinted: true}
		if provider.ValidTaskID(report.TaskID) {
			p.ProviderTaskId = report.TaskID
		}
		if err := s.d.Bus.SchedulePoll(ctx, p, seen.At); err != nil {
			return http.StatusServiceUnavailable, "bus_unavailable"
		}
		return http.StatusOK, "hint"
	}
	o := provider.Observe(report, seen)
	if report.State != provider.Succeeded && report.State != provider.Failed {
		sum := sha256.Sum256(body)
		o.Id = seen.AttemptID + "-webhook-" + hex.EncodeToString(sum[:8])
	}
	if err := s.d.Bus.PublishObservation(ctx, o); err != nil {
		s.d.Logger.WarnContext(ctx, "callback not published", "job_id", seen.JobID, "error", err.Error())
		return http.StatusServiceUnavailable, "bus_unavailable"
	}
	return http.StatusOK, "accepted"
}
