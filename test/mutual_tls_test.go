package test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/pgtest"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/tlstest"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	"reelway.dev/services/simulator"
)

// The main job with every service as a process, and every connection between them,
// to NATS and to PostgreSQL over TLS with certificates of both ends. Whoever has none
// is let in nowhere.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	ca := tlstest.New(t)
	cluster := startNATS(t, 1, ca)
	user := ca.Dir("reelway")
	database := pgtest.StartTLS(t, ca) + "?sslmode=verify-full&sslrootcert=" + user + "/ca.crt&sslcert=" + user + "/tls.crt&sslkey=" + user + "/tls.key"
	sim, err := simulator.New(simulator.Config{TimeScale: 1, Render: 400 * time.Millisecond, AtlasKey: "atlas"},
		simulator.Deps{Client: &http.Client{Timeout: 5 * time.Second}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(sim.Handler())
	t.Cleanup(func() { web.CloseClientConnections(); sim.Close(); web.Close() })

	ledgerAddr, intakeAddr, intakeGRPC, notifierAddr, callbackAddr := freePort(t), freePort(t), freePort(t), freePort(t), freePort(t)
	dir, long, admin := t.TempDir(), strings.Repeat("s", 40), "rw_admin_for_the_test_of_mutual_tls"
	files := []string{"REELWAY_BUCKET_URL=file://" + dir + "/bucket", "REELWAY_FILES_URL=http://" + intakeAddr, "REELWAY_FILES_SECRET=" + long}
	providers := []string{"REELWAY_CALLBACK_URL=http://" + callbackAddr, "REELWAY_CALLBACK_SECRET=" + long, "REELWAY_ATLASCLOUD_URL=" + web.URL + "/atlascloud", "REELWAY_ATLASCLOUD_KEY=atlas"}
	certs := map[string]string{}
	begin := func(service, streams string, env ...string) {
		t.Helper()
		certs[service] = ca.Dir(service, "127.0.0.1")
		ops, log := freePort(t), &lockedBuffer{}
		cmd := exec.Command(buildService(t, service))
		cmd.Stderr = log
		cmd.Env = append([]string{"REELWAY_OPS_ADDR=" + ops, "REELWAY_NATS_URL=" + cluster.url(service), "REELWAY_NATS_TLS_DIR=" + certs[service], "REELWAY_NATS_STREAMS=" + streams}, env...)
		if service != "archiver" { // it does not call the ledger
			cmd.Env = append(cmd.Env, "REELWAY_TLS_DIR="+certs[service], "REELWAY_LEDGER_ADDR="+ledgerAddr)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v", service, err)
			}
			if t.Failed() {
				t.Logf("log of %s:\n%s", service, tail(log.String(), 3000))
			}
		})
		(&stack{t: t}).eventually(time.Minute, service+" is ready", func() bool {
			resp, err := http.Get("http://" + ops + "/readyz")
			if err != nil {
				return false
			}
			_ = resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
	begin("ledger", "make", "REELWAY_DATABASE_URL="+database, "REELWAY_LEDGER_CALLERS=intake,dispatcher,callback,notifier", "REELWAY_ADMIN_API_KEY="+admin)
	begin("dispatcher", "find", providers...)
	begin("archiver", "find", append([]string{"REELWAY_ALLOW_HTTP_URLS=true", "REELWAY_ALLOW_PRIVATE_URLS=true"}, files...)...)
	begin("callback", "find", append([]string{"REELWAY_CALLBACK_ADDR=" + callbackAddr}, providers...)...)
	begin("notifier", "find", append([]string{"REELWAY_NOTIFIER_ADDR=" + notifierAddr, "REELWAY_GRPC_ADDR=" + freePort(t)}, files...)...)
	begin("intake", "find", append([]string{"REELWAY_PROVIDERS=atlascloud", "REELWAY_HTTP_ADDR=" + intakeAddr, "REELWAY_GRPC_ADDR=" + intakeGRPC,
		"REELWAY_GRPC_TLS_DIR=" + ca.Dir("api", "127.0.0.1")}, files...)...)

	conn, err := rpc.DialLedger(rpc.LedgerConfig{Addr: ledgerAddr, TLSDir: certs["intake"]})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	accounts, money := ledgerv1.NewAccountServiceClient(conn), ledgerv1.NewLedgerServiceClient(conn)
	a, err := accounts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "an account over TLS"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := accounts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: a.GetAccountId(), Scopes: []string{"videos:read", "videos:write", "billing:read"}, ApiKey: key}); err != nil {
		t.Fatal(err)
	}
	if _, err := money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: a.GetAccountId(), AmountMicros: 10 * atlas, IdempotencyKey: "k"}); err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t, base: "http://" + intakeAddr, sim: web}
	ans := s.call(http.MethodPost, "/v1/videos", request("seedance-2.0", "x"))
	if ans.status != http.StatusOK {
		t.Fatalf("%d %s", ans.status, ans.raw)
	}
	if v := s.await(2*time.Minute, ans.video.ID); v.State != "succeeded" || len(s.tasks(v.ID)) != 1 {
		t.Errorf("%s with %d tasks", v.State, len(s.tasks(v.ID)))
	}
	watched := &stack{t: t, base: "http://" + notifierAddr, sim: web}
	if events, _, final := sse(t, watched, ans.video.ID, "", 1); !final || events[0] != "succeeded 100" {
		t.Errorf("the notifier says %v", events)
	}

	// An operator reaches the public door by TLS, and not without.
	list := func(server string) (string, error) {
		cmd := exec.CommandContext(ctx, binary, "accounts", "list", "--server", server)
		cmd.Env = []string{"REELWAY_ADMIN_API_KEY=" + admin, "SSL_CERT_FILE=" + filepath.Join(user, "ca.crt"), "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := list("https://" + intakeGRPC); err != nil || !strings.Contains(out, "an account over TLS") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := list(intakeGRPC); err == nil {
		t.Errorf("plain text is answered: %s", out)
	}

	// Nobody else is let in, not even a service that has no business here.
	for what, cfg := range map[string]rpc.LedgerConfig{
		"the archiver": {Addr: ledgerAddr, TLSDir: certs["archiver"]},
		"another CA":   {Addr: ledgerAddr, TLSDir: tlstest.New(t).Dir("intake")},
		"plain text":   {Addr: ledgerAddr},
	} {
		conn, err := rpc.DialLedger(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ledgerv1.NewLedgerServiceClient(conn).Verify(ctx, &ledgerv1.VerifyRequest{}); err == nil {
			t.Errorf("the ledger answers %s", what)
		}
		_ = conn.Close()
	}
	if _, shut, err := bus.Connect(ctx, bus.Config{URL: cluster.url("ledger"), CA: cluster.ca, Replicas: 1}, "ledger"); err == nil {
		shut()
		t.Error("NATS lets in a password without a certificate")
	}
	if refused := cluster.log.take(); len(refused) > 0 {
		t.Errorf("NATS refused %q", refused)
	}
}
