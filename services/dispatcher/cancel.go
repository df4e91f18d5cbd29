package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// cancelWorkers bounds the cancels under way at one provider: submits and polls
// come first.
const cancelWorkers = 4

// callTimeout bounds one poll or cancel.
const callTimeout = 20 * time.Second

// cancel asks a provider for the end of a task. It may be done any number of
// times; only the provider's word, by poll or webhook, ends the job.
func (s *Service) cancel(ctx context.Context, m *eventv1.CancelAttempt) error {
	a, err := s.d.Jobs.GetAttempt(ctx, &ledgerv1.GetAttemptRequest{AttemptId: m.GetAttemptId()})
	if err != nil {
		if fault.FromStatus(err).Code == fault.NotFound {
			return bus.Terminate(err)
		}
		return fmt.Errorf("read attempt: %w", err)
	}
	if a.GetSettled() || !a.GetCancelRequested() || a.GetProviderTaskId() == "" {
		return nil // it has ended, or a later command comes when there is a task
	}
	adapter, err := s.account(a.GetProvider(), a.GetKeyId())
	if err != nil {
		return s.withoutKey(ctx, a, err)
	}
	return s.stop(ctx, adapter, a)
}

// stop asks for the end of an open task and, when that is taken, for its state.
func (s *Service) stop(ctx context.Context, adapter provider.Adapter, a *ledgerv1.GetAttemptResponse) error {
	g := s.gates[a.GetProvider()]
	seen := provider.Seen{JobID: a.GetJobId(), AttemptID: a.GetAttemptId(), Provider: a.GetProvider(), Source: "cancel", At: s.d.Now()}
	canceler, ok := adapter.(provider.Canceler)
	if !ok {
		return s.refuseCancel(ctx, seen, "unsupported")
	}
	if wait := g.closed(s.d.Now()); wait > 0 {
		return bus.After(wait, errors.New("provider asked to wait"))
	}
	if err := g.limit.Wait(ctx); err != nil {
		return err
	}
	t, err := s.task(ctx, seen, a.GetParams())
	if err != nil {
		return bus.Terminate(err)
	}
	call, done := context.WithTimeout(ctx, callTimeout)
	err = canceler.Cancel(call, a.GetProviderTaskId(), t)
	done()
	switch {
	case errors.Is(err, provider.ErrTooLate):
		if err := s.refuseCancel(ctx, seen, "too_late"); err != nil {
			return err
		}
	case err != nil && !errors.Is(err, provider.ErrNoTask):
		s.m.canceled(ctx, a.GetProvider(), "error")
		return fmt.Errorf("cancel task: %w", err)
	default:
		result := "taken"
		if err != nil {
			result = "no_task"
		}
		s.m.canceled(ctx, a.GetProvider(), result)
		s.d.Logger.InfoContext(ctx, "cancel asked for", "job_id", a.GetJobId(), "provider", a.GetProvider(), "result", result)
	}
	// Gone since it took the cancel; or never seen, when it must be visible by now.
	forgotten := err == nil || errors.Is(err, provider.ErrNoTask) && age(a) > s.cfg.SubmitTimeout+absenceMargin
	// What has become of it is the provider's to say.
	call, done = context.WithTimeout(ctx, callTimeout)
	r, err := adapter.Poll(call, a.GetProviderTaskId(), t)
	done()
	seen.At = s.d.Now()
	switch {
	case err == nil && (r.State == provider.Succeeded || r.State == provider.Failed):
		return s.publish(ctx, provider.Observe(r, seen))
	case errors.Is(err, provider.ErrNoTask) && forgotten:
		// Some forget what they canceled.
		f := fault.New(fault.ProviderRejected, "%s canceled the task and does not know it any more", a.GetProvider())
		f.Provider, f.ProviderCode = a.GetProvider(), "canceled"
		return s.publish(ctx, provider.Observe(provider.Report{TaskID: a.GetProviderTaskId(), State: provider.Failed, Err: f, Canceled: true}, seen))
	case err != nil:
		s.d.Logger.WarnContext(ctx, "poll after cancel failed", "job_id", a.GetJobId(), "provider", a.GetProvider(), "error", err.Error())
	}
	// It takes its time, or its course: sooner than the watchdog, not at once.
	p := &eventv1.PollAttempt{JobId: a.GetJobId(), AttemptId: a.GetAttemptId(), Provider: a.GetProvider(), Polls: 1}
	return s.d.Bus.SchedulePoll(ctx, p, seen.At.Add(jitter(s.cfg.PollInterval)))
}

// refuseCancel tells that a wish to cancel has no effect.
func (s *Service) refuseCancel(ctx context.Context, seen provider.Seen, reason string) error {
	s.m.canceled(ctx, seen.Provider, reason)
	s.d.Logger.InfoContext(ctx, "cancel has no effect", "job_id", seen.JobID, "provider", seen.Provider, "reason", reason)
	o := &eventv1.Observation{Id: seen.AttemptID + "-cancel-refused", Fact: &eventv1.Observation_CancelRefused{CancelRefused: &eventv1.CancelRefused{Reason: reason}}}
	return s.publish(ctx, fill(o, seen))
}
