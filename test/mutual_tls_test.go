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
	"testing"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/tlstest"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	"reelway.dev/services/simulator"
)

// The main job over mutual TLS everywhere. Whoever has no certificate is let in
// nowhere.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	sim, err := simulator.New(simulator.Config{TimeScale: 1, Render: 400 * time.Millisecond, AtlasKey: atlasKey},
		simulator.Deps{Client: &http.Client{Timeout: 5 * time.Second}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(sim.Handler())
	t.Cleanup(func() { web.CloseClientConnections(); sim.Close(); web.Close() })
	a := startApart(ctx, t, web.URL+"/atlascloud", nil)
	a.sim = web
	ans := a.call(http.MethodPost, "/v1/videos", request("seedance-2.0", "x"))
	if ans.status != http.StatusOK {
		t.Fatalf("%d %s", ans.status, ans.raw)
	}
	if v := a.await(2*time.Minute, ans.video.ID); v.State != "succeeded" || len(a.tasks(v.ID)) != 1 {
		t.Errorf("%s with %d tasks", v.State, len(a.tasks(v.ID)))
	}
	watched := &stack{t: t, key: key, base: "http://" + a.notifier, sim: web}
	if events, _, final := sse(t, watched, ans.video.ID, "", 1); !final || events[0] != "succeeded 100" {
		t.Errorf("the notifier says %v", events)
	}

	// An operator reaches the public door by TLS, and not without.
	list := func(server string) (string, error) {
		cmd := exec.CommandContext(ctx, binary, "accounts", "list", "--server", server)
		cmd.Env = []string{"REELWAY_ADMIN_API_KEY=" + adminKey, "SSL_CERT_FILE=" + filepath.Join(a.certs["intake"], "ca.crt"), "HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := list("https://" + a.grpc); err != nil || !strings.Contains(out, "an account over TLS") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := list(a.grpc); err == nil {
		t.Errorf("plain text is answered: %s", out)
	}

	// Nobody else is let in, not even a service that has no business here.
	for what, cfg := range map[string]rpc.LedgerConfig{
		"the archiver": {Addr: a.ledger, TLSDir: a.certs["archiver"]},
		"another CA":   {Addr: a.ledger, TLSDir: tlstest.New(t).Dir("intake")},
		"plain text":   {Addr: a.ledger},
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
	if _, shut, err := bus.Connect(ctx, bus.Config{URL: a.nats.url("ledger"), CA: a.nats.ca, Replicas: 1}, "ledger"); err == nil {
		shut()
		t.Error("NATS lets in a password without a certificate")
	}
	if refused := a.nats.log.take(); len(refused) > 0 {
		t.Errorf("NATS refused %q", refused)
	}
}
