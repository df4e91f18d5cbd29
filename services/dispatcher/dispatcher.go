// Package dispatcher submits queued jobs to providers and watches them. It
// writes no job: it asks the ledger for the right to submit once, and observes.
package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/callbacktoken"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/run"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Config is what an operator may set.
type Config struct {
	SubmitTimeout time.Duration `env:"REELWAY_SUBMIT_TIMEOUT" min:"100ms" envDefault:"60s" desc:"longest wait for a provider's answer to a submit; afterwards its outcome is unknown and is looked for"`
	PollInterval  time.Duration `env:"REELWAY_POLL_INTERVAL" min:"10ms" envDefault:"10s" desc:"first interval between polls of an overdue attempt; it grows to six times this"`
	MaxRuntime    time.Duration `env:"REELWAY_MAX_RUNTIME" min:"1s" envDefault:"2h" desc:"longest time without a verdict from a provider before a job needs review; the hold is kept until then"`
	Concurrency   int           `env:"REELWAY_PROVIDER_CONCURRENCY" min:"1" max:"10000" envDefault:"32" desc:"submissions under way to one provider by one replica"`
	Rate          float64       `env:"REELWAY_PROVIDER_RATE" min:"0.001" envDefault:"50" desc:"submissions and polls a second to one provider by one replica"`
}

// Deps are the dispatcher's neighbours.
type Deps struct {
	Bus       *bus.Bus
	Jobs      ledgerv1.JobServiceClient
	Providers map[string]provider.Adapter // by name
	// Model names a job's model as its provider does.
	Model  func(*videov1.VideoParams) (string, error)
	Tokens *callbacktoken.Tokens
	Logger *slog.Logger
	Now    func() time.Time
}

// Service submits and polls. Any number of replicas may run.
type Service struct {
	cfg   Config
	d     Deps
	m     metrics
	gates map[string]*gate
}

// gate is what one provider allows: a rate, and a pause for all jobs after it
// asked one to wait.
type gate struct {
	limit *rate.Limiter

	mu    sync.Mutex
	until time.Time
}

func (g *gate) pause(until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until.After(g.until) {
		g.until = until
	}
}

// closed is how long the gate stays shut.
func (g *gate) closed(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.until.Sub(now)
}

// New returns a dispatcher; every field of d is required.
func New(cfg Config, d Deps) (*Service, error) {
	if d.Bus == nil || d.Jobs == nil || d.Model == nil || d.Tokens == nil || d.Logger == nil || d.Now == nil {
		return nil, errors.New("dispatcher: Bus, Jobs, Model, Tokens, Logger and Now are required")
	}
	m, err := newMetrics()
	if err != nil {
		return nil, fmt.Errorf("make metrics: %w", err)
	}
	s := &Service{cfg: cfg, d: d, m: m, gates: map[string]*gate{}}
	for name := range d.Providers {
		s.gates[name] = &gate{limit: rate.NewLimiter(rate.Limit(cfg.Rate), max(int(cfg.Rate), 1))}
	}
	return s, nil
}

// Components are two consumers for each provider, so that one provider's lag
// is its own.
func (s *Service) Components() []run.Component {
	var out []run.Component
	for name := range s.d.Providers {
		submit := bus.SubmitConsumer(name)
		submit.Timeout = s.cfg.SubmitTimeout + 15*time.Second
		out = append(out,
			run.Component{Name: "dispatcher-submit-" + name, Run: func(ctx context.Context) error {
				return bus.Consume(ctx, s.d.Bus, submit, s.cfg.Concurrency, s.submit)
			}},
			run.Component{Name: "dispatcher-poll-" + name, Run: func(ctx context.Context) error {
				return bus.Consume(ctx, s.d.Bus, bus.PollConsumer(name), s.cfg.Concurrency, s.poll)
			}})
	}
	return out
}

func (s *Service) submit(ctx context.Context, m *eventv1.SubmitJob) error {
	adapter, g := s.d.Providers[m.GetProvider()], s.gates[m.GetProvider()]
	if adapter == nil {
		return bus.Terminate(fmt.Errorf("no adapter for provider %q", m.GetProvider()))
	}
	if wait := g.closed(s.d.Now()); wait > 0 {
		return bus.After(wait+time.Duration(rand.Int64N(int64(time.Second))), errors.New("provider asked to wait"))
	}
	if err := g.limit.Wait(ctx); err != nil {
		return err
	}
	// The submit's time runs from before its intent is written: a process that
	// was frozen in between must not send what another has found absent since.
	call, cancel := context.WithTimeout(ctx, s.cfg.SubmitTimeout)
	defer cancel()
	b, err := s.d.Jobs.BeginAttempt(ctx, &ledgerv1.BeginAttemptRequest{JobId: m.GetJobId(), Provider: m.GetProvider()})
	if err != nil {
		if fault.FromStatus(err).Code == fault.NotFound {
			return bus.Terminate(err)
		}
		return fmt.Errorf("begin attempt: %w", err)
	}
	if !b.GetGranted() {
		if b.GetOpenAttemptId() == "" {
			return nil // canceled, done by another, or not due: the ledger will say
		}
		return s.lookFor(ctx, adapter, b.GetOpenAttemptId())
	}
	seen := provider.Seen{JobID: m.GetJobId(), AttemptID: b.GetAttemptId(), Provider: m.GetProvider(), Source: "submit"}
	t, err := s.task(ctx, seen, b.GetParams())
	if err != nil {
		return s.publish(ctx, refused(seen, fault.Wrap(err, fault.InvalidRequest, "the model is no longer offered")))
	}
	started := s.d.Now()
	taskID, err := adapter.Submit(call, t)
	seen.At = s.d.Now()
	took := seen.At.Sub(started)
	if err == nil && !provider.ValidTaskID(taskID) {
		err = errors.New("the provider's task id cannot be stored")
	}
	var refusal *provider.RefusedError
	switch {
	case err == nil:
		s.m.submitted(ctx, seen.Provider, "accepted", took)
		o := &eventv1.Observation{Id: seen.AttemptID + "-accepted", Fact: &eventv1.Observation_Accepted{Accepted: &eventv1.Accepted{ProviderTaskId: taskID}}}
		if _, calls := adapter.(provider.WebhookParser); !calls {
			o.GetAccepted().PollAfterMs = s.interval(1).Milliseconds()
		}
		return s.publish(ctx, fill(o, seen))
	case errors.As(err, &refusal):
		f := refusal.Fault
		s.m.submitted(ctx, seen.Provider, string(f.Code), took)
		if f.Code == fault.RateLimited {
			g.pause(s.d.Now().Add(max(f.RetryAfter, time.Second))) // the whole provider slows down
		}
		s.d.Logger.WarnContext(ctx, "submit refused", "job_id", m.GetJobId(), "provider", m.GetProvider(), "code", f.Code, "provider_code", f.ProviderCode, "retry", f.Retryable)
		return s.publish(ctx, refused(seen, f))
	}
	s.m.submitted(ctx, seen.Provider, "unknown", took)
	s.d.Logger.WarnContext(ctx, "submit outcome unknown", "job_id", m.GetJobId(), "provider", m.GetProvider(), "error", err.Error())
	o := &eventv1.Observation{Id: seen.AttemptID + "-unknown", Fact: &eventv1.Observation_Unknown{Unknown: &eventv1.Unknown{Reason: "no answer"}}}
	if err := s.publish(ctx, fill(o, seen)); err != nil {
		return err
	}
	if _, ok := adapter.(provider.Finder); ok {
		return bus.After(s.cfg.PollInterval/2, errors.New("outcome unknown, to be looked for"))
	}
	return nil // webhook or deadline will tell; the sweep keeps it alive
}

// age is how long ago an attempt began, by the ledger's clock alone: a proof of
// absence must not depend on how two clocks agree.
func age(a *ledgerv1.GetAttemptResponse) time.Duration {
	return time.Duration(a.GetAgeMs()) * time.Millisecond
}

// absenceMargin is how long after the longest submit a provider's "no such
// task" counts as proof: what it read late is visible by then.
const absenceMargin = 5 * time.Second

// lookFor settles an attempt whose submission has no known outcome. It never
// submits: only a provider's proof that the task does not exist frees the job
// for another attempt.
func (s *Service) lookFor(ctx context.Context, adapter provider.Adapter, attempt string) error {
	a, err := s.d.Jobs.GetAttempt(ctx, &ledgerv1.GetAttemptRequest{AttemptId: attempt})
	if err != nil {
		return fmt.Errorf("read attempt: %w", err)
	}
	if a.GetSettled() || a.GetProviderTaskId() != "" {
		return nil
	}
	// While the submit may still be under way, here or inside the provider,
	// absence proves nothing.
	wait := s.cfg.SubmitTimeout + absenceMargin - age(a)
	if a.GetState() == "intended" && wait > 0 {
		return bus.After(min(wait, s.cfg.PollInterval), errors.New("an attempt is under way"))
	}
	seen := provider.Seen{JobID: a.GetJobId(), AttemptID: attempt, Provider: a.GetProvider(), Source: "lookup", At: s.d.Now()}
	finder, ok := adapter.(provider.Finder)
	if !ok {
		if a.GetState() == "uncertain" {
			return nil
		}
		o := &eventv1.Observation{Id: attempt + "-unknown", Fact: &eventv1.Observation_Unknown{Unknown: &eventv1.Unknown{Reason: "interrupted"}}}
		return s.publish(ctx, fill(o, seen))
	}
	t, err := s.task(ctx, seen, a.GetParams())
	if err != nil {
		return bus.Terminate(err)
	}
	r, found, err := finder.Find(ctx, t)
	if err != nil {
		return fmt.Errorf("look for task: %w", err)
	}
	if !found && wait > 0 {
		return bus.After(min(wait, s.cfg.PollInterval), errors.New("not found yet"))
	}
	if !found {
		f := fault.New(fault.ProviderUnavailable, "%s did not take the task", a.GetProvider())
		return s.publish(ctx, refused(seen, f))
	}
	return s.publish(ctx, provider.Observe(r, seen))
}

func (s *Service) poll(ctx context.Context, m *eventv1.PollAttempt) error {
	adapter, g := s.d.Providers[m.GetProvider()], s.gates[m.GetProvider()]
	if adapter == nil {
		return bus.Terminate(fmt.Errorf("no adapter for provider %q", m.GetProvider()))
	}
	a, err := s.d.Jobs.GetAttempt(ctx, &ledgerv1.GetAttemptRequest{AttemptId: m.GetAttemptId()})
	if err != nil {
		if fault.FromStatus(err).Code == fault.NotFound {
			return bus.Terminate(err)
		}
		return fmt.Errorf("read attempt: %w", err)
	}
	if a.GetSettled() {
		return nil
	}
	if a.GetProviderTaskId() == "" {
		return s.lookFor(ctx, adapter, a.GetAttemptId())
	}
	if wait := g.closed(s.d.Now()); wait > 0 {
		return bus.After(wait, errors.New("provider asked to wait"))
	}
	if err := g.limit.Wait(ctx); err != nil {
		return err
	}
	seen := provider.Seen{JobID: a.GetJobId(), AttemptID: a.GetAttemptId(), Provider: a.GetProvider(), Source: "poll"}
	t, err := s.task(ctx, seen, a.GetParams())
	if err != nil {
		return bus.Terminate(err)
	}
	call, cancel := context.WithTimeout(ctx, 20*time.Second)
	r, err := adapter.Poll(call, a.GetProviderTaskId(), t)
	cancel()
	seen.At = s.d.Now()
	if err == nil {
		s.m.polled(ctx, seen.Provider, string(r.State))
		if r.UnknownWord != "" {
			s.d.Logger.ErrorContext(ctx, "unknown status word", "provider", m.GetProvider(), "job_id", m.GetJobId(), "word", r.UnknownWord)
		}
		if r.State == provider.Succeeded || r.State == provider.Failed || r.Progress > 0 {
			if perr := s.publish(ctx, provider.Observe(r, seen)); perr != nil {
				return perr
			}
		}
		if r.State == provider.Succeeded || r.State == provider.Failed {
			return nil
		}
	} else {
		// A poll's failure says nothing of the task.
		s.m.polled(ctx, seen.Provider, "error")
		s.d.Logger.WarnContext(ctx, "poll failed", "job_id", m.GetJobId(), "provider", m.GetProvider(), "error", err.Error())
	}
	if a.GetInReview() {
		return nil // its time is long up; the ledger asks again, slowly
	}
	if age(a) > s.cfg.MaxRuntime {
		o := &eventv1.Observation{Id: seen.AttemptID + "-timed-out", Fact: &eventv1.Observation_TimedOut{TimedOut: &eventv1.TimedOut{Reason: "deadline"}}}
		return s.publish(ctx, fill(o, seen))
	}
	next := &eventv1.PollAttempt{JobId: m.GetJobId(), AttemptId: m.GetAttemptId(), Provider: m.GetProvider(), Polls: m.GetPolls() + 1}
	return s.d.Bus.SchedulePoll(ctx, next, seen.At.Add(s.interval(next.GetPolls())))
}

// interval grows by half with each poll, to six times the first, jittered by a
// tenth so that a crowd spreads out.
func (s *Service) interval(polls int32) time.Duration {
	d := float64(s.cfg.PollInterval)
	for range min(polls-1, 10) {
		d *= 1.5
	}
	d = min(d, 6*float64(s.cfg.PollInterval))
	return time.Duration(d * (0.9 + 0.2*rand.Float64()))
}

func (s *Service) task(ctx context.Context, seen provider.Seen, p *videov1.VideoParams) (provider.Task, error) {
	model, err := s.d.Model(p)
	if err != nil {
		return provider.Task{}, err
	}
	tp := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, tp)
	return provider.Task{
		JobID: seen.JobID, AttemptID: seen.AttemptID, Model: model, Prompt: p.GetPrompt(), NegativePrompt: p.GetNegativePrompt(),
		Duration: int(p.GetDurationSeconds()), Resolution: p.GetResolution(), AspectRatio: p.GetAspectRatio(),
		Width: int(p.GetWidth()), Height: int(p.GetHeight()), ImageURL: p.GetImageUrl(), EndImageURL: p.GetEndImageUrl(),
		Seed: p.Seed, Audio: p.GetAudio(), Watermark: p.GetWatermark(),
		CallbackURL: s.d.Tokens.URL(seen.Provider, seen.JobID, seen.AttemptID, tp["traceparent"]),
	}, nil
}

// publish keeps trying while the message may be worked on: a task id that is
// known here only is worth the wait.
func (s *Service) publish(ctx context.Context, o *eventv1.Observation) error {
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 5*time.Second) {
		err := s.d.Bus.PublishObservation(ctx, o)
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(delay):
		}
	}
}

func fill(o *eventv1.Observation, s provider.Seen) *eventv1.Observation {
	o.JobId, o.AttemptId, o.Provider, o.Source = s.JobID, s.AttemptID, s.Provider, s.Source
	o.ObservedAt = timestamppb.New(s.At)
	return o
}

func refused(s provider.Seen, f *fault.Error) *eventv1.Observation {
	return fill(&eventv1.Observation{Id: s.AttemptID + "-refused", Fact: &eventv1.Observation_Refused{Refused: &eventv1.Refused{
		Error: provider.ErrorProto(f), Retry: f.Retryable, RetryAfterMs: f.RetryAfter.Milliseconds(),
	}}}, s)
}
