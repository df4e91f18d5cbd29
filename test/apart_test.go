package test

import (
	"context"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/pgtest"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/tlstest"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// apart is every service as a process of its own, with every connection between them,
// to NATS and to PostgreSQL over TLS, certificates of both ends, and passwords.
type apart struct {
	*stack // of intake's REST

	ca       *tlstest.CA
	nats     *natsCluster
	certs    map[string]string // directories, by service
	logs     map[string]*lockedBuffer
	metrics  map[string]string // addresses
	database string            // URL, with its password
	ledger   string
	grpc     string // intake's public door, over TLS
	notifier string
	callback string // URL
	account  string
}

// atlasKey is that of Atlas Cloud in a stack apart.
const atlasKey = "atlas-key-of-services-that-run-apart"

// databasePassword is the ledger's in a stack apart.
const databasePassword = "database-p4ssw0rd" //nolint:gosec // a test's own

// startApart starts the services with further settings for each, and those of the
// name "" for all. provider is the address of Atlas Cloud.
func startApart(ctx context.Context, t *testing.T, provider string, settings map[string][]string) *apart {
	t.Helper()
	ca := tlstest.New(t)
	a := &apart{stack: &stack{t: t, key: key}, ca: ca, nats: startNATS(t, 1, ca), certs: map[string]string{}, logs: map[string]*lockedBuffer{}, metrics: map[string]string{},
		ledger: freePort(t), grpc: freePort(t), notifier: freePort(t)}
	tcp, socket := pgtest.StartTLS(t, ca, "scram-sha-256 clientcert=verify-full")
	owner, err := pgx.Connect(ctx, socket)
	if err == nil {
		_, err = owner.Exec(ctx, "alter role reelway password '"+databasePassword+"'")
		_ = owner.Close(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	user := ca.Dir("reelway")
	a.database = strings.Replace(tcp, "reelway@", "reelway:"+databasePassword+"@", 1) + "?sslmode=verify-full&sslrootcert=" + user + "/ca.crt&sslcert=" + user + "/tls.crt&sslkey=" + user + "/tls.key"
	intake, callback := freePort(t), freePort(t)
	a.base, a.callback = "http://"+intake, "http://"+callback
	dir, long := t.TempDir(), strings.Repeat("s", 40)
	files := []string{"REELWAY_BUCKET_URL=file://" + dir + "/bucket", "REELWAY_FILES_URL=" + a.base, "REELWAY_FILES_SECRET=files-" + long}
	providers := []string{"REELWAY_CALLBACK_URL=" + a.callback, "REELWAY_CALLBACK_SECRET=callbacks-" + long, "REELWAY_ATLASCLOUD_URL=" + provider, "REELWAY_ATLASCLOUD_KEY=" + atlasKey}
	for _, s := range []struct {
		name, streams string
		env           [][]string
	}{
		{"ledger", "make", [][]string{{"REELWAY_DATABASE_URL=" + a.database, "REELWAY_LEDGER_CALLERS=intake,dispatcher,callback,notifier", "REELWAY_ADMIN_API_KEY=" + adminKey}}},
		{"dispatcher", "find", [][]string{providers, files}},
		{"archiver", "find", [][]string{files, {"REELWAY_ALLOW_HTTP_URLS=true", "REELWAY_ALLOW_PRIVATE_URLS=true"}}},
		{"callback", "find", [][]string{providers, {"REELWAY_CALLBACK_ADDR=" + callback}}},
		{"notifier", "find", [][]string{files, {"REELWAY_NOTIFIER_ADDR=" + a.notifier, "REELWAY_GRPC_ADDR=" + freePort(t)}}},
		{"intake", "find", [][]string{files, {"REELWAY_PROVIDERS=atlascloud", "REELWAY_HTTP_ADDR=" + intake, "REELWAY_GRPC_ADDR=" + a.grpc, "REELWAY_GRPC_TLS_DIR=" + ca.Dir("api", "127.0.0.1")}}},
	} {
		a.certs[s.name] = ca.Dir(s.name, "127.0.0.1")
		env := []string{"REELWAY_NATS_URL=" + a.nats.url(s.name), "REELWAY_NATS_TLS_DIR=" + a.certs[s.name], "REELWAY_NATS_STREAMS=" + s.streams}
		if s.name != "archiver" { // it does not call the ledger
			env = append(env, "REELWAY_TLS_DIR="+a.certs[s.name], "REELWAY_LEDGER_ADDR="+a.ledger)
		}
		for _, e := range append(s.env, settings[""], settings[s.name]) {
			env = append(env, e...)
		}
		a.begin(s.name, env)
	}
	conn, err := rpc.DialLedger(rpc.LedgerConfig{Addr: a.ledger, TLSDir: a.certs["intake"]})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	accounts, money := ledgerv1.NewAccountServiceClient(conn), ledgerv1.NewLedgerServiceClient(conn)
	made, err := accounts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "an account over TLS"})
	if err != nil {
		t.Fatal(err)
	}
	a.account = made.GetAccountId()
	if _, err := accounts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: a.account, Scopes: []string{"videos:read", "videos:write", "billing:read"}, ApiKey: key}); err != nil {
		t.Fatal(err)
	}
	if _, err := money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: a.account, AmountMicros: 10 * atlas, IdempotencyKey: "k"}); err != nil {
		t.Fatal(err)
	}
	return a
}

// begin runs a service until the test ends, and waits until it is ready.
func (a *apart) begin(service string, env []string) {
	a.t.Helper()
	ops, log := freePort(a.t), &lockedBuffer{}
	cmd := exec.Command(buildService(a.t, service))
	cmd.Stderr = log
	cmd.Env = append([]string{"REELWAY_OPS_ADDR=" + ops}, env...)
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.logs[service], a.metrics[service] = log, "http://"+ops+"/metrics"
	a.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			a.t.Errorf("%s: %v", service, err)
		}
		if a.t.Failed() {
			a.t.Logf("log of %s:\n%s", service, tail(log.String(), 3000))
		}
	})
	a.eventually(time.Minute, service+" is ready", func() bool {
		resp, err := http.Get("http://" + ops + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}
