package rpc_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/tlstest"
)

// logged is what the servers of all tests log.
var logged = &buffer{}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.NewTextHandler(logged, nil)))
	os.Exit(m.Run())
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit, tick := time.After(time.Minute), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-limit:
			t.Fatal("not in time: " + what)
		case <-tick.C:
		}
	}
}

// serve runs a server on loopback until the test ends, and returns its address.
func serve(t *testing.T, srv *grpc.Server, err error) string {
	t.Helper()
	addr, stop := serveAt(t, "127.0.0.1:0", srv, err)
	t.Cleanup(stop)
	return addr
}

func serveAt(t *testing.T, addr string, srv *grpc.Server, err error) (string, func()) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rpc.Component("grpc", srv, l).Run(ctx) }()
	return l.Addr().String(), func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// ask calls a server once, over a connection of its own.
func ask(t *testing.T, conn *grpc.ClientConn, err error) error {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err
}

func askLedger(t *testing.T, addr, dir string) error {
	t.Helper()
	conn, err := rpc.DialLedger(rpc.LedgerConfig{Addr: addr, TLSDir: dir})
	return ask(t, conn, err)
}

func says(t *testing.T, what string, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s was let in", what)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %v; want %q", what, err, w)
		}
	}
}

// The ledger lets in who shows a certificate of its CA, and nobody else; both ends
// say why.
func TestLedgerRefusesCallers(t *testing.T) {
	t.Parallel()
	ca, other := tlstest.New(t), tlstest.New(t)
	srv, err := rpc.NewLedgerServer(rpc.LedgerConfig{TLSDir: ca.Dir("ledger", "127.0.0.1")}, rpc.CallersConfig{Names: []string{"intake", "dispatcher"}})
	addr := serve(t, srv, err)
	if err := askLedger(t, addr, ca.Dir("intake")); err != nil {
		t.Errorf("intake: %v", err)
	}
	says(t, "a name that may not call", askLedger(t, addr, ca.Dir("archiver")), "refused our certificate", "tls.crt of archiver, valid until")
	stranger := other.Dir("intake")
	ca.Trust(stranger) // it believes the ledger
	says(t, "a certificate of another CA", askLedger(t, addr, stranger), "refused our certificate")
	says(t, "plain text", askLedger(t, addr, ""), "Unavailable")

	// What no client of ours would show.
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM())
	raw := func(cfg *tls.Config) error {
		cfg.RootCAs = pool
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
		return ask(t, conn, err)
	}
	expired := ca.Expired("intake")
	pair, err := tls.LoadX509KeyPair(filepath.Join(expired, "tls.crt"), filepath.Join(expired, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	says(t, "an expired certificate", raw(&tls.Config{Certificates: []tls.Certificate{pair}}))
	says(t, "no certificate", raw(&tls.Config{}))
	good := ca.Dir("intake")
	if pair, err = tls.LoadX509KeyPair(filepath.Join(good, "tls.crt"), filepath.Join(good, "tls.key")); err != nil {
		t.Fatal(err)
	}
	says(t, "TLS 1.2", raw(&tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: tls.VersionTLS12}))
	if err := raw(&tls.Config{Certificates: []tls.Certificate{pair}}); err != nil {
		t.Errorf("the same with TLS 1.3: %v", err)
	}
	log := logged.String()
	for _, want := range []string{"the caller's certificate is of archiver, and REELWAY_LEDGER_CALLERS lets in intake, dispatcher", "has expired", "unknown authority", "speaks plain text", "didn't provide a certificate", "client offered only unsupported versions"} {
		if !strings.Contains(log, want) {
			t.Errorf("the ledger does not log %q:\n%s", want, log)
		}
	}
}

// A service speaks to the true ledger alone.
func TestCallersRefuseLedgers(t *testing.T) {
	t.Parallel()
	ca, other := tlstest.New(t), tlstest.New(t)
	ours := ca.Dir("intake")
	start := func(dir string) string {
		t.Helper()
		srv, err := rpc.NewLedgerServer(rpc.LedgerConfig{TLSDir: dir}, rpc.CallersConfig{})
		return serve(t, srv, err)
	}
	says(t, "a ledger of another CA", askLedger(t, start(other.Dir("127.0.0.1")), ours), "certificate signed by unknown authority", "both ends need certificates of one CA")
	says(t, "a ledger of another name", askLedger(t, start(ca.Dir("ledger")), ours), "127.0.0.1", "reach it by a name that its certificate has")
	says(t, "a plain ledger", askLedger(t, start(""), ours), "the other end speaks plain text")
	expired := ca.Expired("127.0.0.1")
	pair, err := tls.LoadX509KeyPair(filepath.Join(expired, "tls.crt"), filepath.Join(expired, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	addr := serve(t, grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}}))), nil)
	says(t, "an expired ledger", askLedger(t, addr, ours), "certificate has expired", "renew the other end's certificate")
	for what, dir := range map[string]string{"expired": ca.Expired("intake"), "no such file": t.TempDir()} {
		if _, err := rpc.DialLedger(rpc.LedgerConfig{Addr: addr, TLSDir: dir}); err == nil || !strings.Contains(err.Error(), "REELWAY_TLS_DIR: ") || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := rpc.NewLedgerServer(rpc.LedgerConfig{}, rpc.CallersConfig{Names: []string{"intake"}}); err == nil {
		t.Error("names without certificates")
	}
}

// Certificates, and then their CA, are changed under a running ledger and a running
// service, and both go on.
func TestRotation(t *testing.T) {
	t.Parallel()
	old, fresh := tlstest.New(t), tlstest.New(t)
	server, client := old.Dir("127.0.0.1"), old.Dir("intake")
	srv, err := rpc.NewLedgerServer(rpc.LedgerConfig{TLSDir: server}, rpc.CallersConfig{})
	addr, stop := serveAt(t, "127.0.0.1:0", srv, err)
	conn, err := rpc.DialLedger(rpc.LedgerConfig{Addr: addr, TLSDir: client})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	check := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		return err
	}
	if err := check(); err != nil {
		t.Fatal(err)
	}
	// Both trust both, then both get certificates of the new CA, then trust it alone.
	fresh.Trust(server)
	fresh.Trust(client)
	newcomer := fresh.Dir("intake")
	old.Trust(newcomer)
	eventually(t, "the ledger believes the new CA", func() bool { return askLedger(t, addr, newcomer) == nil })
	fresh.Issue(server, time.Hour, "127.0.0.1")
	fresh.Issue(client, time.Hour, "intake")
	onlyNew := fresh.Dir("intake")
	eventually(t, "the ledger has a certificate of the new CA", func() bool { return askLedger(t, addr, onlyNew) == nil })
	onlyOld := old.Dir("intake")
	fresh.Trust(onlyOld)
	says(t, "a certificate of the old CA", askLedger(t, addr, onlyOld), "refused our certificate")
	// The service, which has run all the time, connects again to a ledger that knows
	// the new CA alone.
	stop()
	srv, err = rpc.NewLedgerServer(rpc.LedgerConfig{TLSDir: fresh.Dir("127.0.0.1")}, rpc.CallersConfig{})
	_, stop = serveAt(t, addr, srv, err)
	defer stop()
	conn.ResetConnectBackoff()
	if err := check(); err != nil {
		t.Error(err)
	}
}

// A public door asks for no certificate, and its own is renewed under way.
func TestDoor(t *testing.T) {
	t.Parallel()
	ca, next := tlstest.New(t), tlstest.New(t)
	dir := ca.Dir("127.0.0.1")
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil {
		t.Fatal(err)
	}
	srv, err := rpc.NewDoor(rpc.DoorConfig{TLSDir: dir})
	addr := serve(t, srv, err)
	call := func(ca *tlstest.CA) error {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(ca.PEM())
		conn, err := rpc.Dial(addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool})))
		return ask(t, conn, err)
	}
	if err := call(ca); err != nil {
		t.Error(err)
	}
	says(t, "another CA", call(next), "unknown authority")
	conn, err := rpc.Dial(addr)
	says(t, "plain text", ask(t, conn, err), "Unavailable")
	next.Issue(dir, time.Hour, "127.0.0.1")
	eventually(t, "the door shows the new certificate", func() bool { return call(next) == nil })
}
