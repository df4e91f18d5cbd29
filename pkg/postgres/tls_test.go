package postgres_test

import (
	"context"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"reelway.dev/pkg/pgtest"
	"reelway.dev/pkg/postgres"
	"reelway.dev/pkg/tlstest"
)

// The database and its clients judge each other by certificates that the URL names.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ca, other := tlstest.New(t), tlstest.New(t)
	base, _ := pgtest.StartTLS(t, ca, "cert")
	at := func(host, dir, mode string) string {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		u.Host = net.JoinHostPort(host, u.Port())
		q := url.Values{"sslmode": {mode}}
		if dir != "" {
			q.Set("sslrootcert", filepath.Join(dir, "ca.crt"))
			q.Set("sslcert", filepath.Join(dir, "tls.crt"))
			q.Set("sslkey", filepath.Join(dir, "tls.key"))
		}
		u.RawQuery = q.Encode()
		return u.String()
	}
	open := func(url string) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		pool, err := postgres.Open(ctx, url, 2)
		if err == nil {
			pool.Close()
		}
		return err
	}
	good := ca.Dir("reelway")
	if err := open(at("127.0.0.1", good, "verify-full")); err != nil {
		t.Fatalf("a good certificate: %v", err)
	}
	stranger := other.Dir("reelway")
	ca.Trust(stranger)
	bare := ca.Dir("reelway")
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Remove(filepath.Join(bare, name)); err != nil {
			t.Fatal(err)
		}
	}
	for what, x := range map[string]struct{ url, want string }{
		"a certificate of another CA":     {at("127.0.0.1", stranger, "verify-full"), "by sslcert"},
		"an expired certificate":          {at("127.0.0.1", ca.Expired("reelway"), "verify-full"), "by sslcert"},
		"another user's certificate":      {at("127.0.0.1", ca.Dir("someone"), "verify-full"), "certificate authentication failed"},
		"no certificate":                  {at("127.0.0.1", good, "verify-full") + "&sslcertmode=disable", "certificate"},
		"plain text":                      {at("127.0.0.1", "", "disable"), "no encryption"},
		"a server of another CA":          {at("127.0.0.1", other.Dir("reelway"), "verify-full"), "both ends need certificates of one CA"},
		"a server of another name":        {at("localhost", good, "verify-full"), "reach it by a name that its certificate has"},
		"a client whose files are absent": {at("127.0.0.1", bare, "verify-full"), "no such file"},
	} {
		if err := open(x.url); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %q", what, err, x.want)
		}
	}

	// A pool that runs makes its next connections with renewed files.
	dir := ca.Dir("reelway")
	pool, err := postgres.Open(t.Context(), at("127.0.0.1", dir, "verify-full"), 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	serial := func() (s string) {
		pool.Reset() // connections that are open stay as they are
		if err := pool.QueryRow(t.Context(), "select client_serial::text from pg_stat_ssl where pid = pg_backend_pid()").Scan(&s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := serial()
	ca.Issue(dir, time.Hour, "reelway")
	if after := serial(); after == before || after == "" {
		t.Errorf("certificate %s, and after its renewal %s", before, after)
	}
}

// A database's password is changed without a pause: two users take turns, and what
// each makes belongs to the owner, whom both become when they log in.
func TestUsersTakeTurns(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ca := tlstest.New(t)
	tcp, socket := pgtest.StartTLS(t, ca, "scram-sha-256")
	owner, err := pgx.Connect(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = owner.Close(context.Background()) }()
	do := func(sql string) {
		t.Helper()
		if _, err := owner.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	do("create role reelway_app nologin")
	do("alter database reelway owner to reelway_app")
	root := filepath.Join(ca.Dir("x"), "ca.crt")
	login := func(user, password string) (*pgxpool.Pool, error) {
		return postgres.Open(ctx, strings.Replace(tcp, "reelway@", user+":"+password+"@", 1)+"?sslmode=verify-full&sslrootcert="+url.QueryEscape(root), 2)
	}
	must := func(p *pgxpool.Pool, err error) *pgxpool.Pool {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	// As docs/rotation.md has it.
	user := func(name, password string) {
		t.Helper()
		do("create role " + name + " login in role reelway_app password '" + password + "'")
		do("alter role " + name + " set role reelway_app")
	}
	schema := files("0001_a.sql", "create table a (n int)")
	user("reelway_a", "first")
	a := must(login("reelway_a", "first"))
	if err := postgres.Migrate(ctx, a, schema); err != nil {
		t.Fatal(err)
	}
	if _, err := login("reelway_a", "wrong"); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong password: %v", err)
	}
	user("reelway_b", "second")
	b := must(login("reelway_b", "second"))
	if err := postgres.Migrate(ctx, b, files("0001_a.sql", "create table a (n int)", "0002_b.sql", "alter table a add m int")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*pgxpool.Pool{a, b} { // both, for as long as both run
		if _, err := p.Exec(ctx, "insert into a (n, m) values (1, 2)"); err != nil {
			t.Error(err)
		}
	}
	// Nobody is left who uses the old one.
	a.Close()
	for count(t, b, "select count(*) from pg_stat_activity where usename = 'reelway_a'") != 0 { // the server learns of it a moment later
		select {
		case <-ctx.Done():
			t.Fatal("connections of the old user remain")
		case <-time.After(10 * time.Millisecond):
		}
	}
	do("alter role reelway_a nologin")
	if _, err := login("reelway_a", "first"); err == nil {
		t.Error("the old password still works")
	}
	do("drop role reelway_a") // it owns nothing
	if n := count(t, b, "select count(*) from a"); n != 2 {
		t.Errorf("%d rows", n)
	}
}
