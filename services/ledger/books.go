package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type moneyServer struct {
	ledgerv1.UnimplementedLedgerServiceServer
	s *Service
}

func noAccount() error { return fault.New(fault.NotFound, "no such account") }

// GetBalance reads both of a customer's books, and what of them comes from
// grants, in one snapshot. What has expired is not shown, swept or not.
func (g *moneyServer) GetBalance(ctx context.Context, r *ledgerv1.GetBalanceRequest) (*ledgerv1.GetBalanceResponse, error) {
	resp := &ledgerv1.GetBalanceResponse{}
	var next *time.Time
	err := g.s.pool.QueryRow(ctx, `select available_micros - l.expired, held_micros, l.granted, l.next_at,
			coalesce((select sum(remaining_micros) from grant_lot where account_id = b.account_id and live and expires_at = l.next_at), 0)
		from balance b cross join lateral (select coalesce(sum(remaining_micros) filter (where expires_at <= now()), 0) as expired,
				coalesce(sum(remaining_micros) filter (where expires_at > now() or expires_at is null), 0) as granted,
				min(expires_at) filter (where expires_at > now()) as next_at
			from grant_lot where account_id = b.account_id and live) l
		where account_id = $1`, r.GetAccountId()).
		Scan(&resp.AvailableMicros, &resp.HeldMicros, &resp.GrantedMicros, &next, &resp.NextExpiryMicros)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, noAccount()
	}
	if err != nil {
		return nil, fmt.Errorf("read balance: %w", err)
	}
	resp.NextExpiryAt = stamp(next)
	return resp, nil
}
