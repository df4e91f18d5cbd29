package ledger

import (
	"context"
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
			if err := s.estimateOnce(ctx); err != nil && ctx.Err() == nil {
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
		id, attempt string
		percent     int32
	}
	var running []row
	err := postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		var mine bool
		if err := tx.QueryRow(ctx, "select pg_try_advisory_xact_lock(7233511)").Scan(&mine); err != nil || !mine {
			return err
		}
		rows, err := tx.Query(ctx, `with typical as (
				select p.provider, (select avg(extract(epoch from x.took)) from (
					select a.ended_at - a.created_at as took from attempt a
					where a.provider = p.provider and a.state = 'succeeded' order by a.created_at desc limit 20) x) as seconds
				from (select distinct provider from job where completed_at is null and state = 'running') p)
			select j.id, j.attempt_id, least(95, extract(epoch from now() - j.updated_at) * 100 / greatest(coalesce(t.seconds, $1), 0.1))::int
			from job j join typical t using (provider)
			where j.completed_at is null and j.state = 'running' order by j.updated_at desc limit $2`, s.cfg.TypicalRender.Seconds(), estimateBatch)
		if err != nil {
			return err
		}
		running, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (row, error) {
			var x row
			err := r.Scan(&x.id, &x.attempt, &x.percent)
			return x, err
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("read running jobs: %w", err)
	}
	for _, x := range running {
		v, ok, err := s.bus.Status(ctx, x.id)
		if err != nil || !ok || v.GetState() != videov1.VideoState_VIDEO_STATE_RUNNING || v.GetProgress() > 0 && !v.GetProgressEstimated() ||
			x.percent < v.GetProgress()+estimateStep {
			continue // told by the provider, or nothing new
		}
		v.ProgressEstimated = true
		if err := s.tellProgress(ctx, v, x.attempt, x.percent/estimateStep*estimateStep); err != nil {
			return err
		}
	}
	return nil
}
