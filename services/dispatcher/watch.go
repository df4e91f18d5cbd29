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
func (s *Service) lookFor(ctx context.Context, attempt string) error {
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
	adapter, err := s.account(a.GetProvider(), a.GetKeyId())
	if err != nil {
		return s.withoutKey(ctx, a, err)
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
		return s.lookFor(ctx, a.GetAttemptId())
	}
	if adapter, err = s.account(a.GetProvider(), a.GetKeyId()); err != nil {
		return s.withoutKey(ctx, a, err)
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
