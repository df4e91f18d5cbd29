package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/postgres"
)

// restoredGrace is how long a job has at least to be asked for at its provider.
const restoredGrace = 30 * time.Minute

// Restored prepares a database that was set back to an earlier time, before any
// service runs on it, and returns how many jobs it marked. What was queued then may
// have been submitted since: each such job's next attempt is looked for at its
// provider first, and where the provider cannot be asked it waits for a webhook,
// its deadline or an operator, as any submit of unknown outcome. A submit that was
// under way may have been repeated since, and is looked for as widely. Jobs that
// were submitted are known, and are polled or copied, whatever their deadline was. It
// migrates the database, and may be run again.
func Restored(ctx context.Context, url string) (int64, error) {
	pool, err := postgres.Open(ctx, url, 2)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	if err := postgres.Migrate(ctx, pool, Migrations()); err != nil {
		return 0, err
	}
	var n int64
	err = postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		// No job may be given up for time that passed while nothing ran: what is
		// queued has waited from now on.
		tag, err := tx.Exec(ctx, "update job set restored = true, submit_after = greatest(submit_after, now()) where completed_at is null and state = 'queued'")
		if err != nil {
			return fmt.Errorf("mark jobs: %w", err)
		}
		n = tag.RowsAffected()
		if _, err := tx.Exec(ctx, `update job set deadline_at = greatest(deadline_at, now() + $1::interval), restored = state = 'submitting'
			where completed_at is null and state in ('submitting', 'running', 'storing')`, restoredGrace); err != nil {
			return fmt.Errorf("put off deadlines: %w", err)
		}
		return nil
	})
	return n, err
}

// lost reports whether an attempt that is told of is the one which a restored
// database must have lost, and so exists.
func (j *record) lost(attempt string) bool {
	return j.Restored && j.State == job.Queued && attempt == id.Nth(id.Attempt, j.ID, j.AttemptCount+1)
}
