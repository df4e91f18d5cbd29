package notifier

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// meters are the instruments of what watchers are told.
type meters struct {
	push metric.Float64Histogram
	hook metric.Float64Histogram
	cuts metric.Int64Counter
}

func newMeters(open func() int64) (*meters, error) {
	m := otel.Meter("reelway.dev/services/notifier")
	buckets := metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 15, 60)
	push, err1 := m.Float64Histogram("reelway.push.latency", metric.WithUnit("s"), buckets,
		metric.WithDescription("from the ledger's commit of an event to its being written to a watcher that was there, by transport"))
	hook, err2 := m.Float64Histogram("reelway.push.webhook_latency", metric.WithUnit("s"), buckets,
		metric.WithDescription("from a provider's webhook to its event being written to a watcher that was there, by transport"))
	cuts, err3 := m.Int64Counter("reelway.realtime.cuts", metric.WithUnit("{watch}"),
		metric.WithDescription("watches that were cut off, to resume by their cursor, by reason: slow, moved (the event stream does not continue)"))
	_, err4 := m.Int64ObservableGauge("reelway.realtime.connections", metric.WithUnit("{connection}"), metric.WithDescription("streams of watchers that are open in this replica"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error { o.Observe(open()); return nil }))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, fmt.Errorf("make metrics: %w", err)
	}
	return &meters{push, hook, cuts}, nil
}

// cut counts a watch that ends for a reason of ours.
func (m *meters) cut(ctx context.Context, why error) {
	reason := "moved"
	if errors.Is(why, errSlow) {
		reason = "slow"
	}
	m.cuts.Add(ctx, 1, metric.WithAttributes(attribute.String("reason", reason)))
}

// origin is where an event comes from: its job's trace and its times. A zero
// origin is of what did not come live.
type origin struct {
	trace    trace.SpanContext
	occurred time.Time
	heard    time.Time // of the webhook behind it; zero without one
	first    sync.Once // of those who are told: it gets a span
}

// born reads an event's origin from its message.
func (o *origin) born(msg jetstream.Msg, ev *eventv1.JobEvent) {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": msg.Headers().Get("traceparent")})
	o.trace = trace.SpanContextFromContext(ctx)
	o.occurred = ev.GetOccurredAt().AsTime()
	if ev.GetHeardAt() != nil {
		o.heard = ev.GetHeardAt().AsTime()
	}
}

// telling measures what emit tells over a transport. An event has any number of
// watchers: the first of a replica who is told gets a span of the job's trace,
// and all are measured.
func (s *Service) telling(transport string, emit func(item) error) func(item) error {
	return func(it item) error {
		if it.frames == nil || it.frames.occurred.IsZero() {
			return emit(it)
		}
		began, o := time.Now(), &it.frames.origin
		if err := emit(it); err != nil {
			return err
		}
		ctx := trace.ContextWithRemoteSpanContext(context.Background(), o.trace)
		label := attribute.String("transport", transport)
		o.first.Do(func() {
			_, span := otel.Tracer("reelway.dev/services/notifier").Start(ctx, "push "+string(it.kind), trace.WithSpanKind(trace.SpanKindProducer), trace.WithTimestamp(began),
				trace.WithAttributes(attribute.String("reelway.push.transport", transport), attribute.String("reelway.job.id", it.video.GetId())))
			span.End()
		})
		s.meters.push.Record(ctx, max(time.Since(o.occurred).Seconds(), 0), metric.WithAttributes(label))
		if !o.heard.IsZero() {
			s.meters.hook.Record(ctx, max(time.Since(o.heard).Seconds(), 0), metric.WithAttributes(label))
		}
		return nil
	}
}
