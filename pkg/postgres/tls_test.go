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

	"reelway.dev/pkg/pgtest"
	"reelway.dev/pkg/postgres"
	"reelway.dev/pkg/tlstest"
)

// The database and its clients judge each other by certificates that the URL names.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ca, other := tlstest.New(t), tlstest.New(t)
	base := pgtest.StartTLS(t, ca)
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
