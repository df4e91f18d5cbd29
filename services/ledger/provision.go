package ledger

import (
	"context"
	"crypto/sha256"

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
	err := s.provision(ctx, account, "development", &ledgerv1.APIKey{AccountId: account, Name: developmentKey,
		Scopes: []string{auth.VideosRead, auth.VideosWrite, auth.BillingRead}}, key)
	if err == nil {
		err = s.retireKeys(ctx, account, key)
	}
	if err != nil || micros <= 0 {
		return err
	}
	_, err = (&moneyServer{s: s}).TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: account, AmountMicros: micros, IdempotencyKey: "first"})
	if err != nil && fault.From(err).Code == fault.Conflict {
		return nil // given already, when the setting was another
	}
	return err
}

// The names of development keys: the present one, and those of earlier starts.
const (
	developmentKey = "development"
	retiredKey     = "development, retired"
)

// retireKeys revokes the development keys of earlier starts: a key that stood
// in an example must not stay valid for ever.
func (s *Service) retireKeys(ctx context.Context, account, key string) error {
	hash := sha256.Sum256([]byte(key))
	return s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		// One that comes back works again; one that an operator revoked does not.
		if _, err := tx.Exec(ctx, "update api_key set revoked_at = null, name = $2 where account_id = $1 and name = $3 and hash = $4",
			account, developmentKey, retiredKey, hash[:]); err != nil {
			return nothing, err
		}
		tag, err := tx.Exec(ctx, "update api_key set revoked_at = now(), name = $3 where account_id = $1 and name = $2 and hash <> $4 and revoked_at is null",
			account, developmentKey, retiredKey, hash[:])
		if err != nil || tag.RowsAffected() == 0 {
			return nothing, err
		}
		return deed{action: "key.revoke", account: account, target: account, details: map[string]any{"name": developmentKey, "keys": tag.RowsAffected(), "reason": "another development key was set"}}, nil
	})
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
