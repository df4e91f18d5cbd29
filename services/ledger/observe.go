package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// What became of an observation.
const (
	applied   = "applied"
	ignored   = "ignored"   // the table does not allow it, or it says nothing new
	late      = "late"      // the provider has, and may bill, a task nobody waits for
	conflict  = "conflict"  // it contradicts what is known: an alarm
	duplicate = "duplicate" // the same fact was seen before
)

// sighting is one observation in its unit.
type sighting struct {
	ctx     context.Context
	o       *eventv1.Observation
	verdict string
	job     *record
	left    string // the provider that was fallen back from
}

// Observe applies what was seen of attempts: states, money and outbox in one
// transaction for all of them. It is idempotent by observation id; what the
// table does not allow is recorded and ignored. It returns an error for each
// observation, in order, and is the handler of the OBSERVATIONS stream.
func (s *Service) Observe(ctxs []context.Context, os []*eventv1.Observation) []error {
	errs := make([]error, len(os))
	var group []int
	for i, o := range os {
		switch {
		case !id.Safe(o.GetJobId()) || !id.Safe(o.GetAttemptId()) || o.GetFact() == nil || o.GetId() == "":
			errs[i] = bus.Terminate(errors.New("observation without job, attempt, id or fact"))
		case !storable(taskID(o)) || !storable(o.GetRendered().GetUrl()):
			errs[i] = bus.Terminate(errors.New("observation with a task id or URL that cannot be stored"))
		case o.GetProgressed() != nil:
			var done bool
			if done, errs[i] = s.progress(ctxs[i], o, o.GetProgressed()); !done {
				group = append(group, i)
			}
		default:
			group = append(group, i)
		}
	}
	s.observeGroup(ctxs, os, group, errs)
	return errs
}

// observeGroup applies some of the observations. A group that fails is split,
// so that one that cannot be applied never fails its neighbours.
func (s *Service) observeGroup(ctxs []context.Context, os []*eventv1.Observation, group []int, errs []error) {
	if len(group) == 0 {
		return
	}
	ctx, cancel := detached(ctxs[group[0]])
	defer cancel()
	var seen []sighting
	err := s.write(ctx, func(ctx context.Context, u *unit) error {
		seen = seen[:0]
		for _, i := range group {
			seen = append(seen, sighting{ctx: ctxs[i], o: os[i]})
		}
		return s.apply(ctx, u, seen)
	})
	if err != nil && len(group) > 1 {
		half := len(group) / 2
		s.observeGroup(ctxs, os, group[:half], errs)
		s.observeGroup(ctxs, os, group[half:], errs)
		return
	}
	if err != nil {
		errs[group[0]] = err
		return
	}
	s.wake()
	// Side by side: each may wait for the bus to take a schedule.
	var wg sync.WaitGroup
	for n, i := range group {
		wg.Go(func() { errs[i] = s.observed(seen[n]) })
	}
	wg.Wait()
}

// observed reports one committed observation and arms the watchdog.
func (s *Service) observed(x sighting) error {
	o := x.o
	s.seen.Add(x.ctx, 1, metric.WithAttributes(attribute.String("fact", factName(o)), attribute.String("source", o.GetSource()), attribute.String("verdict", x.verdict)))
	if x.left != "" {
		s.fell.Add(x.ctx, 1, fellFrom(x.left, x.job.Provider))
	}
	if x.job == nil && x.verdict == applied {
		return nil
	}
	if x.job == nil {
		return bus.Terminate(fmt.Errorf("observation of an unknown job"))
	}
	log := s.log.InfoContext
	if x.verdict == late || x.verdict == conflict {
		log = s.log.WarnContext
	}
	log(x.ctx, "observation", "job_id", o.GetJobId(), "attempt_id", o.GetAttemptId(), "source", o.GetSource(),
		"fact", factName(o), "verdict", x.verdict, "state", string(x.job.State))
	if x.verdict == applied && x.job.State == job.Running {
		// Losing this schedule costs time only: the sweep makes it again.
		p := &eventv1.PollAttempt{JobId: x.job.ID, AttemptId: o.GetAttemptId(), Provider: x.job.Provider}
		wait := s.cfg.WatchAfter
		if ms := o.GetAccepted().GetPollAfterMs(); ms > 0 {
			wait = min(wait, time.Duration(ms)*time.Millisecond)
		}
		if err := s.bus.SchedulePoll(x.ctx, p, time.Now().Add(wait)); err != nil {
			s.log.WarnContext(x.ctx, "watchdog not scheduled", "job_id", x.job.ID, "error", err.Error())
		}
	}
	return nil
}

const (
	// One that was ignored or contradicted the known may be true later.
	// The fence has each looked up by its key, however few rows there were when
	// the plan was made.
	knownFactsSQL = `select o.job_id, o.id from unnest($1::text[], $2::text[]) as x (job, id)
		cross join lateral (select o.job_id, o.id from observation o where o.job_id = x.job and o.id = x.id and o.verdict in ('applied', 'late') offset 0) o`
	taskOwnersSQL = `select a.provider, a.provider_task_id, a.id from unnest($1::text[], $2::text[]) as x (provider, task)
		cross join lateral (select a.provider, a.provider_task_id, a.id from attempt a where a.provider = x.provider and a.provider_task_id = x.task offset 0) a`
)

// apply judges a group in its order and gathers what follows.
func (s *Service) apply(ctx context.Context, u *unit, seen []sighting) error {
	var ids, facts, tasks, providers []string
	for _, x := range seen {
		ids, facts = append(ids, x.o.GetJobId()), append(facts, x.o.GetId())
		if t := taskID(x.o); t != "" {
			tasks, providers = append(tasks, t), append(providers, x.o.GetProvider())
		}
	}
	known, owners := map[[2]string]bool{}, map[[2]string]string{}
	jobs, err := u.lockJobs(ctx, ids, func(b *pgx.Batch) {
		// Under the jobs' locks: the same fact cannot be on its way elsewhere.
		b.Queue(knownFactsSQL, ids, facts).Query(func(rows pgx.Rows) error {
			var fact [2]string
			_, err := pgx.ForEachRow(rows, []any{&fact[0], &fact[1]}, func() error { known[fact] = true; return nil })
			return err
		})
		if len(tasks) == 0 {
			return
		}
		b.Queue(taskOwnersSQL, providers, tasks).Query(func(rows pgx.Rows) error {
			var provider, task, attempt string
			_, err := pgx.ForEachRow(rows, []any{&provider, &task, &attempt}, func() error {
				owners[[2]string{provider, task}] = attempt
				return nil
			})
			return err
		})
	})
	if err != nil {
		return err
	}
	for i := range seen {
		x := &seen[i]
		if key := x.o.GetArtifactDeleted().GetKey(); strings.HasPrefix(key, uploadKeys) {
			u.cleared, x.verdict = append(u.cleared, key), applied
			continue // no job's
		}
		if x.job = jobs[x.o.GetJobId()]; x.job == nil {
			continue // a dead letter, once the others are committed
		}
		x.ctx = x.job.traced(x.ctx)
		u.called(x.job, x.o)
		fact := [2]string{x.o.GetJobId(), x.o.GetId()}
		if known[fact] {
			x.verdict = duplicate
			continue
		}
		if x.verdict, err = s.judge(ctx, u, x, owners); err != nil {
			return err
		}
		known[fact] = x.verdict == applied || x.verdict == late
		u.see(*x)
	}
	return nil
}

// progress handles the frequent case without Postgres: a running job's
// percentage is transient. done is false when the job must be looked at.
func (s *Service) progress(ctx context.Context, o *eventv1.Observation, p *eventv1.Progressed) (done bool, err error) {
	v, ok, serr := s.bus.Status(ctx, o.GetJobId())
	if serr != nil || !ok || v.GetState() != videov1.VideoState_VIDEO_STATE_RUNNING {
		return false, nil //nolint:nilerr // Postgres knows
	}
	if n := len(v.GetAttempts()); n == 0 || v.GetAttempts()[n-1].GetId() != o.GetAttemptId() || p.GetProgress() <= v.GetProgress() {
		return true, nil // an older attempt's, or nothing new
	}
	first := v.GetProgress() == 0 || v.GetProgressEstimated()
	v.ProgressEstimated = false
	if err := s.tellProgress(ctx, v, o.GetAttemptId(), p.GetProgress()); err != nil {
		return true, err
	}
	if first {
		s.meters.firstProgress(ctx, v)
	}
	return true, nil
}

// tellProgress writes a running job's percentage to the read model and tells
// the watchers. It is transient: Postgres does not hold it.
func (s *Service) tellProgress(ctx context.Context, v *videov1.Video, attempt string, progress int32) error {
	v.Progress = min(progress, 99)
	if err := s.bus.PutStatus(ctx, v); err != nil {
		return err
	}
	ev := &eventv1.JobEvent{Video: v, OccurredAt: timestamppb.Now(), Transient: true, AttemptId: attempt}
	m, err := bus.NewMessage(bus.EventSubject(v.GetAccountId(), v.GetId(), "progress"),
		fmt.Sprintf("%s-v%d-p%d", v.GetId(), v.GetVersion(), v.GetProgress()), ev)
	if err != nil {
		return err
	}
	return s.bus.Publish(ctx, m)
}

func factName(o *eventv1.Observation) string {
	m := o.ProtoReflect()
	return string(m.WhichOneof(m.Descriptor().Oneofs().ByName("fact")).Name())
}

// revived is what shows that a task exists whose attempt was thought over.
var revived = []job.Input{job.Accept, job.Progress, job.Render}

// judge draws the conclusion from one observation of a locked job.
func (s *Service) judge(ctx context.Context, u *unit, x *sighting, owners map[[2]string]string) (string, error) {
	j, o := x.job, x.o
	if d := o.GetArtifactDeleted(); d != nil {
		u.cleared = append(u.cleared, d.GetKey())
		return applied, nil
	}
	if j.lost(o.GetAttemptId()) {
		if _, err := s.intend(ctx, u, j, "", 0); err != nil {
			return "", err
		}
	}
	a := j.current()
	if j.State == job.NeedsReview && a != nil && a.ID == o.GetAttemptId() {
		return s.judgeFate(ctx, u, x, a, owners)
	}
	if a == nil || a.ID != o.GetAttemptId() || j.State.Terminal() {
		// A task of an attempt that was given up is known by its id from now on.
		if old := j.attempt(o.GetAttemptId()); old != nil && old.GivenUp && (o.GetRendered() != nil || o.GetAccepted() != nil) && !claimTask(u, old, o, owners) {
			return conflict, nil
		}
		return u.judgeLate(j, o)
	}
	if !claimTask(u, a, o, owners) {
		return conflict, nil
	}
	if r := o.GetCancelRefused(); r != nil {
		return u.refuseCancel(ctx, j, r.GetReason())
	}
	if o.GetGivenUp() != nil && !s.mayGiveUp(j, a) {
		return ignored, nil
	}
	m, err := read(j, o)
	if err != nil {
		return "", err
	}
	if o.GetUnknown() != nil {
		if a.State == "intended" {
			a.State = "uncertain"
			u.changeAttempt(a)
		}
		return applied, nil
	}
	if j.State == job.Queued && !slices.Contains(revived, m.in) || a.State == "failed" && m.in != job.Render {
		return ignored, nil // the job waits for another attempt already
	}
	if m.in == job.RefuseRetry && o.GetRefused() != nil && j.Cancel.At != nil {
		m.in = job.Stop // surely nowhere, and not wanted any more
	}
	m.in = s.reroute(j, m)
	if _, legal := job.Next(j.State, m.in); !legal || m.in == job.Progress && j.State == job.Running {
		return ignored, nil
	}
	return applied, s.move(u, x, a, m)
}

// judgeLate notes a task that nobody waits for, of an attempt that is over or
// of a job that has ended: its provider has it and may bill it. It moves nothing
// and no customer pays for it.
func (u *unit) judgeLate(j *record, o *eventv1.Observation) (string, error) {
	old := j.attempt(o.GetAttemptId())
	if o.GetRendered() == nil && (o.GetAccepted() == nil || old != nil && old.State == "failed") {
		return ignored, nil // the answer to a submit whose verdict overtook it says nothing new
	}
	if j.Late || j.State == job.Succeeded && old != nil && old == j.current() {
		return late, nil
	}
	j.Late = true
	if o.GetRendered() != nil && j.State.Terminal() && j.State != job.Succeeded {
		if old != nil && old.Route != j.Route {
			if err := u.follow(j, old.Route); err != nil {
				return "", err
			}
		}
		j.bill(o.GetRendered()) // nobody pays for it: an operator writes it off
	}
	u.change(j)
	return late, nil
}

// claimTask notes which task of the provider is an attempt's; false when the
// observation speaks of another one.
func claimTask(u *unit, a *attempt, o *eventv1.Observation, owners map[[2]string]string) bool {
	task := taskID(o)
	if task == "" {
		return true
	}
	owner := owners[[2]string{a.Provider, task}]
	if a.TaskID != "" && a.TaskID != task || owner != "" && owner != a.ID {
		return false // never an overwrite
	}
	if a.TaskID == "" {
		a.TaskID = task
		owners[[2]string{a.Provider, task}] = a.ID
		u.changeAttempt(a)
	}
	return true
}

// meaning is what an observation says in the terms of the state machine.
type meaning struct {
	in       job.Input
	attempt  string // the attempt's new state; empty leaves it
	ended    bool
	verr     *videov1.VideoError
	err      []byte // verr
	artifact []byte
	url      *string
}

func read(j *record, o *eventv1.Observation) (m meaning, err error) {
	switch f := o.GetFact().(type) {
	case *eventv1.Observation_Accepted:
		m = meaning{in: job.Accept, attempt: "accepted"}
	case *eventv1.Observation_Progressed:
		m = meaning{in: job.Progress, attempt: "accepted"}
	case *eventv1.Observation_Refused:
		m = meaning{in: job.Refuse, attempt: "refused", ended: true, verr: f.Refused.GetError()}
		if f.Refused.GetRetry() {
			m.in = job.RefuseRetry
		}
	case *eventv1.Observation_Rendered:
		url := f.Rendered.GetUrl()
		m = meaning{in: job.Render, attempt: "succeeded", ended: true, url: &url}
	case *eventv1.Observation_Failed:
		m = meaning{in: job.Fail, attempt: "failed", ended: true, verr: f.Failed.GetError()}
	case *eventv1.Observation_Canceled:
		m = meaning{in: job.Fail, attempt: "canceled", ended: true, verr: f.Canceled.GetError()}
		if j.Cancel.At != nil {
			m.in = job.Stop
		}
	case *eventv1.Observation_GivenUp:
		m = meaning{in: job.RefuseRetry, attempt: "uncertain", ended: true}
	case *eventv1.Observation_TimedOut:
		m = meaning{in: job.TimeOut, attempt: "uncertain", ended: true}
		m.verr = &videov1.VideoError{Code: string(fault.ProviderOutcomeUnknown), Provider: j.Provider,
			Message: "the provider gave no verdict in the longest possible time; nothing was charged, and an operator looks into it"}
	case *eventv1.Observation_Archived:
		m = meaning{in: job.Archive}
		if m.artifact, err = proto.Marshal(f.Archived.GetArtifact()); err != nil {
			return m, fmt.Errorf("marshal artifact: %w", err)
		}
	case *eventv1.Observation_ArchiveFailed:
		m = meaning{in: job.ArchiveFailed, verr: f.ArchiveFailed.GetError()}
	}
	if m.verr != nil {
		if m.err, err = proto.Marshal(m.verr); err != nil {
			return m, fmt.Errorf("marshal error: %w", err)
		}
	}
	return m, nil
}

// move makes a legal move.
func (s *Service) move(u *unit, x *sighting, a *attempt, m meaning) error {
	j, o := x.job, x.o
	j.Restored = false // what became of it is known
	if o.GetSource() == "webhook" {
		u.heard = o.GetObservedAt()
		defer func() { u.heard = nil }()
	}
	if j.State == job.Queued { // an attempt thought over turned out to exist
		deadline := u.now.Add(s.cfg.MaxRuntime)
		j.DeadlineAt = &deadline
		if a.Route != j.Route {
			if err := u.follow(j, a.Route); err != nil {
				return err
			}
		}
	}
	if m.attempt != "" {
		a.State, a.Error, a.GivenUp = m.attempt, m.err, o.GetGivenUp() != nil
		if m.in == job.Render || m.in == job.Fail || m.in == job.Stop {
			a.VerdictSource = o.GetSource()
		}
		if m.ended {
			a.EndedAt = &u.now
		}
		u.changeAttempt(a)
	}
	if m.artifact != nil {
		j.Artifact = m.artifact
	}
	if m.url != nil {
		deadline := u.now.Add(s.cfg.StoreLife)
		j.ResultURL, j.DeadlineAt = m.url, &deadline
	}
	if r := o.GetRendered(); r != nil {
		j.bill(r)
	}
	var delay time.Duration
	switch {
	case m.in == job.RefuseRetry:
		all, _ := j.tries()
		delay = max(time.Duration(o.GetRefused().GetRetryAfterMs())*time.Millisecond, retryDelay(all))
		j.SubmitAfter, j.DeadlineAt = u.now.Add(delay), nil
	case m.in == job.FallBack:
		j.SubmitAfter, j.DeadlineAt, x.left = u.now, nil, j.Provider
		if err := u.follow(j, j.Route+1); err != nil {
			return err
		}
	case m.err != nil && m.in != job.Stop:
		j.Error = m.err
	}
	if _, err := u.advance(x.ctx, j, m.in); err != nil {
		return err
	}
	switch j.State {
	case job.Queued:
		return u.command(x.ctx, j, fmt.Sprintf("%s-submit-%d", j.ID, j.AttemptCount+1), delay)
	case job.NeedsReview:
		s.suspend(u, j, a)
	}
	return u.passCancel(x.ctx, j)
}

func taskID(o *eventv1.Observation) string {
	switch f := o.GetFact().(type) {
	case *eventv1.Observation_Accepted:
		return f.Accepted.GetProviderTaskId()
	case *eventv1.Observation_Progressed:
		return f.Progressed.GetProviderTaskId()
	case *eventv1.Observation_Rendered:
		return f.Rendered.GetProviderTaskId()
	case *eventv1.Observation_Failed:
		return f.Failed.GetProviderTaskId()
	case *eventv1.Observation_Canceled:
		return f.Canceled.GetProviderTaskId()
	}
	return ""
}

// maxText bounds what a provider may have stored of a task id or URL, in bytes:
// an event has to fit on the bus.
const maxText = 16 << 10

// storable reports whether Postgres takes a text: a NUL would come back as an
// error for ever.
func storable(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
}

// retryDelay is exponential with full jitter: up to 1 s, 2 s, 4 s … 60 s.
func retryDelay(attempts int) time.Duration {
	ceiling := min(time.Second<<min(max(attempts-1, 0), 6), time.Minute)
	return time.Duration(rand.Int64N(int64(ceiling))) + 50*time.Millisecond
}

// see remembers an observation to be written: the last verdict on each fact.
func (u *unit) see(x sighting) {
	for i := range u.seen {
		if o := u.seen[i].o; o.GetJobId() == x.o.GetJobId() && o.GetId() == x.o.GetId() {
			u.seen[i] = x
			return
		}
	}
	u.seen = append(u.seen, x)
}

func (u *unit) writeSeen(b *pgx.Batch) {
	if len(u.seen) == 0 {
		return
	}
	var t table
	column(&t, u.seen, func(x sighting) string { return x.o.GetId() })
	column(&t, u.seen, func(x sighting) string { return x.o.GetJobId() })
	column(&t, u.seen, func(x sighting) string { return x.o.GetAttemptId() })
	column(&t, u.seen, func(x sighting) string { return x.o.GetSource() })
	column(&t, u.seen, func(x sighting) string { return factName(x.o) })
	column(&t, u.seen, func(x sighting) string { return x.verdict })
	column(&t, u.seen, func(x sighting) time.Time { return x.o.GetObservedAt().AsTime() })
	b.Queue(`insert into observation (id, job_id, attempt_id, source, fact, verdict, observed_at)
		select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
		on conflict (job_id, id) do update set source = excluded.source, verdict = excluded.verdict, observed_at = excluded.observed_at`, t.columns...)
}
