package test

import (
	"context"
	"io"
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

	"github.com/nats-io/nats-server/v2/server"

	"reelway.dev/pkg/postgres"
	"reelway.dev/pkg/rpc"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	"reelway.dev/services/simulator"
)

// Every service as a process of its own, two replicas of each that opens no
// shared door, over a network: the same job with the same outcome.
func TestSeparateProcesses(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "reelway-apart-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	pg, err := postgres.StartPrivate(ctx, dir+"/postgres", true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Stop(context.Background()) })
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, JetStreamMaxStore: 1 << 40, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(10 * time.Second) {
		t.Fatal("NATS is not ready")
	}
	sim, err := simulator.New(simulator.Config{TimeScale: 1, Render: 400 * time.Millisecond, AtlasKey: "atlas", KlingAccess: "access", KlingSecret: "a-secret-key-for-kling-of-32-bytes"},
		simulator.Deps{Client: &http.Client{Timeout: 5 * time.Second}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(sim.Handler())
	t.Cleanup(func() { web.CloseClientConnections(); sim.Close(); web.Close() })

	ledgerAddr, intakeAddr, notifierAddr, callbackAddr := freePort(t), freePort(t), freePort(t), freePort(t)
	long := strings.Repeat("s", 40)
	nats, led := "REELWAY_NATS_URL="+ns.ClientURL(), "REELWAY_LEDGER_ADDR="+ledgerAddr
	files := []string{"REELWAY_BUCKET_URL=file://" + dir + "/bucket", "REELWAY_FILES_URL=http://" + intakeAddr, "REELWAY_FILES_SECRET=" + long}
	tokens := []string{"REELWAY_CALLBACK_URL=http://" + callbackAddr, "REELWAY_CALLBACK_SECRET=" + long}
	keys := []string{"REELWAY_ATLASCLOUD_URL=" + web.URL + "/atlascloud", "REELWAY_ATLASCLOUD_KEY=atlas", "REELWAY_KLING_URL=" + web.URL + "/kling",
		"REELWAY_KLING_ACCESS_KEY=access", "REELWAY_KLING_SECRET_KEY=a-secret-key-for-kling-of-32-bytes"}
	secret := filepath.Join(dir, "database-url")
	if err := os.WriteFile(secret, []byte(pg.URL+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	begin := func(service string, env ...[]string) {
		ops := freePort(t)
		cmd := exec.Command(buildService(t, service))
		log := &lockedBuffer{}
		cmd.Stderr = log
		cmd.Env = []string{"REELWAY_OPS_ADDR=" + ops, nats}
		for _, e := range env {
			cmd.Env = append(cmd.Env, e...)
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
	begin("ledger", []string{led, "REELWAY_DATABASE_URL_FILE=" + secret})
	begin("ledger", []string{"REELWAY_LEDGER_ADDR=" + freePort(t), "REELWAY_DATABASE_URL=" + pg.URL})
	for range 2 {
		begin("dispatcher", []string{led}, tokens, keys)
		begin("archiver", files, []string{"REELWAY_ALLOW_HTTP_URLS=true", "REELWAY_ALLOW_PRIVATE_URLS=true"})
	}
	begin("callback", []string{"REELWAY_CALLBACK_ADDR=" + callbackAddr}, tokens, keys)
	begin("notifier", []string{led, "REELWAY_NOTIFIER_ADDR=" + notifierAddr, "REELWAY_GRPC_ADDR=" + freePort(t)}, files)
	begin("intake", []string{led, "REELWAY_PROVIDERS=atlascloud,kling", "REELWAY_HTTP_ADDR=" + intakeAddr, "REELWAY_GRPC_ADDR=" + freePort(t)}, files)

	conn, err := rpc.Dial(ledgerAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	accounts, money := ledgerv1.NewAccountServiceClient(conn), ledgerv1.NewLedgerServiceClient(conn)
	a, err := accounts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := accounts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: a.GetAccountId(), Scopes: []string{"videos:read", "videos:write", "billing:read"}, ApiKey: key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: a.GetAccountId(), AmountMicros: 10 * atlas, IdempotencyKey: "k"}); err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t, base: "http://" + intakeAddr, sim: web}
	var ids []string
	if a := s.call(http.MethodPost, "/v1/videos", request("gen-4.5", "x")); a.status != http.StatusBadRequest || a.fault.Fields[0].Name != "model" {
		t.Errorf("a model that nobody dispatches: %d %s", a.status, a.raw)
	}
	for range 5 {
		for _, model := range []string{"seedance-2.0", "kling-v2-6"} {
			ans := s.call(http.MethodPost, "/v1/videos", request(model, "x"))
			if ans.status != http.StatusOK {
				t.Fatalf("%d %s", ans.status, ans.raw)
			}
			ids = append(ids, ans.video.ID)
		}
	}
	for _, id := range ids {
		v := s.await(60*time.Second, id)
		if n := len(s.tasks(id)); v.State != "succeeded" || n != 1 {
			t.Errorf("%s: %s with %d tasks", id, v.State, n)
		}
		resp, err := http.Get(v.URL)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK || n != v.Artifact.Bytes {
			t.Errorf("%s: %d, %d bytes, %v", id, resp.StatusCode, n, err)
		}
		_ = resp.Body.Close()
	}
	r, err := money.Verify(ctx, &ledgerv1.VerifyRequest{})
	b, berr := money.GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: a.GetAccountId()})
	if err != nil || berr != nil || len(r.GetViolations()) > 0 || b.GetHeldMicros() != 0 || b.GetAvailableMicros() != 5*atlas-5*kling {
		t.Errorf("%v %v, %v %v", r, b, err, berr)
	}
	s.base = "http://" + notifierAddr
	if events, _, final := sse(t, s, ids[0], "", 1); !final || events[0] != "succeeded 100" {
		t.Errorf("the notifier says %v", events)
	}
	// A revoked key is out of every process.
	if _, err := accounts.RevokeAPIKey(ctx, &ledgerv1.RevokeAPIKeyRequest{KeyId: made.GetKeyId()}); err != nil {
		t.Fatal(err)
	}
	for _, base := range []string{"http://" + intakeAddr + "/v1/videos", "http://" + notifierAddr + "/v1/videos/" + ids[0] + "/events"} {
		s.eventually(time.Minute, base+" refuses the key", func() bool {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, base, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+key)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			return resp.StatusCode == http.StatusUnauthorized
		})
	}
}

// buildService builds a service's own binary, as its module alone.
func buildService(t *testing.T, name string) string {
	t.Helper()
	out := filepath.Join(filepath.Dir(binary), name)
	if _, err := os.Stat(out); err == nil {
		return out
	}
	cmd := exec.Command("go", "build", "-o", out, "./cmd/"+name)
	cmd.Dir = "../services/" + name
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, msg)
	}
	return out
}
