package ledger

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"
)

// oldDeliveriesSQL removes what is past its age, with its attempts. What still
// has attempts before it stays; what waits for a disabled endpoint goes. Ids sort
// by time.
const oldDeliveriesSQL = `delete from webhook_delivery where id in (
	select d.id from webhook_delivery d
	where d.id < replace(job_id_at(now() - $1::interval), 'video_', 'msg_')
		and (d.state <> 'pending' or not exists (select from webhook_endpoint e where e.id = d.endpoint_id and e.deleted_at is null and e.disabled_reason = ''))
	order by d.id limit $2 for update skip locked)`

// tidyHooks keeps the log of deliveries at its age.
func (s *Service) tidyHooks(ctx context.Context) error {
	if s.cfg.RetainHooks <= 0 {
		<-ctx.Done()
		return nil
	}
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
		}
		began, wait := time.Now(), cmp.Or(s.cfg.RetainEvery, time.Minute)
		n, err := s.tidyHooksOnce(ctx)
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "old deliveries not removed", "error", err.Error())
		}
		if n == choreBatch {
			wait = time.Since(began) // as much rest as work
		}
		rest.Reset(wait)
	}
}

func (s *Service) tidyHooksOnce(ctx context.Context) (int64, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	tag, err := s.pool.Exec(ctx, oldDeliveriesSQL, s.cfg.RetainHooks, choreBatch)
	if err != nil {
		return 0, fmt.Errorf("remove old deliveries: %w", err)
	}
	return tag.RowsAffected(), nil
}

// measureHooks measures what should have been sent already.
func (s *Service) measureHooks(meter metric.Meter) error {
	backlog, err1 := meter.Int64ObservableGauge("reelway.webhook.backlog", metric.WithUnit("{delivery}"), metric.WithDescription("webhook deliveries to enabled endpoints that are due and not under way"))
	age, err2 := meter.Float64ObservableGauge("reelway.webhook.backlog.age", metric.WithUnit("s"), metric.WithDescription("how long the oldest delivery of the backlog has been due"))
	off, err3 := meter.Int64ObservableGauge("reelway.webhook.disabled_endpoints", metric.WithUnit("{endpoint}"), metric.WithDescription("webhook endpoints that were disabled because they answered 410 or took nothing"))
	if err := cmp.Or(err1, err2, err3); err != nil {
		return fmt.Errorf("measure webhooks: %w", err)
	}
	_, err := meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, measureFor)
		defer cancel()
		var n, disabled int64
		var oldest float64
		if err := s.pool.QueryRow(ctx, `select count(*), coalesce(extract(epoch from now() - min(next_attempt_at)), 0),
				(select count(*) from webhook_endpoint where disabled_reason in ('gone', 'failing') and deleted_at is null)
			from webhook_delivery d join webhook_endpoint e on e.id = d.endpoint_id and e.disabled_reason = '' and e.deleted_at is null
			where d.state = 'pending' and d.next_attempt_at <= now()`).Scan(&n, &oldest, &disabled); err != nil {
			return fmt.Errorf("measure webhooks: %w", err)
		}
		o.ObserveInt64(backlog, n)
		o.ObserveFloat64(age, oldest)
		o.ObserveInt64(off, disabled)
		return nil
	}, backlog, age, off)
	if err != nil {
		return fmt.Errorf("measure webhooks: %w", err)
	}
	return nil
}
