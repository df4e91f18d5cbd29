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
		_, err := tx.Exec(ctx, `insert into book (id, account_id, kind) values ($1, $3, 'available'), ($2, $3, 'held')
			on conflict (id) do nothing`, available(account), held(account), account)
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

type moneyServer struct {
	ledgerv1.UnimplementedLedgerServiceServer
	s *Service
}

func (s *Service) balance(ctx context.Context, account string) (*ledgerv1.GetBalanceResponse, error) {
	resp := &ledgerv1.GetBalanceResponse{}
	err := s.pool.QueryRow(ctx, `select a.balance_micros, h.balance_micros from book a, book h where a.id = $1 and h.id = $2`,
		available(account), held(account)).Scan(&resp.AvailableMicros, &resp.HeldMicros)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "no such account")
	}
	if err != nil {
		return nil, fmt.Errorf("read balance: %w", err)
	}
	return resp, nil
}

// GetBalance reads both books in one snapshot.
func (g *moneyServer) GetBalance(ctx context.Context, r *ledgerv1.GetBalanceRequest) (*ledgerv1.GetBalanceResponse, error) {
	return g.s.balance(ctx, r.GetAccountId())
}

// TopUp adds credits once per key.
func (g *moneyServer) TopUp(ctx context.Context, r *ledgerv1.TopUpRequest) (*ledgerv1.TopUpResponse, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	err := postgres.InTx(ctx, g.s.pool, func(tx pgx.Tx) error {
		err := move(ctx, tx, "topup:"+r.GetAccountId()+":"+r.GetIdempotencyKey(), "top_up", "",
			leg{available(r.GetAccountId()), r.GetAmountMicros()}, leg{funding, -r.GetAmountMicros()})
		if errors.Is(err, errShort) {
			return fault.New(fault.NotFound, "no such account")
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	b, err := g.s.balance(ctx, r.GetAccountId())
	if err != nil {
		return nil, err
	}
	return &ledgerv1.TopUpResponse{AvailableMicros: b.GetAvailableMicros()}, nil
}

// invariants are questions that must find nothing.
var invariants = []struct{ name, sql string }{
	{"postings sum to zero", `select 'sum ' || sum(amount_micros) from posting having sum(amount_micros) <> 0`},
	{"each balance equals its postings", `select b.id from book b left join (select book_id, sum(amount_micros) s from posting group by 1) p
		on p.book_id = b.id where b.balance_micros <> coalesce(p.s, 0)`},
	{"no customer balance was ever negative", `select book_id || ' at posting ' || id from (select p.id, book_id,
		sum(amount_micros) over (partition by book_id order by p.id) s from posting p join book b on b.id = p.book_id
		where b.account_id is not null) x where s < 0`},
	{"every job has one hold, open exactly while it lives", `select j.id from job j left join hold h on h.job_id = j.id
		where h.job_id is null or (h.state = 'held') <> (j.completed_at is null)`},
	{"captured exactly when succeeded", `select j.id from job j join hold h on h.job_id = j.id
		where (j.state = 'succeeded') <> (h.state = 'captured') or h.captured_micros <> j.captured_micros`},
	{"held books equal open holds", `select b.id from book b left join (select account_id, sum(amount_micros) s from hold
		where state = 'held' group by 1) h on h.account_id = b.account_id where b.kind = 'held' and b.balance_micros <> coalesce(h.s, 0)`},
}

// Verify proves the books on the live database, in one snapshot.
func (g *moneyServer) Verify(ctx context.Context, _ *ledgerv1.VerifyRequest) (*ledgerv1.VerifyResponse, error) {
	resp := &ledgerv1.VerifyResponse{}
	err := pgx.BeginTxFunc(ctx, g.s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		for _, inv := range invariants {
			rows, err := tx.Query(ctx, "select * from ("+inv.sql+") q limit 20")
			if err != nil {
				return fmt.Errorf("check that %s: %w", inv.name, err)
			}
			broken, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				return fmt.Errorf("check that %s: %w", inv.name, err)
			}
			for _, b := range broken {
				resp.Violations = append(resp.Violations, "not so: "+inv.name+": "+b)
			}
		}
		return nil
	})
	return resp, err
}
