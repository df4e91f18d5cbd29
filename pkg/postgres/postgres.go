// Package postgres opens the pool, runs transactions and applies embedded
// migrations. It knows no table but its own record of migrations.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"reelway.dev/pkg/mtls"
)

// Config is how a service reaches its database.
type Config struct {
	URL      string `env:"REELWAY_DATABASE_URL" desc:"PostgreSQL, postgres://user@host/database; with sslmode=verify-full and sslrootcert, sslcert, sslkey (paths) it is TLS, judged and with a certificate"`
	MaxConns int32  `env:"REELWAY_DATABASE_CONNECTIONS" min:"2" max:"1000" envDefault:"16" desc:"connections of one replica"`
}

// Open returns a pool on url, traced with OpenTelemetry (statements without
// their arguments). A connection to a server that has become read-only, a
// demoted primary, is destroyed rather than reused. maxConns of 0 means 16.
// Certificates that url names (sslrootcert, sslcert, sslkey) are read anew for each
// connection, so that they can be renewed under way.
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
	if cfg.ConnConfig.TLSConfig != nil {
		cfg.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
			now, err := pgx.ParseConfig(url)
			if err != nil {
				return fmt.Errorf("read certificates: %w", err)
			}
			c.TLSConfig, c.Fallbacks = now.TLSConfig, now.Fallbacks
			return nil
		}
	}
	cfg.AfterRelease = func(c *pgx.Conn) bool {
		return c.PgConn().ParameterStatus("default_transaction_read_only") != "on"
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		ours := ""
		if cfg.ConnConfig.TLSConfig != nil {
			ours = "by sslcert"
		}
		err = mtls.Explain(err, ours)
		// A refusal by TLS 1.3 may overtake what tells why.
		if ours != "" && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
			err = fmt.Errorf("%w; if the other end refused our certificate, %s, its log says why", err, ours)
		}
		return nil, fmt.Errorf("reach database: %w", err)
	}
	return pool, nil
}

// InTx runs fn in one READ COMMITTED transaction and commits it when fn
// returns nil. A deadlock or serialization failure, which surely changed
// nothing, is tried again up to 5 times; nothing else is.
func InTx(ctx context.Context, pool *pgxpool.Pool, fn func(tx pgx.Tx) error) error {
	return again(func() error { return pgx.BeginFunc(ctx, pool, fn) })
}

// ErrUnknown says that a transaction may have been committed.
var ErrUnknown = errors.New("the outcome of the commit is unknown")

// InTxLast is InTx for a transaction that knows its last statements: those that
// fn returns are sent with the commit, in one journey to the database. Whoever
// waits for a row that is locked waits that much less.
func InTxLast(ctx context.Context, pool *pgxpool.Pool, fn func(tx pgx.Tx) (last *pgx.Batch, err error)) error {
	return again(func() error {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return fmt.Errorf("acquire connection: %w", err)
		}
		defer conn.Release() // one whose transaction is still open is closed
		tx, err := conn.Begin(ctx)
		if err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		last, err := fn(tx)
		if err == nil {
			last.Queue("commit").Exec(func(tag pgconn.CommandTag) error {
				if tag.String() != "COMMIT" {
					return pgx.ErrTxCommitRollback
				}
				return nil
			})
			if err = tx.SendBatch(ctx, last).Close(); err == nil {
				return nil
			}
			var pg *pgconn.PgError
			if !errors.As(err, &pg) && !errors.Is(err, pgx.ErrTxCommitRollback) {
				err = errors.Join(ErrUnknown, err)
			}
		}
		return errors.Join(err, tx.Rollback(ctx))
	})
}

func again(fn func() error) error {
	for try := 0; ; try++ {
		err := fn()
		var pg *pgconn.PgError
		if err == nil || try == 4 || !errors.As(err, &pg) || pg.Code != "40P01" && pg.Code != "40001" {
			return err
		}
	}
}
