package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// UpdateEndUser changes the fields that are present. The audit log tells that an
// address was changed, and not which.
func (g *accountServer) UpdateEndUser(ctx context.Context, r *ledgerv1.UpdateEndUserRequest) (*ledgerv1.UpdateEndUserResponse, error) {
	resp := &ledgerv1.UpdateEndUserResponse{}
	err := g.s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		u, err := oneUser(ctx, tx, r.GetAccountId(), r.GetUserId(), "for update")
		if err != nil {
			return nothing, err
		}
		changes := map[string]any{}
		if r.Email != nil && r.GetEmail() != u.GetEmail() {
			u.Email, changes["email"] = r.GetEmail(), "changed"
		}
		notify := u.GetNotify()
		if r.Notify != nil {
			notify = r.GetNotify()
		}
		if u.GetEmail() == "" {
			if r.GetNotify() {
				return nothing, fault.Invalid(fault.Field{Name: "notify", Message: "needs an email to write to"})
			}
			notify = false
		}
		if notify != u.GetNotify() {
			u.Notify, changes["notify"] = notify, notify
		}
		if r.GetResubscribe() {
			if u.GetEmail() == "" {
				return nothing, fault.Invalid(fault.Field{Name: "resubscribe", Message: "needs an email to write to"})
			}
			if err := resubscribe(ctx, tx, u.GetAccountId(), u.GetEmail()); err != nil {
				return nothing, err
			}
			changes["resubscribe"] = true
		}
		if _, err := tx.Exec(ctx, "update end_user set email = $3, notify = $4 where account_id = $1 and id = $2",
			u.GetAccountId(), u.GetId(), u.GetEmail(), u.GetNotify()); err != nil {
			return nothing, fmt.Errorf("update end user: %w", err)
		}
		if resp.EndUser, err = oneUser(ctx, tx, u.GetAccountId(), u.GetId(), ""); err != nil || len(changes) == 0 {
			return nothing, err
		}
		sum := sha256.Sum256([]byte(r.GetUserId()))
		changes["user_sha256"] = hex.EncodeToString(sum[:])
		return deed{action: "end_user.update", account: r.GetAccountId(), target: r.GetAccountId(), details: changes}, nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// userColumns are an end user's, from end_user.
const userColumns = `account_id, id, name, created_at, email, notify,
	(select at from mail_unsubscribed m where m.account_id = end_user.account_id and m.recipient = ` + recipientSQL + `)`

func oneUser(ctx context.Context, q querier, account, user, lock string) (*ledgerv1.EndUser, error) {
	rows, err := q.Query(ctx, "select "+userColumns+" from end_user where account_id = $1 and id = $2 "+lock, account, user)
	if err != nil {
		return nil, fmt.Errorf("read end user: %w", err)
	}
	u, err := pgx.CollectExactlyOneRow(rows, scanUser)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "the account has no such end user")
	}
	if err != nil {
		return nil, fmt.Errorf("read end user: %w", err)
	}
	return u, nil
}

// setEmail changes an account's address, when one is given. The audit log tells
// that it was changed, and not to which.
func setEmail(ctx context.Context, tx pgx.Tx, a *ledgerv1.Account, to *string, changes map[string]any) error {
	if to == nil {
		return nil
	}
	if *to != "" {
		// Whoever sets an address wants it written to.
		if err := resubscribe(ctx, tx, a.GetId(), *to); err != nil {
			return err
		}
	}
	if *to == a.GetEmail() {
		return nil
	}
	a.Email, changes["email"] = *to, "changed"
	if _, err := tx.Exec(ctx, "update account set email = $2 where id = $1", a.GetId(), a.GetEmail()); err != nil {
		return fmt.Errorf("set email: %w", err)
	}
	return nil
}
