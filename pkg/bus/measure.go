package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// measureFor bounds one reading of the streams: a scrape does not wait for a bus
// that is away.
const measureFor = time.Second

// Measure registers metrics of the streams and of the durable consumers on them.
// They are read from the server when metrics are scraped, so one service should
// do it: the ledger, which may ask for all of them. Every replica reports the
// same.
func (b *Bus) Measure() error {
	m := otel.Meter("reelway.dev/pkg/bus")
	messages, err1 := m.Int64ObservableGauge("reelway.bus.stream.messages", metric.WithUnit("{message}"),
		metric.WithDescription("messages that a stream holds; in DEAD, what no consumer could handle"))
	size, err2 := m.Int64ObservableGauge("reelway.bus.stream.size", metric.WithUnit("By"), metric.WithDescription("what a stream takes of its limit"))
	limit, err3 := m.Int64ObservableGauge("reelway.bus.stream.limit", metric.WithUnit("By"), metric.WithDescription("what a stream may take"))
	pending, err4 := m.Int64ObservableGauge("reelway.bus.consumer.pending", metric.WithUnit("{message}"),
		metric.WithDescription("messages that a consumer has not been given yet: its lag"))
	unacked, err5 := m.Int64ObservableGauge("reelway.bus.consumer.unacknowledged", metric.WithUnit("{message}"),
		metric.WithDescription("messages that a consumer holds and has not acknowledged"))
	again, err6 := m.Int64ObservableGauge("reelway.bus.consumer.redelivered", metric.WithUnit("{message}"),
		metric.WithDescription("unacknowledged messages that were given out more than once"))
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return fmt.Errorf("measure bus: %w", err)
	}
	_, err := m.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, measureFor)
		defer cancel()
		for _, want := range streams(1) {
			s, err := b.js.Stream(ctx, want.Name)
			if err != nil {
				return fmt.Errorf("measure stream %s: %w", want.Name, err)
			}
			stream := attribute.String("stream", want.Name)
			info := s.CachedInfo()
			o.ObserveInt64(messages, int64(info.State.Msgs), metric.WithAttributes(stream))
			o.ObserveInt64(size, int64(info.State.Bytes), metric.WithAttributes(stream))
			o.ObserveInt64(limit, info.Config.MaxBytes, metric.WithAttributes(stream))
			if info.State.Consumers == 0 {
				continue
			}
			list := s.ListConsumers(ctx)
			for c := range list.Info() {
				if c.Config.Durable == "" {
					continue // a watcher's, of which there are any number
				}
				labels := metric.WithAttributes(stream, attribute.String("consumer", c.Config.Durable))
				o.ObserveInt64(pending, int64(c.NumPending), labels)
				o.ObserveInt64(unacked, int64(c.NumAckPending), labels)
				o.ObserveInt64(again, int64(c.NumRedelivered), labels)
			}
			if err := list.Err(); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
				return fmt.Errorf("measure consumers of %s: %w", want.Name, err)
			}
		}
		return nil
	}, messages, size, limit, pending, unacked, again)
	if err != nil {
		return fmt.Errorf("measure bus: %w", err)
	}
	return nil
}
