package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

func scanUser(row pgx.CollectableRow) (*ledgerv1.EndUser, error) {
	u := &ledgerv1.EndUser{}
	var created time.Time
	var unsubscribed *time.Time
	if err := row.Scan(&u.AccountId, &u.Id, &u.Name, &created, &u.Email, &u.Notify, &unsubscribed); err != nil {
		return nil, err
	}
	u.CreatedAt, u.UnsubscribedAt = timestamppb.New(created), stamp(unsubscribed)
	return u, nil
}

// CreateEndUser registers one of an account's own users. Asking again is a
// success; asking with another name or address is a conflict.
func (g *accountServer) CreateEndUser(ctx context.Context, r *ledgerv1.CreateEndUserRequest) (*ledgerv1.CreateEndUserResponse, error) {
	if r.GetNotify() && r.GetEmail() == "" {
		return nil, fault.Invalid(fault.Field{Name: "notify", Message: "needs an email to write to"})
	}
	resp := &ledgerv1.CreateEndUserResponse{}
	err := g.s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		tag, err := tx.Exec(ctx, `insert into end_user (account_id, id, name, email, notify) values ($1, $2, $3, $4, $5) on conflict do nothing`,
			r.GetAccountId(), r.GetUserId(), r.GetName(), r.GetEmail(), r.GetNotify())
		if err != nil {
			return nothing, ofAccount(fmt.Errorf("insert end user: %w", err))
		}
		if resp.EndUser, err = oneUser(ctx, tx, r.GetAccountId(), r.GetUserId(), ""); err != nil {
			return nothing, err
		}
		if tag.RowsAffected() == 0 {
			u := resp.GetEndUser()
			if u.GetName() != r.GetName() {
				return nothing, fault.New(fault.Conflict, "the end user exists already by another name")
			}
			if u.GetEmail() != r.GetEmail() || u.GetNotify() != r.GetNotify() {
				return nothing, fault.New(fault.Conflict, "the end user exists already with another email or notify; change them by UpdateEndUser")
			}
			return nothing, nil
		}
		// A user's id may be an e-mail address, and may have to be erased: the
		// entry, which stays, can be matched with it but does not tell it.
		sum := sha256.Sum256([]byte(r.GetUserId()))
		return deed{action: "end_user.create", account: r.GetAccountId(), target: r.GetAccountId(),
			details: map[string]any{"user_sha256": hex.EncodeToString(sum[:])}}, nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// ListEndUsers pages through one account's end users by id.
func (g *accountServer) ListEndUsers(ctx context.Context, r *ledgerv1.ListEndUsersRequest) (*ledgerv1.ListEndUsersResponse, error) {
	resp := &ledgerv1.ListEndUsersResponse{}
	var err error
	resp.EndUsers, resp.HasMore, err = page(ctx, g.s.pool, r.GetLimit(), scanUser,
		"select "+userColumns+" from end_user where account_id = $1 and id > $2 order by id", r.GetAccountId(), r.GetAfter())
	return resp, err
}
