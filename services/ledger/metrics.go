package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/job"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// measureFor bounds what one gauge waits for the database: with it away, all of
// them together must take less than a scrape may.
const measureFor = time.Second

// meters are the instruments of what happens to jobs. Labels are providers,
// models, states and codes, never jobs or accounts.
type meters struct {
	opens    metric.Int64Counter
	begun    metric.Int64Counter
	ended    metric.Int64Counter
	swept    metric.Int64Counter
	captured metric.Int64Counter
	queued   metric.Float64Histogram
	progress metric.Float64Histogram
	rendered metric.Float64Histogram
	total    metric.Float64Histogram
}

func newMeters(m metric.Meter) (meters, error) {
	// Waits are of seconds when all is well and of hours when a provider is full;
	// renders take minutes.
	wait := metric.WithExplicitBucketBoundaries(.05, .1, .25, .5, 1, 2.5, 5, 15, 60, 300, 900, 3600, 4*3600, 24*3600)
	render := metric.WithExplicitBucketBoundaries(1, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 3600, 2*3600)
	var x meters
	var errs [9]error
	x.opens, errs[0] = m.Int64Counter("reelway.ledger.opens", metric.WithUnit("{job}"),
		metric.WithDescription("requests for a new job by result: opened, replayed, or the code of the refusal; insufficient_credits is a balance or a budget"))
	x.begun, errs[1] = m.Int64Counter("reelway.job.attempts", metric.WithUnit("{attempt}"),
		metric.WithDescription("attempts that were begun, by provider, model and whether it is the job's first or again"))
	x.ended, errs[2] = m.Int64Counter("reelway.job.ended", metric.WithUnit("{job}"),
		metric.WithDescription("jobs that ended, by provider, model, state and the code of the error; none without one"))
	x.swept, errs[3] = m.Int64Counter("reelway.ledger.swept", metric.WithUnit("{job}"),
		metric.WithDescription("silent jobs whose message was published again, by state: what the bus lost, or what takes long"))
	x.captured, errs[4] = m.Int64Counter("reelway.ledger.captured.micros", metric.WithUnit("{microcredit}"),
		metric.WithDescription("micro-credits captured for videos, by provider and model"))
	x.queued, errs[5] = m.Float64Histogram("reelway.job.queue.duration", metric.WithUnit("s"), wait,
		metric.WithDescription("from acceptance to the first attempt, by provider and model"))
	x.progress, errs[6] = m.Float64Histogram("reelway.job.first_progress.duration", metric.WithUnit("s"), wait,
		metric.WithDescription("from an attempt to the first percentage that its provider told, by provider and model; those that tell none are absent"))
	x.rendered, errs[7] = m.Float64Histogram("reelway.job.generation.duration", metric.WithUnit("s"), render,
		metric.WithDescription("from an attempt to its finished video at the provider, by provider and model"))
	x.total, errs[8] = m.Float64Histogram("reelway.job.duration", metric.WithUnit("s"), render,
		metric.WithDescription("from acceptance to the end of a job, by provider, model and state"))
	return x, errors.Join(errs[:]...)
}

// opened counts an answer to OpenJob.
func (m *meters) opened(ctx context.Context, replayed bool, err error) {
	result := "opened"
	switch {
	case err != nil:
		result = string(fault.From(err).Code)
	case replayed:
		result = "replayed"
	}
	m.opens.Add(ctx, 1, metric.WithAttributes(attribute.String("result", result)))
}

// firstProgress measures an attempt of v that told its first percentage.
func (m *meters) firstProgress(ctx context.Context, v *videov1.Video) {
	attempts := v.GetAttempts()
	began := attempts[len(attempts)-1].GetCreatedAt().AsTime()
	m.progress.Record(ctx, max(time.Since(began).Seconds(), 0), metric.WithAttributes(attribute.String("provider", v.GetProvider()), attribute.String("model", v.GetParams().GetModel())))
}

// passage is one change of a job's state that its unit will have committed.
type passage struct {
	ctx           context.Context
	to            job.State
	provider      string
	model         string
	code          string
	again, render bool
	since         time.Duration // acceptance
	attempt       time.Duration // since the attempt began
	captured      int64
}

// note keeps what is to be measured of a passage until it is committed.
func (u *unit) note(ctx context.Context, j *record, in job.Input) {
	x := passage{ctx: ctx, to: j.State, provider: j.Provider, model: j.Model, since: u.now.Sub(j.CreatedAt), again: j.AttemptCount > 1, render: in == job.Render, captured: j.Captured}
	if a := j.current(); a != nil {
		x.attempt = u.now.Sub(a.CreatedAt)
	}
	if j.State.Terminal() {
		x.code = codeOf(j)
	}
	u.passages = append(u.passages, x)
}

// codeOf is the code of a job's error, or none.
func codeOf(j *record) string {
	var e videov1.VideoError
	if proto.Unmarshal(j.Error, &e) != nil || e.GetCode() == "" {
		return "none"
	}
	return e.GetCode()
}

// measure counts the passages of a unit that was committed.
func (m *meters) measure(passed []passage) {
	for _, x := range passed {
		at := []attribute.KeyValue{attribute.String("provider", x.provider), attribute.String("model", x.model)}
		labels := metric.WithAttributes(at...)
		switch {
		case x.to == job.Submitting:
			word := "first"
			if x.again {
				word = "again"
			} else {
				m.queued.Record(x.ctx, x.since.Seconds(), labels)
			}
			m.begun.Add(x.ctx, 1, labels, metric.WithAttributes(attribute.String("try", word)))
		case x.render:
			m.rendered.Record(x.ctx, x.attempt.Seconds(), labels)
		}
		if !x.to.Terminal() {
			continue
		}
		state := attribute.String("state", string(x.to))
		m.total.Record(x.ctx, x.since.Seconds(), labels, metric.WithAttributes(state))
		m.ended.Add(x.ctx, 1, labels, metric.WithAttributes(state, attribute.String("code", x.code)))
		if x.captured > 0 {
			m.captured.Add(x.ctx, x.captured, labels)
		}
	}
}

// liveSQL reads the live jobs, which have an index of their own. A job is overdue
// when every time-out of its state has passed and the sweep should have ended it.
const liveSQL = `select state, count(*), coalesce(sum(quote_micros), 0)::bigint, coalesce(extract(epoch from now() - min(created_at)), 0)::float8,
		count(*) filter (where now() - $1::interval > case when state = 'queued' then created_at + $2::interval
			when state = 'storing' then deadline_at else deadline_at + $3::interval end)
	from job where completed_at is null group by state`

// measureJobs registers the gauges of live jobs and of the money that is held for
// them. Every replica reports the same.
func (s *Service) measureJobs(m metric.Meter) error {
	jobs, err1 := m.Int64ObservableGauge("reelway.ledger.jobs", metric.WithUnit("{job}"), metric.WithDescription("live jobs by state; each has an open hold"))
	held, err2 := m.Int64ObservableGauge("reelway.ledger.holds.micros", metric.WithUnit("{microcredit}"), metric.WithDescription("micro-credits held for live jobs"))
	age, err3 := m.Float64ObservableGauge("reelway.ledger.holds.age", metric.WithUnit("s"), metric.WithDescription("age of the oldest open hold"))
	overdue, err4 := m.Int64ObservableGauge("reelway.ledger.jobs.overdue", metric.WithUnit("{job}"),
		metric.WithDescription("live jobs past every time-out, which the sweep should have ended: lost ones; anything but 0 wants an operator"))
	conns, err5 := m.Int64ObservableGauge("reelway.ledger.pool.connections", metric.WithUnit("{connection}"),
		metric.WithDescription("connections of one replica to the database, by state: used, idle, and max, the most there may be"))
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return fmt.Errorf("measure jobs: %w", err)
	}
	// As long as the sweep may take to come by.
	grace := s.cfg.WatchAfter + 2*s.cfg.SweepAfter + 2*s.cfg.SweepInterval
	_, err := m.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		pool := s.pool.Stat()
		for state, n := range map[string]int32{"used": pool.AcquiredConns(), "idle": pool.IdleConns(), "max": pool.MaxConns()} {
			o.ObserveInt64(conns, int64(n), metric.WithAttributes(attribute.String("state", state)))
		}
		ctx, cancel := context.WithTimeout(ctx, measureFor)
		defer cancel()
		rows, err := s.pool.Query(ctx, liveSQL, grace, s.cfg.QueueLife, s.cfg.MaxRuntime/10)
		if err != nil {
			return fmt.Errorf("count jobs: %w", err)
		}
		counts := map[job.State]int64{job.Queued: 0, job.Submitting: 0, job.Running: 0, job.Storing: 0}
		var state job.State
		var n, micros, late, sum, lost int64
		var oldest, eldest float64
		if _, err := pgx.ForEachRow(rows, []any{&state, &n, &micros, &oldest, &late}, func() error {
			counts[state] = n
			sum, lost, eldest = sum+micros, lost+late, max(eldest, oldest)
			return nil
		}); err != nil {
			return fmt.Errorf("count jobs: %w", err)
		}
		for state, n := range counts {
			o.ObserveInt64(jobs, n, metric.WithAttributes(attribute.String("state", string(state))))
		}
		o.ObserveInt64(held, sum)
		o.ObserveFloat64(age, eldest)
		o.ObserveInt64(overdue, lost)
		return nil
	}, jobs, held, age, overdue, conns)
	if err != nil {
		return fmt.Errorf("measure jobs: %w", err)
	}
	return nil
}

// traced leads what follows from an observation back into the job's own trace,
// where it came in one of its own, as a webhook without a job in its address
// does. The two are linked.
func (j *record) traced(ctx context.Context) context.Context {
	own := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": j.Traceparent}))
	span := trace.SpanFromContext(ctx)
	if !own.IsValid() || own.TraceID() == span.SpanContext().TraceID() {
		return ctx
	}
	span.AddLink(trace.Link{SpanContext: own})
	return trace.ContextWithRemoteSpanContext(ctx, own)
}
