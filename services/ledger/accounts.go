package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/money"
	"reelway.dev/pkg/postgres"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type accountServer struct {
	ledgerv1.UnimplementedAccountServiceServer
	s *Service
}

const accountColumns = `id, name, tier, status = 'suspended', suspended_reason, suspended_at, time_zone,
	coalesce(cap_resolution, ''), cap_reason, created_at`

func scanAccount(row pgx.CollectableRow) (*ledgerv1.Account, error) {
	a := &ledgerv1.Account{Status: ledgerv1.AccountStatus_ACCOUNT_STATUS_ACTIVE}
	var suspended bool
	var since *time.Time
	var created time.Time
	err := row.Scan(&a.Id, &a.Name, &a.Tier, &suspended, &a.SuspendedReason, &since, &a.TimeZone, &a.CapResolution, &a.CapReason, &created)
	if err != nil {
		return nil, err
	}
	if suspended {
		a.Status = ledgerv1.AccountStatus_ACCOUNT_STATUS_SUSPENDED
	}
	a.SuspendedAt, a.CreatedAt = stamp(since), timestamppb.New(created)
	return a, nil
}

func stamp(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return timestamppb.New(*t)
}

// oneAccount reads an account. lock is empty or a locking clause; changes take
// "for no key update", which lets jobs be opened meanwhile.
func oneAccount(ctx context.Context, q querier, account, lock string) (*ledgerv1.Account, error) {
	rows, err := q.Query(ctx, "select "+accountColumns+" from account where id = $1 "+lock, account)
	if err != nil {
		return nil, fmt.Errorf("read account: %w", err)
	}
	a, err := pgx.CollectExactlyOneRow(rows, scanAccount)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, noAccount()
	}
	if err != nil {
		return nil, fmt.Errorf("read account: %w", err)
	}
	return a, nil
}

func noAccount() *fault.Error { return fault.New(fault.NotFound, "no such account") }

// ofAccount turns the violation of a reference to an account into its fault.
func ofAccount(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23503" {
		return noAccount()
	}
	return err
}

// createAccount makes an account with its two books, and returns the account
// that has the id when there is one already.
func createAccount(ctx context.Context, tx pgx.Tx, account, name, tier, zone string) (existing *ledgerv1.Account, _ error) {
	tag, err := tx.Exec(ctx, `insert into account (id, name, tier, time_zone) values ($1, $2, $3, $4) on conflict (id) do nothing`,
		account, name, tier, zone)
	if err != nil {
		return nil, fmt.Errorf("insert account: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return oneAccount(ctx, tx, account, "")
	}
	if _, err := tx.Exec(ctx, `insert into book (id, account_id, kind) values ($1, $3, 'available'), ($2, $3, 'held')
		on conflict (id) do nothing`, available(account), held(account), account); err != nil {
		return nil, fmt.Errorf("insert books: %w", err)
	}
	return nil, nil
}

func created(account, name, tier, zone string) deed {
	return deed{action: "account.create", account: account, target: account, details: map[string]any{"name": name, "tier": tier, "time_zone": zone}}
}

// CreateAccount makes an account. One that has the given id already, made with
// the same words, is a success.
func (g *accountServer) CreateAccount(ctx context.Context, r *ledgerv1.CreateAccountRequest) (*ledgerv1.CreateAccountResponse, error) {
	account := cmp.Or(r.GetAccountId(), id.New(id.Account))
	name, tier, zone := r.GetName(), cmp.Or(r.GetTier(), "development"), cmp.Or(r.GetTimeZone(), "UTC")
	err := g.s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		if err := checkZone(ctx, tx, zone); err != nil {
			return nothing, err
		}
		old, err := createAccount(ctx, tx, account, name, tier, zone)
		if err != nil {
			return nothing, err
		}
		if old != nil && (old.GetName() != name || old.GetTier() != tier || old.GetTimeZone() != zone) {
			return nothing, fault.New(fault.Conflict, "account_id: %s is another account, named %q; leave account_id out to have one made", account, old.GetName())
		}
		if old != nil {
			return nothing, nil
		}
		return created(account, name, tier, zone), nil
	})
	if err != nil {
		return nil, err
	}
	return &ledgerv1.CreateAccountResponse{AccountId: account}, nil
}

// GetAccount reads one account.
func (g *accountServer) GetAccount(ctx context.Context, r *ledgerv1.GetAccountRequest) (*ledgerv1.GetAccountResponse, error) {
	a, err := oneAccount(ctx, g.s.pool, r.GetAccountId(), "")
	return &ledgerv1.GetAccountResponse{Account: a}, err
}

// ListAccounts pages through all accounts, the latest id first.
func (g *accountServer) ListAccounts(ctx context.Context, r *ledgerv1.ListAccountsRequest) (*ledgerv1.ListAccountsResponse, error) {
	resp := &ledgerv1.ListAccountsResponse{}
	var err error
	resp.Accounts, resp.HasMore, err = page(ctx, g.s.pool, r.GetLimit(), scanAccount,
		"select "+accountColumns+" from account where ($1 = '' or id < $1) order by id desc", r.GetAfter())
	return resp, err
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
	transfer := "topup:" + r.GetAccountId() + ":" + r.GetIdempotencyKey()
	err := postgres.InTx(ctx, g.s.pool, func(tx pgx.Tx) error {
		err := move(ctx, tx, transfer, "top_up", "",
			leg{available(r.GetAccountId()), r.GetAmountMicros()}, leg{funding, -r.GetAmountMicros()})
		if errors.Is(err, errShort) {
			return fault.New(fault.NotFound, "no such account")
		}
		if err != nil {
			return err
		}
		return enter(ctx, tx, deed{action: "account.top_up", account: r.GetAccountId(), target: r.GetAccountId(), transfer: transfer,
			details: map[string]any{"credits": money.Format(r.GetAmountMicros()), "idempotency_key": r.GetIdempotencyKey()}})
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
