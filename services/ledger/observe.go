package ledger

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/postgres"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Observe applies what was seen of an attempt: state, money and outbox in one
// transaction. It is idempotent by observation id; what the table does not
// allow is recorded and ignored. It is the handler of the OBSERVATIONS stream.
func (s *Service) Observe(ctx context.Context, o *eventv1.Observation) error {
	if !id.Safe(o.GetJobId()) || !id.Safe(o.GetAttemptId()) || o.GetFact() == nil || o.GetId() == "" {
		return bus.Terminate(fmt.Errorf("observation without job, attempt, id or fact"))
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	if p := o.GetProgressed(); p != nil {
		if done, err := s.progress(ctx, o, p); done {
			return err
		}
	}
	var verdict string
	var after *record
	err := postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		j, err := one(ctx, tx, "id = $1 for update", o.GetJobId())
		if err != nil {
			if fault.From(err).Code == fault.NotFound {
				return bus.Terminate(fmt.Errorf("observation of an unknown job"))
			}
			return err
		}
		tag, err := tx.Exec(ctx, `insert into observation (id, job_id, attempt_id, source, fact, verdict, observed_at)
			values ($1, $2, $3, $4, $5, 'ignored', $6) on conflict (id) do nothing`,
			o.GetId(), j.ID, o.GetAttemptId(), o.GetSource(), factName(o), o.GetObservedAt().AsTime())
		if err != nil {
			return fmt.Errorf("insert observation: %w", err)
		}
		if tag.RowsAffected() == 0 {
			verdict = "duplicate"
			return nil
		}
		if verdict, err = s.apply(ctx, tx, j, o); err != nil {
			return err
		}
		after = j
		_, err = tx.Exec(ctx, "update observation set verdict = $2 where id = $1", o.GetId(), verdict)
		return err
	})
	if err != nil {
		return err
	}
	s.wake()
	s.seen.Add(ctx, 1, metric.WithAttributes(attribute.String("fact", factName(o)), attribute.String("source", o.GetSource()), attribute.String("verdict", verdict)))
	log := s.log.InfoContext
	if verdict == "late" || verdict == "conflict" {
		log = s.log.WarnContext
	}
	state := ""
	if after != nil {
		state = string(after.State)
	}
	log(ctx, "observation", "job_id", o.GetJobId(), "attempt_id", o.GetAttemptId(), "source", o.GetSource(),
		"fact", factName(o), "verdict", verdict, "state", state)
	if verdict == "applied" && after.State == job.Running {
		// Losing this schedule costs time only: the sweep makes it again.
		p := &eventv1.PollAttempt{JobId: after.ID, AttemptId: o.GetAttemptId(), Provider: after.Provider}
		if err := s.bus.SchedulePoll(ctx, p, time.Now().Add(s.cfg.WatchAfter)); err != nil {
			s.log.WarnContext(ctx, "watchdog not scheduled", "job_id", after.ID, "error", err.Error())
		}
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
	v.ProgressEstimated = false
	return true, s.tellProgress(ctx, v, o.GetAttemptId(), p.GetProgress())
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

// apply draws the conclusion: "applied", "ignored", "late" or "conflict".
func (s *Service) apply(ctx context.Context, tx pgx.Tx, j *record, o *eventv1.Observation) (string, error) {
	current := j.AttemptID != nil && *j.AttemptID == o.GetAttemptId()
	if !current || j.State.Terminal() {
		if o.GetRendered() != nil || o.GetAccepted() != nil {
			// The provider has, and may bill, a task that we no longer wait for.
			_, err := tx.Exec(ctx, "update job set late_result = true where id = $1 and state <> 'succeeded'", j.ID)
			return "late", err
		}
		return "ignored", nil
	}
	if task := taskID(o); task != "" {
		tag, err := tx.Exec(ctx, `update attempt set provider_task_id = $2
			where id = $1 and (provider_task_id is null or provider_task_id = $2)`, o.GetAttemptId(), task)
		if err != nil {
			return "", fmt.Errorf("update attempt: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return "conflict", nil // another task id for the same attempt: an alarm, never an overwrite
		}
	}
	var in job.Input
	var attempt string
	var verr *videov1.VideoError
	ended := true
	switch f := o.GetFact().(type) {
	case *eventv1.Observation_Accepted:
		in, attempt, ended = job.Accept, "accepted", false
	case *eventv1.Observation_Progressed:
		in, attempt, ended = job.Progress, "accepted", false
		if j.State == job.Running {
			return "ignored", nil
		}
	case *eventv1.Observation_Unknown:
		_, err := tx.Exec(ctx, "update attempt set state = 'uncertain' where id = $1 and state = 'intended'", o.GetAttemptId())
		return "applied", err
	case *eventv1.Observation_Refused:
		in, attempt, verr = job.Refuse, "refused", f.Refused.GetError()
		if f.Refused.GetRetry() && j.AttemptCount < s.cfg.MaxAttempts {
			in = job.RefuseRetry
		}
	case *eventv1.Observation_Rendered:
		in, attempt = job.Render, "succeeded"
		url := f.Rendered.GetUrl()
		j.ResultURL = &url
	case *eventv1.Observation_Failed:
		in, attempt, verr = job.Fail, "failed", f.Failed.GetError()
	case *eventv1.Observation_TimedOut:
		in, attempt = job.TimeOut, "uncertain"
		verr = &videov1.VideoError{Code: string(fault.ProviderOutcomeUnknown), Provider: j.Provider,
			Message: "the provider gave no verdict in the longest possible time; nothing was charged, and an operator looks into it"}
	case *eventv1.Observation_Archived:
		in = job.Archive
		raw, err := proto.Marshal(f.Archived.GetArtifact())
		if err != nil {
			return "", fmt.Errorf("marshal artifact: %w", err)
		}
		j.Artifact = raw
	case *eventv1.Observation_ArchiveFailed:
		in, verr = job.ArchiveFailed, f.ArchiveFailed.GetError()
	}
	if _, legal := job.Next(j.State, in); !legal {
		return "ignored", nil
	}
	var rawErr []byte
	if verr != nil {
		var err error
		if rawErr, err = proto.Marshal(verr); err != nil {
			return "", fmt.Errorf("marshal error: %w", err)
		}
		if in != job.RefuseRetry {
			j.Error = rawErr
		}
	}
	if attempt != "" {
		if _, err := tx.Exec(ctx, `update attempt set state = $2, error = $3, ended_at = case when $4 then now() end where id = $1`,
			o.GetAttemptId(), attempt, rawErr, ended); err != nil {
			return "", fmt.Errorf("update attempt: %w", err)
		}
	}
	var delay time.Duration
	if in == job.RefuseRetry {
		delay = max(time.Duration(o.GetRefused().GetRetryAfterMs())*time.Millisecond, retryDelay(j.AttemptCount))
		j.SubmitAfter = time.Now().Add(delay).UTC()
		j.DeadlineAt = nil
	}
	if _, err := j.advance(ctx, tx, in); err != nil {
		return "", err
	}
	switch {
	case in == job.RefuseRetry:
		return "applied", j.command(ctx, tx, fmt.Sprintf("%s-submit-%d", j.ID, j.AttemptCount+1), delay)
	case j.State == job.NeedsReview:
		return "applied", move(ctx, tx, "suspense:"+o.GetAttemptId(), "suspense", j.ID, leg{suspense, j.Quote}, leg{providerCost, -j.Quote})
	}
	return "applied", nil
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
	}
	return ""
}

// retryDelay is exponential with full jitter: up to 1 s, 2 s, 4 s … 60 s.
func retryDelay(attempts int) time.Duration {
	ceiling := min(time.Second<<min(max(attempts-1, 0), 6), time.Minute)
	return time.Duration(rand.Int64N(int64(ceiling))) + 50*time.Millisecond
}
