package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// defaultPage is how many rows a page has when the caller does not say.
const defaultPage = 20

// page reads at most limit rows of a query, whose order is its own, and says
// whether there are more. A limit of 0 is defaultPage.
func page[T any](ctx context.Context, pool *pgxpool.Pool, limit int32, scan pgx.RowToFunc[T], sql string, args ...any) ([]T, bool, error) {
	if limit == 0 {
		limit = defaultPage
	}
	rows, err := pool.Query(ctx, fmt.Sprintf("%s limit %d", sql, limit+1), args...)
	if err != nil {
		return nil, false, fmt.Errorf("list: %w", err)
	}
	all, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, false, fmt.Errorf("list: %w", err)
	}
	if len(all) > int(limit) {
		return all[:limit], true, nil
	}
	return all, false, nil
}
