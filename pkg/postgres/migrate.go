package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A migration that cannot have its lock soon gets out of the way: behind a
// waiting lock every other statement on the table waits as well.
const (
	lockTimeout = 2 * time.Second
	lockTries   = 40
)

// The first line of a file whose statements cannot be in a transaction, such as
// "create index concurrently", and what precedes a statement that is done once
// for each partition of a table, whose name stands for {partition}. Partitions
// whose part of an index is attached already can be left out.
const noTransaction = "-- no transaction"

var eachPartition = regexp.MustCompile(`(?m)^-- each partition of ([a-z_]+)(?: without ([a-z_]+))?$`)

// Migrate applies the *.sql files of dir in the order of their names, each once
// and in a transaction of its own, while replicas of this and of older versions
// work on the same database: one migrates, the others wait, and no lock is
// waited for longer than lockTimeout at a time.
//
// A file that begins with "-- no transaction" is done statement by statement,
// each ending in a semicolon at the end of a line; when it fails half-way it is
// begun again at the next start, so every statement must bear a repetition.
//
// An applied file is never edited: its checksum is kept, and another text is
// refused. Migrations that dir does not have are a newer version's: they add and
// take nothing away, so an older program goes on.
func Migrate(ctx context.Context, pool *pgxpool.Pool, dir fs.FS) error {
	names, err := fs.Glob(dir, "*.sql")
	if err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("acquire connection: %w", err)
	}
	defer conn.Release()
	unlock, err := lockMigrations(ctx, conn.Conn())
	if err != nil {
		return err
	}
	defer unlock()
	m := migrator{conn: conn.Conn()}
	if err := m.record(ctx); err != nil {
		return err
	}
	for _, name := range names {
		text, err := fs.ReadFile(dir, name)
		if err != nil {
			return fmt.Errorf("read migration: %w", err)
		}
		if err := m.apply(ctx, name, string(text)); err != nil {
			return fmt.Errorf("apply migration %s: %w", name, err)
		}
	}
	return m.report(ctx, names)
}

// lockMigrations takes the lock of migrations for the session. It asks again
// and again instead of waiting inside the database: a statement that waits there
// holds a snapshot, for whose end "create index concurrently" would wait.
func lockMigrations(ctx context.Context, conn *pgx.Conn) (unlock func(), err error) {
	const lock = 7233509 // any constant that no one else uses
	for {
		var mine bool
		if err := conn.QueryRow(ctx, "select pg_try_advisory_lock($1)", lock).Scan(&mine); err != nil {
			return nil, fmt.Errorf("lock migrations: %w", err)
		}
		if mine {
			return func() { _, _ = conn.Exec(context.WithoutCancel(ctx), "select pg_advisory_unlock($1)", lock) }, nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil, fmt.Errorf("lock migrations: %w", err)
		}
	}
}

type migrator struct{ conn *pgx.Conn }

// record makes the table of what was applied. Older programs know it without
// checksums and go on writing it so.
func (m migrator) record(ctx context.Context) error {
	return m.patiently(ctx, func() error {
		return pgx.BeginFunc(ctx, m.conn, func(tx pgx.Tx) error {
			if err := limitLocks(ctx, tx); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `create table if not exists migration (
					name text primary key, applied_at timestamptz not null default now());
				alter table migration add column if not exists checksum text`)
			if err != nil {
				return fmt.Errorf("create migration table: %w", err)
			}
			return nil
		})
	})
}

func (m migrator) apply(ctx context.Context, name, text string) error {
	hash := sha256.Sum256([]byte(text))
	sum := hex.EncodeToString(hash[:])
	var known *string
	err := m.conn.QueryRow(ctx, "select checksum from migration where name = $1", name).Scan(&known)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
	case err != nil:
		return fmt.Errorf("read migrations: %w", err)
	case known == nil: // applied by a version that kept no checksums
		_, err := m.conn.Exec(ctx, "update migration set checksum = $2 where name = $1", name, sum)
		return err
	case *known != sum:
		return errors.New("the file was changed after it was applied to this database; restore it and put the change into a new file")
	default:
		return nil
	}
	const done = "insert into migration (name, checksum) values ($1, $2)"
	if first, _, _ := strings.Cut(text, "\n"); strings.TrimSpace(first) == noTransaction {
		for s := range strings.SplitSeq(text, ";\n") {
			if err := m.statement(ctx, s); err != nil {
				return err
			}
		}
		_, err := m.conn.Exec(ctx, done, name, sum)
		return err
	}
	return m.patiently(ctx, func() error {
		return pgx.BeginFunc(ctx, m.conn, func(tx pgx.Tx) error {
			if err := limitLocks(ctx, tx); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, text); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, done, name, sum)
			return err
		})
	})
}

func limitLocks(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, fmt.Sprintf("set local lock_timeout = %d", lockTimeout.Milliseconds()))
	return err
}

// statement does one statement outside a transaction, for each partition when
// it says so.
func (m migrator) statement(ctx context.Context, s string) error {
	if strings.TrimSpace(comment.ReplaceAllString(s, "")) == "" {
		return nil
	}
	of := eachPartition.FindStringSubmatch(s)
	if of == nil {
		return m.alone(ctx, s)
	}
	rows, err := m.conn.Query(ctx, `select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
		where i.inhparent = $1::text::regclass and not exists (select from pg_index x join pg_inherits ix on ix.inhrelid = x.indexrelid
			where x.indrelid = c.oid and ix.inhparent = to_regclass(nullif($2, ''))) order by c.relname`, of[1], of[2])
	if err != nil {
		return fmt.Errorf("read partitions of %s: %w", of[1], err)
	}
	parts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read partitions of %s: %w", of[1], err)
	}
	for _, p := range parts {
		if !plain.MatchString(p) {
			return fmt.Errorf("partition %q of %s has a name that needs quotes", p, of[1])
		}
		if err := m.alone(ctx, strings.ReplaceAll(s, "{partition}", p)); err != nil {
			return err
		}
	}
	return nil
}

var (
	comment = regexp.MustCompile(`--[^\n]*`)
	plain   = regexp.MustCompile(`^[a-z_][a-z0-9_]*$`)
)

func (m migrator) alone(ctx context.Context, s string) error {
	// What is done concurrently waits for old transactions and lets everybody
	// pass meanwhile: it may take as long as it likes.
	limit := lockTimeout
	if strings.Contains(s, "concurrently") {
		limit = 0
	}
	return m.patiently(ctx, func() error {
		if _, err := m.conn.Exec(ctx, fmt.Sprintf("set lock_timeout = %d", limit.Milliseconds())); err != nil {
			return err
		}
		defer func() { _, _ = m.conn.Exec(context.WithoutCancel(ctx), "reset lock_timeout") }()
		_, err := m.conn.Exec(ctx, s)
		return err
	})
}

// patiently does fn again when it could not have its locks.
func (m migrator) patiently(ctx context.Context, fn func() error) error {
	for try := 1; ; try++ {
		err := fn()
		var pg *pgconn.PgError
		if err == nil || !errors.As(err, &pg) || pg.Code != "55P03" && pg.Code != "40P01" {
			return err
		}
		if try == lockTries {
			return fmt.Errorf("a long transaction is in the way (%d tries of %s; pg_stat_activity shows which): %w", try, lockTimeout, err)
		}
		slog.WarnContext(ctx, "migration waits for a lock", "try", try, "error", err.Error())
		if err := pause(ctx, time.Second/2+rand.N(time.Second)); err != nil {
			return err
		}
	}
}

// report says which migrations of the database are none of names.
func (m migrator) report(ctx context.Context, names []string) error {
	rows, err := m.conn.Query(ctx, "select name from migration order by name")
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	applied, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	newer := slices.DeleteFunc(applied, func(n string) bool { return slices.Contains(names, n) })
	if len(newer) > 0 {
		slog.InfoContext(ctx, "the database is ahead of this program, which goes on: migrations only add", "migrations", strings.Join(newer, " "))
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
