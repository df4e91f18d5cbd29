package reelway_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/reelway"
)

// frame is what the WebSocket sends, as far as the tests look.
type frame struct {
	Type, Cursor string
	Video        struct{ ID, State string }
	Notice       struct {
		Kind, Text string
		Budget     struct {
			Subject, Limit, Held string
			Percent              int
			ResetsAt             *int64 `json:"resets_at"`
		}
	}
}

// watchAll subscribes to all of the key's account.
func watchAll(t *testing.T, st *reelway.Stack, key, after string) func() frame {
	t.Helper()
	c, resp, err := websocket.Dial(t.Context(), strings.Replace(st.HTTPURL, "http", "ws", 1)+"/v1/stream",
		&websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + key}}})
	if resp != nil && resp.Body != nil {
		_ = resp.Body.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.CloseNow() })
	if err := c.Write(t.Context(), websocket.MessageText, []byte(`{"type":"subscribe","all":true,"after":"`+after+`"}`)); err != nil {
		t.Fatal(err)
	}
	next := func() frame {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var f frame
		_, data, err := c.Read(ctx)
		if err != nil || json.Unmarshal(data, &f) != nil {
			t.Fatalf("%s %v", data, err)
		}
		return f
	}
	if after == "" {
		if f := next(); f.Type != "subscribed" || f.Cursor == "" {
			t.Fatalf("%+v", f)
		}
	}
	return next
}

//nolint:paralleltest // the telemetry is the process's
func TestBudgetsAndCeilingsByTheFrontDoors(t *testing.T) {
	st, stop := start(t, dataDir(t))
	defer stop()
	sh := shell{t, []string{"--server", st.GRPCAddr, "--key", st.AdminKey}}
	conn, err := rpc.Dial(st.GRPCAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	var k struct {
		Key string `json:"api_key"`
	}
	sh.json(&k, "keys", "create", "--account", st.AccountID, "--scopes", "videos:write,videos:read", "--name", "web")
	var keys struct {
		Keys []struct{ ID string } `json:"api_keys"`
	}
	sh.json(&keys, "keys", "list", "--account", st.AccountID)
	keyID := keys.Keys[0].ID

	// Only operators set and see budgets.
	budgets := ledgerv1.NewBudgetServiceClient(conn)
	for method, err := range map[string]error{
		"SetBudget": call(budgets.SetBudget(as(t, st.APIKey), &ledgerv1.SetBudgetRequest{AccountId: st.AccountID, Subject: ledgerv1.BudgetSubject_BUDGET_SUBJECT_ACCOUNT,
			Period: ledgerv1.BudgetPeriod_BUDGET_PERIOD_DAY, LimitMicros: 1})),
		"ListBudgets":  call(budgets.ListBudgets(as(t, st.APIKey), &ledgerv1.ListBudgetsRequest{AccountId: st.AccountID})),
		"DeleteBudget": call(budgets.DeleteBudget(as(t, st.APIKey), &ledgerv1.DeleteBudgetRequest{BudgetId: "budget_x"})),
		"SetKeyLimits": call(budgets.SetKeyLimits(as(t, st.APIKey), &ledgerv1.SetKeyLimitsRequest{KeyId: keyID})),
		"GetKeyLimits": call(budgets.GetKeyLimits(as(t, st.APIKey), &ledgerv1.GetKeyLimitsRequest{KeyId: keyID})),
	} {
		if code(err) != fault.PermissionDenied {
			t.Errorf("%s by a development key: %v", method, err)
		}
	}

	var quote struct {
		Total string `json:"total"`
		Micro int64  `json:"total_micros"`
	}
	const body = `{"model":"kling-v2-6","prompt":"p","duration":5,"user":"ann"}`
	if r := rest(t, http.MethodPost, st.HTTPURL+"/v1/videos:quote", st.APIKey, body); json.Unmarshal([]byte(r.body), &quote) != nil || quote.Micro == 0 {
		t.Fatal(r)
	}

	// A budget of two videos: the notices come to who may see money, with cursors
	// that lead on.
	var b struct{ ID string }
	sh.json(&b, "budgets", "set", "--account", st.AccountID, "--user", "ann", "--period", "month", "--limit", "0.000001")
	sh.table([]string{"budgets", "set", "--account", st.AccountID, "--user", "ann", "--period", "month", "--limit", credits(2 * quote.Micro)}, b.ID, "user ann", "month", "hard")
	billing, videos := watchAll(t, st, st.APIKey, ""), watchAll(t, st, k.Key, "")
	for range 2 {
		if r := rest(t, http.MethodPost, st.HTTPURL+"/v1/videos", k.Key, body); r.status != http.StatusOK {
			t.Fatal(r)
		}
	}
	r := rest(t, http.MethodPost, st.HTTPURL+"/v1/videos", k.Key, body)
	if r.status != http.StatusPaymentRequired || !strings.Contains(r.body, "this video costs "+quote.Total+" credits, and the monthly budget of user ann has 0.000000 left: of its "+credits(2*quote.Micro)) ||
		!strings.Contains(r.body, `"code":"insufficient_credits"`) || !strings.Contains(r.body, `"param":"budget"`) || !strings.Contains(r.body, `"retry_after":`) {
		t.Error(r)
	}
	var told []int
	var before, after string // the cursors around the first notice
	ended := 0
	for ended < 2 {
		switch f := billing(); {
		case f.Type == "notice":
			if told = append(told, f.Notice.Budget.Percent); after == "" {
				after = f.Cursor
			}
			if f.Notice.Kind != "budget" || f.Notice.Budget.Subject != "end_user" || f.Notice.Budget.Limit != credits(2*quote.Micro) || f.Notice.Budget.ResetsAt == nil ||
				!strings.Contains(f.Notice.Text, "% of the monthly budget of user ann is used") {
				t.Errorf("%+v", f)
			}
		case f.Video.State == "succeeded":
			ended++
			fallthrough
		default:
			if after == "" {
				before = f.Cursor
			}
		}
	}
	if len(told) != 3 || told[0] != 50 || told[1] != 80 || told[2] != 100 {
		t.Errorf("told of %v percent", told)
	}
	for ended = 0; ended < 2; {
		f := videos()
		if f.Type == "notice" {
			t.Errorf("a key without billing:read is told of money: %+v", f)
		}
		if f.Video.State == "succeeded" {
			ended++
		}
	}
	if before != "" {
		if f := watchAll(t, st, st.APIKey, before)(); f.Type != "notice" || f.Cursor != after {
			t.Errorf("resumed before the notice: %+v, want cursor %s", f, after)
		}
	}
	if f := watchAll(t, st, st.APIKey, after)(); f.Cursor == after || f.Cursor == "" {
		t.Errorf("resumed after the notice: %+v", f)
	}

	sh.table([]string{"budgets", "set", "--account", st.AccountID, "--model", "*", "--period", "total", "--limit", "50", "--soft"}, "model *", "soft")
	if r := rest(t, http.MethodPost, st.HTTPURL+"/v1/videos", st.APIKey, `{"model":"kling-v2-6","prompt":"p","duration":5}`); r.status != http.StatusOK {
		t.Fatal(r)
	}
	sh.table([]string{"budgets", "list", "--account", st.AccountID}, "BUDGET", b.ID, "user ann", credits(2*quote.Micro), "kling-v2-6", "never")
	sh.table([]string{"budgets", "delete", b.ID}, "deleted", "user ann")
	if r := rest(t, http.MethodPost, st.HTTPURL+"/v1/videos", k.Key, body); r.status != http.StatusOK {
		t.Errorf("after the budget was deleted: %+v", r)
	}

	// A ceiling on requests holds at both doors alike.
	sh.table([]string{"keys", "limit", keyID, "--per-minute", "5"}, "requests per minute  5", "videos at once       no limit")
	sh.table([]string{"keys", "limit", keyID, "--concurrent", "1"}, "requests per minute  5", "videos at once       1")
	get := func() (status int, header http.Header) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, st.HTTPURL+"/v1/models", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+k.Key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode, resp.Header
	}
	soon(t, "the ceiling holds", func() bool {
		_, h := get()
		return h.Get("X-Ratelimit-Limit-Requests") == "5"
	})
	client := videov1.NewVideoServiceClient(conn)
	var header metadata.MD
	if _, err := client.ListModels(as(t, k.Key), &videov1.ListModelsRequest{}, grpc.Header(&header)); err != nil || len(header.Get("x-ratelimit-remaining-requests")) != 1 {
		t.Error(header, err)
	}
	var status int
	var refused http.Header
	for range 6 {
		status, refused = get()
	}
	wait, err := strconv.Atoi(refused.Get("Retry-After"))
	if status != http.StatusTooManyRequests || err != nil || wait < 1 || wait > 120 || refused.Get("X-Ratelimit-Remaining-Requests") != "0" ||
		refused.Get("X-Ratelimit-Reset-Requests") == "" || refused.Get("X-Should-Retry") != "true" {
		t.Errorf("%d %v %v", status, refused, err)
	}
	_, err = client.ListModels(as(t, k.Key), &videov1.ListModelsRequest{})
	if f := fault.FromStatus(err); f == nil || f.Code != fault.RateLimited || f.RetryAfter <= 0 || !strings.HasPrefix(f.Message, "this API key may make 5 requests per minute; try again in ") ||
		len(f.Fields) != 1 || f.Fields[0].Name != "requests_per_minute" {
		t.Errorf("gRPC: %v", err)
	}
	if resp := rest(t, http.MethodGet, st.HTTPURL+"/v1/models", st.APIKey, ""); resp.status != http.StatusOK {
		t.Errorf("another key's limit: %+v", resp)
	}

	sh.fails(2, "give one of --api-key, --user and --model", "budgets", "set", "--account", st.AccountID, "--user", "a", "--model", "m", "--period", "day", "--limit", "1")
	sh.fails(2, "must be above 0", "budgets", "set", "--account", st.AccountID, "--period", "day", "--limit", "0")
	sh.fails(2, "must be above 0", "budgets", "set", "--account", st.AccountID, "--period", "day", "--limit=-1")
	sh.fails(2, "--period", "budgets", "set", "--account", st.AccountID, "--period", "year", "--limit", "1")
	sh.fails(1, "no such account", "budgets", "list", "--account", "acct_none")
	sh.fails(1, "no such budget", "budgets", "delete", b.ID)
	sh.fails(1, "max_concurrent: must be", "keys", "limit", keyID, "--concurrent=-1")
	sh.table([]string{"audit", "--account", st.AccountID, "--limit", "100"}, "budget.set", "budget.delete", "api_key.limit")
}

// credits are micro-credits as the API writes them.
func credits(micros int64) string {
	s := strconv.FormatInt(micros, 10)
	for len(s) < 7 {
		s = "0" + s
	}
	return s[:len(s)-6] + "." + s[len(s)-6:]
}
