package test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"reelway.dev/pkg/rpc"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	"reelway.dev/services/simulator"
)

// secrets are what no log, metric and span may hold, by what they are.
type secrets struct {
	mu  sync.Mutex
	all map[string]string
}

func (s *secrets) add(what, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(secret) < 6 {
		panic(what + " is too short to be looked for")
	}
	s.all[what] = secret
}

// in lists the secrets that a text holds, in any of the forms in which one could get
// there.
func (s *secrets) in(text []byte) (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, what := range slices.Sorted(maps.Keys(s.all)) {
		secret := s.all[what]
		quoted, _ := json.Marshal(secret)
		for form, b := range map[string]string{
			"plain": secret, "in JSON": strings.Trim(string(quoted), `"`), "in a query": url.QueryEscape(secret), "in a path": url.PathEscape(secret),
			"base64": strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(secret)), "="), "base64url": base64.RawURLEncoding.EncodeToString([]byte(secret)),
			"hex": hex.EncodeToString([]byte(secret)),
		} {
			if bytes.Contains(text, []byte(b)) {
				found = append(found, what+" ("+form+")")
				break
			}
		}
	}
	return found
}

// sink takes what is sent to it, such as spans.
type sink struct {
	url string
	mu  sync.Mutex
	got bytes.Buffer
}

func newSink(t *testing.T) *sink {
	t.Helper()
	s := &sink{}
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.got.Write(body)
	}))
	s.url = srv.URL
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return s
}

func (s *sink) bytes() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.got.Bytes())
}

var callbackToken = regexp.MustCompile(`token=([A-Za-z0-9_-]{43})`)

// Over a whole run of all services at the level debug, with jobs that succeed, fail
// and are refused, webhooks, e-mail that cannot be sent, browser tokens, signed links
// and an operator, no secret and no prompt is in any log, metric or span.
func TestNothingSecretIsTold(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	known := &secrets{all: map[string]string{}}
	sim, err := simulator.New(simulator.Config{TimeScale: 1, Render: 400 * time.Millisecond, AtlasKey: atlasKey},
		simulator.Deps{Client: &http.Client{Timeout: 5 * time.Second}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	// What providers are told is where callback tokens are found.
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		text, _ := url.QueryUnescape(string(body))
		for i, m := range callbackToken.FindAllStringSubmatch(text, -1) {
			known.add(fmt.Sprint("callback token ", i, " ", m[1][:4]), m[1])
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		sim.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(func() { web.CloseClientConnections(); sim.Close(); web.Close() })
	spans, hooks := newSink(t), receive(t)
	long := strings.Repeat("s", 40)
	sealing, realtime, mailing := "REELWAY_WEBHOOK_SECRET_KEY=sealing-"+long, "REELWAY_REALTIME_SECRET=realtime-"+long, "REELWAY_MAIL_SECRET=mailing-"+long
	smtp := "smtp://reelway:smtp-p4ssw0rd@127.0.0.1:" + portOf(t, freePort(t)) // nobody answers there
	a := startApart(ctx, t, web.URL+"/atlascloud", map[string][]string{
		"":       {"REELWAY_LOG_LEVEL=debug", "OTEL_EXPORTER_OTLP_ENDPOINT=" + spans.url, "OTEL_BSP_SCHEDULE_DELAY=100"},
		"ledger": {sealing}, "intake": {realtime, "REELWAY_ALLOW_HTTP_URLS=true", "REELWAY_ALLOW_PRIVATE_URLS=true"},
		"notifier": {realtime, sealing, mailing, "REELWAY_SMTP_URL=" + smtp, "REELWAY_SMTP_RETRY=100ms", "REELWAY_MAIL_FROM=Acme <video@acme.example>", "REELWAY_MAIL_URL=http://127.0.0.1:9", "REELWAY_ALLOW_HTTP_URLS=true", "REELWAY_ALLOW_PRIVATE_URLS=true"},
	})
	a.sim = web
	for what, secret := range map[string]string{
		"provider key": atlasKey, "API key": key, "admin key": adminKey, "database password": databasePassword, "SMTP password": "smtp-p4ssw0rd", "secret of signatures, callbacks, files, sealing, tokens or mail": long,
		"address of an end user": "ada.lovelace@customers.example", "query of an endpoint": "endpoint-query-s3cret", "header of an endpoint": "endpoint-header-s3cret",
		"prompt that succeeds": "an otter nobody may read of", "prompt that fails": "a heron nobody may read of", "prompt that is refused": "a badger nobody may read of",
	} {
		known.add(what, secret)
	}
	for user, password := range a.nats.users {
		known.add("NATS password of "+user, password)
	}

	// Webhooks, of which the receiver sends back what it was sent.
	hooks.echo = true
	e := a.endpoint(hooks.url+"/hooks?token=endpoint-query-s3cret", func(m map[string]any) {
		m["headers"] = map[string]string{"Authorization": "Bearer endpoint-header-s3cret"}
	})
	known.add("secret of an endpoint", e.Secret)
	known.add("secret of an endpoint, bare", strings.TrimPrefix(e.Secret, "whsec_"))
	rotated := rest[endpoint](a.stack, http.MethodPost, "/v1/webhook_endpoints/"+e.ID+"/rotate_secret", nil)
	known.add("new secret of an endpoint", strings.TrimPrefix(rotated.Secret, "whsec_"))

	// Jobs.
	ids := map[string]string{}
	for fault, prompt := range map[string]string{"": "an otter nobody may read of", "fail_halfway": "a heron nobody may read of", "policy": "a heron nobody may read of", "garbage": "an otter nobody may read of", "error500:1": "an otter nobody may read of"} {
		body := request("seedance-2.0", prompt)
		if fault != "" {
			body["prompt"] = prompt + " [fault:" + fault + "]"
		}
		body["user"], body["notify_email"] = "ada", "ada.lovelace@customers.example"
		ans := a.call(http.MethodPost, "/v1/videos", body)
		if ans.status != http.StatusOK {
			t.Fatalf("%d %s", ans.status, ans.raw)
		}
		ids[fault] = ans.video.ID
	}
	refused := request("seedance-2.0", "a badger nobody may read of")
	refused["duration"] = 4000
	if ans := a.call(http.MethodPost, "/v1/videos", refused); ans.status != http.StatusBadRequest {
		t.Errorf("%d %s", ans.status, ans.raw)
	}
	if ans := a.call(http.MethodPost, "/v1/videos", `{"prompt": "a badger nobody may read of`); ans.status != http.StatusBadRequest {
		t.Errorf("%d %s", ans.status, ans.raw)
	}
	if ans := a.call(http.MethodGet, "/v1/videos", nil, "Authorization", "Bearer rw_a_wrong_key_that_somebody_mistyped"); ans.status != http.StatusUnauthorized {
		t.Errorf("%d %s", ans.status, ans.raw)
	}
	known.add("wrong API key", "rw_a_wrong_key_that_somebody_mistyped")
	for fault, id := range ids {
		v := a.await(2*time.Minute, id)
		if want := fault == "fail_halfway" || fault == "policy"; (v.State == "failed") != want {
			t.Errorf("%q: %s", fault, v.State)
		}
		if v.URL == "" {
			continue
		}
		u, err := url.Parse(v.URL)
		if err != nil {
			t.Fatal(err)
		}
		known.add("signature of a link "+id, u.Query().Get("signature"))
		save(t, v.URL, filepath.Join(t.TempDir(), "x.mp4"))
	}
	a.eventually(time.Minute, "webhooks came", func() bool { return hooks.completed(ids[""]) > 0 })
	for _, m := range hooks.of("") {
		known.add("webhook's signature "+m.event.ID, m.header.Get("Webhook-Signature"))
	}
	a.eventually(time.Minute, "e-mail failed", func() bool { return strings.Contains(a.logs["notifier"].String(), "letter") })

	// A browser's token, by every way in which it may come, and one that is forged.
	var token struct{ Token string }
	if ans := a.call(http.MethodPost, "/v1/realtime/tokens", map[string]any{"user": "ada"}); json.Unmarshal(ans.raw, &token) != nil || token.Token == "" {
		t.Fatalf("%d %s", ans.status, ans.raw)
	}
	known.add("browser token", token.Token)
	known.add("browser token's signature", token.Token[strings.LastIndex(token.Token, ".")+1:])
	for _, query := range []string{"token=" + token.Token, "token=" + token.Token[:len(token.Token)-4] + "AAAA"} {
		resp, err := http.Get("http://" + a.notifier + "/v1/videos/" + ids[""] + "/events?" + query)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	// A callback whose token is forged.
	forged := "F0RGED" + strings.Repeat("x", 37)
	known.add("forged callback token", forged)
	resp, err := http.Post(a.callback+"/v1/callbacks/atlascloud/"+ids[""]+"?attempt=attempt_1&token="+forged, "application/json", strings.NewReader(`{"prompt":"a badger nobody may read of"}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode < 400 {
		t.Errorf("a forged callback: %d", resp.StatusCode)
	}

	// An operator, who makes a key and mistypes one.
	conn, err := rpc.DialLedger(rpc.LedgerConfig{Addr: a.ledger, TLSDir: a.certs["intake"]})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	made, err := ledgerv1.NewAccountServiceClient(conn).CreateAPIKey(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+adminKey), &ledgerv1.CreateAPIKeyRequest{AccountId: a.account, Scopes: []string{"videos:read"}})
	if err != nil {
		t.Fatal(err)
	}
	known.add("key that an operator made", made.GetApiKey())
	if ans := a.call(http.MethodGet, "/v1/videos", nil, "Authorization", "Bearer "+made.GetApiKey()); ans.status != http.StatusOK {
		t.Errorf("%d %s", ans.status, ans.raw)
	}

	a.eventually(time.Minute, "all services told of spans", func() bool {
		got := spans.bytes()
		return !slices.ContainsFunc(slices.Collect(maps.Keys(a.logs)), func(s string) bool { return !bytes.Contains(got, []byte(s)) })
	})
	told := map[string][]byte{"spans": spans.bytes()}
	for service, log := range a.logs {
		told["log of "+service] = []byte(log.String())
		resp, err := http.Get(a.metrics[service])
		if err != nil {
			t.Fatal(err)
		}
		told["metrics of "+service], err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || !bytes.Contains(told["metrics of "+service], []byte("go_goroutines")) {
			t.Errorf("metrics of %s: %v", service, err)
		}
	}
	// The search finds what is there, and there is something to search.
	if n := len(known.in([]byte("otters: an+otter+nobody+may+read+of, " + base64.StdEncoding.EncodeToString([]byte(adminKey))))); n != 2 {
		t.Errorf("%d secrets are found in a text with two", n)
	}
	if !bytes.Contains(told["spans"], []byte("callbacks")) || !bytes.Contains(told["log of notifier"], []byte(`"DEBUG"`)) {
		t.Error("nothing is told at all")
	}
	for what, text := range told {
		for _, secret := range known.in(text) {
			t.Errorf("the %s hold: %s", what, secret)
		}
	}
}

// Settings that are wrong are told of at the start without their secrets.
func TestWrongSettingsKeepSecrets(t *testing.T) {
	t.Parallel()
	const secret = "p4ssw0rd-of-nobody"
	known := &secrets{all: map[string]string{"password": secret}}
	good := map[string]string{"REELWAY_DATABASE_URL": "postgres://u:" + secret + "@127.0.0.1:1/x", "REELWAY_NATS_URL": "nats://u:" + secret + "@127.0.0.1:1"}
	for what, x := range map[string]struct {
		service string
		change  map[string]string
	}{
		"a database that is not there":   {"ledger", nil},
		"a database whose URL is none":   {"ledger", map[string]string{"REELWAY_DATABASE_URL": "postgres://u:" + secret + "@[::1:5432/x"}},
		"a port that is none":            {"ledger", map[string]string{"REELWAY_DATABASE_URL": "postgres://u:" + secret + "@127.0.0.1:port/x"}},
		"a database of words":            {"ledger", map[string]string{"REELWAY_DATABASE_URL": "host=127.0.0.1 port=1 user=u password=" + secret + " sslmode=often"}},
		"a NATS that is not there":       {"archiver", map[string]string{"REELWAY_DATABASE_URL": ""}},
		"a NATS whose URL is none":       {"archiver", map[string]string{"REELWAY_DATABASE_URL": "", "REELWAY_NATS_URL": "nats://u:" + secret + "@[::1:4222"}},
		"a NATS with a percent sign":     {"archiver", map[string]string{"REELWAY_DATABASE_URL": "", "REELWAY_NATS_URL": "nats://u:" + secret + "%zz@127.0.0.1:4222"}},
		"a mail server whose URL is odd": {"notifier", map[string]string{"REELWAY_DATABASE_URL": "", "REELWAY_SMTP_URL": "smtp://u:" + secret + "%zz@127.0.0.1", "REELWAY_MAIL_FROM": "a@b.example"}},
		"a bucket whose URL is odd":      {"archiver", map[string]string{"REELWAY_DATABASE_URL": "", "REELWAY_BUCKET_URL": "s3://u:" + secret + "%zz@bucket"}},
		"a secret that is too short":     {"notifier", map[string]string{"REELWAY_DATABASE_URL": "", "REELWAY_REALTIME_SECRET": secret}},
		"a sealing key that is short":    {"ledger", map[string]string{"REELWAY_WEBHOOK_SECRET_KEY": secret}},
		"an admin key with a line feed":  {"ledger", map[string]string{"REELWAY_ADMIN_API_KEY": secret + "\n"}},
		"a keys file that is none":       {"dispatcher", map[string]string{"REELWAY_DATABASE_URL": "", "REELWAY_CALLBACK_URL": "http://u:" + secret + "@[::1", "REELWAY_CALLBACK_SECRET": secret}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			env := maps.Clone(good)
			maps.Copy(env, x.change)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, buildService(t, x.service))
			cmd.Env = []string{"REELWAY_LOG_LEVEL=debug", "REELWAY_OPS_ADDR=" + freePort(t)}
			if _, ok := env["REELWAY_BUCKET_URL"]; !ok && (x.service == "archiver" || x.service == "notifier") {
				cmd.Env = append(cmd.Env, "REELWAY_BUCKET_URL=file://"+t.TempDir(), "REELWAY_FILES_URL=http://127.0.0.1:1", "REELWAY_FILES_SECRET="+strings.Repeat("s", 40))
			}
			for name, value := range env {
				if value != "" {
					cmd.Env = append(cmd.Env, name+"="+value)
				}
			}
			out, err := cmd.CombinedOutput()
			if err == nil || ctx.Err() != nil || len(out) == 0 {
				t.Errorf("it did not end with a reason: %v %s", err, out)
			}
			if found := known.in(out); len(found) > 0 {
				t.Errorf("%v is told: %s", found, out)
			}
		})
	}
}
