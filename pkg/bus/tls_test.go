package bus_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/tlstest"
)

// secured runs a NATS server on a port, 0 for any, that wants certificates of ca and
// shows the one of dir, as deploy/k8s/components/mtls sets it up.
func secured(t *testing.T, ca *tlstest.CA, dir string, port int) (*server.Server, func()) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.PEM())
	if port == 0 {
		port = server.RANDOM_PORT
	}
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, JetStreamMaxStore: bus.Reserved(), StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		TLSVerify: true, TLSTimeout: 30, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}})
	if err != nil {
		t.Fatal(err)
	}
	go ns.Start()
	stop := func() { ns.Shutdown(); ns.WaitForShutdown() }
	if !ns.ReadyForConnections(30 * time.Second) {
		stop()
		t.Fatal("NATS is not ready")
	}
	return ns, stop
}

// NATS and services judge each other by certificates; whoever has a wrong one is
// refused, and an operator learns why.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ca, other := tlstest.New(t), tlstest.New(t)
	ns, stop := secured(t, ca, ca.Dir("127.0.0.1"), 0)
	t.Cleanup(stop)
	connect := func(url string, cfg bus.Config) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cfg.URL, cfg.Replicas = url, 1
		_, shut, err := bus.Connect(ctx, cfg, "test")
		if err == nil {
			shut()
		}
		return err
	}
	good := ca.Dir("intake")
	if err := connect(ns.ClientURL(), bus.Config{TLSDir: good}); err != nil {
		t.Errorf("a good certificate: %v", err)
	}
	stranger := other.Dir("intake")
	ca.Trust(stranger)
	named, stopNamed := secured(t, ca, ca.Dir("elsewhere"), 0)
	t.Cleanup(stopNamed)
	old, stopOld := secured(t, ca, ca.Expired("127.0.0.1"), 0)
	t.Cleanup(stopOld)
	plain, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	go plain.Start()
	t.Cleanup(func() { plain.Shutdown(); plain.WaitForShutdown() })
	if !plain.ReadyForConnections(30 * time.Second) {
		t.Fatal("NATS is not ready")
	}
	for what, x := range map[string]struct {
		url  string
		cfg  bus.Config
		want string
	}{
		"a certificate of another CA":  {ns.ClientURL(), bus.Config{TLSDir: stranger}, "the other end refused our certificate, " + stranger},
		"an expired certificate":       {ns.ClientURL(), bus.Config{TLSDir: ca.Expired("intake")}, "REELWAY_NATS_TLS_DIR: "},
		"no certificate":               {ns.ClientURL(), bus.Config{CA: filepath.Join(good, "ca.crt")}, "the other end refused our certificate, none: REELWAY_NATS_TLS_DIR is not set"},
		"plain text":                   {ns.ClientURL(), bus.Config{}, "unknown authority"},
		"two CAs":                      {ns.ClientURL(), bus.Config{TLSDir: good, CA: "x"}, "both set"},
		"a server of another CA":       {ns.ClientURL(), bus.Config{TLSDir: other.Dir("intake")}, "both ends need certificates of one CA"},
		"a server of another name":     {named.ClientURL(), bus.Config{TLSDir: good}, "reach it by a name that its certificate has"},
		"a server that is out of date": {old.ClientURL(), bus.Config{TLSDir: good}, "renew the other end's certificate"},
		"a server without TLS":         {plain.ClientURL(), bus.Config{TLSDir: good}, "secure connection not available"},
	} {
		if err := connect(x.url, x.cfg); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %q", what, err, x.want)
		}
	}
	// The server itself wants a certificate that is valid now; ours shows no other.
	expired := ca.Expired("intake")
	pair, err := tls.LoadX509KeyPair(filepath.Join(expired, "tls.crt"), filepath.Join(expired, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nats.Connect(ns.ClientURL(), nats.RootCAs(filepath.Join(good, "ca.crt")), nats.Secure(&tls.Config{Certificates: []tls.Certificate{pair}})); err == nil {
		t.Error("an expired certificate was let in")
	}
}

// A connection that is made again is made with what the files hold then.
func TestReconnectWithNewCertificate(t *testing.T) {
	t.Parallel()
	ca, next := tlstest.New(t), tlstest.New(t)
	ns, stop := secured(t, ca, ca.Dir("127.0.0.1"), 0)
	port := portOf(t, ns)
	dir := ca.Dir("ledger")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, shut, err := bus.Connect(ctx, bus.Config{URL: ns.ClientURL(), TLSDir: dir, Replicas: 1}, "ledger")
	if err != nil {
		t.Fatal(err)
	}
	defer shut()
	next.Issue(dir, time.Hour, "ledger")
	stop()
	_, stop = secured(t, next, next.Dir("127.0.0.1"), port)
	defer stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for b.Ready(ctx) != nil {
		select {
		case <-ctx.Done():
			t.Fatal("the bus does not come back")
		case <-tick.C:
		}
	}
}

func portOf(t *testing.T, ns *server.Server) int {
	t.Helper()
	addr, ok := ns.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("no port")
	}
	return addr.Port
}
