package dispatcher

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"reelway.dev/pkg/traffic"
)

// metrics are the dispatcher's instruments. Labels are providers and outcomes,
// never jobs.
type metrics struct {
	submit  metric.Float64Histogram
	poll    metric.Int64Counter
	hold    metric.Int64Counter
	words   metric.Int64Counter
	cancel  metric.Int64Counter
	givenUp metric.Int64Counter
}

func newMetrics() (metrics, error) {
	m := otel.Meter("reelway.dev/services/dispatcher")
	submit, err1 := m.Float64Histogram("reelway.dispatcher.submit.duration", metric.WithUnit("s"),
		metric.WithDescription("time of a provider's answer to a submit, by provider, model and outcome: accepted, unknown, or the code of the refusal"),
		metric.WithExplicitBucketBoundaries(.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60))
	poll, err2 := m.Int64Counter("reelway.dispatcher.polls", metric.WithUnit("{poll}"), metric.WithDescription("polls by provider and result"))
	hold, err3 := m.Int64Counter("reelway.dispatcher.held", metric.WithUnit("{wait}"), metric.WithDescription("waits of jobs for a provider, by provider and reason"))
	words, err4 := m.Int64Counter("reelway.dispatcher.unknown_words", metric.WithUnit("{poll}"),
		metric.WithDescription("polls that answered with a status word that the adapter does not know, by provider; the API has changed"))
	cancel, err5 := m.Int64Counter("reelway.dispatcher.cancels", metric.WithUnit("{call}"),
		metric.WithDescription("tasks that a provider was asked to cancel, by provider and result: taken, too_late, unsupported, no_task, error"))
	givenUp, err6 := m.Int64Counter("reelway.dispatcher.given_up", metric.WithUnit("{attempt}"),
		metric.WithDescription("attempts of unknown outcome that were given up for another, by provider; each may have cost money"))
	return metrics{submit, poll, hold, words, cancel, givenUp}, errors.Join(err1, err2, err3, err4, err5, err6)
}

// watch shows what the replicas share of the providers.
func (m metrics) watch(s *Service) error {
	meter := otel.Meter("reelway.dev/services/dispatcher")
	circuit, err1 := meter.Int64ObservableGauge("reelway.dispatcher.circuit", metric.WithDescription("circuit by provider and model: 0 closed, 1 half-open, 2 open"))
	benched, err2 := meter.Int64ObservableGauge("reelway.dispatcher.key.benched", metric.WithDescription("1 while a key of a provider rests, for all models or for some, because its account is refused"))
	allowed, err3 := meter.Float64ObservableGauge("reelway.dispatcher.rate", metric.WithUnit("{submit}/s"), metric.WithDescription("rate that is left to a provider's key and model after it was told to slow down"))
	health, err4 := meter.Float64ObservableGauge("reelway.dispatcher.health", metric.WithUnit("1"), metric.WithDescription("share of a provider's and model's submits of the last ten minutes that got a proper answer"))
	answer, err5 := meter.Float64ObservableGauge("reelway.dispatcher.answer", metric.WithUnit("s"), metric.WithDescription("mean time of a provider's and model's proper answers to the submits of the last ten minutes"))
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return err
	}
	_, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		now, st := s.d.Now(), s.traffic.State()
		labels := func(provider, name, value string) metric.MeasurementOption {
			return metric.WithAttributes(attribute.String("provider", provider), attribute.String(name, value))
		}
		for _, b := range st.Breakers() {
			o.ObserveInt64(circuit, map[string]int64{traffic.HalfOpen: 1, traffic.Open: 2}[b.At(now)], labels(b.Provider, "model", b.Model))
		}
		rest := map[[2]string]bool{}
		for _, b := range st.Benches(now) {
			rest[[2]string{b.Provider, b.Key}] = true
		}
		for name, d := range s.desks {
			for _, k := range d.ring.Keys() {
				rests := int64(0)
				if rest[[2]string{name, k.ID}] {
					rests = 1
				}
				o.ObserveInt64(benched, rests, labels(name, "key", k.ID))
			}
			for _, r := range s.traffic.Slowed(name, now) {
				o.ObserveFloat64(allowed, r.At(now), metric.WithAttributes(attribute.String("provider", name), attribute.String("key", r.Key), attribute.String("model", r.Model)))
			}
		}
		for _, h := range st.Healths() {
			sum := h.Sum(now.Add(-traffic.HealthFor))
			if n := sum.OK + sum.Failed; n > 0 {
				o.ObserveFloat64(health, float64(sum.OK)/float64(n), labels(h.Provider, "model", h.Model))
			}
			if sum.OK > 0 {
				o.ObserveFloat64(answer, float64(sum.TookMillis)/float64(sum.OK)/1000, labels(h.Provider, "model", h.Model))
			}
		}
		return nil
	}, circuit, benched, allowed, health, answer)
	return err
}

func (m metrics) held(ctx context.Context, provider, reason string) {
	m.hold.Add(ctx, 1, metric.WithAttributes(attribute.String("provider", provider), attribute.String("reason", reason)))
}

func (m metrics) submitted(ctx context.Context, provider, model, outcome string, took time.Duration) {
	m.submit.Record(ctx, took.Seconds(), metric.WithAttributes(attribute.String("provider", provider), attribute.String("model", model), attribute.String("outcome", outcome)))
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
