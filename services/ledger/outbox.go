package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/postgres"
)

// relay publishes what is due in the outbox, in order, one replica at a time.
func (s *Service) relay(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		n, err := s.relayOnce(context.WithoutCancel(ctx))
		if err != nil {
			s.log.WarnContext(ctx, "outbox waits", "error", err.Error())
		}
		if ctx.Err() != nil {
			return nil // this pass was the last: nothing committed before is left behind
		}
		if err == nil && n == relayBatch {
			continue
		}
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		select {
		case <-ctx.Done():
		case <-s.kick:
		case <-tick.C:
		}
	}
}

const (
	relayBatch = 512
	// statement_timestamp, unlike clock_timestamp, ends the reading of the index:
	// messages that are due much later cost nothing.
	dueSQL = `select publish_after, id, message_id, subject, type, data, traceparent from outbox
		where publish_after <= statement_timestamp() order by publish_after, id limit $1`
	sentSQL = `delete from outbox o using unnest($1::timestamptz[], $2::bigint[]) as x (at, id)
		where o.publish_after = x.at and o.id = x.id`
)

// watchOutbox makes the gauges that tell of a relay that does not get through.
func (s *Service) watchOutbox(meter metric.Meter) error {
	size, err1 := meter.Int64ObservableGauge("reelway.ledger.outbox.size", metric.WithUnit("{message}"),
		metric.WithDescription("messages that are due and not published, and those that the bus never takes, by state"))
	age, err2 := meter.Float64ObservableGauge("reelway.ledger.outbox.age", metric.WithUnit("s"),
		metric.WithDescription("how long the oldest due message has waited; more than a few seconds means that the bus is away"))
	_, err3 := meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		ctx, cancel := context.WithTimeout(ctx, measureFor)
		defer cancel()
		var due, parked int64
		var oldest float64
		if err := s.pool.QueryRow(ctx, `select count(*), coalesce(extract(epoch from clock_timestamp() - min(publish_after)), 0)::float8,
				(select count(*) from outbox_parked)
			from outbox where publish_after <= statement_timestamp()`).Scan(&due, &oldest, &parked); err != nil {
			return fmt.Errorf("count outbox: %w", err)
		}
		o.ObserveInt64(size, due, metric.WithAttributes(attribute.String("state", "due")))
		o.ObserveInt64(size, parked, metric.WithAttributes(attribute.String("state", "parked")))
		o.ObserveFloat64(age, oldest)
		return nil
	}, size, age)
	return errors.Join(err1, err2, err3)
}

// relayOnce publishes one batch and returns how many messages went out.
func (s *Service) relayOnce(ctx context.Context) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err = postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		n = 0
		var mine bool
		// One relay at a time keeps a job's events in order.
		if err := tx.QueryRow(ctx, "select pg_try_advisory_xact_lock(7233510)").Scan(&mine); err != nil || !mine {
			return err
		}
		rows, err := tx.Query(ctx, dueSQL, relayBatch)
		if err != nil {
			return err
		}
		var at []time.Time
		var ids []int64
		var due []bus.Message
		var x struct {
			at time.Time
			id int64
			m  bus.Message
		}
		if _, err := pgx.ForEachRow(rows, []any{&x.at, &x.id, &x.m.ID, &x.m.Subject, &x.m.Type, &x.m.Data, &x.m.TraceParent}, func() error {
			at, ids, due = append(at, x.at), append(ids, x.id), append(due, x.m)
			x.m.Data = nil // the next row's is another's memory
			return nil
		}); err != nil || len(due) == 0 {
			return err
		}
		// What was not sent stays for the next pass; what was, is a duplicate
		// to JetStream should this transaction fail.
		n, err = s.bus.PublishAll(ctx, due)
		if n < len(due) && errors.Is(err, bus.ErrTooLarge) {
			// One message that can never go out must not hold up all others.
			s.log.ErrorContext(ctx, "message parked: the bus does not take it", "message_id", due[n].ID, "subject", due[n].Subject, "error", err.Error())
			if _, perr := tx.Exec(ctx, `insert into outbox_parked (id, message_id, subject, type, data, reason) values ($1, $2, $3, $4, $5, $6)`,
				ids[n], due[n].ID, due[n].Subject, due[n].Type, due[n].Data, err.Error()); perr != nil {
				return perr
			}
			n++
		} else if n == 0 {
			return err
		}
		_, err = tx.Exec(ctx, sentSQL, at[:n], ids[:n])
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("relay outbox: %w", err)
	}
	return n, nil
}
