package reelway_test

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"reelway.dev/pkg/money"
	"reelway.dev/pkg/postgres"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/reelway"
)

// fetch reads a path of the REST API by a key.
func fetch(t *testing.T, s *reelway.Stack, key, path string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.HTTPURL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

//nolint:paralleltest // the telemetry is the process's
func TestTheBooksByCommandAndREST(t *testing.T) {
	dir := dataDir(t)
	st, stop := start(t, dir)
	defer stop()
	sh := shell{t, []string{"--server", st.GRPCAddr, "--key", st.AdminKey}}
	var made struct {
		Account string `json:"account_id"`
	}
	sh.json(&made, "accounts", "create", "Acme", "--credits", "10")
	acct := made.Account
	keys := map[string]string{}
	for name, scopes := range map[string]string{"all": "videos:write,videos:read,billing:read", "videos": "videos:read"} {
		var k struct {
			Key string `json:"api_key"`
		}
		sh.json(&k, "keys", "create", "--account", acct, "--scopes", scopes)
		keys[name] = k.Key
	}
	for range 2 {
		sh.table([]string{"ledger", "grant", "--account", acct, "--credits", "1.5", "--expires", "2099-12-31", "--reason", "=welcome", "--once", "g"}, "available  1", "grant      lot_")
		sh.table([]string{"ledger", "top-up", "--account", acct, "--credits", "0.5", "--reason", "invoice 7", "--once", "inv-7"}, "available  1")
		sh.table([]string{"ledger", "adjust", "--account", acct, "--credits=-0.000001", "--reason", "rounding", "--once", "adj"}, "available  11.999999")
	}
	sh.fails(1, "used before for another top_up", "ledger", "top-up", "--account", acct, "--credits", "0.6", "--reason", "invoice 7", "--once", "inv-7")
	sh.fails(1, "cannot be taken", "ledger", "adjust", "--account", acct, "--credits=-50", "--reason", "r")
	sh.fails(2, "at most 6 decimals", "ledger", "adjust", "--account", acct, "--credits=1e3", "--reason", "r")
	sh.fails(2, "--expires must be a day", "ledger", "grant", "--account", acct, "--credits", "1", "--expires", "soon", "--reason", "r")
	sh.fails(2, "--reason", "ledger", "refund", "--job", "video_x")
	sh.table([]string{"ledger", "grants", "--account", acct}, "1.500000", "2100-01-01 00:00:00Z", "=welcome")

	d := dial(t, st)
	v, err := d.video.CreateVideo(as(t, keys["all"]), &videov1.CreateVideoRequest{Video: &videov1.VideoRequest{Model: "kling-v2-6", Prompt: "p"}})
	if err != nil {
		t.Fatal(err)
	}
	job, quote := v.GetVideo().GetId(), v.GetVideo().GetQuoteMicros()
	for deadline := time.Now().Add(90 * time.Second); v.GetVideo().GetState() != videov1.VideoState_VIDEO_STATE_SUCCEEDED; <-time.After(20 * time.Millisecond) {
		r, err := d.video.GetVideo(as(t, keys["all"]), &videov1.GetVideoRequest{Id: job})
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%v, %v", r, err)
		}
		v.Video = r.GetVideo()
	}
	sh.table([]string{"ledger", "refund", "--job", job, "--credits", "0.1", "--reason", "blurred"}, "refunded   0.100000")
	sh.fails(1, "can still be refunded", "ledger", "refund", "--job", job, "--credits", "100", "--reason", "blurred")
	sh.table([]string{"ledger", "write-off", "--job", job, "--credits", "0.02", "--reason", "a second task"}, "written off  0.020000")
	sh.table([]string{"ledger", "reviews"}, "VIDEO")
	sh.fails(1, "has nothing in suspense", "ledger", "settle-suspense", "--job", job, "--as", "billed", "--reason", "r")
	closing := money.Format(11_999_999 - quote + 100_000)
	sh.table([]string{"ledger", "balance", "--account", acct}, "available    "+closing, "held         0.000000", "granted")

	month := time.Now().UTC().Format("2006-01")
	sh.table([]string{"ledger", "statement", "--account", acct, "--month", month}, "opening", "closing", closing, "top_up", "grant", "hold", "capture", "refund", "adjustment", job)
	sh.table([]string{"ledger", "margin", "--month", month, "--by", "model,account"}, "kling-v2-6", acct, " USD")
	rows, err := csv.NewReader(strings.NewReader(sh.table([]string{"ledger", "statement", "--account", acct, "--month", month, "--format", "csv"}))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	provesItself(t, rows, closing)

	// The account's own view of the same.
	status, header, body := fetch(t, st, keys["all"], "/v1/statement?format=csv&month="+month)
	if status != http.StatusOK || !strings.HasPrefix(header.Get("Content-Type"), "text/csv") || strings.Contains(body, "key_") {
		t.Errorf("%d %v %s", status, header, body)
	}
	if rows, err = csv.NewReader(strings.NewReader(body)).ReadAll(); err != nil {
		t.Fatal(err)
	}
	provesItself(t, rows, closing)
	var s struct {
		Object, Month string
		Closing       struct{ Available string }
		Movements     []struct{ Kind, Available string }
	}
	status, _, body = fetch(t, st, keys["all"], "/v1/statement?month="+month)
	if err := json.Unmarshal([]byte(body), &s); err != nil || status != http.StatusOK || s.Object != "statement" || s.Month != month ||
		s.Closing.Available != closing || len(s.Movements) != len(rows)-1 || s.Movements[len(s.Movements)-1].Available != closing {
		t.Errorf("%d, %v: %s", status, err, body)
	}
	for path, want := range map[string]int{"/v1/statement": 400, "/v1/statement?month=2026-13": 400, "/v1/statement?month=" + month + "&format=xml": 400} {
		if status, _, body := fetch(t, st, keys["all"], path); status != want {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if status, _, body := fetch(t, st, keys["videos"], "/v1/statement?month="+month); status != http.StatusForbidden {
		t.Errorf("without billing:read: %d %s", status, body)
	}
	if _, _, body := fetch(t, st, st.APIKey, "/v1/statement?month="+month); strings.Contains(body, job) {
		t.Errorf("another account's statement: %s", body)
	}

	sh.table([]string{"ledger", "verify"}, "proven: each balance equals its postings")
	// What no door allows is done to the database itself.
	pid, err := os.ReadFile(filepath.Join(dir, "postgres", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pool, err := postgres.Open(t.Context(), "postgres://reelway@/reelway?host="+strings.Split(string(pid), "\n")[4], 1)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(t.Context(), "update job set refunded_micros = 1 where id = $1", job); err != nil {
		t.Fatal(err)
	}
	sh.fails(1, "the books are wrong in 1 places; the first: not so: refunds are within captures", "ledger", "verify")
}

// provesItself adds the changes of a CSV up.
func provesItself(t *testing.T, rows [][]string, closing string) {
	t.Helper()
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	var available, held int64
	for _, r := range rows[1:] {
		for name, sum := range map[string]*int64{"available": &available, "held": &held} {
			change, err1 := money.Parse(r[column[name+"_change"]])
			now, err2 := money.Parse(r[column[name]])
			if *sum += change; err1 != nil || err2 != nil || *sum != now {
				t.Fatalf("%v: the changes make %d", r, *sum)
			}
		}
		if reason := r[column["reason"]]; strings.HasPrefix(reason, "=") {
			t.Errorf("a spreadsheet would run %q", reason)
		}
	}
	if money.Format(available) != closing {
		t.Errorf("%d; want %s", available, closing)
	}
}
