package ledger

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type moneyServer struct {
	ledgerv1.UnimplementedLedgerServiceServer
	s *Service
}

func noAccount() error { return fault.New(fault.NotFound, "no such account") }

// GetBalance reads both of a customer's books in one snapshot.
func (g *moneyServer) GetBalance(ctx context.Context, r *ledgerv1.GetBalanceRequest) (*ledgerv1.GetBalanceResponse, error) {
	resp := &ledgerv1.GetBalanceResponse{}
	err := g.s.pool.QueryRow(ctx, "select available_micros, held_micros from balance where account_id = $1", r.GetAccountId()).
		Scan(&resp.AvailableMicros, &resp.HeldMicros)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, noAccount()
	}
	if err != nil {
		return nil, fmt.Errorf("read balance: %w", err)
	}
	return resp, nil
}

// onAccount runs fn with an account's balance locked.
func (s *Service) onAccount(ctx context.Context, account string, fn func(ctx context.Context, u *unit, b *balance) error) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	return s.write(ctx, func(ctx context.Context, u *unit) error {
		if err := u.lockBalances(ctx, map[string]bool{account: true}); err != nil {
			return err
		}
		b := u.balances[account]
		if b == nil {
			return noAccount()
		}
		return fn(ctx, u, b)
	})
}

// TopUp adds credits once per key.
func (g *moneyServer) TopUp(ctx context.Context, r *ledgerv1.TopUpRequest) (*ledgerv1.TopUpResponse, error) {
	resp := &ledgerv1.TopUpResponse{}
	err := g.s.onAccount(ctx, r.GetAccountId(), func(ctx context.Context, u *unit, b *balance) error {
		err := u.once(ctx, b, posting{key: b.account + "/top_up/" + r.GetIdempotencyKey(), kind: "top_up", from: funding, to: available, amount: r.GetAmountMicros()})
		resp.AvailableMicros = b.of[available]
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}
