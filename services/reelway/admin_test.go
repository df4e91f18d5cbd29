package reelway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
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

// shell runs the command against one stack, as an operator does.
type shell struct {
	t    *testing.T
	args []string
}

func (s shell) run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = reelway.Main(append(args, s.args...), &out, &errs)
	return code, out.String(), errs.String()
}

// json runs a command that has to succeed with nothing but JSON, into out.
func (s shell) json(out any, args ...string) string {
	s.t.Helper()
	code, stdout, stderr := s.run(append(args, "--json")...)
	if code != 0 || stderr != "" || json.Unmarshal([]byte(stdout), out) != nil {
		s.t.Fatalf("%v: %d, %q, %q", args, code, stdout, stderr)
	}
	return stdout
}

// table runs a command that has to succeed, and checks that its output holds
// every want.
func (s shell) table(args []string, want ...string) string {
	s.t.Helper()
	code, stdout, stderr := s.run(args...)
	if code != 0 || stderr != "" {
		s.t.Fatalf("%v: %d, %q", args, code, stderr)
	}
	for _, w := range want {
		// How wide a column is depends on its neighbours.
		if !strings.Contains(squeezed(stdout), squeezed(w)) {
			s.t.Errorf("%v: %q is not in\n%s", args, w, stdout)
		}
	}
	return stdout
}

// squeezed is a text with one space for each run of them.
func squeezed(s string) string { return spaces.ReplaceAllString(s, " ") }

var spaces = regexp.MustCompile(` {2,}`)

func (s shell) fails(code int, message string, args ...string) {
	s.t.Helper()
	got, stdout, stderr := s.run(args...)
	if got != code || !strings.Contains(stderr, message) {
		s.t.Errorf("%v: %d %q %q; want %d and …%s…", args, got, stdout, stderr, code, message)
	}
}

// doors are clients of a stack's gRPC, in the name of a key.
type doors struct {
	video    videov1.VideoServiceClient
	accounts ledgerv1.AccountServiceClient
	credit   ledgerv1.LedgerServiceClient
	jobs     ledgerv1.JobServiceClient
}

func dial(t *testing.T, s *reelway.Stack) doors {
	t.Helper()
	conn, err := rpc.Dial(s.GRPCAddr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return doors{videov1.NewVideoServiceClient(conn), ledgerv1.NewAccountServiceClient(conn), ledgerv1.NewLedgerServiceClient(conn), ledgerv1.NewJobServiceClient(conn)}
}

func as(t *testing.T, key string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key)
}

// soon waits for what a change of an account or key brings about. That it takes
// less than a second is the life of pkg/auth's cache, proven there by its clock.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func code(err error) fault.Code {
	if err == nil {
		return ""
	}
	return fault.FromStatus(err).Code
}

//nolint:paralleltest // the telemetry is the process's
func TestOperatorsCommands(t *testing.T) {
	dir := dataDir(t)
	st, stop := start(t, dir)
	defer stop()
	sh := shell{t, []string{"--server", st.GRPCAddr, "--key", st.AdminKey}}
	kept, err := os.ReadFile(filepath.Join(dir, "admin.key"))
	if info, serr := os.Stat(filepath.Join(dir, "admin.key")); err != nil || serr != nil || strings.TrimSpace(string(kept)) != st.AdminKey || info.Mode().Perm() != 0o600 {
		t.Errorf("admin.key: %v, %v, %v", info, err, serr)
	}

	var made struct {
		Account string `json:"account_id"`
	}
	out := sh.json(&made, "accounts", "create", "Acme GmbH", "--credits", "10", "--time-zone", "Europe/Vienna")
	if out != fmt.Sprintf("{\"account_id\":%q}\n", made.Account) || made.Account == "" {
		t.Errorf("accounts create prints %q", out)
	}
	var k struct {
		Key string `json:"api_key"`
	}
	out = sh.json(&k, "keys", "create", "--account", made.Account, "--scopes", "videos:write,videos:read", "--name", "web", "--expires-in", "90d")
	if out != fmt.Sprintf("{\"api_key\":%q}\n", k.Key) || !strings.HasPrefix(k.Key, "rw_") {
		t.Errorf("keys create prints %q", out)
	}
	sh.table([]string{"accounts", "show", made.Account}, "Acme GmbH", "active", "Europe/Vienna", "available  10.000000", "as its tier")
	sh.table([]string{"ledger", "top-up", "--account", made.Account, "--credits", "0.000001", "--reason", "invoice 1", "--once", "inv-1"}, "available  10.000001")
	sh.table([]string{"ledger", "top-up", "--account", made.Account, "--credits", "0.000001", "--reason", "invoice 1", "--once", "inv-1"}, "available  10.000001")
	sh.table([]string{"accounts", "list"}, "ACCOUNT", made.Account, "acct_operator", "acct_development")
	sh.table([]string{"users", "create", "ann", "--account", made.Account, "--name", "Ann"}, "ann")
	sh.table([]string{"users", "list", "--account", made.Account}, "USER", "ann")
	var erased struct{ Token string }
	sh.json(&erased, "users", "erase", "ann", "--account", made.Account, "--reason", "ticket 17")
	if !strings.HasPrefix(erased.Token, "erased_") {
		t.Errorf("users erase answers with the token %q", erased.Token)
	}
	sh.table([]string{"users", "erase", "ann", "--account", made.Account, "--reason", "ticket 17"}, "jobs", "0")
	if list := sh.table([]string{"users", "list", "--account", made.Account}, "USER"); strings.Contains(list, "ann") {
		t.Errorf("an erased user is listed: %s", list)
	}

	// The cap: the tier's, then the account's own, then the tier's again.
	d := dial(t, st)
	quote := func() error {
		_, err := d.video.QuoteVideo(as(t, k.Key), &videov1.QuoteVideoRequest{Video: &videov1.VideoRequest{Model: "seedance-2.0", Prompt: "p", Resolution: "1080p"}})
		return err
	}
	if err := quote(); code(err) != fault.InvalidRequest || !strings.Contains(err.Error(), "resolution: 1080p is above 720p") {
		t.Errorf("before the override: %v", err)
	}
	sh.table([]string{"accounts", "set", made.Account, "--cap", "1080p", "--reason", "trade fair"}, "1080p: trade fair")
	soon(t, "the override is honoured", func() bool { return quote() == nil })
	sh.table([]string{"accounts", "set", made.Account, "--cap", "tier", "--reason", "the fair is over"}, "as its tier")
	soon(t, "the tier decides again", func() bool { return code(quote()) == fault.InvalidRequest })

	// The queue: its classes are the operator's to allow.
	urgent := func() (*videov1.QuoteVideoResponse, error) {
		return d.video.QuoteVideo(as(t, k.Key), &videov1.QuoteVideoRequest{Video: &videov1.VideoRequest{Model: "kling-v2-6", Prompt: "p", Priority: videov1.Priority_PRIORITY_HIGH}})
	}
	if _, err := urgent(); code(err) != fault.InvalidRequest || !strings.Contains(err.Error(), "priority: high is not open to this account; it may ask for low or normal") {
		t.Errorf("before it is allowed: %v", err)
	}
	sh.table([]string{"accounts", "set", made.Account, "--priority", "high", "--weight", "3"}, "weight 3, up to high")
	soon(t, "the class is open", func() bool { _, err := urgent(); return err == nil })
	sh.fails(1, "queue_weight", "accounts", "set", made.Account, "--weight", "101")

	// How long its videos are kept.
	sh.table([]string{"accounts", "set", made.Account, "--retain-videos", "720h"}, "720h0m0s")
	sh.table([]string{"accounts", "set", made.Account, "--retain-videos", "forever"}, "for ever")
	sh.table([]string{"accounts", "set", made.Account, "--retain-videos", "default"}, "as REELWAY_RETAIN_VIDEOS says")
	sh.fails(2, "whole seconds", "accounts", "set", made.Account, "--retain-videos", "1500ms")

	// Suspension: nothing new, but reading and canceling go on.
	create := func() (*videov1.CreateVideoResponse, error) {
		return d.video.CreateVideo(as(t, k.Key), &videov1.CreateVideoRequest{Video: &videov1.VideoRequest{Model: "kling-v2-6", Prompt: "p"}})
	}
	v, err := create()
	if err != nil {
		t.Fatal(err)
	}
	sh.table([]string{"accounts", "suspend", made.Account, "--reason", "unpaid since May"}, "suspended", "unpaid since May")
	soon(t, "submits are refused", func() bool { _, err := create(); return code(err) == fault.PermissionDenied })
	if _, err := create(); !strings.Contains(err.Error(), "the account is suspended: unpaid since May") {
		t.Error(err)
	}
	if _, err := d.video.DeleteVideo(as(t, k.Key), &videov1.DeleteVideoRequest{Id: v.GetVideo().GetId()}); code(err) != fault.PermissionDenied {
		t.Errorf("delete: %v", err)
	}
	if _, err := d.video.GetVideo(as(t, k.Key), &videov1.GetVideoRequest{Id: v.GetVideo().GetId()}); err != nil {
		t.Errorf("read: %v", err)
	}
	if _, err := d.video.CancelVideo(as(t, k.Key), &videov1.CancelVideoRequest{Id: v.GetVideo().GetId()}); err != nil && code(err) != fault.Conflict {
		t.Errorf("cancel: %v", err) // begun or not, it is not the suspension that speaks
	}
	resp := rest(t, http.MethodPost, st.HTTPURL+"/v1/videos", k.Key, `{"model":"kling-v2-6","prompt":"p"}`)
	if resp.status != http.StatusForbidden || !strings.Contains(resp.body, `"the account is suspended: unpaid since May"`) {
		t.Errorf("REST: %+v", resp)
	}
	sh.table([]string{"accounts", "resume", made.Account, "--reason", "paid"}, "status     active")
	soon(t, "submits are taken", func() bool { _, err := create(); return err == nil })

	// Rotation: both keys work, then the old one is revoked.
	var list struct {
		Keys []struct {
			ID        string   `json:"id"`
			Scopes    []string `json:"scopes"`
			Successor string   `json:"successor_id"`
		} `json:"api_keys"`
	}
	sh.json(&list, "keys", "list", "--account", made.Account)
	old := list.Keys[0].ID
	var next struct {
		Key string `json:"api_key"`
	}
	sh.json(&next, "keys", "rotate", old, "--overlap", "2d")
	works := func(key string) bool {
		_, err := d.video.ListModels(as(t, key), &videov1.ListModelsRequest{})
		return err == nil
	}
	if !works(k.Key) || !works(next.Key) {
		t.Error("both keys have to work during the overlap")
	}
	sh.table([]string{"keys", "revoke", old}, "revoked ")
	soon(t, "the revoked key is out", func() bool { return !works(k.Key) })
	if !works(next.Key) {
		t.Error("the successor went with the old key")
	}
	sh.table([]string{"keys", "list", "--account", made.Account}, "web", "videos:write,videos:read", "revoked ", "until ")

	log := sh.table([]string{"audit", "--account", made.Account, "--limit", "100"}, "account.create", "api_key.create", "account.top_up", "end_user.create",
		`"cap_resolution":{"from":"","to":"1080p"},"reason":"trade fair"`, "account.suspend", "account.resume", "api_key.rotate", "api_key.revoke")
	if n := strings.Count(log, "account.top_up"); n != 2 {
		t.Errorf("%d top-ups in the log, want 2", n)
	}
	for _, secret := range []string{k.Key, next.Key, st.AdminKey} {
		if strings.Contains(log, secret) {
			t.Error("the log holds a secret")
		}
	}
	sh.table([]string{"audit", "--actor", "operator"}, "acct_operator", "acct_development")
	sh.table([]string{"audit", "--limit", "2"}, "more: --after audit_")

	sh.fails(1, "no such account", "accounts", "show", "acct_none")
	sh.fails(1, "account_id: must be an account's id", "accounts", "show", "a b")
	sh.fails(1, `time_zone: "Mars" is not known`, "accounts", "create", "x", "--time-zone", "Mars")
	sh.fails(1, "scopes[0]: must be videos:write", "keys", "create", "--account", made.Account, "--scopes", "everything")
	sh.fails(2, "must be credits", "accounts", "create", "x", "--credits", "1e3")
	sh.fails(2, "must be above 0", "accounts", "create", "x", "--credits=-1")
	sh.fails(2, "missing flags: --account=ID", "keys", "create", "--scopes", "videos:read")
	sh.fails(2, "--cap needs --reason", "accounts", "set", made.Account, "--cap", "1080p")
	sh.fails(2, "nothing to set", "accounts", "set", made.Account)
	sh.fails(2, "must be a length of time", "keys", "rotate", old, "--overlap=-1h")
}

//nolint:paralleltest // the telemetry is the process's
func TestTheAdminDoor(t *testing.T) {
	st, stop := start(t, dataDir(t))
	defer stop()
	d := dial(t, st)
	for name, key := range map[string]string{"a development key": st.APIKey, "a wrong key": "rw_wrong_key_of_nobody"} {
		want := fault.PermissionDenied
		if key != st.APIKey {
			want = fault.Unauthenticated
		}
		ctx := as(t, key)
		for method, err := range map[string]error{
			"CreateAccount":    call(d.accounts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "x"})),
			"GetAccount":       call(d.accounts.GetAccount(ctx, &ledgerv1.GetAccountRequest{AccountId: st.AccountID})),
			"ListAccounts":     call(d.accounts.ListAccounts(ctx, &ledgerv1.ListAccountsRequest{})),
			"UpdateAccount":    call(d.accounts.UpdateAccount(ctx, &ledgerv1.UpdateAccountRequest{AccountId: st.AccountID})),
			"SuspendAccount":   call(d.accounts.SuspendAccount(ctx, &ledgerv1.SuspendAccountRequest{AccountId: st.AccountID, Reason: "r"})),
			"ResumeAccount":    call(d.accounts.ResumeAccount(ctx, &ledgerv1.ResumeAccountRequest{AccountId: st.AccountID, Reason: "r"})),
			"CreateEndUser":    call(d.accounts.CreateEndUser(ctx, &ledgerv1.CreateEndUserRequest{AccountId: st.AccountID, UserId: "u"})),
			"ListEndUsers":     call(d.accounts.ListEndUsers(ctx, &ledgerv1.ListEndUsersRequest{AccountId: st.AccountID})),
			"CreateAPIKey":     call(d.accounts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: st.AccountID, Scopes: []string{"admin"}})),
			"ListAPIKeys":      call(d.accounts.ListAPIKeys(ctx, &ledgerv1.ListAPIKeysRequest{AccountId: st.AccountID})),
			"RotateAPIKey":     call(d.accounts.RotateAPIKey(ctx, &ledgerv1.RotateAPIKeyRequest{KeyId: "key_x"})),
			"RevokeAPIKey":     call(d.accounts.RevokeAPIKey(ctx, &ledgerv1.RevokeAPIKeyRequest{KeyId: "key_x"})),
			"ListAuditEntries": call(d.accounts.ListAuditEntries(ctx, &ledgerv1.ListAuditEntriesRequest{})),
			"TopUp":            call(d.credit.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: st.AccountID, AmountMicros: 1, IdempotencyKey: "k"})),
			"GetBalance":       call(d.credit.GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: st.AccountID})),
			"Grant":            call(d.credit.Grant(ctx, &ledgerv1.GrantRequest{AccountId: st.AccountID, AmountMicros: 1, IdempotencyKey: "k", Reason: "r"})),
			"ListGrants":       call(d.credit.ListGrants(ctx, &ledgerv1.ListGrantsRequest{AccountId: st.AccountID})),
			"Refund":           call(d.credit.Refund(ctx, &ledgerv1.RefundRequest{JobId: "video_x", IdempotencyKey: "k", Reason: "r"})),
			"Adjust":           call(d.credit.Adjust(ctx, &ledgerv1.AdjustRequest{AccountId: st.AccountID, AmountMicros: 1, IdempotencyKey: "k", Reason: "r"})),
			"WriteOff":         call(d.credit.WriteOff(ctx, &ledgerv1.WriteOffRequest{JobId: "video_x", AmountMicros: 1, IdempotencyKey: "k", Reason: "r"})),
			"ListReviews":      call(d.credit.ListReviews(ctx, &ledgerv1.ListReviewsRequest{})),
			"SettleSuspense":   call(d.credit.SettleSuspense(ctx, &ledgerv1.SettleSuspenseRequest{JobId: "video_x", Outcome: ledgerv1.Outcome_OUTCOME_BILLED, Reason: "r"})),
			"GetStatement":     call(d.credit.GetStatement(ctx, &ledgerv1.GetStatementRequest{AccountId: st.AccountID, Month: "2026-11"})),
			"Margin":           call(d.credit.Margin(ctx, &ledgerv1.MarginRequest{FromDay: "2026-11-01", ToDay: "2026-11-30"})),
			"Verify":           call(d.credit.Verify(ctx, &ledgerv1.VerifyRequest{})),
		} {
			if code(err) != want {
				t.Errorf("%s by %s: %v, want %s", method, name, err, want)
			}
		}
	}
	// What is not listed is not open, not even to an admin.
	ctx := as(t, st.AdminKey)
	for method, err := range map[string]error{
		"Authenticate": call(d.accounts.Authenticate(ctx, &ledgerv1.AuthenticateRequest{KeyHash: make([]byte, 32)})),
		"OpenJob":      call(d.jobs.OpenJob(ctx, &ledgerv1.OpenJobRequest{})),
	} {
		if err == nil || !strings.Contains(err.Error(), "Unimplemented") {
			t.Errorf("%s: %v", method, err)
		}
	}
	// The request's id and the key are in the audit log, whatever a caller claims.
	header := metadata.MD{}
	claims := metadata.AppendToOutgoingContext(ctx, "x-request-id", "req-of-mine", "reelway-actor", "somebody")
	a, err := d.accounts.CreateAccount(claims, &ledgerv1.CreateAccountRequest{Name: "x"}, grpc.Header(&header))
	if err != nil || header.Get("x-request-id")[0] != "req-of-mine" {
		t.Fatal(a, err, header)
	}
	keys, err := d.accounts.ListAPIKeys(ctx, &ledgerv1.ListAPIKeysRequest{AccountId: "acct_operator"})
	if err != nil || len(keys.GetApiKeys()) != 1 {
		t.Fatal(keys, err)
	}
	log, err := d.accounts.ListAuditEntries(ctx, &ledgerv1.ListAuditEntriesRequest{AccountId: a.GetAccountId()})
	if err != nil || len(log.GetEntries()) != 1 || log.GetEntries()[0].GetActor() != keys.GetApiKeys()[0].GetId() || log.GetEntries()[0].GetRequestId() != "req-of-mine" {
		t.Errorf("%v %v", log, err)
	}
	// Faults arrive whole: fields and codes, over both hops.
	_, err = d.accounts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "x", TimeZone: "Mars"})
	if f := fault.FromStatus(err); f.Code != fault.InvalidRequest || len(f.Fields) != 1 || f.Fields[0].Name != "time_zone" {
		t.Errorf("%+v", f)
	}
	// An admin key of a suspended account opens nothing.
	k, err := d.accounts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: a.GetAccountId(), Scopes: []string{"admin"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.accounts.SuspendAccount(ctx, &ledgerv1.SuspendAccountRequest{AccountId: a.GetAccountId(), Reason: "left us"}); err != nil {
		t.Fatal(err)
	}
	soon(t, "its admin key is refused", func() bool {
		return code(call(d.accounts.ListAccounts(as(t, k.GetApiKey()), &ledgerv1.ListAccountsRequest{}))) == fault.PermissionDenied
	})
}

// Streams that were opened by a key end with it, and say why.
//
//nolint:paralleltest // the telemetry is the process's
func TestOpenStreamsEndWithTheirKey(t *testing.T) {
	st, stop := start(t, dataDir(t))
	defer stop()
	d := dial(t, st)
	k, err := d.accounts.CreateAPIKey(as(t, st.AdminKey), &ledgerv1.CreateAPIKeyRequest{AccountId: st.AccountID, Scopes: []string{"videos:read"}})
	if err != nil {
		t.Fatal(err)
	}
	open := func(key string) (*websocket.Conn, error) {
		conn, resp, err := websocket.Dial(t.Context(), strings.Replace(st.HTTPURL, "http", "ws", 1)+"/v1/stream",
			&websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + key}}})
		if resp != nil && resp.Body != nil {
			_ = resp.Body.Close()
		}
		return conn, err
	}
	conn, err := open(k.GetApiKey())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	other, err := open(st.APIKey)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.CloseNow() }()
	for _, c := range []*websocket.Conn{conn, other} {
		if err := c.Write(t.Context(), websocket.MessageText, []byte(`{"type":"subscribe","all":true}`)); err != nil {
			t.Fatal(err)
		}
		if _, data, err := c.Read(t.Context()); err != nil || !strings.Contains(string(data), `"subscribed"`) {
			t.Fatalf("%s %v", data, err)
		}
	}
	if _, err := d.accounts.RevokeAPIKey(as(t, st.AdminKey), &ledgerv1.RevokeAPIKeyRequest{KeyId: k.GetKeyId()}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, data, err := conn.Read(ctx)
	if err != nil || !strings.Contains(string(data), `"unauthenticated"`) {
		t.Fatalf("%s %v", data, err)
	}
	if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Errorf("the socket ended with %v", err)
	}
	// The account's other key goes on.
	id := post(t, st, http.Header{})
	long, stopReading := context.WithTimeout(t.Context(), time.Minute)
	defer stopReading()
	if _, data, err := other.Read(long); err != nil || !strings.Contains(string(data), id) {
		t.Errorf("%s %v", data, err)
	}
}

func call[T any](_ T, err error) error { return err }

type answer struct {
	status int
	body   string
}

func rest(t *testing.T, method, url, key, body string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var raw bytes.Buffer
	if _, err := raw.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, raw.String()}
}

// A port where nobody listens, and a key that is missing.
func TestCommandsWithoutAServer(t *testing.T) {
	t.Parallel()
	nobody := shell{t, []string{"--server", "127.0.0.1:1", "--key", "rw_admin_canary_of_the_test"}}
	nobody.fails(1, "127.0.0.1:1 does not answer", "accounts", "list")
	code, stdout, stderr := nobody.run("accounts", "list", "--limit", "many")
	if code != 2 || strings.Contains(stdout+stderr, "canary") {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
	code, stdout, stderr = nobody.run("accounts", "create", "--help")
	if code != 0 || strings.Contains(stdout+stderr, "canary") || !strings.Contains(stdout, "REELWAY_ADMIN_API_KEY") {
		t.Errorf("%d %q %q", code, stdout, stderr)
	}
}

//nolint:paralleltest // the environment is the process's
func TestTheAdminKeyComesFromTheEnvironment(t *testing.T) {
	t.Setenv("REELWAY_ADMIN_API_KEY", "")
	t.Setenv("REELWAY_ADMIN_API_KEY_FILE", "")
	sh := shell{t, []string{"--server", "127.0.0.1:1"}}
	sh.fails(2, "no admin key: set REELWAY_ADMIN_API_KEY", "accounts", "list")
	t.Setenv("REELWAY_ADMIN_API_KEY_FILE", filepath.Join(t.TempDir(), "none"))
	sh.fails(2, "REELWAY_ADMIN_API_KEY_FILE", "accounts", "list")
	name := filepath.Join(t.TempDir(), "admin.key")
	if err := os.WriteFile(name, []byte("rw_admin_x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("REELWAY_ADMIN_API_KEY_FILE", name)
	sh.fails(1, "does not answer", "audit")
	// The client's own variables are no mistake in a stack's environment.
	if _, err := reelway.Load([]string{"REELWAY_SERVER=127.0.0.1:9090"}); err != nil {
		t.Error(err)
	}
}
