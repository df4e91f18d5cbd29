package ledger

import (
	"context"
	"fmt"

	"reelway.dev/pkg/postgres"
)

// Restored prepares a database that was set back to an earlier time, before any
// service runs on it, and returns how many jobs it marked. What was queued then may
// have been submitted since: each such job's next attempt is looked for at its
// provider first, and where the provider cannot be asked it waits for a webhook,
// its deadline or an operator, as any submit of unknown outcome. Jobs that were
// submitted are known, and are polled. It migrates the database, and may be run
// again.
func Restored(ctx context.Context, url string) (int64, error) {
	pool, err := postgres.Open(ctx, url, 2)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	if err := postgres.Migrate(ctx, pool, Migrations()); err != nil {
		return 0, err
	}
	tag, err := pool.Exec(ctx, "update job set restored = true where completed_at is null and state = 'queued' and not restored")
	if err != nil {
		return 0, fmt.Errorf("mark jobs: %w", err)
	}
	return tag.RowsAffected(), nil
}
