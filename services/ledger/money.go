package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/money"
)

const (
	funding      = "system:funding"
	revenue      = "system:revenue"
	providerCost = "system:provider_cost"
	suspense     = "system:suspense"
)

func available(account string) string { return account + ":available" }
func held(account string) string      { return account + ":held" }

// leg is one side of a transfer.
type leg struct {
	book   string
	amount int64
}

// errShort says that a customer's book would go below zero.
var errShort = errors.New("balance is short")

// move writes one balanced transfer and updates the balances of its books. The
// books are locked in the order of their ids (available, held, then the
// system's), here and across the moves of a transaction, so that no two
// transactions wait for each other. A transfer
// whose id exists already is left as it is. errShort says that a book cannot
// bear its leg; then the transaction must be rolled back.
func move(ctx context.Context, tx pgx.Tx, id, kind, jobID string, legs ...leg) error {
	var sum int64
	for _, l := range legs {
		sum += l.amount
	}
	if sum != 0 {
		return fmt.Errorf("transfer %s does not balance by %d", id, sum)
	}
	tag, err := tx.Exec(ctx, `insert into transfer (id, kind, job_id) values ($1, $2, nullif($3, ''))
		on conflict (id) do nothing`, id, kind, jobID)
	if err != nil {
		return fmt.Errorf("insert transfer: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil
	}
	slices.SortFunc(legs, func(a, b leg) int { return strings.Compare(a.book, b.book) })
	for _, l := range legs {
		if l.amount == 0 {
			continue
		}
		tag, err := tx.Exec(ctx, `update book set balance_micros = balance_micros + $2
			where id = $1 and (account_id is null or balance_micros + $2 >= 0)`, l.book, l.amount)
		if err != nil {
			return fmt.Errorf("update book: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return errShort
		}
		if _, err := tx.Exec(ctx, `insert into posting (transfer_id, book_id, amount_micros) values ($1, $2, $3)`,
			id, l.book, l.amount); err != nil {
			return fmt.Errorf("insert posting: %w", err)
		}
	}
	return nil
}

// placeHold moves a quote from available to held.
func placeHold(ctx context.Context, tx pgx.Tx, account, jobID string, amount int64) error {
	if err := move(ctx, tx, "hold:"+jobID, "hold", jobID,
		leg{available(account), -amount}, leg{held(account), amount}); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `insert into hold (job_id, account_id, amount_micros) values ($1, $2, $3)`,
		jobID, account, amount); err != nil {
		return fmt.Errorf("insert hold: %w", err)
	}
	return nil
}

// settleHold ends a hold once: captured micros go to revenue, the rest back to
// the customer. A second settlement is an error: the job's state, changed in
// the same transaction, already forbids it.
func settleHold(ctx context.Context, tx pgx.Tx, jobID string, capture int64) error {
	state := "released"
	if capture > 0 {
		state = "captured"
	}
	var account string
	var amount int64
	err := tx.QueryRow(ctx, `update hold set state = $2, captured_micros = $3, settled_at = now()
		where job_id = $1 and state = 'held' returning account_id, amount_micros`, jobID, state, capture).Scan(&account, &amount)
	if err != nil {
		return fmt.Errorf("settle hold: %w", err)
	}
	// Available before held before revenue: the order of locks.
	if rest := amount - capture; rest > 0 {
		if err := move(ctx, tx, "release:"+jobID, "release", jobID,
			leg{held(account), -rest}, leg{available(account), rest}); err != nil {
			return err
		}
	}
	if capture > 0 {
		if err := move(ctx, tx, "capture:"+jobID, "capture", jobID,
			leg{held(account), -capture}, leg{revenue, capture}); err != nil {
			return err
		}
	}
	return nil
}

func insufficient(quote, have int64) error {
	return fault.New(fault.InsufficientCredits,
		"this video costs %s credits and %s are available; top up the account or ask for a shorter or smaller video", money.Format(quote), money.Format(have))
}
