// Package pgtest gives each test a database of its own on a real PostgreSQL
// that is started once for the test binary. A missing PostgreSQL is a failure,
// never a skip.
package pgtest

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"reelway.dev/pkg/postgres"
	"reelway.dev/pkg/tlstest"
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

// StartTLS starts a server for the test alone that takes TCP over TLS and nothing
// else. method, of pg_hba.conf, says how users prove who they are: by a certificate
// of ca whose common name is theirs (cert), or by a password (scram-sha-256). tcp
// names the address, 127.0.0.1, and the owner of the database reelway; sslmode and
// certificates are the caller's to add. socket lets the owner in without proof.
func StartTLS(t testing.TB, ca *tlstest.CA, method string) (tcp, socket string) {
	t.Helper()
	dir := ca.Dir("127.0.0.1")
	data, err := os.MkdirTemp("", "reelway-pgtest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(data) })
	if err := os.Chmod(data, 0o755); err != nil {
		t.Fatal(err)
	}
	settings := []string{"listen_addresses=127.0.0.1", "port=" + port(t), "ssl=on", "hba_file=" + data + "/pg_hba.conf"}
	if err := os.WriteFile(data+"/pg_hba.conf", []byte("local all all trust\nhostssl all all 127.0.0.1/32 "+method+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for setting, name := range map[string]string{"ssl_cert_file": "tls.crt", "ssl_key_file": "tls.key", "ssl_ca_file": "ca.crt"} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(data, name), raw, 0o600)
		}
		if err == nil && os.Geteuid() == 0 { // PostgreSQL runs as another user, and its key is its own
			err = give(filepath.Join(data, name), "postgres")
		}
		if err != nil {
			t.Fatal(err)
		}
		settings = append(settings, setting+"="+filepath.Join(data, name))
	}
	pg, err := postgres.StartPrivate(context.Background(), data+"/postgres", true, settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Stop(context.Background()) })
	return "postgres://reelway@127.0.0.1:" + strings.TrimPrefix(settings[1], "port=") + "/reelway", pg.URL
}

func port(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, p, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func give(path, name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	return os.Chown(path, uid, -1)
}
