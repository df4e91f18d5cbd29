package reelway_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"reelway.dev/pkg/money"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// An invoice made of what the provider itself accepted agrees; one with a task
// of nobody's, without one of ours, or at another price differs by just that.
func TestInvoiceIsReconciled(t *testing.T) {
	t.Parallel()
	w := watchedStack(t, "REELWAY_SIMULATOR_RENDER=200ms")
	sh := shell{t, []string{"--server", w.GRPCAddr, "--key", w.AdminKey}}
	const model = "replicate-veo-3.1-fast"
	for _, prompt := range []string{"one", "two", "three"} {
		w.ends(w.submitted(model, prompt), videov1.VideoState_VIDEO_STATE_SUCCEEDED)
	}
	w.ends(w.submitted(model, "broken [fault:fail_halfway]"), videov1.VideoState_VIDEO_STATE_FAILED)
	w.ends(w.submitted("kling-v2-6", "of another provider"), videov1.VideoState_VIDEO_STATE_SUCCEEDED)

	// Our own tasks, by the provider's count, at our price.
	prices := map[string]int64{}
	for _, prompt := range []string{"one", "two", "three", "broken [fault:fail_halfway]"} {
		prices[w.task(prompt).ID] = 0
	}
	known, err := w.credit.FindProviderTasks(as(t, w.AdminKey), &ledgerv1.FindProviderTasksRequest{Provider: "replicate", ProviderTaskIds: slices.Collect(maps.Keys(prices))})
	if err != nil || len(known.GetTasks()) != 4 {
		t.Fatalf("%v, %v", known, err)
	}
	for _, k := range known.GetTasks() {
		if k.GetCostCurrency() != "USD" || (k.GetState() == "succeeded") != (k.GetCostMicros() > 0) {
			t.Fatalf("%v", k)
		}
		prices[k.GetProviderTaskId()] = k.GetCostMicros()
	}
	price := prices[w.task("one").ID]

	// A task that somebody else ran with our key.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.SimURL+"/replicate/v1/predictions",
		strings.NewReader(`{"version":"bytedance/seedance-1-pro","input":{"prompt":"foreign"}}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer simulated-key")
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	foreign := w.task("foreign").ID

	file := filepath.Join(t.TempDir(), "usage.csv")
	write := func(change func(bills map[string]int64)) {
		bills := maps.Clone(prices)
		change(bills)
		text := "prediction_id,cost,currency\n"
		for id, micros := range bills {
			text += fmt.Sprintf("%s,%s,USD\n", id, money.Format(micros))
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	type row struct {
		TaskID     string `json:"task_id"`
		Billed     string
		Expected   string
		Difference string
		Reason     string
	}
	type answer struct {
		Matched                      int
		Orphans, Ghosts, Differences []row
		Sums                         struct{ Billed, Expected, Orphans, Ghosts, Differences string }
	}
	args := []string{"providers", "reconcile", "--provider", "replicate", "--file", file}

	write(func(map[string]int64) {})
	var clean answer
	sh.json(&clean, args...)
	if clean.Matched != 4 || len(clean.Orphans)+len(clean.Ghosts)+len(clean.Differences) != 0 || clean.Sums.Billed != money.Format(3*price) || clean.Sums.Expected != clean.Sums.Billed {
		t.Errorf("%+v", clean)
	}
	sh.table(args, "4 on 4 lines, 4 of them known", "billed       "+money.Format(3*price)+" USD")

	write(func(b map[string]int64) {
		b[foreign] = 70_000
		delete(b, w.task("two").ID)
		b[w.task("three").ID]++
		b[w.task("broken [fault:fail_halfway]").ID] = 5
	})
	code, stdout, stderr := sh.run(append(args, "--json")...)
	var got answer
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 1 || !strings.Contains(stderr, "the invoice differs: 1 orphans, 1 ghosts, 2 price differences") {
		t.Fatalf("%d, %v, %s, %s", code, err, stdout, stderr)
	}
	if len(got.Orphans) != 1 || got.Orphans[0].TaskID != foreign || got.Orphans[0].Billed != "0.070000" || got.Sums.Orphans != "0.070000" {
		t.Errorf("orphans: %+v", got.Orphans)
	}
	if len(got.Ghosts) != 1 || got.Ghosts[0].TaskID != w.task("two").ID || got.Ghosts[0].Expected != money.Format(price) || got.Sums.Ghosts != money.Format(price) {
		t.Errorf("ghosts: %+v", got.Ghosts)
	}
	if len(got.Differences) != 2 || got.Sums.Differences != "0.000006" || got.Sums.Billed != money.Format(2*price+1+5+70_000) || got.Sums.Expected != money.Format(2*price) {
		t.Errorf("differences: %+v, %+v", got.Differences, got.Sums)
	}
	for _, d := range got.Differences {
		want := row{w.task("three").ID, money.Format(price + 1), money.Format(price), "0.000001", "another price"}
		if d.TaskID != want.TaskID {
			want = row{w.task("broken [fault:fail_halfway]").ID, "0.000005", "0.000000", "0.000005", "billed although it failed"}
		}
		if d != want {
			t.Errorf("%+v, want %+v", d, want)
		}
	}

	sh.fails(1, "--file: ", "providers", "reconcile", "--provider", "replicate", "--file", file+".none")
	sh.fails(1, `there is no column "price"`, append(slices.Clone(args), "--cost-column", "price")...)
	sh.fails(2, "--from must be a day", append(slices.Clone(args), "--from", "soon")...)
	// The admin's alone.
	user := shell{t, []string{"--server", w.GRPCAddr, "--key", w.APIKey}}
	if code, _, stderr := user.run(args...); code != 1 || !strings.Contains(stderr, "admin") {
		t.Errorf("%d, %s", code, stderr)
	}
}

// The verdict of the suite is the exit code, check by check with its reason.
func TestAdaptersAreCertified(t *testing.T) {
	t.Parallel()
	sh := shell{t, nil}
	sh.table([]string{"providers", "test", "runway"}, "passed   cancel", "skipped  webhooks\n           the provider sends no webhooks", "14 passed, 0 failed, 5 skipped")
	const described = "../../pkg/provider/declared/testdata/providers.yaml"
	var certificates []struct {
		Provider                string
		Passed, Failed, Skipped int
		Checks                  []struct{ Check, Outcome string }
	}
	sh.json(&certificates, "providers", "test", described)
	if len(certificates) != 2 || certificates[0].Failed+certificates[1].Failed != 0 || certificates[0].Passed != 17 || len(certificates[0].Checks) != 19 {
		t.Errorf("%+v", certificates)
	}

	// A description that takes a failure for a success, and one word for another.
	data, err := os.ReadFile(described)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte(strings.Replace(string(data), "failed: [failed, canceled, aborted]", "failed: [aborted]", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := sh.run("providers", "test", bad, "--only", "replicate")
	if code != 1 || !strings.Contains(stdout, "failed   failure\n           report is") || !strings.Contains(stdout, "passed   submit and watch to success") ||
		!strings.Contains(stderr, "checks failed") || strings.Contains(stdout, "runway") {
		t.Errorf("%d, %s, %s", code, stdout, stderr)
	}

	// Signatures of the description's own, with keys of the test's: no secret is read.
	for _, webhook := range []string{
		`{signature: hmac-sha256, secret_file: /nowhere, header: X-Hub, prefix: "sha256="}`,
		`{signature: ed25519, header: X-Sig, timestamp_header: X-Time, public_keys: ["` + strings.Repeat("00", 32) + `"]}`,
	} {
		own := filepath.Join(t.TempDir(), "own.yaml")
		if err := os.WriteFile(own, []byte(strings.Replace(string(data), "{signature: standard}", webhook, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		sh.table([]string{"providers", "test", own, "--only", "replicate"}, "passed   webhooks", "passed   forged and garbled webhooks", "17 passed, 0 failed, 2 skipped")
	}

	// A server that is no stand-in: what needs its back doors is skipped.
	code, stdout, stderr = sh.run("providers", "test", described, "--only", "runway", "--base-url", "http://127.0.0.1:1")
	if code != 0 || !strings.Contains(stdout, "needs a stand-in") || !strings.Contains(stdout, "passed   nobody listens") || !strings.Contains(stdout, "1 passed, 0 failed, 18 skipped") {
		t.Errorf("%d, %s, %s", code, stdout, stderr)
	}
	sh.fails(1, "neither a file nor a built-in provider", "providers", "test", "nobody")
	sh.fails(1, "describes no provider", "providers", "test", described, "--only", "nobody")
	sh.fails(1, "no simulated provider is called", "providers", "test", described, "--dialect", "nobody")
	sh.fails(1, "--admin-url", "providers", "test", described, "--base-url", "http://127.0.0.1:1", "--admin-url", "http://127.0.0.1:1")
}
