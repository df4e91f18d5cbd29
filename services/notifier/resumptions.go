package notifier

import (
	"context"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// What watchers that come again cost. Errors would be of the names alone.
var (
	meter          = otel.Meter("reelway.dev/services/notifier")
	resumptions, _ = meter.Int64Counter("reelway.realtime.resumptions", metric.WithUnit("{watch}"),
		metric.WithDescription("watches that came with a cursor, by outcome: resumed, or lost (older than the event stream, which tells a snapshot instead)"))
	replayed, _ = meter.Int64Histogram("reelway.realtime.replayed", metric.WithUnit("{event}"), metric.WithExplicitBucketBoundaries(0, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000),
		metric.WithDescription("events that were read from the stream for a watch that resumed"))
)

// resumption counts a watch that came with a cursor.
func resumption(ctx context.Context, lost bool) {
	outcome := "resumed"
	if lost {
		outcome = "lost"
	}
	resumptions.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", outcome)))
}
