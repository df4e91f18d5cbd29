// Package pgtest gives each test a database of its own on a real PostgreSQL
// that is started once for the test binary. A missing PostgreSQL is a failure,
// never a skip.
package pgtest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"reelway.dev/pkg/postgres"
)

var (
	server *postgres.Private
	count  atomic.Int64
)

// Main starts the server, runs the tests and stops it. Call it from TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "reelway-pgtest-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	// The server may run as another user, who must be able to enter.
	if err := os.Chmod(dir, 0o755); err != nil {
		panic(err)
	}
	server, err = postgres.StartPrivate(context.Background(), dir+"/postgres", true)
	if err != nil {
		panic(err)
	}
	defer func() { _ = server.Stop(context.Background()) }()
	return m.Run()
}

// New returns a pool on a fresh database migrated with dir.
func New(t testing.TB, dir fs.FS) *pgxpool.Pool {
	t.Helper()
	ctx := context.Background()
	name := fmt.Sprintf("test_%d", count.Add(1))
	admin, err := postgres.Open(ctx, server.URL, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.Exec(ctx, "create database "+name); err != nil {
		t.Fatal(err)
	}
	pool, err := postgres.Open(ctx, strings.Replace(server.URL, "/reelway?", "/"+name+"?", 1), 16)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	if err := postgres.Migrate(ctx, pool, dir); err != nil {
		t.Fatal(err)
	}
	return pool
}
