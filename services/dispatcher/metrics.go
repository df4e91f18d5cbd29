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
	submit  metric.Float64Histogram
	poll    metric.Int64Counter
	words   metric.Int64Counter
	cancel  metric.Int64Counter
	givenUp metric.Int64Counter
}

func newMetrics() (metrics, error) {
	m := otel.Meter("reelway.dev/services/dispatcher")
	submit, err1 := m.Float64Histogram("reelway.dispatcher.submit.duration", metric.WithUnit("s"),
		metric.WithDescription("time of a provider's answer to a submit, by provider and outcome"),
		metric.WithExplicitBucketBoundaries(.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60))
	poll, err2 := m.Int64Counter("reelway.dispatcher.polls", metric.WithUnit("{poll}"), metric.WithDescription("polls by provider and result"))
	words, err3 := m.Int64Counter("reelway.dispatcher.unknown_words", metric.WithUnit("{poll}"),
		metric.WithDescription("polls that answered with a status word that the adapter does not know, by provider; the API has changed"))
	cancel, err4 := m.Int64Counter("reelway.dispatcher.cancels", metric.WithUnit("{call}"),
		metric.WithDescription("tasks that a provider was asked to cancel, by provider and result: taken, too_late, unsupported, error"))
	givenUp, err5 := m.Int64Counter("reelway.dispatcher.given_up", metric.WithUnit("{attempt}"),
		metric.WithDescription("attempts of unknown outcome that were given up for another, by provider; each may have cost money"))
	return metrics{submit, poll, words, cancel, givenUp}, errors.Join(err1, err2, err3, err4, err5)
}

func (m metrics) submitted(ctx context.Context, provider, outcome string, took time.Duration) {
	m.submit.Record(ctx, took.Seconds(), metric.WithAttributes(attribute.String("provider", provider), attribute.String("outcome", outcome)))
}

func (m metrics) polled(ctx context.Context, provider, result string) {
	m.poll.Add(ctx, 1, metric.WithAttributes(attribute.String("provider", provider), attribute.String("result", result)))
}

func (m metrics) unknownWord(ctx context.Context, provider string) {
	m.words.Add(ctx, 1, metric.WithAttributes(attribute.String("provider", provider)))
}

func (m metrics) canceled(ctx context.Context, provider, result string) {
	m.cancel.Add(ctx, 1, metric.WithAttributes(attribute.String("provider", provider), attribute.String("result", result)))
}

func (m metrics) gaveUp(ctx context.Context, provider string) {
	m.givenUp.Add(ctx, 1, metric.WithAttributes(attribute.String("provider", provider)))
}
