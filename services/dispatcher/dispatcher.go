// Package dispatcher submits queued jobs to providers and watches them. It
// writes no job: it asks the ledger for the right to submit once, and observes.
package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/callbacktoken"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/traffic"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Config is what an operator may set.
type Config struct {
	SubmitTimeout time.Duration `env:"REELWAY_SUBMIT_TIMEOUT" min:"100ms" envDefault:"60s" desc:"longest wait for a provider's answer to a submit; afterwards its outcome is unknown and is looked for"`
	PollInterval  time.Duration `env:"REELWAY_POLL_INTERVAL" min:"10ms" envDefault:"10s" desc:"shortest interval between polls of an attempt; it grows to six times this, and twice that where the provider's webhooks arrive"`
	MaxRuntime    time.Duration `env:"REELWAY_MAX_RUNTIME" min:"1s" envDefault:"2h" desc:"longest time without a verdict from a provider before a job needs review, where its model has no longer one; the hold is kept until then"`
	Concurrency   int           `env:"REELWAY_PROVIDER_CONCURRENCY" min:"1" max:"10000" envDefault:"32" desc:"submissions under way to one provider by one replica"`
	Rate          float64       `env:"REELWAY_PROVIDER_RATE" min:"0.001" envDefault:"50" desc:"submissions a second to one provider by all replicas, unless its keys file says otherwise; and polls a second by each replica"`
	Running       int           `env:"REELWAY_PROVIDER_RUNNING" min:"0" max:"1000000" envDefault:"0" desc:"tasks at one provider at one time, of all replicas, unless its keys file says otherwise; 0: any number"`
	SourceLife    time.Duration `env:"REELWAY_SOURCE_URL_LIFE" min:"1m" max:"168h" envDefault:"6h" desc:"how long a provider may fetch an uploaded image or a video that it is to work on"`
	Failures      int           `env:"REELWAY_BREAKER_FAILURES" min:"1" max:"1000" envDefault:"5" desc:"submissions in a row, of one model to one provider, that get no proper answer before its jobs wait"`
	Cooldown      time.Duration `env:"REELWAY_BREAKER_COOLDOWN" min:"100ms" max:"1h" envDefault:"10s" desc:"how long they wait until one of them is tried; it doubles with each that fails, to thirty times this"`
	KeyBench      time.Duration `env:"REELWAY_KEY_BENCH" min:"1s" max:"24h" envDefault:"10m" desc:"how long a key rests that the provider refuses, or whose balance is used up"`
}

// Files signs objects of the bucket; bucket.Bucket is one.
type Files interface {
	Sign(ctx context.Context, key string, r bucket.Response) (string, time.Time, error)
}

// Deps are the dispatcher's neighbours.
type Deps struct {
	Bus       *bus.Bus
	Jobs      ledgerv1.JobServiceClient
	Providers map[string]provider.Adapter // by name; what a provider can do
	// Keys are the providers' keys; a provider without an entry has the single
	// key of its adapter.
	Keys map[string]*registry.Keyring
	// Model names a job's model as its provider does.
	Model  func(*videov1.VideoParams) (string, error)
	Tokens *callbacktoken.Tokens
	// Files signs the objects of the bucket that a job refers to.
	Files  Files
	Logger *slog.Logger
	Now    func() time.Time
	// OnUncertain is a model's policy for a submission whose outcome is unknown
	// and which its provider cannot be asked for: catalog.Wait for its webhook or
	// deadline, or catalog.Resubmit, which may cost twice. Without it, wait.
	OnUncertain func(modelID string) string
	// MaxRuntime is a model's longest time without a verdict, where it is longer than
	// Config's. Without it, Config's is everybody's.
	MaxRuntime func(modelID string) time.Duration
}

// Service submits and polls. Any number of replicas may run.
type Service struct {
	cfg   Config
	d     Deps
	m     metrics
	gates map[string]*gate // of polls
	desks map[string]*desk // of submits
	keys  map[string]*registry.Keyring

	traffic *traffic.Traffic
	untold  chan *eventv1.Observation
}

// New returns a dispatcher; every field of d but OnUncertain and MaxRuntime is required.
func New(cfg Config, d Deps) (*Service, error) {
	if d.Bus == nil || d.Jobs == nil || d.Model == nil || d.Tokens == nil || d.Files == nil || d.Logger == nil || d.Now == nil {
		return nil, errors.New("dispatcher: Bus, Jobs, Model, Tokens, Files, Logger and Now are required")
	}
	m, err := newMetrics()
	if err != nil {
		return nil, fmt.Errorf("make metrics: %w", err)
	}
	s := &Service{cfg: cfg, d: d, m: m, gates: map[string]*gate{}, desks: map[string]*desk{}, keys: map[string]*registry.Keyring{},
		untold:  make(chan *eventv1.Observation, untold),
		traffic: traffic.New(traffic.Config{Failures: cfg.Failures, Cooldown: cfg.Cooldown, Bench: cfg.KeyBench, Probe: cfg.SubmitTimeout + 15*time.Second}, d.Bus.Shared(), d.Now, d.Logger)}
	for name, adapter := range d.Providers {
		ring := d.Keys[name]
		if ring == nil {
			ring = registry.Single(adapter)
		}
		s.keys[name] = ring
		s.gates[name] = &gate{limit: rate.NewLimiter(rate.Limit(cfg.Rate), max(int(cfg.Rate), 1))}
		s.desks[name] = &desk{name: name, ring: ring, limits: registry.Limits{MaxRunning: cfg.Running, Rate: cfg.Rate}, traffic: s.traffic}
	}
	return s, s.m.watch(s)
}

// announceEvery is how often replicas see to it that their settings are known.
const announceEvery = 5 * time.Second

// announce tells the settings of each provider to whoever asks how it stands.
func (s *Service) announce(ctx context.Context) error {
	run.Every(ctx, announceEvery, func() {
		for _, d := range s.desks {
			s.traffic.Announce(ctx, d.settings())
		}
	})
	return nil
}

// Components are three consumers for each provider, so that one provider's lag
// is its own, and what keeps the replicas of one mind.
func (s *Service) Components() []run.Component {
	out := []run.Component{{Name: "dispatcher-traffic", Run: s.traffic.Run}, {Name: "dispatcher-settings", Run: s.announce}, {Name: "dispatcher-untold", Run: s.tellLater}}
	for name := range s.d.Providers {
		submit := bus.SubmitConsumer(name)
		submit.Timeout = s.cfg.SubmitTimeout + holdFor + 15*time.Second
		out = append(out,
			run.Component{Name: "dispatcher-submit-" + name, Run: func(ctx context.Context) error {
				return bus.Consume(ctx, s.d.Bus, submit, s.cfg.Concurrency, func(work context.Context, m *eventv1.SubmitJob) error {
					return s.submit(work, ctx.Done(), m)
				})
			}},
			run.Component{Name: "dispatcher-cancel-" + name, Run: func(ctx context.Context) error {
				return bus.Consume(ctx, s.d.Bus, bus.CancelConsumer(name), min(s.cfg.Concurrency, cancelWorkers), s.cancel)
			}},
			run.Component{Name: "dispatcher-poll-" + name, Run: func(ctx context.Context) error {
				return bus.Consume(ctx, s.d.Bus, bus.PollConsumer(name), s.cfg.Concurrency, s.poll)
			}})
	}
	return out
}

// maxRuntime is how long a model's tasks are waited for.
func (s *Service) maxRuntime(model string) time.Duration {
	if s.d.MaxRuntime == nil {
		return s.cfg.MaxRuntime
	}
	return max(s.cfg.MaxRuntime, s.d.MaxRuntime(model))
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
		VideoURL: p.GetVideoUrl(), SourceTask: p.GetSourceTask(), Extend: p.GetExtend(),
		Seed: p.Seed, Audio: p.GetAudio(), Watermark: p.GetWatermark(),
		CallbackURL: s.d.Tokens.URL(seen.Provider, seen.JobID, seen.AttemptID, tp["traceparent"]),
	}, nil
}

// signAgain is when a job comes again whose files could not be signed: its attempts
// have to outlast a store that is away for a moment.
const signAgain = 30 * time.Second

// sign puts signed URLs in the place of a task's references to the bucket.
func (s *Service) sign(ctx context.Context, t *provider.Task) error {
	for _, u := range []*string{&t.ImageURL, &t.EndImageURL, &t.VideoURL} {
		key, ok := bucket.RefKey(*u)
		if !ok {
			continue
		}
		signed, _, err := s.d.Files.Sign(ctx, key, bucket.Response{Life: s.cfg.SourceLife})
		if err != nil {
			f := fault.Wrap(err, fault.Unavailable, "a file of the job could not be signed")
			f.RetryAfter = signAgain
			return f
		}
		*u = signed
	}
	return nil
}

// publish keeps trying while the message may be worked on. An acceptance is kept
// beyond that: its task's id may be known here only.
func (s *Service) publish(ctx context.Context, o *eventv1.Observation) error {
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 5*time.Second) {
		err := s.d.Bus.PublishObservation(ctx, o)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			s.keep(ctx, o)
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
