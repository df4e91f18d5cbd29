package ledger

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// switches are what operators have set for the whole installation: maintenance,
// and pauses of providers. A value is never changed.
type switches struct {
	maintenance *ledgerv1.Maintenance // nil: none
	pauses      map[paused]*ledgerv1.ProviderPause
}

// paused is a provider, or one of its models.
type paused struct{ provider, model string }

const switchesSQL = `select '', '', reason, since, null::timestamptz, retry_after_seconds from maintenance
	union all select provider, model, reason, since, until, 0 from provider_pause where until is null or until > now()`

func readSwitches(ctx context.Context, q querier) (*switches, error) {
	rows, err := q.Query(ctx, switchesSQL)
	if err != nil {
		return nil, fmt.Errorf("read switches: %w", err)
	}
	sw := &switches{pauses: map[paused]*ledgerv1.ProviderPause{}}
	var p paused
	var reason string
	var since time.Time
	var until *time.Time
	var retry int
	_, err = pgx.ForEachRow(rows, []any{&p.provider, &p.model, &reason, &since, &until, &retry}, func() error {
		if p.provider == "" {
			sw.maintenance = &ledgerv1.Maintenance{Reason: reason, RetryAfter: durationpb.New(time.Duration(retry) * time.Second), Since: timestamppb.New(since)}
			return nil
		}
		pause := &ledgerv1.ProviderPause{Reason: reason, Since: timestamppb.New(since)}
		if until != nil {
			pause.Until = timestamppb.New(*until)
		}
		sw.pauses[p] = pause
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read switches: %w", err)
	}
	return sw, nil
}

// switchesFor is how long a replica goes by what it read: the time after which
// all know of a change.
const switchesFor = 500 * time.Millisecond

// knownSwitches remembers the switches for a moment, since every video asks.
type knownSwitches struct {
	mu   sync.Mutex
	last *switches
	read time.Time

	reading sync.Mutex
}

// switched reads the switches, at most every switchesFor; while one reads, the
// others go by what was read last. Where nothing was ever read nothing new is taken
// or submitted.
func (s *Service) switched(ctx context.Context) (*switches, error) {
	k := &s.known
	last, fresh := k.get()
	if last == nil {
		k.reading.Lock() // all at once when the process is new: the first reads for all
		last, fresh = k.get()
	} else if fresh || !k.reading.TryLock() {
		return last, nil
	}
	defer k.reading.Unlock()
	if fresh {
		return last, nil
	}
	began := time.Now()
	sw, err := readSwitches(ctx, s.pool)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.last, k.read = sw, began
	return sw, nil
}

// get is what was read last, nil for nothing, and whether one may go by it.
func (k *knownSwitches) get() (last *switches, fresh bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.last, time.Since(k.read) < switchesFor
}

// forget has the next one read the switches anew.
func (k *knownSwitches) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.read = time.Time{}
}

// paused is why nothing of a model is submitted to a provider; nil when it may
// be.
func (sw *switches) paused(provider, model string) *ledgerv1.ProviderPause {
	if p := sw.pauses[paused{provider, ""}]; p != nil {
		return p
	}
	return sw.pauses[paused{provider, model}]
}

// refuses is what a new video is told that may not be taken now; nil when it
// may.
func (sw *switches) refuses(r *ledgerv1.OpenJobRequest) *fault.Error {
	if m := sw.maintenance; m != nil {
		f := fault.New(fault.Unavailable, "new videos are refused during maintenance: %s; those that were accepted go on", m.GetReason())
		f.Retryable, f.RetryAfter = true, m.GetRetryAfter().AsDuration()
		return f
	}
	var first *ledgerv1.ProviderPause // to end
	for _, x := range ways(r) {
		p := sw.paused(x.GetProvider(), x.GetParams().GetModel())
		if p.GetUntil() == nil {
			return nil // it is free, or has an end that nobody knows: the video waits for it
		}
		if first == nil || p.GetUntil().AsTime().Before(first.GetUntil().AsTime()) {
			first = p
		}
	}
	f := fault.New(fault.ProviderUnavailable, "what makes this video is paused until %s: %s", first.GetUntil().AsTime().Format(time.RFC3339), first.GetReason())
	f.Retryable, f.RetryAfter = true, max(time.Until(first.GetUntil().AsTime()), time.Second)
	return f
}

// ways are a request's routes; a request without a plan has the one that it says
// itself.
func ways(r *ledgerv1.OpenJobRequest) []*ledgerv1.Route {
	if rs := r.GetPlan().GetRoutes(); len(rs) > 0 {
		return rs
	}
	return []*ledgerv1.Route{{Provider: r.GetProvider(), Params: r.GetParams()}}
}

// prefer puts the routes of a request that are paused behind the others.
func (sw *switches) prefer(r *ledgerv1.OpenJobRequest) {
	rs := r.GetPlan().GetRoutes()
	stopped := func(x *ledgerv1.Route) bool { return sw.paused(x.GetProvider(), x.GetParams().GetModel()) != nil }
	if len(rs) < 2 || !stopped(rs[0]) {
		return // a paused one further back is left when its turn comes
	}
	var free, last []*ledgerv1.Route
	for _, x := range rs {
		if stopped(x) {
			last = append(last, x)
		} else {
			free = append(free, x)
		}
	}
	first := append(free, last...)
	r.Plan.Routes = first
	x := first[0]
	r.Params, r.Provider, r.QuoteMicros, r.CostMicros, r.CostCurrency = x.GetParams(), x.GetProvider(), x.GetPriceMicros(), x.GetCostMicros(), x.GetCostCurrency()
}

// freeLater reports whether a queued job may go on to a route that is not paused.
func (sw *switches) freeLater(j *record) bool {
	rs := j.Plan.GetRoutes()
	return j.next() != nil && slices.ContainsFunc(rs[j.Route+1:], func(x *ledgerv1.Route) bool {
		return sw.paused(x.GetProvider(), x.GetParams().GetModel()) == nil
	})
}

// measureSwitches makes gauges of what is switched.
func (s *Service) measureSwitches(meter metric.Meter) error {
	on, err := meter.Int64ObservableGauge("reelway.ledger.maintenance", metric.WithDescription("1 while new videos are refused"))
	if err != nil {
		return fmt.Errorf("make metric: %w", err)
	}
	held, err := meter.Int64ObservableGauge("reelway.ledger.paused", metric.WithDescription("1 for each provider, or model of one, that is paused by an operator"))
	if err != nil {
		return fmt.Errorf("make metric: %w", err)
	}
	_, err = meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		sw, err := s.switched(ctx)
		if err != nil {
			return err
		}
		var n int64
		if sw.maintenance != nil {
			n = 1
		}
		o.ObserveInt64(on, n)
		for p := range sw.pauses {
			o.ObserveInt64(held, 1, metric.WithAttributes(attribute.String("provider", p.provider), attribute.String("model", p.model)))
		}
		return nil
	}, on, held)
	if err != nil {
		return fmt.Errorf("register metric: %w", err)
	}
	return nil
}
