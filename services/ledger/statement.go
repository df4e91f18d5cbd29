package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// defaultMovements is how many movements a page of a statement has.
const defaultMovements = 500

// excerpt is a range of an account's postings and the one to go on after.
type excerpt struct{ from, until, after int64 }

func (e excerpt) String() string { return fmt.Sprintf("%d.%d.%d", e.from, e.until, e.after) }

// GetStatement reads one page of an account's month in its time zone. The first
// page fixes where the month ends: what is posted while the others are read is
// no part of them.
func (g *moneyServer) GetStatement(ctx context.Context, r *ledgerv1.GetStatementRequest) (*ledgerv1.GetStatementResponse, error) {
	resp := &ledgerv1.GetStatementResponse{AccountId: r.GetAccountId(), Month: r.GetMonth()}
	err := pgx.BeginTxFunc(ctx, g.s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var starts, ends time.Time
		err := tx.QueryRow(ctx, `select time_zone, ($2 || '-01')::timestamp at time zone time_zone,
				(($2 || '-01')::timestamp + interval '1 month') at time zone time_zone from account where id = $1`, r.GetAccountId(), r.GetMonth()).
			Scan(&resp.TimeZone, &starts, &ends)
		if errors.Is(err, pgx.ErrNoRows) {
			return noAccount()
		}
		if err != nil {
			return fmt.Errorf("read account: %w", err)
		}
		resp.StartsAt, resp.EndsAt = timestamppb.New(starts), timestamppb.New(ends)
		var e excerpt
		if r.GetPage() != "" {
			if n, err := fmt.Sscanf(r.GetPage(), "%d.%d.%d", &e.from, &e.until, &e.after); n != 3 || err != nil || e.String() != r.GetPage() {
				return fault.Invalid(fault.Field{Name: "page", Message: "must be the next_page of the page before"})
			}
		} else {
			if e.from, err = firstPosting(ctx, tx, r.GetAccountId(), starts); err != nil {
				return err
			}
			if e.until, err = firstPosting(ctx, tx, r.GetAccountId(), ends); err != nil {
				return err
			}
			e.after = e.from - 1
		}
		if resp.OpeningAvailableMicros, resp.OpeningHeldMicros, err = booksBefore(ctx, tx, r.GetAccountId(), e.from); err != nil {
			return err
		}
		if resp.ClosingAvailableMicros, resp.ClosingHeldMicros, err = booksBefore(ctx, tx, r.GetAccountId(), e.until); err != nil {
			return err
		}
		return readMovements(ctx, tx, e, int(cmp.Or(r.GetLimit(), defaultMovements)), resp)
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// firstPosting is the id from which on an account's postings are at or after a
// moment. An account's ids grow with its time, since both are given under its
// lock; so the place is found by halving, without an index by time that every
// posting would have to write. The steps do not depend on what is posted later.
func firstPosting(ctx context.Context, tx pgx.Tx, account string, moment time.Time) (int64, error) {
	var last int64
	if err := tx.QueryRow(ctx, "select coalesce((select id from posting where account_id = $1 order by id desc limit 1), 0)", account).Scan(&last); err != nil {
		return 0, fmt.Errorf("read last posting: %w", err)
	}
	lo, hi := int64(0), int64(1)<<bits.Len64(uint64(last)) //nolint:gosec // an identity is above 0
	for lo < hi {
		mid := lo + (hi-lo)/2
		var id int64
		var before bool
		err := tx.QueryRow(ctx, "select id, created_at < $3 from posting where account_id = $1 and id >= $2 order by id limit 1", account, mid, moment).Scan(&id, &before)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			hi = mid
		case err != nil:
			return 0, fmt.Errorf("find posting: %w", err)
		case before:
			lo = id + 1
		default:
			hi = mid
		}
	}
	return lo, nil
}

// booksBefore is an account's two books before a posting: as the one before
// it left them.
func booksBefore(ctx context.Context, tx pgx.Tx, account string, id int64) (available, held int64, err error) {
	err = tx.QueryRow(ctx, `select available_micros, held_micros from posting where account_id = $1 and id < $2 order by id desc limit 1`, account, id).
		Scan(&available, &held)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, 0, fmt.Errorf("read books: %w", err)
	}
	return available, held, nil
}

// readMovements reads a page of what touched the customer's own books; what
// moves between the house's books is not on a statement.
func readMovements(ctx context.Context, tx pgx.Tx, e excerpt, limit int, resp *ledgerv1.GetStatementResponse) error {
	rows, err := tx.Query(ctx, `select id, created_at, kind, coalesce(job_id, ''), reason, actor, available_micros, held_micros,
			case 'available' when destination then amount_micros when source then -amount_micros else 0 end,
			case 'held' when destination then amount_micros when source then -amount_micros else 0 end
		from posting where account_id = $1 and id > $2 and id < $3 and (source in ('available', 'held') or destination in ('available', 'held'))
		order by id limit $4`, resp.GetAccountId(), e.after, e.until, limit+1)
	if err != nil {
		return fmt.Errorf("read postings: %w", err)
	}
	resp.Movements, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*ledgerv1.Movement, error) {
		m := &ledgerv1.Movement{}
		var at time.Time
		err := row.Scan(&m.Id, &at, &m.Kind, &m.JobId, &m.Reason, &m.Actor, &m.AvailableMicros, &m.HeldMicros, &m.AvailableChangeMicros, &m.HeldChangeMicros)
		m.At = timestamppb.New(at)
		return m, err
	})
	if err != nil {
		return fmt.Errorf("read postings: %w", err)
	}
	if len(resp.GetMovements()) > limit {
		resp.Movements = resp.GetMovements()[:limit]
		e.after = resp.GetMovements()[limit-1].GetId()
		resp.NextPage = e.String()
	}
	return nil
}
