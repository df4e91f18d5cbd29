package test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"reelway.dev/pkg/natstest"
)

// received is one request of a receiver.
type received struct {
	header http.Header
	body   []byte
	event  struct {
		ID, Type string
		Data     struct {
			ID, State, Status, URL, Prompt string
		}
	}
}

// receiver takes webhooks, as an account's own system does.
type receiver struct {
	t   *testing.T
	url string

	mu     sync.Mutex
	got    []received
	status int
	after  string // Retry-After
	echo   bool   // answers with what it was sent
	hangs  chan struct{}
}

func receive(t *testing.T) *receiver {
	t.Helper()
	x := &receiver{t: t, status: http.StatusOK}
	srv := httptest.NewServer(http.HandlerFunc(x.serve))
	x.url = srv.URL
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return x
}

func (x *receiver) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	m := received{header: r.Header.Clone(), body: body}
	if err := json.Unmarshal(body, &m.event); err != nil {
		x.t.Errorf("%s: %v", body, err)
	}
	x.mu.Lock()
	x.got = append(x.got, m)
	status, after, echo, hangs := x.status, x.after, x.echo, x.hangs
	x.mu.Unlock()
	if hangs != nil {
		select {
		case <-hangs:
		case <-r.Context().Done():
		}
	}
	if after != "" {
		w.Header().Set("Retry-After", after)
	}
	w.WriteHeader(status)
	if echo {
		for name, values := range r.Header {
			_, _ = fmt.Fprintf(w, "%s: %s\n", name, values)
		}
	}
}

func (x *receiver) answers(status int, after string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.status, x.after = status, after
}

// of is what came of a video, or all of it.
func (x *receiver) of(video string) (out []received) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, m := range x.got {
		if video == "" || m.event.Data.ID == video {
			out = append(out, m)
		}
	}
	return out
}

// completed is how often a video's completion came.
func (x *receiver) completed(video string) (n int) {
	for _, m := range x.of(video) {
		if m.event.Type == "video.completed" {
			n++
		}
	}
	return n
}

// inOrder reports whether a video was told of from its beginning to its success;
// what overtakes the provider's answer may skip a state between.
func inOrder(states []string) bool {
	life := []string{"submitting", "running", "storing", "succeeded"}
	last := -1
	for _, s := range states {
		i := slices.Index(life, s)
		if i <= last {
			return false
		}
		last = i
	}
	return last == len(life)-1 && states[0] == life[0]
}

func verify(t *testing.T, m received, secret string) error {
	t.Helper()
	v, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	return v.Verify(m.body, m.header)
}

type endpoint struct {
	ID, Secret     string
	URL            *string
	Default        bool
	Enabled        bool
	Headers        []string
	Events         []string
	DisabledReason string `json:"disabled_reason"`
	FailingSince   *int64 `json:"failing_since"`
	Pending        int64
}

type delivery struct {
	ID, Endpoint, Video, Type, State string
	Attempts                         int
	NextAttemptAt                    *int64 `json:"next_attempt_at"`
	Log                              []struct {
		Number  int
		Request struct {
			URL, Body string
			Headers   map[string]string
		}
		Response *struct {
			Status int
			Body   string
		}
		Error string
	}
}

// rest makes a call that has to succeed, into out.
func rest[T any](s *stack, method, path string, body any) (out T) {
	s.t.Helper()
	a := s.call(method, path, body)
	if a.status != http.StatusOK {
		s.t.Fatalf("%s %s: %d %s", method, path, a.status, a.raw)
	}
	if err := json.Unmarshal(a.raw, &out); err != nil {
		s.t.Fatalf("%s %s: %v: %s", method, path, err, a.raw)
	}
	return out
}

func (s *stack) endpoint(url string, more ...func(map[string]any)) endpoint {
	s.t.Helper()
	body := map[string]any{"url": url}
	for _, f := range more {
		f(body)
	}
	return rest[endpoint](s, http.MethodPost, "/v1/webhook_endpoints", body)
}

func (s *stack) deliveries(query string) []delivery {
	s.t.Helper()
	return rest[struct{ Data []delivery }](s, http.MethodGet, "/v1/webhook_deliveries?"+query, nil).Data
}

// submit has a video made, whose end is told to a callback URL where one is given.
func (s *stack) submit(callback string) string {
	s.t.Helper()
	body := request("kling-v2-6", "a prompt that nobody else should read")
	if callback != "" {
		body["callback_url"] = callback
	}
	a := s.call(http.MethodPost, "/v1/videos", body)
	if a.status != http.StatusOK {
		s.t.Fatalf("%d %s", a.status, a.raw)
	}
	return a.video.ID
}

const patience = time.Minute

// Events reach an endpoint in their order, signed so that the official library
// takes them, while another endpoint hangs; a video's own address is told of its
// end; secrets rotate with both signing; a 410 disables.
func TestWebhooks(t *testing.T) {
	t.Parallel()
	s := setup(t, "REELWAY_WEBHOOK_PER_ENDPOINT=2", "REELWAY_WEBHOOK_SCHEDULE=200ms,200ms,200ms,1h")
	all, own, hung := receive(t), receive(t), receive(t)
	hung.hangs = make(chan struct{})
	all.echo = true
	everything := func(b map[string]any) {
		b["events"] = []string{"video.progressed", "video.completed", "video.failed", "video.canceled"}
		b["headers"] = map[string]string{"authorization": "Bearer a-token-of-the-receiver"}
	}
	s.endpoint(hung.url, everything)
	e := s.endpoint(all.url+"/hooks?token=query-secret", everything)
	def := rest[endpoint](s, http.MethodPost, "/v1/webhook_endpoints/default/rotate_secret", map[string]any{"overlap_seconds": 0})
	if !def.Default || def.URL != nil || !strings.HasPrefix(def.Secret, "whsec_") || !slices.Equal(e.Headers, []string{"Authorization"}) {
		t.Errorf("%+v, %+v", def, e)
	}
	const videos = 6
	var ids []string
	for range videos {
		ids = append(ids, s.submit(own.url+"/done?of=me"))
	}
	told, events := map[string][]string{}, 0
	for _, id := range ids {
		s.eventually(patience, "the end of "+id+" is told", func() bool { return all.completed(id) == 1 && own.completed(id) == 1 })
		var states []string
		for _, m := range all.of(id) {
			states = append(states, m.event.Data.State)
			if err := verify(t, m, e.Secret); err != nil {
				t.Errorf("%s: %v", m.event.Type, err)
			}
			if m.header.Get("Authorization") != "Bearer a-token-of-the-receiver" || m.header.Get("webhook-id") != m.event.ID || m.header.Get("Content-Type") != "application/json" {
				t.Errorf("headers %v", m.header)
			}
		}
		if !inOrder(states) {
			t.Errorf("%s: told of %v", id, states)
		}
		told[id] = states
		events += len(states)
		mine := own.of(id)
		if len(mine) != 1 || verify(t, mine[0], def.Secret) != nil || mine[0].event.Data.URL == "" || mine[0].event.Data.Status != "completed" {
			t.Errorf("callback of %s: %d, %+v", id, len(mine), mine[0].event)
		}
	}
	if verify(t, all.of("")[0], def.Secret) == nil {
		t.Error("another endpoint's secret verifies")
	}
	if hung.completed("") != 0 || len(hung.of("")) == 0 {
		t.Error("the endpoint that hangs did not hang")
	}
	close(hung.hangs)

	// The log holds what happened and no secret, though the receiver echoes them.
	s.eventually(patience, "all is reported", func() bool { return len(s.deliveries("endpoint="+e.ID+"&state=delivered&limit=100")) == events })
	logged := s.deliveries("endpoint=" + e.ID + "&video=" + ids[0])
	if len(logged) != len(told[ids[0]]) || logged[0].Type != "video.completed" || logged[0].State != "delivered" {
		t.Fatalf("%+v", logged)
	}
	raw := s.call(http.MethodGet, "/v1/webhook_deliveries/"+logged[0].ID, nil).raw
	one := rest[delivery](s, http.MethodGet, "/v1/webhook_deliveries/"+logged[0].ID, nil)
	if len(one.Log) != 1 || one.Log[0].Response.Status != 200 || !strings.Contains(one.Log[0].Response.Body, "Webhook-Id: ["+one.ID) ||
		!strings.Contains(one.Log[0].Request.Body, ids[0]) || one.Log[0].Request.URL != all.url+"/hooks" {
		t.Errorf("%s", raw)
	}
	for _, secret := range []string{"a-token-of-the-receiver", strings.TrimPrefix(e.Secret, "whsec_"), "v1,", "query-secret"} {
		if strings.Contains(string(raw), secret) || strings.Contains(s.log.String(), secret) {
			t.Errorf("%q is in the log of deliveries or of the stack", secret)
		}
	}
	if strings.Contains(s.log.String(), "a prompt that nobody else should read") {
		t.Error("a prompt is in the log of the stack")
	}

	// A replay has the same id; a rotation with an overlap signs twice.
	rotated := rest[endpoint](s, http.MethodPost, "/v1/webhook_endpoints/"+e.ID+"/rotate_secret", nil)
	rest[delivery](s, http.MethodPost, "/v1/webhook_deliveries/"+one.ID+"/replay", nil)
	s.eventually(patience, "the replay came", func() bool { return all.completed(ids[0]) == 2 })
	last := all.of(ids[0])
	again := last[len(last)-1]
	if again.event.ID != one.ID || len(strings.Fields(again.header.Get("webhook-signature"))) != 2 || verify(t, again, e.Secret) != nil || verify(t, again, rotated.Secret) != nil || e.Secret == rotated.Secret {
		t.Errorf("%v", again.header)
	}
	// What is still in a notifier's hands is not begun anew.
	s.eventually(patience, "nothing waits", func() bool {
		return rest[endpoint](s, http.MethodGet, "/v1/webhook_endpoints/"+e.ID, nil).Pending == 0
	})
	before := len(all.of(""))
	replay := rest[struct{ Deliveries int }](s, http.MethodPost, "/v1/webhook_endpoints/"+e.ID+"/replay", map[string]any{"from": "2020-01-01T00:00:00Z"})
	if replay.Deliveries != events {
		t.Errorf("%d deliveries replayed", replay.Deliveries)
	}
	s.eventually(patience, "all came again", func() bool { return len(all.of("")) == before+events })
	got := all.of("")
	for _, id := range ids {
		var states []string
		for _, m := range got[before:] {
			if m.event.Data.ID == id {
				states = append(states, m.event.Data.State)
			}
		}
		if !slices.Equal(states, told[id]) {
			t.Errorf("replay of %s: %v", id, states)
		}
	}

	// A test is sent once, also when the endpoint refuses it.
	all.answers(http.StatusTeapot, "")
	test := rest[delivery](s, http.MethodPost, "/v1/webhook_endpoints/"+e.ID+"/test", nil)
	s.eventually(patience, "the test was made", func() bool {
		d := rest[delivery](s, http.MethodGet, "/v1/webhook_deliveries/"+test.ID, nil)
		return d.State == "failed" && d.Attempts == 1 && d.Log[0].Response.Status == http.StatusTeapot
	})

	// Retries wait as long as the endpoint asks for.
	all.answers(http.StatusServiceUnavailable, "7200")
	busy := s.submit("")
	s.eventually(patience, "the first attempt failed", func() bool {
		d := s.deliveries("endpoint=" + e.ID + "&video=" + busy)
		return len(d) > 0 && d[len(d)-1].Attempts == 1 && d[len(d)-1].NextAttemptAt != nil && *d[len(d)-1].NextAttemptAt > time.Now().Unix()+6000
	})
	s.await(patience, busy)

	// 410 disables; events wait, and come when the owner enables it again.
	all.answers(http.StatusGone, "")
	gone := s.submit("")
	s.eventually(patience, "the endpoint is disabled", func() bool {
		x := rest[endpoint](s, http.MethodGet, "/v1/webhook_endpoints/"+e.ID, nil)
		return !x.Enabled && x.DisabledReason == "gone" && x.FailingSince != nil
	})
	s.await(patience, gone)
	all.answers(http.StatusOK, "")
	if n := all.completed(gone); n != 0 {
		t.Errorf("%d events to a disabled endpoint", n)
	}
	if x := rest[endpoint](s, http.MethodPost, "/v1/webhook_endpoints/"+e.ID, map[string]any{"enabled": true}); !x.Enabled || x.DisabledReason != "" {
		t.Errorf("%+v", x)
	}
	for _, id := range []string{busy, gone} {
		s.eventually(patience, "what waited came", func() bool { return all.completed(id) == 1 })
	}
	s.eventually(patience, "nothing waits", func() bool {
		return rest[endpoint](s, http.MethodGet, "/v1/webhook_endpoints/"+e.ID, nil).Pending == 0
	})
	audited := 0
	s.sql("select count(*) from audit_entry where action like 'webhook_endpoint.%'", &audited)
	if audited != 5 { // two made, two rotated, one enabled
		t.Errorf("%d entries in the audit log", audited)
	}
	metrics, err := http.Get(s.ops + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = metrics.Body.Close() }()
	text, err := io.ReadAll(metrics.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"reelway_webhook_attempts_total{answer=\"2xx\"", "reelway_webhook_latency_seconds_count", "reelway_webhook_duration_seconds_count", "reelway_webhook_backlog{", "reelway_webhook_backlog_age_seconds{", "reelway_webhook_disabled_endpoints{"} {
		if !strings.Contains(string(text), name) {
			t.Errorf("there is no %s", name)
		}
	}
	if a := s.call(http.MethodDelete, "/v1/webhook_endpoints/"+e.ID, nil); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.raw)
	}
	if a := s.call(http.MethodGet, "/v1/webhook_endpoints/"+e.ID, nil); a.status != http.StatusNotFound {
		t.Errorf("%d %s", a.status, a.raw)
	}
	s.refusals()
}

// refusals are requests that are wrong, each named.
func (s *stack) refusals() {
	s.t.Helper()
	for _, c := range []struct {
		method, path string
		body         any
		status       int
		field        string
	}{
		{http.MethodPost, "/v1/webhook_endpoints", map[string]any{}, 400, "url"},
		{http.MethodPost, "/v1/webhook_endpoints", map[string]any{"url": "ftp://x.example"}, 400, "url"},
		{http.MethodPost, "/v1/webhook_endpoints", map[string]any{"url": "https://x.example", "events": []string{"video.exploded"}}, 400, "events[0]"},
		{http.MethodPost, "/v1/webhook_endpoints", map[string]any{"url": "https://x.example", "headers": map[string]string{"Webhook-Id": "mine"}}, 400, "headers.Webhook-Id"},
		{http.MethodPost, "/v1/webhook_endpoints", map[string]any{"url": "https://x.example", "headers": map[string]string{"X-A": "b\r\nc: d"}}, 400, "headers.X-A"},
		{http.MethodPost, "/v1/webhook_endpoints", map[string]any{"url": "https://x.example", "event": []string{}}, 400, "event"},
		{http.MethodPost, "/v1/webhook_endpoints", map[string]any{"url": "https://x.example", "events": "all"}, 400, "events"},
		{http.MethodPost, "/v1/webhook_endpoints/default", map[string]any{"url": "https://x.example"}, 400, "url"},
		{http.MethodDelete, "/v1/webhook_endpoints/default", nil, 409, ""},
		{http.MethodPost, "/v1/webhook_endpoints/default/test", nil, 400, "id"},
		{http.MethodPost, "/v1/webhook_endpoints/default/rotate_secret", map[string]any{"overlap_seconds": 604801}, 400, "overlap_seconds"},
		{http.MethodPost, "/v1/webhook_endpoints/default/replay", map[string]any{"from": "yesterday"}, 400, "from"},
		{http.MethodGet, "/v1/webhook_endpoints/whe_of_another", nil, 404, ""},
		{http.MethodGet, "/v1/webhook_deliveries/msg_of_another", nil, 404, ""},
		{http.MethodPost, "/v1/webhook_deliveries/msg_of_another/replay", nil, 404, ""},
		{http.MethodGet, "/v1/webhook_deliveries?state=lost", nil, 400, "state"},
		{http.MethodGet, "/v1/webhook_deliveries?endpoints=x", nil, 400, "endpoints"},
		{http.MethodPost, "/v1/videos", map[string]any{"model": "kling-v2-6", "prompt": "x", "callback_url": "file:///etc/passwd"}, 400, "callback_url"},
	} {
		a := s.call(c.method, c.path, c.body)
		field := ""
		if a.fault.Param != nil {
			field = *a.fault.Param
		}
		if a.status != c.status || field != c.field {
			s.t.Errorf("%s %s %v: %d %s", c.method, c.path, c.body, a.status, a.raw)
		}
	}
}

// The stack is killed while deliveries wait and the streams are wiped: no final
// event is lost, and each keeps its id.
func TestWebhooksSurvive(t *testing.T) {
	t.Parallel()
	nats := natstest.NewServer(t)
	s := setup(t, "REELWAY_NATS_URL="+nats.URL(), "REELWAY_MAX_RUNTIME=40s",
		"REELWAY_WEBHOOK_SCHEDULE="+strings.TrimSuffix(strings.Repeat("300ms,", 400), ","), "REELWAY_WEBHOOK_TIMEOUT=1s")
	x := receive(t)
	x.hangs = make(chan struct{})
	e := s.endpoint(x.url)
	ids := []string{}
	for range 4 {
		ids = append(ids, s.submit(x.url+"/own"))
	}
	for _, id := range ids[:2] {
		s.await(patience, id)
	}
	s.eventually(patience, "a request is under way", func() bool { return len(x.of("")) > 0 })
	s.stop(syscall.SIGKILL)
	nats.Wipe()
	close(x.hangs)
	x.mu.Lock()
	x.hangs = nil
	x.mu.Unlock()
	s.start()
	for _, id := range ids {
		s.await(2*patience, id)
		s.eventually(2*patience, "both were told of the end of "+id, func() bool {
			ends := map[string]bool{}
			for _, m := range x.of(id) {
				if slices.Contains([]string{"video.completed", "video.failed", "video.needs_review", "video.expired"}, m.event.Type) {
					ends[m.event.ID] = true
				}
			}
			if len(ends) > 2 {
				t.Fatalf("%s: %d ids of two deliveries", id, len(ends))
			}
			delivered := s.deliveries("video=" + id + "&state=delivered")
			return len(ends) == 2 && len(delivered) == 2
		})
	}
	if d := s.deliveries("endpoint=" + e.ID); len(d) != len(ids) {
		t.Errorf("%d deliveries to the endpoint", len(d))
	}
}

// The receivers of docs/webhooks.md, in Go and JavaScript, take what is sent, and
// nothing that another secret signs.
func TestWebhookReceiversOfTheManual(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("../docs/webhooks.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("sdk/node_modules/standardwebhooks"); err != nil {
		t.Fatal("the client libraries are not installed: run `make setup-test`")
	}
	for _, file := range []string{"receiver/main.go", "sdk/webhook.mjs"} {
		source, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(manual), string(source)) {
			t.Errorf("docs/webhooks.md does not hold %s as it is (%v)", file, err)
		}
	}
	s := setup(t, "REELWAY_WEBHOOK_SCHEDULE=100ms,1h")
	program := filepath.Join(t.TempDir(), "receiver")
	if out, err := exec.Command("go", "build", "-o", program, "./receiver").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for name, command := range map[string][]string{"go": {program}, "js": {"node", "sdk/webhook.mjs"}} {
		addr := freePort(t)
		e := s.endpoint("http://" + addr + "/webhooks")
		lines := listen(t, addr, e.Secret, command)
		s.eventually(patience, name+" listens", func() bool {
			resp, err := http.Post("http://"+addr+"/webhooks", "application/json", strings.NewReader("{}"))
			if err != nil {
				return false
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s: unsigned is answered %d", name, resp.StatusCode)
			}
			return true
		})
		id := s.submit("")
		select {
		case line := <-lines:
			if line != "video.completed "+id {
				t.Errorf("%s printed %q", name, line)
			}
		case <-time.After(patience):
			t.Fatalf("%s printed nothing", name)
		}
		s.eventually(patience, name+" answered", func() bool {
			d := s.deliveries("endpoint=" + e.ID + "&video=" + id)
			return len(d) == 1 && d[0].State == "delivered" && d[0].Attempts == 1
		})
		// It keeps the old secret: what only the new one signs is refused.
		rest[endpoint](s, http.MethodPost, "/v1/webhook_endpoints/"+e.ID+"/rotate_secret", map[string]any{"overlap_seconds": 0})
		d := rest[delivery](s, http.MethodPost, "/v1/webhook_endpoints/"+e.ID+"/test", nil)
		s.eventually(patience, name+" refused", func() bool {
			d := rest[delivery](s, http.MethodGet, "/v1/webhook_deliveries/"+d.ID, nil)
			return d.State == "failed" && d.Log[0].Response.Status == http.StatusUnauthorized
		})
		if a := s.call(http.MethodDelete, "/v1/webhook_endpoints/"+e.ID, nil); a.status != http.StatusOK {
			t.Errorf("%d %s", a.status, a.raw)
		}
	}
}

// listen runs a receiver until the test ends, and passes on what it prints.
func listen(t *testing.T, addr, secret string, command []string) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "LISTEN="+addr, "WEBHOOK_SECRET="+secret)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	lines := make(chan string, 16)
	var wg sync.WaitGroup
	wg.Go(func() {
		for in := bufio.NewScanner(out); in.Scan(); {
			lines <- in.Text()
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		var exit *exec.ExitError
		if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
			t.Error(err)
		}
	})
	return lines
}
