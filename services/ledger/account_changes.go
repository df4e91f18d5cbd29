package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"
	_ "time/tzdata" // the zones of accounts, where the system has none

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// UpdateAccount changes the fields that are present.
func (g *accountServer) UpdateAccount(ctx context.Context, r *ledgerv1.UpdateAccountRequest) (*ledgerv1.UpdateAccountResponse, error) {
	if r.CapResolution != nil && r.GetReason() == "" {
		return nil, fault.Invalid(fault.Field{Name: "reason", Message: "is required with cap_resolution; the audit log keeps it"})
	}
	resp := &ledgerv1.UpdateAccountResponse{}
	err := g.s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (deed, error) {
		a, err := oneAccount(ctx, tx, r.GetAccountId(), "for no key update")
		if err != nil {
			return nothing, err
		}
		resp.Account = a
		changes := map[string]any{}
		change := func(field string, old, to *string) {
			if to != nil && *to != *old {
				changes[field] = map[string]any{"from": *old, "to": *to}
				*old = *to
			}
		}
		if r.TimeZone != nil {
			if err := checkZone(ctx, tx, r.GetTimeZone()); err != nil {
				return nothing, err
			}
		}
		change("name", &a.Name, r.Name)
		change("tier", &a.Tier, r.Tier)
		change("time_zone", &a.TimeZone, r.TimeZone)
		change("cap_resolution", &a.CapResolution, r.CapResolution)
		if _, ok := changes["cap_resolution"]; ok {
			a.CapReason = r.GetReason()
			if a.GetCapResolution() == "" {
				a.CapReason = ""
			}
		}
		if w := r.QueueWeight; w != nil && *w != a.GetQueueWeight() {
			changes["queue_weight"] = map[string]any{"from": a.GetQueueWeight(), "to": *w}
			a.QueueWeight = *w
		}
		if p := r.TopPriority; p != nil && *p != a.GetTopPriority() {
			changes["top_priority"] = map[string]any{"from": a.GetTopPriority().String(), "to": p.String()}
			a.TopPriority = *p
		}
		if err := setEmail(ctx, tx, a, r.Email, changes); err != nil {
			return nothing, err
		}
		if err := setRetention(ctx, tx, r, a, changes); err != nil {
			return nothing, err
		}
		if len(changes) == 0 {
			return nothing, nil
		}
		if r.GetReason() != "" {
			changes["reason"] = r.GetReason()
		}
		if _, err := tx.Exec(ctx, `update account set name = $2, tier = $3, time_zone = $4, cap_resolution = nullif($5, ''), cap_reason = $6,
			queue_weight = $7, top_priority = $8
			where id = $1`, a.GetId(), a.GetName(), a.GetTier(), a.GetTimeZone(), a.GetCapResolution(), a.GetCapReason(), a.GetQueueWeight(), int32(a.GetTopPriority())); err != nil {
			return nothing, fmt.Errorf("update account: %w", err)
		}
		return deed{action: "account.update", account: a.GetId(), target: a.GetId(), details: changes}, nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// SuspendAccount refuses an account's writes from now on. Suspending it again
// for another reason changes the reason.
func (g *accountServer) SuspendAccount(ctx context.Context, r *ledgerv1.SuspendAccountRequest) (*ledgerv1.SuspendAccountResponse, error) {
	if r.GetAccountId() == operatorAccount {
		return nil, fault.New(fault.Conflict, "%s is the operator's own account and cannot be suspended; revoke one of its keys instead", operatorAccount)
	}
	a, err := g.setStatus(ctx, r.GetAccountId(), "account.suspend", r.GetReason(),
		func(a *ledgerv1.Account) bool { return a.GetSuspendedReason() == r.GetReason() },
		`update account set status = 'suspended', suspended_reason = $2, suspended_at = coalesce(suspended_at, now()) where id = $1`, r.GetReason())
	return &ledgerv1.SuspendAccountResponse{Account: a}, err
}

// ResumeAccount ends a suspension and a pause. An active account is a success.
// After a pause the breaker leaves the account alone for an hour: the hour that
// tripped it is not over.
func (g *accountServer) ResumeAccount(ctx context.Context, r *ledgerv1.ResumeAccountRequest) (*ledgerv1.ResumeAccountResponse, error) {
	a, err := g.setStatus(ctx, r.GetAccountId(), "account.resume", r.GetReason(),
		func(a *ledgerv1.Account) bool { return a.GetStatus() == ledgerv1.AccountStatus_ACCOUNT_STATUS_ACTIVE },
		`update account set status = 'active', suspended_reason = '', suspended_at = null,
			spike_exempt_until = case when paused_at is null then spike_exempt_until else now() + interval '1 hour' end,
			paused_reason = '', paused_at = null where id = $1`)
	return &ledgerv1.ResumeAccountResponse{Account: a}, err
}

func (g *accountServer) setStatus(ctx context.Context, account, action, reason string, already func(*ledgerv1.Account) bool, sql string, args ...any) (a *ledgerv1.Account, _ error) {
	err := g.s.administer(ctx, func(ctx context.Context, tx pgx.Tx) (_ deed, err error) {
		// The balance first, as where an account is paused.
		if err := stopSpending(ctx, tx, account); err != nil {
			return nothing, err
		}
		if a, err = oneAccount(ctx, tx, account, "for no key update"); err != nil || already(a) {
			return nothing, err
		}
		if _, err := tx.Exec(ctx, sql, append([]any{account}, args...)...); err != nil {
			return nothing, fmt.Errorf("set status: %w", err)
		}
		if a, err = oneAccount(ctx, tx, account, ""); err != nil {
			return nothing, err
		}
		return deed{action: action, account: account, target: account, details: map[string]any{"reason": reason}}, nil
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// checkZone refuses a time zone that Go or the database does not know: days
// are counted in both. It ends a transaction that it refuses in.
func checkZone(ctx context.Context, tx pgx.Tx, zone string) error {
	unknown := fault.Invalid(fault.Field{Name: "time_zone", Message: fmt.Sprintf("%q is not known; use an IANA name such as Europe/Vienna or UTC", zone)})
	if _, err := time.LoadLocation(zone); err != nil || zone == "Local" {
		return unknown
	}
	_, err := tx.Exec(ctx, "select now() at time zone $1", zone)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "22023" {
		return unknown
	}
	return err
}
