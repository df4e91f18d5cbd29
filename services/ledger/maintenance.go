package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// usualRetryAfter is when callers are asked to come again where an operator does
// not say.
const usualRetryAfter = 5 * time.Minute

type maintenanceServer struct {
	ledgerv1.UnimplementedMaintenanceServiceServer
	s *Service
}

// StartMaintenance refuses new videos from now on.
func (g *maintenanceServer) StartMaintenance(ctx context.Context, r *ledgerv1.StartMaintenanceRequest) (*ledgerv1.StartMaintenanceResponse, error) {
	after := usualRetryAfter
	if r.GetRetryAfter() != nil {
		after = r.GetRetryAfter().AsDuration()
	}
	seconds := int(after.Seconds())
	err := g.s.turn(ctx, deed{action: "maintenance.start", details: map[string]any{"reason": r.GetReason(), "retry_after_seconds": seconds}},
		`insert into maintenance as m (reason, retry_after_seconds) values ($1, $2)
			on conflict (only_one) do update set reason = excluded.reason, retry_after_seconds = excluded.retry_after_seconds
			where (m.reason, m.retry_after_seconds) is distinct from (excluded.reason, excluded.retry_after_seconds)`, r.GetReason(), seconds)
	if err != nil {
		return nil, err
	}
	sw, err := readSwitches(ctx, g.s.pool)
	if err != nil {
		return nil, err
	}
	return &ledgerv1.StartMaintenanceResponse{Maintenance: sw.maintenance}, nil
}

// EndMaintenance takes new videos again.
func (g *maintenanceServer) EndMaintenance(ctx context.Context, _ *ledgerv1.EndMaintenanceRequest) (*ledgerv1.EndMaintenanceResponse, error) {
	if err := g.s.turn(ctx, deed{action: "maintenance.end"}, "delete from maintenance"); err != nil {
		return nil, err
	}
	return &ledgerv1.EndMaintenanceResponse{}, nil
}

// GetMaintenance tells whether there is maintenance, and how far the rest has
// drained.
func (g *maintenanceServer) GetMaintenance(ctx context.Context, _ *ledgerv1.GetMaintenanceRequest) (*ledgerv1.GetMaintenanceResponse, error) {
	sw, err := readSwitches(ctx, g.s.pool)
	if err != nil {
		return nil, err
	}
	resp := &ledgerv1.GetMaintenanceResponse{Maintenance: sw.maintenance}
	if err := g.s.pool.QueryRow(ctx, "select count(*) from job where completed_at is null").Scan(&resp.LiveJobs); err != nil {
		return nil, fmt.Errorf("count jobs: %w", err)
	}
	return resp, nil
}

// turn changes a switch by one statement. A change is in the audit log; what
// was so already is none.
func (s *Service) turn(ctx context.Context, d deed, sql string, args ...any) error {
	d.account = operatorAccount
	err := s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		tag, err := tx.Exec(ctx, sql, args...)
		if err != nil {
			return nothing, fmt.Errorf("turn switch: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return nothing, nil
		}
		return d, nil
	})
	s.known.forget()
	if err == nil {
		s.wakeOpened() // what waited for it
		s.log.InfoContext(ctx, "switch turned", "action", d.action, "target", d.target)
	}
	return err
}
