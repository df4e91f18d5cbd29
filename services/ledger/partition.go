package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/postgres"
)

// monthsAhead is how many months beyond this one have their partition: a ledger
// that cannot make one has as long to be mended.
const monthsAhead = 2

// partition makes the partitions of the coming months.
func (s *Service) partition(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if err := s.partitionOnce(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "partition not made; jobs go into job_other meanwhile", "error", err.Error())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Service) partitionOnce(ctx context.Context) error {
	for m := range monthsAhead + 1 {
		err := postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
			// Rather an hour later than in the way of a submit.
			if _, err := tx.Exec(ctx, "set local lock_timeout = '1s'"); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "select make_job_partition((now() at time zone 'UTC' + $1 * interval '1 month')::date)", m)
			return err
		})
		if err != nil {
			return fmt.Errorf("make partition: %w", err)
		}
	}
	return nil
}
