package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

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
		o.GetAccepted().PollAfterMs = s.firstPoll(ctx, adapter, seen.AttemptID).Milliseconds()
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
