package ledger

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/money"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// hour is what an account has held for new videos since the hour began. What
// is released later stays in it: a flood of requests that fail is one too. It is
// part of the balance's row, which every opening writes anyway.
type hour struct {
	start time.Time
	spent int64
	usual *int64 // nil: too little history
}

const (
	// usualHours is how many hours with spending make a history.
	usualHours = 24
	// usualFrom is how far back the history goes; older rows are removed.
	usualFrom = 7 * 24 * time.Hour
)

// spikeLimit is the most that may be held in an hour; false when there is no
// limit. The floor is never undercut, and stands alone without a history.
func (s *Service) spikeLimit(h hour) (int64, bool) {
	floor := s.cfg.SpikeFloor * money.Micros
	if s.cfg.SpikeFactor <= 0 || h.usual == nil && floor == 0 {
		return 0, false
	}
	limit := floor
	if h.usual != nil {
		limit = max(limit, times(*h.usual, int64(s.cfg.SpikeFactor)))
	}
	return limit, true
}

// queueHours begins a new hour where the last one is over: that one goes into
// the history, and what is usual is found anew.
func (u *unit) queueHours(b *pgx.Batch, accounts map[string]bool) {
	start := u.now.UTC().Truncate(time.Hour)
	var over []*balance
	for id := range accounts {
		// An hour that is ahead of this transaction's clock is counted on: another
		// transaction, begun later, came first.
		if x := u.balances[id]; x != nil && x.hour.start.Before(start) {
			over = append(over, x)
		}
	}
	if len(over) == 0 {
		return
	}
	slices.SortFunc(over, func(a, b *balance) int { return strings.Compare(a.account, b.account) })
	var t table
	column(&t, over, func(x *balance) string { return x.account })
	column(&t, over, func(x *balance) time.Time { return x.hour.start })
	column(&t, over, func(x *balance) int64 { return x.hour.spent })
	b.Queue(`insert into spend_hour (account_id, hour, micros) select * from unnest($1::text[], $2::timestamptz[], $3::bigint[]) as x (a, h, m)
		where m > 0 on conflict do nothing`, t.columns...)
	b.Queue("delete from spend_hour where account_id = any($1) and hour < $2", t.columns[0], start.Add(-usualFrom))
	b.Queue(`select account_id, trunc(avg(micros))::bigint from spend_hour where account_id = any($1) and hour < $2
		group by account_id having count(*) >= $3`, t.columns[0], start, usualHours).Query(func(rows pgx.Rows) error {
		var account string
		var mean int64
		_, err := pgx.ForEachRow(rows, []any{&account, &mean}, func() error {
			usual := mean
			u.balances[account].hour.usual = &usual
			return nil
		})
		return err
	})
	for _, x := range over {
		x.hour = hour{start: start}
	}
}

// pause stops an account's spending until an operator resumes it, with a notice
// and an entry in the audit log, and returns what its callers are told from now on.
func (u *unit) pause(ctx context.Context, s *Service, b *balance, j *record, limit int64) (*fault.Error, error) {
	would := add(b.hour.spent, j.Quote)
	reason := fmt.Sprintf("with this video the account would have spent %s credits since %s UTC, and the most that an hour may come to is %s",
		money.Format(would), b.hour.start.UTC().Format("15:04"), money.Format(limit))
	if b.hour.usual != nil {
		reason += fmt.Sprintf(", as its usual hour is %s", money.Format(*b.hour.usual))
	}
	if _, err := u.tx.Exec(ctx, "update account set paused_reason = $2, paused_at = now() where id = $1", j.Account, reason); err != nil {
		return nil, fmt.Errorf("pause account: %w", err)
	}
	if err := guardFromNow(ctx, u.tx, j.Account); err != nil {
		return nil, err
	}
	u.spending.accounts[j.Account] = &guard{paused: reason} // for the rest of the group
	if err := enter(ctx, u.tx, deed{action: "account.pause", account: j.Account, target: j.Account, details: map[string]any{"reason": reason}}); err != nil {
		return nil, err
	}
	s.log.WarnContext(ctx, "account paused", "account_id", j.Account, "api_key_id", j.Key, "hour_micros", would, "limit_micros", limit)
	refusal := pausedBecause(reason)
	return refusal, u.notify(ctx, "paused-"+j.ID, &eventv1.AccountNotice{AccountId: j.Account, Text: refusal.Message,
		About: &eventv1.AccountNotice_Paused{Paused: &eventv1.SpendingPaused{HourMicros: would, LimitMicros: limit, UsualMicros: b.hour.usual}}})
}

func pausedBecause(reason string) *fault.Error {
	return fault.New(fault.PermissionDenied, "paused: %s; an operator resumes it", reason)
}
