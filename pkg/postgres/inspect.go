package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// State is how a database stands to a program.
type State struct {
	Version int           // 170002 is 17.2
	Ahead   time.Duration // of the database's clock before this machine's
	Missing []string      // migrations that were not applied
	Changed []string      // those whose text is another than the one applied
	Newer   []string      // those of a newer program
}

// Inspect compares a database with the migrations of dir and changes nothing.
// The clocks' difference is known to half of the round trip.
func Inspect(ctx context.Context, pool *pgxpool.Pool, dir fs.FS) (State, error) {
	var s State
	var now time.Time
	var recorded bool
	sent := time.Now()
	if err := pool.QueryRow(ctx, "select current_setting('server_version_num')::int, clock_timestamp(), to_regclass('migration') is not null").Scan(&s.Version, &now, &recorded); err != nil {
		return s, fmt.Errorf("ask database: %w", err)
	}
	s.Ahead = now.Sub(sent.Add(time.Since(sent) / 2))
	sums := map[string]*string{}
	if recorded {
		rows, err := pool.Query(ctx, "select name, checksum from migration")
		if err != nil {
			return s, fmt.Errorf("read migrations: %w", err)
		}
		var name string
		var sum *string
		if _, err := pgx.ForEachRow(rows, []any{&name, &sum}, func() error { sums[name] = sum; return nil }); err != nil {
			return s, fmt.Errorf("read migrations: %w", err)
		}
	}
	names, err := fs.Glob(dir, "*.sql")
	if err != nil {
		return s, fmt.Errorf("list migrations: %w", err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return s, fmt.Errorf("read migration: %w", err)
		}
		hash := sha256.Sum256(text)
		sum, applied := sums[name]
		switch {
		case !applied:
			s.Missing = append(s.Missing, name)
		case sum != nil && *sum != hex.EncodeToString(hash[:]):
			s.Changed = append(s.Changed, name)
		}
	}
	for name := range sums {
		if !slices.Contains(names, name) {
			s.Newer = append(s.Newer, name)
		}
	}
	slices.Sort(s.Newer)
	return s, nil
}

// Running is the URL of the private server that was started on dir; false when
// none runs.
func Running(dir string) (url string, ok bool) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", false
	}
	for _, d := range []string{dir, elsewhere(dir)} {
		p := Private{dir: d}
		if p.alive() == nil {
			return "postgres://reelway@/reelway?host=" + socketDir(d), true
		}
	}
	return "", false
}

// Version is a version number as people write it.
func Version(n int) string { return fmt.Sprintf("%d.%d", n/10000, n%10000) }

// socketDir is where the private server of a directory has its socket. A
// socket's path has at most 107 bytes; a deep data directory has more. It is
// named after the data directory, so that a killed process leaves none behind.
func socketDir(dir string) string { return filepath.Join(os.TempDir(), "reelway-pg-"+short(dir)) }

// elsewhere is a private server's directory where the wanted one is closed to
// its user.
func elsewhere(dir string) string {
	return filepath.Join("/var/lib/reelway", "postgres-"+short(dir))
}
