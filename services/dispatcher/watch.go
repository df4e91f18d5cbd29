package dispatcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
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
// for another attempt, or, where a provider cannot be asked, a policy that takes
// the risk.
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
	t, err := s.task(ctx, seen, a.GetParams())
	if err != nil {
		return bus.Terminate(err)
	}
	r, found, err := find(ctx, adapter, t)
	if errors.Is(err, provider.ErrNotSearchable) {
		if a.GetState() == "uncertain" {
			return s.giveUp(ctx, a, seen, wait)
		}
		o := &eventv1.Observation{Id: attempt + "-unknown", Fact: &eventv1.Observation_Unknown{Unknown: &eventv1.Unknown{Reason: "interrupted"}}}
		return s.publish(ctx, fill(o, seen))
	}
	if err != nil {
		return fmt.Errorf("look for task: %w", err)
	}
	if !found && wait > 0 {
		return bus.After(min(wait, s.cfg.PollInterval), errors.New("not found yet"))
	}
	if !found && a.GetRestored() {
		if r, found, err = s.lookFurther(ctx, a, t); err != nil {
			return err
		}
	}
	if !found {
		f := fault.New(fault.ProviderUnavailable, "%s did not take the task", a.GetProvider())
		return s.publish(ctx, refused(seen, f))
	}
	return s.publish(ctx, provider.Observe(r, seen))
}

// find looks for a task at a provider that can be asked.
func find(ctx context.Context, a provider.Adapter, t provider.Task) (provider.Report, bool, error) {
	if finder, ok := a.(provider.Finder); ok {
		return finder.Find(ctx, t)
	}
	return provider.Report{}, false, provider.ErrNotSearchable
}

// lostAttempts is how many attempts after the open one are asked for before its
// absence is believed.
const lostAttempts = 4

// lookFurther looks for what the ledger cannot know: where a backup was restored
// the task may be of a later attempt that was lost, or of another key. By another
// key it cannot be followed: its webhook, or the deadline, will tell.
func (s *Service) lookFurther(ctx context.Context, a *ledgerv1.GetAttemptResponse, t provider.Task) (provider.Report, bool, error) {
	ring, own := s.keys[a.GetProvider()], a.GetKeyId()
	if k := ring.Key(own); k != nil {
		own = k.ID // an attempt without one is of the default key
	}
	for _, k := range ring.Keys() {
		for n := range lostAttempts + 1 {
			if t.AttemptID = id.Nth(id.Attempt, a.GetJobId(), int(a.GetNumber())+n); n == 0 && k.ID == own {
				continue // asked for already
			}
			r, found, err := find(ctx, k.Adapter, t)
			switch {
			case err != nil:
				return r, false, fmt.Errorf("look for task of a lost attempt: %w", err)
			case found && k.ID != own:
				return r, false, bus.After(time.Minute, fmt.Errorf("the task exists, but of key %q", k.ID))
			case found:
				s.d.Logger.WarnContext(ctx, "task of a lost attempt found", "job_id", a.GetJobId(), "attempt_id", a.GetAttemptId(), "provider", a.GetProvider(), "lost", n)
				return r, true, nil
			}
		}
	}
	return provider.Report{}, false, nil
}

// giveUp frees the job of an attempt of unknown outcome for another, if its
// model's policy takes the risk of two tasks. The ledger does so once for a job.
func (s *Service) giveUp(ctx context.Context, a *ledgerv1.GetAttemptResponse, seen provider.Seen, wait time.Duration) error {
	if s.d.OnUncertain == nil || s.d.OnUncertain(a.GetParams().GetModel()) != catalog.Resubmit || a.GetInReview() {
		return nil // webhook or deadline will tell
	}
	if wait > 0 {
		return bus.After(wait, errors.New("its webhook may still tell"))
	}
	s.m.gaveUp(ctx, seen.Provider)
	s.d.Logger.WarnContext(ctx, "attempt of unknown outcome given up, as its model's policy says; its task may exist and cost",
		"job_id", seen.JobID, "attempt_id", seen.AttemptID, "provider", seen.Provider, "model", a.GetParams().GetModel())
	o := &eventv1.Observation{Id: seen.AttemptID + "-given-up", Fact: &eventv1.Observation_GivenUp{GivenUp: &eventv1.GivenUp{Reason: "policy"}}}
	return s.publish(ctx, fill(o, seen))
}

// later has a poll that has to wait made again by a schedule. Kept for redelivery,
// a crowd of them would fill the consumer, and the provider's other tasks, of
// other keys or just called back, would wait behind it.
func (s *Service) later(ctx context.Context, m *eventv1.PollAttempt, a *ledgerv1.GetAttemptResponse, err error) error {
	var after *bus.AfterError
	switch {
	case !errors.As(err, &after):
		return err
	case a.GetInReview():
		return nil // the ledger asks again
	}
	return s.d.Bus.SchedulePoll(ctx, m, s.d.Now().Add(jitter(after.Delay)))
}

// blamed raises the alarm of a refused submit for a task that failed because our
// account was refused: the key that had it rests.
func (s *Service) blamed(ctx context.Context, a *ledgerv1.GetAttemptResponse, r provider.Report) {
	d := s.desks[a.GetProvider()]
	key := d.ring.Key(a.GetKeyId()) // there: the poll went by it
	s.d.Logger.ErrorContext(ctx, "task failed for what an operator has to mend", "job_id", a.GetJobId(), "provider", a.GetProvider(), "key_id", key.ID,
		"provider_code", r.Err.ProviderCode, "cause", r.Cause)
	d.bench(ctx, key.ID, a.GetParams().GetModel(), r.Cause, r.Err)
}

func (s *Service) poll(ctx context.Context, m *eventv1.PollAttempt) error {
	g := s.gates[m.GetProvider()]
	if g == nil {
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
		if !m.GetHinted() {
			return nil
		}
		// A callback that came too late to bring anything counts as one that came.
		seen := provider.Seen{JobID: a.GetJobId(), AttemptID: a.GetAttemptId(), Provider: a.GetProvider(), Source: "hint", At: s.d.Now()}
		return s.publish(ctx, provider.Observe(provider.Report{State: provider.Running}, seen))
	}
	// Where the answer to the submit was lost, a callback at the attempt's own address
	// may be all that names its task. Who answers for it is the provider, by our key.
	adopts := a.GetProviderTaskId() == "" && a.GetState() == "uncertain" && m.GetProviderTaskId() != ""
	if a.GetProviderTaskId() == "" && !adopts {
		if err := s.lookFor(ctx, a.GetAttemptId()); err != nil || m.GetProviderTaskId() == "" {
			return err
		}
		return s.d.Bus.SchedulePoll(ctx, m, s.d.Now().Add(s.cfg.PollInterval)) // it is uncertain by then, or settled
	}
	task := cmp.Or(a.GetProviderTaskId(), m.GetProviderTaskId())
	adapter, err := s.account(a.GetProvider(), a.GetKeyId())
	if err != nil {
		return s.later(ctx, m, a, s.withoutKey(ctx, a, err))
	}
	// The provider that asked one to wait, it may be for an hour, called by itself here:
	// what is finished need not wait for what cannot be begun.
	if wait := g.closed(s.d.Now()); wait > 0 && !m.GetHinted() {
		return s.later(ctx, m, a, bus.After(wait, errors.New("provider asked to wait")))
	}
	if err := g.limit.Wait(ctx); err != nil {
		return err
	}
	seen := provider.Seen{JobID: a.GetJobId(), AttemptID: a.GetAttemptId(), Provider: a.GetProvider(), Source: "poll"}
	if m.GetHinted() {
		seen.Source = "hint"
	}
	t, err := s.task(ctx, seen, a.GetParams())
	if err != nil {
		return bus.Terminate(err)
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	r, err := adapter.Poll(call, task, t)
	cancel()
	seen.At = s.d.Now()
	if err == nil && adopts {
		s.d.Logger.WarnContext(ctx, "task of a lost answer found by its callback", "job_id", m.GetJobId(), "attempt_id", m.GetAttemptId(), "provider", m.GetProvider())
		o := &eventv1.Observation{Id: seen.AttemptID + "-accepted", Fact: &eventv1.Observation_Accepted{Accepted: &eventv1.Accepted{ProviderTaskId: cmp.Or(r.TaskID, task)}}}
		if perr := s.publish(ctx, fill(o, seen)); perr != nil {
			return perr
		}
	}
	if err == nil {
		s.m.polled(ctx, seen.Provider, string(r.State))
		if r.UnknownWord != "" {
			s.m.unknownWord(ctx, seen.Provider)
			s.d.Logger.ErrorContext(ctx, "unknown status word", "provider", m.GetProvider(), "job_id", m.GetJobId(), "word", r.UnknownWord)
		}
		if r.State == provider.Failed && r.Cause != "" {
			s.blamed(ctx, a, r)
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
	if age(a) > s.maxRuntime(a.GetParams().GetModel()) {
		o := &eventv1.Observation{Id: seen.AttemptID + "-timed-out", Fact: &eventv1.Observation_TimedOut{TimedOut: &eventv1.TimedOut{Reason: "deadline"}}}
		return s.publish(ctx, fill(o, seen))
	}
	if a.GetCancelRequested() {
		return s.stop(ctx, adapter, a) // its command was lost, or not yet obeyed
	}
	next := &eventv1.PollAttempt{JobId: m.GetJobId(), AttemptId: m.GetAttemptId(), Provider: m.GetProvider(), Polls: m.GetPolls() + 1}
	if adopts {
		next.ProviderTaskId = m.GetProviderTaskId()
	}
	wait := jitter(paceOf(adapter, a, a.WebhookTrust).next(s.cfg.PollInterval, next.GetPolls(), age(a)))
	return s.d.Bus.SchedulePoll(ctx, next, seen.At.Add(wait))
}
