package dispatcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// holdFor is how long a worker waits with a job in hand while its provider takes
// none. The jobs behind it stay where they are, and no delivery is used up.
const holdFor = 15 * time.Second

// pollPause is the longest that a refused submit keeps a provider's polls.
const pollPause = 30 * time.Second

// submit takes one job to its provider, when there is room. stop ends the
// waiting.
func (s *Service) submit(ctx context.Context, stop <-chan struct{}, m *eventv1.SubmitJob) error {
	d := s.desks[m.GetProvider()]
	if d == nil {
		return bus.Terminate(fmt.Errorf("no adapter for provider %q", m.GetProvider()))
	}
	for until := s.d.Now().Add(holdFor); ; {
		no, err := s.trySubmit(ctx, d, m)
		if no == nil || err != nil {
			return err
		}
		s.m.held(ctx, d.name, no.why)
		if no.why == "paused" {
			return nil // for hours it may be in the way of other models' jobs; the ledger's sweep sends it again
		}
		// A tenth more, by chance, so that a crowd spreads out.
		wait := no.wait + time.Duration(rand.Int64N(int64(no.wait/10+100*time.Millisecond)))
		// Only what holds up everybody is waited for in hand: other models' jobs
		// may pass by this one.
		if !no.all || s.d.Now().Add(wait).After(until) {
			return bus.After(min(wait, time.Minute), fmt.Errorf("the job has to wait: %s", no.why))
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-stop:
			t.Stop()
			return bus.After(0, errors.New("this replica ends"))
		case <-ctx.Done():
			t.Stop()
			return bus.After(time.Second, ctx.Err())
		}
	}
}

// again has a job come again after a failure that is not its own. It never ends
// in the dead letters: a job that waited long has been delivered often.
func (s *Service) again(ctx context.Context, m *eventv1.SubmitJob, err error) error {
	s.d.Logger.WarnContext(ctx, "submit put off", "job_id", m.GetJobId(), "provider", m.GetProvider(), "error", err.Error())
	return bus.After(time.Second+time.Duration(rand.Int64N(int64(2*time.Second))), err)
}

// trySubmit submits the job, or says why it has to wait.
func (s *Service) trySubmit(ctx context.Context, d *desk, m *eventv1.SubmitJob) (*busy, error) {
	p, no, err := d.pass(ctx, m.GetModel(), s.d.Now())
	if err != nil {
		return nil, s.again(ctx, m, err)
	}
	if no != nil {
		if no.away && s.moved(ctx, d, m) {
			return nil, nil
		}
		return no, nil
	}
	// The submit's time runs from before its intent is written: a process that
	// was frozen in between must not send what another has found absent since.
	call, cancel := context.WithTimeout(ctx, s.cfg.SubmitTimeout)
	defer cancel()
	r := d.request(m.GetJobId(), p)
	r.MaxRuntimeMs = s.maxRuntime(m.GetModel()).Milliseconds()
	b, err := s.begin(ctx, r)
	if err != nil || !b.GetGranted() {
		d.withdraw(ctx, p)
	}
	switch {
	case err != nil && fault.FromStatus(err).Code == fault.NotFound:
		return nil, bus.Terminate(err)
	case err != nil:
		return nil, s.again(ctx, m, fmt.Errorf("begin attempt: %w", err))
	case b.GetGranted():
		return nil, s.send(ctx, call, d, p, m, b)
	case b.GetFull():
		no := &busy{why: b.GetFullReason(), wait: time.Duration(b.GetRetryAfterMs()) * time.Millisecond,
			all: !slices.Contains([]string{"model", "closed", "source_key"}, b.GetFullReason())}
		if b.GetFullReason() == "provider" {
			d.full.pause(s.d.Now().Add(no.wait))
		}
		return no, nil
	case b.GetOpenAttemptId() == "":
		return nil, nil // canceled, done by another, or not due: the ledger will say
	}
	return nil, s.lookFor(ctx, b.GetOpenAttemptId())
}

// begin asks the ledger for an attempt, and again while its answer does not come: it
// may have been granted all the same, and only the one who has sent nothing can tell
// that. The time is a submit's, of which enough must be left.
func (s *Service) begin(ctx context.Context, r *ledgerv1.BeginAttemptRequest) (*ledgerv1.BeginAttemptResponse, error) {
	r.Nonce = rand.Uint64() | 1
	for until, wait := s.d.Now().Add(s.cfg.SubmitTimeout/3), 100*time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		b, err := s.d.Jobs.BeginAttempt(ctx, r)
		if err == nil || !fault.FromStatus(err).Retryable || s.d.Now().Add(wait).After(until) {
			return b, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// moved asks the ledger whether a job that the provider takes no time soon is to
// be tried elsewhere, and so is not this command's any more.
func (s *Service) moved(ctx context.Context, d *desk, m *eventv1.SubmitJob) bool {
	if m.GetModel() == "" {
		return false // a command of an older ledger, which has no routes
	}
	// An older ledger knows closed models alone, and grants nothing for them.
	b, err := s.d.Jobs.BeginAttempt(ctx, &ledgerv1.BeginAttemptRequest{JobId: m.GetJobId(), Provider: d.name, UnavailableModel: m.GetModel(), ClosedModels: []string{m.GetModel()}})
	return err == nil && !b.GetGranted() && !b.GetFull() && b.GetOpenAttemptId() == ""
}

// send submits a granted attempt, once, within call's time.
func (s *Service) send(ctx, call context.Context, d *desk, p *pass, m *eventv1.SubmitJob, b *ledgerv1.BeginAttemptResponse) error {
	job, model := cmp.Or(b.GetJobId(), m.GetJobId()), cmp.Or(b.GetParams().GetModel(), p.model)
	seen := provider.Seen{JobID: job, AttemptID: b.GetAttemptId(), Provider: d.name, Source: "submit"}
	probe := p.probe && model == p.model
	if !probe {
		d.withdraw(ctx, p)
	}
	t, err := s.task(ctx, seen, b.GetParams())
	if err != nil {
		err = fault.Wrap(err, fault.InvalidRequest, "the model is no longer offered")
	} else {
		err = s.sign(ctx, &t)
	}
	if err != nil {
		if probe {
			d.withdraw(ctx, p)
		}
		return s.publish(ctx, refused(seen, fault.From(err)))
	}
	key := d.ring.Key(b.GetKeyId())
	if key == nil { // taken out since, by a file that this process never read
		if probe {
			d.withdraw(ctx, p)
		}
		return s.publish(ctx, refused(seen, fault.New(fault.ProviderUnavailable, "no key of %s could take the task", d.name)))
	}
	started := s.d.Now()
	taskID, err := key.Adapter.Submit(call, t)
	seen.At = s.d.Now()
	took := seen.At.Sub(started)
	if err == nil && !provider.ValidTaskID(taskID) {
		err = errors.New("the provider's task id cannot be stored")
	}
	var refusal *provider.RefusedError
	switch {
	case err == nil:
		s.m.submitted(ctx, d.name, model, "accepted", took)
		d.traffic.Outcome(ctx, d.name, model, probe, took, "")
		d.traffic.Unbench(ctx, d.name, key.ID, model)
		o := &eventv1.Observation{Id: seen.AttemptID + "-accepted", Fact: &eventv1.Observation_Accepted{Accepted: &eventv1.Accepted{ProviderTaskId: taskID}}}
		o.GetAccepted().PollAfterMs = jitter(paceOf(key.Adapter, b, b.WebhookTrust).first(s.cfg.PollInterval)).Milliseconds()
		return s.publish(ctx, fill(o, seen))
	case errors.As(err, &refusal):
		f := refusal.Fault
		s.m.submitted(ctx, d.name, model, string(f.Code), took)
		s.d.Logger.WarnContext(ctx, "submit refused", "job_id", job, "provider", d.name, "key_id", key.ID, "code", f.Code, "provider_code", f.ProviderCode, "cause", refusal.Cause, "retry", f.Retryable)
		return s.publish(ctx, s.refusal(ctx, d, key.ID, model, probe, took, seen, refusal))
	}
	s.m.submitted(ctx, d.name, model, "unknown", took)
	d.traffic.Outcome(ctx, d.name, model, probe, took, "no answer")
	s.d.Logger.WarnContext(ctx, "submit outcome unknown", "job_id", job, "provider", d.name, "key_id", key.ID, "error", err.Error())
	o := &eventv1.Observation{Id: seen.AttemptID + "-unknown", Fact: &eventv1.Observation_Unknown{Unknown: &eventv1.Unknown{Reason: "no answer"}}}
	if err := s.publish(ctx, fill(o, seen)); err != nil {
		return err
	}
	if _, ok := key.Adapter.(provider.Finder); ok && job == m.GetJobId() {
		return bus.After(s.cfg.PollInterval/2, errors.New("outcome unknown, to be looked for"))
	}
	return nil // webhook or deadline will tell; the sweep keeps it alive
}

// refusal draws the conclusions from a refused submit: for the rate, the key and
// the circuit, and for the job.
func (s *Service) refusal(ctx context.Context, d *desk, key, model string, probe bool, took time.Duration, seen provider.Seen, r *provider.RefusedError) *eventv1.Observation {
	f := r.Fault
	o := refused(seen, f)
	switch {
	case f.Code == fault.RateLimited:
		d.slow(ctx, key, model, f.RetryAfter)
		// Polls wait as well, but not for hours: what cannot be begun must not keep what
		// is finished.
		s.gates[d.name].pause(s.d.Now().Add(min(max(f.RetryAfter, time.Second), pollPause)))
		d.traffic.Outcome(ctx, d.name, model, probe, took, "")
	case r.Cause != "" && f.Code == fault.ProviderUnavailable && !f.Retryable:
		// Our account there is refused, not the job: it may go with another key,
		// or when an operator has seen to it. The wait that the provider asks for is
		// the key's, and not the job's.
		d.bench(ctx, key, model, r.Cause, f)
		o.GetRefused().Retry, o.GetRefused().RetryAfterMs = true, 0
		switch {
		case probe:
			d.traffic.Outcome(ctx, d.name, model, true, took, f.Message)
		case d.lastKey(key, model):
			d.traffic.Trip(ctx, d.name, model, f.Message)
		}
	case f.Code == fault.ProviderUnavailable:
		d.traffic.Outcome(ctx, d.name, model, probe, took, f.Message)
	default:
		d.traffic.Outcome(ctx, d.name, model, probe, took, "")
	}
	return o
}
