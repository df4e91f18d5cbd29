package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/propagation"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/postgres"
)

func traceparent(ctx context.Context) string {
	c := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, c)
	return c["traceparent"]
}

// appendOutbox writes a message in the transaction of the fact it tells. It is
// published after the commit, and not before delay has passed.
func appendOutbox(ctx context.Context, tx pgx.Tx, m bus.Message, delay time.Duration) error {
	if _, err := tx.Exec(ctx, `insert into outbox (message_id, subject, type, data, traceparent, publish_after)
		values ($1, $2, $3, $4, $5, now() + $6)`, m.ID, m.Subject, m.Type, m.Data, traceparent(ctx), delay); err != nil {
		return fmt.Errorf("append outbox: %w", err)
	}
	return nil
}

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

const relayBatch = 256

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
		rows, err := tx.Query(ctx, `select id, message_id, subject, type, data, traceparent from outbox
			where publish_after <= now() order by id limit $1`, relayBatch)
		if err != nil {
			return err
		}
		type row struct {
			id int64
			m  bus.Message
		}
		due, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (row, error) {
			var x row
			err := r.Scan(&x.id, &x.m.ID, &x.m.Subject, &x.m.Type, &x.m.Data, &x.m.TraceParent)
			return x, err
		})
		if err != nil {
			return err
		}
		var sent []int64
		for _, x := range due {
			if err = s.bus.Publish(ctx, x.m); err != nil {
				break
			}
			sent = append(sent, x.id)
		}
		n = len(sent)
		if n > 0 {
			if _, derr := tx.Exec(ctx, "delete from outbox where id = any($1)", sent); derr != nil {
				return derr
			}
			return nil // what was not sent stays for the next pass
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("relay outbox: %w", err)
	}
	return n, nil
}
