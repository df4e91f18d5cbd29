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
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type accountServer struct {
	ledgerv1.UnimplementedAccountServiceServer
	s *Service
}

const accountColumns = `id, name, tier, status = 'suspended', suspended_reason, suspended_at, time_zone,
	coalesce(cap_resolution, ''), cap_reason, created_at, paused_reason, paused_at, queue_weight, top_priority, email,
	(select keep_seconds from video_retention where account_id = account.id)`

func scanAccount(row pgx.CollectableRow) (*ledgerv1.Account, error) {
	a := &ledgerv1.Account{Status: ledgerv1.AccountStatus_ACCOUNT_STATUS_ACTIVE}
	var suspended bool
	var since, paused *time.Time
	var created time.Time
	var keep *int64
	err := row.Scan(&a.Id, &a.Name, &a.Tier, &suspended, &a.SuspendedReason, &since, &a.TimeZone, &a.CapResolution, &a.CapReason, &created, &a.PausedReason, &paused, &a.QueueWeight, &a.TopPriority, &a.Email, &keep)
	if err != nil {
		return nil, err
	}
	switch {
	case suspended:
		a.Status = ledgerv1.AccountStatus_ACCOUNT_STATUS_SUSPENDED
	case paused != nil:
		a.Status = ledgerv1.AccountStatus_ACCOUNT_STATUS_PAUSED
	}
	a.SuspendedAt, a.PausedAt, a.CreatedAt = stamp(since), stamp(paused), timestamppb.New(created)
	a.RetainVideos = ownAge(keep)
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

// ofAccount turns the violation of a reference to an account into its fault.
func ofAccount(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23503" {
		return noAccount()
	}
	return err
}

// createAccount makes an account with its books, and returns the account
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
	if _, err := tx.Exec(ctx, `insert into balance (account_id) values ($1) on conflict (account_id) do nothing`, account); err != nil {
		return nil, fmt.Errorf("insert balance: %w", err)
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
