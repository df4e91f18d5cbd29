package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// lot is what is left of a grant, read under the lock of its account's balance.
type lot struct {
	id                 string
	remaining, expired int64
	expires            *time.Time
}

// lotChange is how the whereabouts of a lot's credits change in a unit.
type lotChange struct{ remaining, drawn, spent, expired int64 }

// newLot is a row to insert.
type newLot struct {
	id, account   string
	amount        int64
	expires       *time.Time
	reason, actor string
	key           string // of the posting
}

// draw is what a hold, or an adjustment, takes from a lot.
type draw struct {
	taker, lot string
	amount     int64
	spent      *int64 // nil while the hold is open
}

// purse is the part of a unit that knows of grants. Most units leave it empty.
type purse struct {
	granted []newLot
	changes map[string]*lotChange // by lot
	taken   []draw
	closed  []draw            // holds that end, with what the job spent
	settles []string          // jobs that drew from lots and end in this unit
	draws   map[string][]draw // their open draws, first-expiring first
}

func (p *purse) whereabouts(lot string) *lotChange {
	if p.changes == nil {
		p.changes = map[string]*lotChange{}
	}
	if p.changes[lot] == nil {
		p.changes[lot] = &lotChange{}
	}
	return p.changes[lot]
}

// lockCredits locks the balances of accounts whose credits are spent, and reads
// the lots in the same journey. The balance's lock guards its lots, and the
// second statement sees what the lock's last holder committed.
func (u *unit) lockCredits(ctx context.Context, accounts map[string]bool) error {
	b := &pgx.Batch{}
	u.queueBalances(b, accounts)
	b.Queue(`select account_id, id, remaining_micros, expired_micros, expires_at from grant_lot
		where account_id = any($1) and live order by account_id, expires_at, id`, slices.Sorted(maps.Keys(accounts))).Query(func(rows pgx.Rows) error {
		var account string
		var l lot
		_, err := pgx.ForEachRow(rows, []any{&account, &l.id, &l.remaining, &l.expired, &l.expires}, func() error {
			if bal := u.balances[account]; bal != nil {
				own := l
				bal.lots = append(bal.lots, &own)
			}
			return nil
		})
		return err
	})
	if err := u.send(ctx, b); err != nil {
		return err
	}
	for account := range accounts {
		if err := u.expireDue(u.balances[account]); err != nil {
			return err
		}
	}
	return nil
}

// expireDue takes back what is left of lots whose time has come: before
// anything is judged by what there is, so that nobody spends it before the
// sweep comes by.
func (u *unit) expireDue(b *balance) error {
	if b == nil {
		return nil
	}
	for _, l := range b.lots {
		if l.remaining == 0 || l.expires == nil || l.expires.After(u.now) {
			continue
		}
		// What a job gives back to the lot later expires once more, under another key.
		err := u.post(b, posting{key: fmt.Sprintf("%s/grant_expiry/%s/%d", b.account, l.id, l.expired), kind: "grant_expiry",
			from: available, to: promotional, amount: l.remaining})
		if err != nil {
			return fmt.Errorf("expire %s: %s", l.id, err.Error()) // a shortage here is no customer's
		}
		c := u.whereabouts(l.id)
		c.remaining -= l.remaining
		c.expired += l.remaining
		l.expired += l.remaining
		l.remaining = 0
	}
	return nil
}

// take draws up to amount from an account's lots, first-expiring first, and
// returns how much it got. spend says that it is gone at once, not held.
func (u *unit) take(b *balance, taker string, amount int64, spend bool) (got int64) {
	for _, l := range b.lots {
		n := min(l.remaining, amount-got)
		if n == 0 {
			continue
		}
		d := draw{taker: taker, lot: l.id, amount: n}
		c := u.whereabouts(l.id)
		c.remaining -= n
		if spend {
			d.spent = &n
			c.spent += n
		} else {
			c.drawn += n
		}
		u.taken = append(u.taken, d)
		l.remaining -= n
		got += n
	}
	return got
}

// queueDraws reads what jobs that end in this unit took from lots. It follows
// the lock of their balances.
func (u *unit) queueDraws(b *pgx.Batch) {
	if len(u.settles) == 0 {
		return
	}
	u.draws = map[string][]draw{}
	b.Queue(`select d.taker, d.lot_id, d.amount_micros from lot_draw d join grant_lot l on l.id = d.lot_id
		where d.taker = any($1) and d.spent_micros is null order by d.taker, l.expires_at, l.id`, u.settles).Query(func(rows pgx.Rows) error {
		var d draw
		_, err := pgx.ForEachRow(rows, []any{&d.taker, &d.lot, &d.amount}, func() error {
			u.draws[d.taker] = append(u.draws[d.taker], d)
			return nil
		})
		return err
	})
}

// giveBack ends a job's draws: what it captured spends them first, and the rest
// goes back to its lots. What goes back to an expired lot expires with the next
// sweep.
func (u *unit) giveBack(j *record) error {
	left, drawn := j.Captured, int64(0)
	for _, d := range u.draws[j.ID] {
		spent := min(d.amount, left)
		left -= spent
		drawn += d.amount
		c := u.whereabouts(d.lot)
		c.drawn -= d.amount
		c.spent += spent
		c.remaining += d.amount - spent
		d.spent = &spent
		u.closed = append(u.closed, d)
	}
	if drawn != j.Granted {
		return fmt.Errorf("%s drew %d from its lots and %d are open", j.ID, j.Granted, drawn)
	}
	return nil
}

func (u *unit) writeLots(b *pgx.Batch) {
	if len(u.granted) > 0 {
		var t table
		column(&t, u.granted, func(l newLot) string { return l.id })
		column(&t, u.granted, func(l newLot) string { return l.account })
		column(&t, u.granted, func(l newLot) int64 { return l.amount })
		column(&t, u.granted, func(l newLot) *time.Time { return l.expires })
		column(&t, u.granted, func(l newLot) string { return l.reason })
		column(&t, u.granted, func(l newLot) string { return l.actor })
		column(&t, u.granted, func(l newLot) string { return l.key })
		b.Queue(`insert into grant_lot (id, account_id, amount_micros, remaining_micros, expires_at, reason, actor, posting_key)
			select id, account, amount, amount, expires, reason, actor, key
			from unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::text[])
				as x (id, account, amount, expires, reason, actor, key)`,
			t.columns...)
	}
	if len(u.changes) > 0 {
		var t table
		lots := slices.Sorted(maps.Keys(u.changes))
		column(&t, lots, func(l string) string { return l })
		column(&t, lots, func(l string) int64 { return u.changes[l].remaining })
		column(&t, lots, func(l string) int64 { return u.changes[l].drawn })
		column(&t, lots, func(l string) int64 { return u.changes[l].spent })
		column(&t, lots, func(l string) int64 { return u.changes[l].expired })
		b.Queue(`update grant_lot l set remaining_micros = l.remaining_micros + x.remaining, drawn_micros = l.drawn_micros + x.drawn,
				spent_micros = l.spent_micros + x.spent, expired_micros = l.expired_micros + x.expired
			from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) as x (id, remaining, drawn, spent, expired)
			where l.id = x.id`, t.columns...)
	}
	queueDrawRows(b, u.taken, `insert into lot_draw (taker, lot_id, amount_micros, spent_micros)
		select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[])`)
	queueDrawRows(b, u.closed, `update lot_draw d set spent_micros = x.spent
		from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) as x (taker, lot, amount, spent)
		where d.taker = x.taker and d.lot_id = x.lot and d.amount_micros = x.amount`)
}

func queueDrawRows(b *pgx.Batch, draws []draw, sql string) {
	if len(draws) == 0 {
		return
	}
	var t table
	column(&t, draws, func(d draw) string { return d.taker })
	column(&t, draws, func(d draw) string { return d.lot })
	column(&t, draws, func(d draw) int64 { return d.amount })
	column(&t, draws, func(d draw) *int64 { return d.spent })
	b.Queue(sql, t.columns...)
}

// Grant gives credits away, once per key.
func (g *moneyServer) Grant(ctx context.Context, r *ledgerv1.GrantRequest) (*ledgerv1.GrantResponse, error) {
	var expires *time.Time
	if r.GetExpiresAt() != nil {
		t := r.GetExpiresAt().AsTime().Truncate(time.Microsecond) // as Postgres keeps it
		expires = &t
	}
	resp := &ledgerv1.GrantResponse{}
	m := movement{action: "account.grant", once: r.GetIdempotencyKey(), content: fmt.Sprintf("%s %q", r.GetExpiresAt(), r.GetReason()),
		posting: posting{account: r.GetAccountId(), kind: "grant", from: promotional, to: available, amount: r.GetAmountMicros(), reason: r.GetReason()},
		details: map[string]any{"expires_at": "never"}}
	if expires != nil {
		m.details["expires_at"] = expires.Format(time.RFC3339)
	}
	m.judge = func(u *unit, _ *balance, _ *record, p *posting) error {
		if expires != nil && !expires.After(u.now) {
			return fault.Invalid(fault.Field{Name: "expires_at", Message: "is in the past"})
		}
		resp.LotId = id.New(id.Lot)
		m.details["lot_id"] = resp.GetLotId()
		u.granted = append(u.granted, newLot{resp.GetLotId(), p.account, p.amount, expires, p.reason, p.actor, p.key})
		return nil
	}
	b, _, err := g.s.moveMoney(ctx, m)
	if err != nil {
		return nil, err
	}
	resp.AvailableMicros = b.of[available]
	if resp.GetLotId() == "" { // granted before
		if err := g.s.pool.QueryRow(ctx, "select id from grant_lot where posting_key = $1", m.postingKey()).Scan(&resp.LotId); err != nil {
			return nil, fmt.Errorf("read grant: %w", err)
		}
	}
	return resp, nil
}

// ListGrants reads an account's grants, the latest first.
func (g *moneyServer) ListGrants(ctx context.Context, r *ledgerv1.ListGrantsRequest) (*ledgerv1.ListGrantsResponse, error) {
	resp := &ledgerv1.ListGrantsResponse{}
	var err error
	resp.Lots, resp.HasMore, err = page(ctx, g.s.pool, r.GetLimit(), func(row pgx.CollectableRow) (*ledgerv1.Lot, error) {
		l := &ledgerv1.Lot{}
		var expires *time.Time
		var created time.Time
		err := row.Scan(&l.Id, &l.AccountId, &l.AmountMicros, &l.RemainingMicros, &l.DrawnMicros, &l.SpentMicros, &l.ExpiredMicros,
			&expires, &l.Reason, &l.Actor, &created)
		l.ExpiresAt, l.CreatedAt = stamp(expires), timestamppb.New(created)
		return l, err
	}, `select id, account_id, amount_micros, remaining_micros, drawn_micros, spent_micros, expired_micros, expires_at, reason, actor, created_at
		from grant_lot where account_id = $1 and ($2 = '' or id < $2) order by id desc`, r.GetAccountId(), r.GetAfter())
	return resp, err
}

// expireGrants takes back what is left of expired lots, some accounts at a
// time. It is part of the sweep and may run anywhere at any time.
func (s *Service) expireGrants(ctx context.Context) error {
	rows, err := s.pool.Query(ctx, `select distinct account_id from (select account_id from grant_lot
		where live and expires_at <= now() order by expires_at limit $1) x`, sweepBatch)
	if err != nil {
		return fmt.Errorf("read expired grants: %w", err)
	}
	accounts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read expired grants: %w", err)
	}
	for _, account := range accounts {
		// One account a transaction: a hot account's lock is held for a moment only.
		if _, _, err := s.onAccount(ctx, account, "", func(context.Context, *unit, *balance, *record) error {
			return nil // the lock is enough: it expires what is due
		}); err != nil {
			return err
		}
		s.log.InfoContext(ctx, "grants expired", "account_id", account)
	}
	return nil
}

// actor is who asks, as postings name them.
func actor(ctx context.Context) string { return auth.IncomingActor(ctx).KeyID }
