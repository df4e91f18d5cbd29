package ledger

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/proto"

	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// deliveries are the last verdicts of a provider by who told them.
type deliveries struct {
	prompt int // by a callback, or by a poll shortly before it
	late   int // by a poll, long before the callback
	lost   int // by a poll alone
}

// trust is what the provider's callbacks are worth, 0 to 100: the share that
// came, a late one counting half. One success that nobody saw is added, so that
// a single loss does not condemn.
func (d deliveries) trust() int32 {
	n := d.prompt + d.late + d.lost
	return int32((100*(d.prompt+1) + 50*d.late) / (n + 1))
}

const (
	// trustWindow is how many of the last verdicts are judged by.
	trustWindow = 50
	// promptly is how long after a poll's verdict a callback still is prompt: the
	// poll was only a little faster. Until then it counts for nothing.
	promptly = 30 * time.Second
	// trustFor is how long an answer is remembered.
	trustFor = 5 * time.Second
)

// Providers are few, and each is one step in the index; so are their verdicts.
const trustSQL = `with recursive p as (
		(select provider from attempt where verdict_source <> '' order by provider limit 1)
		union all
		select (select a.provider from attempt a where a.verdict_source <> '' and a.provider > p.provider order by a.provider limit 1)
		from p where p.provider is not null
	)
	select p.provider, count(*) filter (where v.source <> 'poll' or v.called - v.ended <= $2::interval),
		count(*) filter (where v.source = 'poll' and v.called - v.ended > $2::interval), count(*) filter (where v.source = 'poll' and v.called is null)
	from p cross join lateral (
		select verdict_source, ended_at, webhook_at from attempt a
		where a.provider = p.provider and a.verdict_source <> '' and a.verdict_source in ('webhook', 'hint', 'poll')
			and (a.verdict_source <> 'poll' or a.webhook_at is not null or a.ended_at < now() - $2::interval)
		order by a.ended_at desc limit $1
	) v (source, ended, called)
	group by p.provider`

// trusted remembers how the providers' callbacks arrive. The counts lie in the
// database: every replica, and every dispatcher, judges by the same.
type trusted struct {
	mu sync.Mutex
	at time.Time
	of map[string]deliveries
}

// read returns what is remembered, or asks anew. A failure leaves what was known.
func (t *trusted) read(ctx context.Context, q querier) (map[string]deliveries, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.at) < trustFor {
		return t.of, nil
	}
	t.at = time.Now() // also after a failure: a database in trouble is not asked more often
	of := map[string]deliveries{}
	rows, err := q.Query(ctx, trustSQL, trustWindow, promptly)
	if err != nil {
		return t.of, fmt.Errorf("read deliveries: %w", err)
	}
	var provider string
	var d deliveries
	if _, err := pgx.ForEachRow(rows, []any{&provider, &d.prompt, &d.late, &d.lost}, func() error { of[provider] = d; return nil }); err != nil {
		return t.of, fmt.Errorf("read deliveries: %w", err)
	}
	t.of = of
	return of, nil
}

// trustOf is what a provider's webhooks are worth; nil while there is nothing to
// judge by.
func (s *Service) trustOf(ctx context.Context, provider string) *int32 {
	of, err := s.trust.read(ctx, s.pool)
	if err != nil {
		s.log.WarnContext(ctx, "deliveries not read", "error", err.Error())
	}
	d, ok := of[provider]
	if !ok {
		return nil
	}
	return proto.Int32(d.trust())
}

// measureTrust registers the metrics of callbacks. Every replica reports the
// same.
func (s *Service) measureTrust(meter metric.Meter) error {
	trust, err := meter.Int64ObservableGauge("reelway.ledger.webhook.trust", metric.WithUnit("%"),
		metric.WithDescription("what a provider's callbacks are worth by its last verdicts; a fall wants an operator, and makes polls more frequent"))
	if err != nil {
		return err
	}
	verdicts, err := meter.Int64ObservableGauge("reelway.ledger.webhook.verdicts", metric.WithUnit("{verdict}"),
		metric.WithDescription("a provider's last verdicts by how its callback arrived: prompt, late, lost"))
	if err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, measureFor)
		defer cancel()
		of, err := s.trust.read(ctx, s.pool)
		for name, d := range of {
			provider := attribute.String("provider", name)
			o.ObserveInt64(trust, int64(d.trust()), metric.WithAttributes(provider))
			for word, n := range map[string]int{"prompt": d.prompt, "late": d.late, "lost": d.lost} {
				o.ObserveInt64(verdicts, int64(n), metric.WithAttributes(provider, attribute.String("delivery", word)))
			}
		}
		return err
	}, trust, verdicts)
	return err
}

// called notes that a provider called back after a poll had told its verdict.
func (u *unit) called(j *record, o *eventv1.Observation) {
	if o.GetSource() != "webhook" && o.GetSource() != "hint" {
		return
	}
	if a := j.attempt(o.GetAttemptId()); a != nil && a.VerdictSource == "poll" && a.WebhookAt == nil {
		a.WebhookAt = &u.now
		u.changeAttempt(a)
	}
}
