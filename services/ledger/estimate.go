package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/postgres"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// estimate tells watchers how far a render may be, from how long the provider
// took for its last ones. Nearly every provider gives no percentage itself. An
// estimate is marked as one, never goes back and never reaches the end.
func (s *Service) estimate(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.ProgressEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := errors.Join(s.times.read(ctx, s.pool), s.estimateOnce(ctx)); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "progress not estimated", "error", err.Error())
			}
		}
	}
}

const (
	estimateStep  = 5    // percent
	estimateBatch = 2000 // running jobs, the latest first
)

func (s *Service) estimateOnce(ctx context.Context) error {
	type row struct {
		id, attempt, provider, model string
		seconds                      float64
	}
	var running []row
	err := postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, "select pg_try_advisory_xact_lock(7233511)").Scan(&mine); err != nil || !mine {
			return err
		}
		rows, err := tx.Query(ctx, `select id, attempt_id, provider, model, extract(epoch from now() - updated_at)::float8
			from job where completed_at is null and state = 'running' order by updated_at desc limit $1`, estimateBatch)
		if err != nil {
			return err
		}
		running, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (row, error) {
			var x row
			err := r.Scan(&x.id, &x.attempt, &x.provider, &x.model, &x.seconds)
			return x, err
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("read running jobs: %w", err)
	}
	for _, x := range running {
		typical := s.times.render(x.provider, x.model).typical
		if typical == 0 {
			typical = s.cfg.TypicalRender
		}
		percent := int32(min(95, x.seconds*100/max(typical.Seconds(), 0.1)))
		v, ok, err := s.bus.Status(ctx, x.id)
		if err != nil || !ok || v.GetState() != videov1.VideoState_VIDEO_STATE_RUNNING || v.GetProgress() > 0 && !v.GetProgressEstimated() ||
			percent < v.GetProgress()+estimateStep {
			continue // told by the provider, or nothing new
		}
		v.ProgressEstimated = true
		if err := s.tellProgress(ctx, v, x.attempt, percent/estimateStep*estimateStep); err != nil {
			return err
		}
	}
	return nil
}
