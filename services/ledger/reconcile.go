package ledger

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"
)

const (
	// fullEvery is how often the background proves everything; between, it is what
	// is new, every live job, and all balances.
	fullEvery = 24 * time.Hour
	// lookBack is how far back the short run looks at finished jobs: far enough that
	// a few missed runs leave no gap.
	lookBack = 48 * time.Hour
	// proveLimit bounds one run.
	proveLimit = time.Hour
)

// reconcile proves the books in the background for as long as the ledger runs.
func (s *Service) reconcile(ctx context.Context) error {
	if s.cfg.Reconcile <= 0 {
		<-ctx.Done()
		return nil
	}
	// Replicas that started together take turns at looking whether a run is due.
	tick := time.NewTicker(max(s.cfg.Reconcile/10, 50*time.Millisecond))
	defer tick.Stop()
	for {
		// Not at once: after a standstill the sweep comes first, or every live job
		// would be said to be forgotten.
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.reconcileOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "books not proven", "error", err.Error())
		}
	}
}

// reconcileOnce runs when a run is due and no other replica is at it. A run that
// cannot be made is an error, not a violation.
func (s *Service) reconcileOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, proveLimit)
	defer cancel()
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("acquire connection: %w", err)
	}
	defer conn.Release()
	const lock = 7233512
	var mine bool
	if err := conn.QueryRow(ctx, "select pg_try_advisory_lock($1)", lock).Scan(&mine); err != nil || !mine {
		return err
	}
	defer func() {
		// A connection that cannot give the lock back gives it back by its end.
		if _, err := conn.Exec(context.WithoutCancel(ctx), "select pg_advisory_unlock($1)", lock); err != nil {
			_ = conn.Conn().Close(context.WithoutCancel(ctx))
		}
	}()
	var due, full bool
	var floor, mark int64
	var now time.Time
	if err := conn.QueryRow(ctx, `select now(), ran_at is null or ran_at <= now() - $1::interval, full_at is null or full_at <= now() - $2::interval,
			posting_floor, posting_mark from reconciliation`, s.cfg.Reconcile, fullEvery).Scan(&now, &due, &full, &floor, &mark); err != nil {
		return fmt.Errorf("read reconciliation: %w", err)
	}
	if !due {
		return nil
	}
	part := span{above: floor, jobsFrom: now.Add(-lookBack)}
	if full {
		part = span{}
	}
	p, err := s.prove(ctx, part)
	if err != nil {
		return err
	}
	for _, v := range p.violations {
		s.log.ErrorContext(ctx, "the books are wrong", "violation", v)
	}
	s.log.InfoContext(ctx, "books proven", "full", full, "proven", len(p.proven), "violations", len(p.violations))
	// A breach is looked at again with every run until it is mended: the marks and
	// the date of the full run move on only past books that are right.
	if _, err := conn.Exec(ctx, `update reconciliation set ran_at = $1, violations = $2,
			clean_at = case when $2 = 0 then $1 else clean_at end, full_at = case when $3 and $2 = 0 then $1 else full_at end,
			posting_floor = case when $2 = 0 then posting_mark else posting_floor end, posting_mark = case when $2 = 0 then $4 else posting_mark end`,
		now, len(p.violations), full, p.mark); err != nil {
		return fmt.Errorf("write reconciliation: %w", err)
	}
	return nil
}

// measureBooks registers the metrics of the books. Every replica reports the
// same: they are read from the database.
func (s *Service) measureBooks(meter metric.Meter) error {
	violations, err := meter.Int64ObservableGauge("reelway.ledger.reconcile.violations", metric.WithUnit("{violation}"),
		metric.WithDescription("broken invariants that the last run of the reconciler found; anything but 0 wants an operator"))
	if err != nil {
		return err
	}
	clean, err := meter.Float64ObservableGauge("reelway.ledger.reconcile.last_success", metric.WithUnit("s"),
		metric.WithDescription("when the reconciler last found every invariant kept, in Unix seconds; 0 before the first time"))
	if err != nil {
		return err
	}
	reviews, err := meter.Int64ObservableGauge("reelway.ledger.reviews", metric.WithUnit("{job}"),
		metric.WithDescription("jobs whose possible provider cost is in suspense"))
	if err != nil {
		return err
	}
	_, err = meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, measureFor)
		defer cancel()
		var broken, open int64
		var at float64
		if err := s.pool.QueryRow(ctx, `select violations, coalesce(extract(epoch from clean_at), 0)::float8,
				(select count(*) from review where outcome is null) from reconciliation`).Scan(&broken, &at, &open); err != nil {
			return fmt.Errorf("read reconciliation: %w", err)
		}
		o.ObserveInt64(violations, broken)
		o.ObserveFloat64(clean, at)
		o.ObserveInt64(reviews, open)
		return nil
	}, violations, clean, reviews)
	return err
}
