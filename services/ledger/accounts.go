package ledger

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/postgres"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type accountServer struct {
	ledgerv1.UnimplementedAccountServiceServer
	s *Service
}

// CreateAccount makes an account with its two books. A given id that exists
// already is a success.
func (g *accountServer) CreateAccount(ctx context.Context, r *ledgerv1.CreateAccountRequest) (*ledgerv1.CreateAccountResponse, error) {
	account := r.GetAccountId()
	if account == "" {
		account = id.New(id.Account)
	}
	if !id.Safe(account) {
		return nil, fault.New(fault.InvalidRequest, "account_id may hold only letters, digits, _ and -")
	}
	tier := r.GetTier()
	if tier == "" {
		tier = "development"
	}
	err := postgres.InTx(ctx, g.s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `insert into account (id, name, tier) values ($1, $2, $3) on conflict (id) do nothing`,
			account, r.GetName(), tier); err != nil {
			return fmt.Errorf("insert account: %w", err)
		}
		_, err := tx.Exec(ctx, `insert into balance (account_id) values ($1) on conflict (account_id) do nothing`, account)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &ledgerv1.CreateAccountResponse{AccountId: account}, nil
}

// CreateAPIKey makes a key and shows it once. A given key that exists already
// for this account is a success.
func (g *accountServer) CreateAPIKey(ctx context.Context, r *ledgerv1.CreateAPIKeyRequest) (*ledgerv1.CreateAPIKeyResponse, error) {
	key := r.GetApiKey()
	if key == "" {
		secret := make([]byte, 32)
		_, _ = rand.Read(secret) // never fails (crypto/rand since Go 1.24)
		key = "rw_" + base64.RawURLEncoding.EncodeToString(secret)
	}
	hash := sha256.Sum256([]byte(key))
	keyID := id.New(id.Key)
	err := g.s.pool.QueryRow(ctx, `insert into api_key (id, account_id, name, hash, scopes) values ($1, $2, $3, $4, $5)
		on conflict (hash) do update set name = excluded.name where api_key.account_id = excluded.account_id returning id`,
		keyID, r.GetAccountId(), r.GetName(), hash[:], r.GetScopes()).Scan(&keyID)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.Conflict, "this key belongs to another account")
	}
	if err != nil {
		return nil, fmt.Errorf("insert api key: %w", err)
	}
	return &ledgerv1.CreateAPIKeyResponse{KeyId: keyID, ApiKey: key}, nil
}

// Authenticate finds the account of a key by its hash.
func (g *accountServer) Authenticate(ctx context.Context, r *ledgerv1.AuthenticateRequest) (*ledgerv1.AuthenticateResponse, error) {
	resp := &ledgerv1.AuthenticateResponse{}
	err := g.s.pool.QueryRow(ctx, `select k.id, k.account_id, k.scopes, a.tier from api_key k join account a on a.id = k.account_id
		where k.hash = $1 and k.revoked_at is null and (k.expires_at is null or k.expires_at > now())`, r.GetKeyHash()).
		Scan(&resp.KeyId, &resp.AccountId, &resp.Scopes, &resp.Tier)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.Unauthenticated, "the API key is unknown, expired or revoked")
	}
	if err != nil {
		return nil, fmt.Errorf("read api key: %w", err)
	}
	return resp, nil
}
