package ledger

import (
	"context"

	"reelway.dev/pkg/auth"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// Provision makes an account with a fixed id, a fixed key with every scope but
// admin, and its first credits; each once, however often it is called. It is
// how a development install begins.
func (s *Service) Provision(ctx context.Context, account, key string, micros int64) error {
	accounts, money := &accountServer{s: s}, &moneyServer{s: s}
	if _, err := accounts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: account, AccountId: account}); err != nil {
		return err
	}
	if _, err := accounts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: account, Name: "development", ApiKey: key,
		Scopes: []string{auth.VideosRead, auth.VideosWrite, auth.BillingRead}}); err != nil {
		return err
	}
	if micros <= 0 {
		return nil
	}
	_, err := money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: account, AmountMicros: micros, IdempotencyKey: "first"})
	return err
}
