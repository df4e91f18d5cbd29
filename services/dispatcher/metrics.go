package dispatcher

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// metrics are the dispatcher's instruments. Labels are providers and outcomes,
// never jobs.
type metrics struct {
	submit metric.Float64Histogram
	poll   metric.Int64Counter
}

func newMetrics() (metrics, error) {
	m := otel.Meter("reelway.dev/services/dispatcher")
	submit, err1 := m.Float64Histogram("reelway.dispatcher.submit.duration", metric.WithUnit("s"),
		metric.WithDescription("time of a provider's answer to a submit, by provider and outcome"),
		metric.WithExplicitBucketBoundaries(.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60))
	poll, err2 := m.Int64Counter("reelway.dispatcher.polls", metric.WithUnit("{poll}"), metric.WithDescription("polls by provider and result"))
	return metrics{submit, poll}, errors.Join(err1, err2)
}

func (m metrics) submitted(ctx context.Context, provider, outcome string, took time.Duration) {
	m.submit.Record(ctx, took.Seconds(), metric.WithAttributes(attribute.String("provider", provider), attribute.String("outcome", outcome)))
}

func (m metrics) polled(ctx context.Context, provider, result string) {
	m.poll.Add(ctx, 1, metric.WithAttributes(attribute.String("provider", provider), attribute.String("result", result)))
}
