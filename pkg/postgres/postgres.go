// Package postgres opens the pool, runs transactions and applies embedded
// migrations. It knows no table but its own record of migrations.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config is how a service reaches its database.
type Config struct {
	URL      string `env:"REELWAY_DATABASE_URL" desc:"PostgreSQL, postgres://user@host/database"`
	MaxConns int32  `env:"REELWAY_DATABASE_CONNECTIONS" min:"2" max:"1000" envDefault:"16" desc:"connections of one replica"`
}

// Open returns a pool on url, traced with OpenTelemetry (statements without
// their arguments). A connection to a server that has become read-only, a
// demoted primary, is destroyed rather than reused. maxConns of 0 means 16.
func Open(ctx context.Context, url string, maxConns int32) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("parse database url: %w", err)
	}
	if maxConns == 0 {
		maxConns = 16
	}
	cfg.MaxConns = maxConns
	cfg.MaxConnLifetime = time.Hour
	cfg.ConnConfig.RuntimeParams["timezone"] = "UTC"
	cfg.ConnConfig.RuntimeParams["application_name"] = "reelway"
	// A plan made while a table was empty reads it from end to end, and is kept
	// while the table fills. Every query here has its index.
	cfg.ConnConfig.RuntimeParams["enable_seqscan"] = "off"
	cfg.ConnConfig.Tracer = otelpgx.NewTracer()
	cfg.AfterRelease = func(c *pgx.Conn) bool {
		return c.PgConn().ParameterStatus("default_transaction_read_only") != "on"
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("reach database: %w", err)
	}
	return pool, nil
}

// InTx runs fn in one READ COMMITTED transaction and commits it when fn
// returns nil. A deadlock or serialization failure, which surely changed
// nothing, is tried again up to 5 times; nothing else is.
func InTx(ctx context.Context, pool *pgxpool.Pool, fn func(tx pgx.Tx) error) error {
	for try := 0; ; try++ {
		err := pgx.BeginFunc(ctx, pool, fn)
		var pg *pgconn.PgError
		if err == nil || try == 4 || !errors.As(err, &pg) || pg.Code != "40P01" && pg.Code != "40001" {
			return err
		}
	}
}

// Migrate applies the *.sql files of dir in the order of their names, each
// once and in a transaction of its own, under an advisory lock so that many
// replicas may start together.
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
	const lock = 7233509 // any constant that no one else uses
	if _, err := conn.Exec(ctx, "select pg_advisory_lock($1)", lock); err != nil {
		return fmt.Errorf("lock migrations: %w", err)
	}
	defer func() { _, _ = conn.Exec(context.WithoutCancel(ctx), "select pg_advisory_unlock($1)", lock) }()
	if _, err := conn.Exec(ctx, `create table if not exists migration (
		name text primary key, applied_at timestamptz not null default now())`); err != nil {
		return fmt.Errorf("create migration table: %w", err)
	}
	for _, name := range names {
		var done bool
		if err := conn.QueryRow(ctx, "select exists (select from migration where name = $1)", name).Scan(&done); err != nil {
			return fmt.Errorf("read migrations: %w", err)
		}
		if done {
			continue
		}
		sql, err := fs.ReadFile(dir, name)
		if err != nil {
			return fmt.Errorf("read migration: %w", err)
		}
		if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, string(sql)); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "insert into migration (name) values ($1)", name)
			return err
		}); err != nil {
			return fmt.Errorf("apply migration %s: %w", name, err)
		}
	}
	return nil
}
