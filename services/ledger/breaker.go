package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/money"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// hour is what an account has held for new videos since the hour began. What
// is released later stays in it: a flood of requests that fail is one too.
type hour struct {
	start   time.Time
	spent   int64
	usual   *int64 // nil: too little history
	exempt  bool   // an operator has resumed the account a moment ago
	fresh   bool   // has no row yet
	changed bool
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
	if s.cfg.SpikeFactor <= 0 || h.exempt || h.usual == nil && floor == 0 {
		return 0, false
	}
	limit := floor
	if h.usual != nil {
		limit = max(limit, times(*h.usual, int64(s.cfg.SpikeFactor)))
	}
	return limit, true
}

// queueUsual finds the usual hour of accounts that spend for the first time in
// this one, and removes what is too old to matter.
func (u *unit) queueUsual(b *pgx.Batch) {
	var accounts []string
	var start time.Time
	for id, g := range u.spending.accounts {
		if g.hour.fresh {
			accounts, start = append(accounts, id), g.hour.start
		}
	}
	if len(accounts) == 0 {
		return
	}
	slices.Sort(accounts)
	b.Queue("delete from spend_hour where account_id = any($1) and hour < $2", accounts, start.Add(-usualFrom))
	b.Queue(`select account_id, trunc(avg(micros))::bigint from spend_hour where account_id = any($1) and hour < $2
		group by account_id having count(*) >= $3`, accounts, start, usualHours).Query(func(rows pgx.Rows) error {
		var account string
		var usual int64
		_, err := pgx.ForEachRow(rows, []any{&account, &usual}, func() error {
			mean := usual
			u.spending.accounts[account].hour.usual = &mean
			return nil
		})
		return err
	})
}

func (u *unit) writeHours(b *pgx.Batch) {
	var t table
	accounts := slices.DeleteFunc(slices.Sorted(maps.Keys(u.spending.accounts)), func(id string) bool { return !u.spending.accounts[id].hour.changed })
	if len(accounts) == 0 {
		return
	}
	of := func(id string) hour { return u.spending.accounts[id].hour }
	column(&t, accounts, func(id string) string { return id })
	column(&t, accounts, func(id string) time.Time { return of(id).start })
	column(&t, accounts, func(id string) int64 { return of(id).spent })
	column(&t, accounts, func(id string) *int64 { return of(id).usual })
	b.Queue(`insert into spend_hour (account_id, hour, micros, usual_micros)
		select * from unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::bigint[])
		on conflict (account_id, hour) do update set micros = excluded.micros`, t.columns...)
}

// pause stops an account's spending until an operator resumes it, with a notice
// and an entry in the audit log, and returns what its callers are told from now on.
func (u *unit) pause(ctx context.Context, s *Service, j *record, g *guard, limit int64) (*fault.Error, error) {
	would := add(g.hour.spent, j.Quote)
	g.paused = fmt.Sprintf("with this video the account would have spent %s credits since %s UTC, and the most that an hour may come to is %s",
		money.Format(would), g.hour.start.UTC().Format("15:04"), money.Format(limit))
	if g.hour.usual != nil {
		g.paused += fmt.Sprintf(", as its usual hour is %s", money.Format(*g.hour.usual))
	}
	if _, err := u.tx.Exec(ctx, "update account set paused_reason = $2, paused_at = now() where id = $1", j.Account, g.paused); err != nil {
		return nil, fmt.Errorf("pause account: %w", err)
	}
	if err := enter(ctx, u.tx, deed{action: "account.pause", account: j.Account, target: j.Account, details: map[string]any{"reason": g.paused}}); err != nil {
		return nil, err
	}
	s.log.WarnContext(ctx, "account paused", "account_id", j.Account, "api_key_id", j.Key, "hour_micros", would, "limit_micros", limit)
	refusal := pausedBecause(g.paused)
	return refusal, u.notify(ctx, "paused-"+j.ID, &eventv1.AccountNotice{AccountId: j.Account, Text: refusal.Message,
		About: &eventv1.AccountNotice_Paused{Paused: &eventv1.SpendingPaused{HourMicros: would, LimitMicros: limit, UsualMicros: g.hour.usual}}})
}

func pausedBecause(reason string) *fault.Error {
	return fault.New(fault.PermissionDenied, "paused: %s; an operator resumes it", reason)
}
