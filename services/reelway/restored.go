package reelway

import (
	"context"
	"fmt"
	"io"
	"path/filepath"

	"reelway.dev/pkg/postgres"
	"reelway.dev/services/ledger"
)

type restoredCmd struct {
	flags `embed:""`
}

// Run marks the jobs of a restored database: that of REELWAY_DATABASE_URL, or the
// private one in the data directory, which it starts and stops.
func (r *restoredCmd) Run(ctx context.Context, out io.Writer) (err error) {
	set, err := Load(r.environ())
	if err != nil {
		return err
	}
	url := set.DatabaseURL
	if url == "" {
		dir, err := filepath.Abs(set.DataDir)
		if err != nil {
			return fmt.Errorf("resolve data directory: %w", err)
		}
		if !exists(filepath.Join(dir, "postgres")) {
			return fmt.Errorf("there is no PostgreSQL in %s; name the data directory by --data-dir, or the database by --database-url", dir)
		}
		unlock, err := lock(dir)
		if err != nil {
			return err
		}
		defer unlock()
		p, err := postgres.StartPrivate(ctx, filepath.Join(dir, "postgres"), false)
		if err != nil {
			return fmt.Errorf("start private PostgreSQL: %w", err)
		}
		defer func() {
			if serr := p.Stop(context.WithoutCancel(ctx)); serr != nil && err == nil {
				err = serr
			}
		}()
		url = p.URL
	}
	n, err := ledger.Restored(ctx, url)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%d queued jobs will be looked for at their providers before they are submitted.\n", n)
	return err
}
