package ledger

import (
	"context"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// operatorAccount owns the keys that operators begin with.
const operatorAccount = "acct_operator"

// minAdminKey is the length in characters below which an admin key is refused.
const minAdminKey = 12

// Provision makes an account with a fixed id, a fixed key with every scope but
// admin, and its first credits; each once, however often it is called. What an
// operator has changed since, a revoked key for one, stays changed. It is how a
// development install begins.
func (s *Service) Provision(ctx context.Context, account, key string, micros int64) error {
	err := s.provision(ctx, account, "development", &ledgerv1.APIKey{AccountId: account, Name: "development",
		Scopes: []string{auth.VideosRead, auth.VideosWrite, auth.BillingRead}}, key)
	if err != nil || micros <= 0 {
		return err
	}
	_, err = (&moneyServer{s: s}).TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: account, AmountMicros: micros, IdempotencyKey: "first"})
	return err
}

// ProvisionOperator makes the operator's account and an admin key with this
// secret, each once. A key made by an earlier call stays until it is revoked.
func (s *Service) ProvisionOperator(ctx context.Context, secret string) error {
	if len(secret) < minAdminKey {
		return fault.Invalid(fault.Field{Name: "REELWAY_ADMIN_API_KEY", Message: "has fewer than 12 characters; it opens every account"})
	}
	return s.provision(ctx, operatorAccount, "production", &ledgerv1.APIKey{AccountId: operatorAccount, Name: "REELWAY_ADMIN_API_KEY",
		Scopes: []string{auth.Admin}}, secret)
}

func (s *Service) provision(ctx context.Context, account, tier string, k *ledgerv1.APIKey, secret string) error {
	if err := s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		old, err := createAccount(ctx, tx, account, account, tier, "UTC")
		if err != nil || old != nil {
			return nothing, err
		}
		return created(account, account, tier, "UTC"), nil
	}); err != nil {
		return err
	}
	return s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		k.Id = id.New(id.Key)
		made, err := insertKey(ctx, tx, k, secret)
		if err != nil || !made {
			return nothing, err
		}
		return keyMade(k), nil
	})
}
