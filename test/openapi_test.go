package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
)

// contract is what tests need of docs/openapi.json.
type contract struct {
	Paths map[string]map[string]operation
}

type operation struct {
	method, path string

	OperationID, Summary, Description string
	Tags                              []string
	Security                          []map[string][]string
	Parameters                        []struct {
		In, Name, Description string
		Example               any
	}
	RequestBody *struct {
		Content map[string]struct {
			Examples map[string]struct{ Value json.RawMessage }
		}
	}
	Responses map[string]struct {
		Content map[string]struct{ Example any }
	}
}

func (o operation) scope() string {
	for _, s := range o.Security {
		if scopes, ok := s["key"]; ok {
			return scopes[0]
		}
	}
	return ""
}

// exampleVideo is the id of a video in the examples of the document.
const exampleVideo = "video_0199d5c2-8a51-7d0e-b3a4-5f0d3c1e9a77"

// examples are the bodies of an operation; one that is nil when it takes none.
func (o operation) examples() [][]byte {
	if o.RequestBody == nil {
		return [][]byte{nil}
	}
	var out [][]byte
	content := o.RequestBody.Content["application/json"].Examples
	for _, name := range slices.Sorted(maps.Keys(content)) {
		out = append(out, content[name].Value)
	}
	return out
}

// readContract reads docs/openapi.json, and what judges by it: its requests and
// answers, in which nothing may be that is not described.
func readContract(t *testing.T) ([]operation, []byte, validator.Validator) {
	t.Helper()
	raw, err := os.ReadFile("../docs/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var c contract
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	// Answers may gain fields for callers, but none that is not told of here.
	var whole struct {
		Components struct{ Schemas map[string]map[string]any }
	}
	closed := map[string]any{}
	if err := errors.Join(json.Unmarshal(raw, &whole), json.Unmarshal(raw, &closed)); err != nil {
		t.Fatal(err)
	}
	for _, schema := range whole.Components.Schemas {
		if schema["properties"] != nil {
			schema["additionalProperties"] = false
		}
	}
	components, _ := closed["components"].(map[string]any)
	components["schemas"] = whole.Components.Schemas
	text, err := json.Marshal(closed)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := libopenapi.NewDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	v, errs := validator.NewValidator(doc, config.WithFormatAssertions())
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	var ops []operation
	for _, path := range slices.Sorted(maps.Keys(c.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(c.Paths[path])) {
			op := c.Paths[path][method]
			op.method, op.path = strings.ToUpper(method), path
			ops = append(ops, op)
		}
	}
	return ops, raw, v
}

// The document is valid OpenAPI 3.1 and says of each operation what callers and
// generators of clients need.
func TestOpenAPIIsComplete(t *testing.T) {
	t.Parallel()
	ops, _, v := readContract(t)
	if ok, errs := v.ValidateDocument(); !ok {
		for _, e := range errs {
			t.Error(e)
		}
	}
	if len(ops) < 28 {
		t.Errorf("%d operations", len(ops))
	}
	ids := map[string]bool{}
	for _, op := range ops {
		at := op.method + " " + op.path
		if op.OperationID == "" || ids[op.OperationID] || op.Summary == "" || len(op.Tags) != 1 || op.Security == nil {
			t.Errorf("%s: an operationId of its own, summary, one tag and security are required", at)
		}
		ids[op.OperationID] = true
		example, refused := false, 0
		for _, p := range op.Parameters {
			example = example || p.Example != nil
			if p.Description == "" {
				t.Errorf("%s: parameter %s is not described", at, p.Name)
			}
		}
		if op.RequestBody != nil {
			example = len(op.RequestBody.Content["application/json"].Examples) > 0
		}
		for status, r := range op.Responses {
			if status[0] == '4' {
				refused++
			}
			for _, c := range r.Content {
				example = example || c.Example != nil
			}
		}
		if !example && op.RequestBody == nil && op.OperationID != "openStream" {
			t.Errorf("%s: there is no example", at)
		}
		if op.RequestBody != nil && !example {
			t.Errorf("%s: its body has no example", at)
		}
		if op.scope() != "" && refused < 3 {
			t.Errorf("%s: it tells of %d refusals", at, refused)
		}
	}
}

// handshake asks for a WebSocket.
var handshake = []string{"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}

// caller sends requests of operations and has every answer judged.
type caller struct {
	s    *stack
	v    validator.Validator
	seen map[string]map[int]int // answers by operation and status
}

// key is one that may do the operation.
func (c *caller) key(op operation) string {
	if op.scope() != "admin" {
		return key
	}
	data, err := os.ReadFile(c.s.dir + "/data/admin.key")
	if err != nil {
		c.s.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// send makes one request. values take the places of the examples of parameters;
// what is not in them is left out of the query. Its answer must be as described.
func (c *caller) send(op operation, key string, values map[string]string, body []byte, header ...string) answer {
	c.s.t.Helper()
	path, query := op.path, url.Values{}
	h := http.Header{"Authorization": {"Bearer " + key}}
	for _, p := range op.Parameters {
		v, ok := values[p.Name]
		switch {
		case p.In == "path":
			if !ok {
				v = fmt.Sprint(p.Example)
			}
			path = strings.Replace(path, "{"+p.Name+"}", v, 1)
		case p.In == "query" && ok:
			query.Set(p.Name, v)
		}
	}
	if body != nil {
		h.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	target := c.s.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	request := func() *http.Request {
		req, err := http.NewRequest(op.method, target, bytes.NewReader(body))
		if err != nil {
			c.s.t.Fatal(err)
		}
		req.Header = h.Clone()
		return req
	}
	client := http.Client{Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(request())
	if err != nil {
		c.s.t.Fatalf("%s: %v", op.OperationID, err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header}
	stream := strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream")
	if stream {
		a.raw = beginning(resp.Body)
	} else if a.raw, err = io.ReadAll(resp.Body); err != nil {
		c.s.t.Fatal(err)
	}
	_ = resp.Body.Close()
	if a.status >= 400 {
		var e struct{ Error json.RawMessage }
		_ = json.Unmarshal(a.raw, &e)
		_ = json.Unmarshal(e.Error, &a.fault)
	} else {
		_ = json.Unmarshal(a.raw, &a.video)
	}
	if c.seen[op.OperationID] == nil {
		c.seen[op.OperationID] = map[int]int{}
	}
	c.seen[op.OperationID][a.status]++
	if op.Responses[strconv.Itoa(a.status)].Content == nil && len(op.Responses) > 0 {
		if _, told := op.Responses[strconv.Itoa(a.status)]; !told {
			c.s.t.Errorf("%s: status %d is not told of: %s", op.OperationID, a.status, a.raw)
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(a.raw))
	if stream || a.status == http.StatusSwitchingProtocols {
		return a
	}
	if ok, errs := c.v.ValidateHttpResponse(request(), resp); !ok {
		for _, e := range errs {
			c.s.t.Errorf("%s answers %d: %s: %s %v\n%.600s", op.OperationID, a.status, e.Message, e.Reason, e.SchemaValidationErrors, a.raw)
		}
	}
	if a.header.Get("X-Request-Id") == "" {
		c.s.t.Errorf("%s answers %d without X-Request-Id", op.OperationID, a.status)
	}
	if a.status >= 400 && a.header.Get("X-Should-Retry") != strconv.FormatBool(a.fault.Retryable) {
		c.s.t.Errorf("%s answers %d with X-Should-Retry %q", op.OperationID, a.status, a.header.Get("X-Should-Retry"))
	}
	return a
}

// beginning is the beginning of a stream.
func beginning(r io.Reader) []byte {
	b := make([]byte, 4096)
	n, _ := io.ReadAtLeast(r, b, 16)
	return b[:n]
}

// reelway runs the command as an operator and reads what it prints.
func (s *stack) reelway(args ...string) (made struct {
	AccountID string `json:"account_id"`
	APIKey    string `json:"api_key"`
	APIKeys   []struct {
		ID string `json:"id"`
	} `json:"api_keys"`
}) {
	s.t.Helper()
	cmd := exec.Command(binary, append(args, "--json")...)
	cmd.Env = []string{"REELWAY_SERVER=" + s.grpc, "REELWAY_ADMIN_API_KEY_FILE=" + s.dir + "/data/admin.key", "HOME=" + s.dir}
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("%v: %v %s", args, err, out)
	}
	if err := json.Unmarshal(out, &made); err != nil {
		s.t.Fatalf("%v: %s", args, out)
	}
	return made
}

// newKey makes an API key of an account.
func (s *stack) newKey(account, scopes string) string {
	s.t.Helper()
	return s.reelway("keys", "create", "--account", account, "--scopes", scopes).APIKey
}

// Every example of docs/openapi.json is taken by a running Reelway, and every
// answer, refusals too, is as its schema says: no field more, no field less.
func TestOpenAPIExamples(t *testing.T) {
	t.Parallel()
	ops, raw, v := readContract(t)
	s := setup(t, everyProvider...)
	c := &caller{s: s, v: v, seen: map[string]map[int]int{}}
	of := map[string]operation{}
	for _, op := range ops {
		of[op.OperationID] = op
	}
	poor := s.reelway("accounts", "create", "Poor", "--credits", "0.01").AccountID
	poorKey, billing := s.newKey(poor, "videos:write,videos:read"), s.newKey(poor, "billing:read")

	video := func(prompt string) string {
		a := s.call(http.MethodPost, "/v1/videos", map[string]any{"model": "kling-v2-6", "prompt": prompt, "duration": 5, "user": "alice"})
		if a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.raw)
		}
		return a.video.ID
	}
	done := video("A paper boat")
	s.await(90*time.Second, done)
	// A model that works on what it made.
	film := s.call(http.MethodPost, "/v1/videos", map[string]any{"model": "sora-2", "prompt": "A paper boat", "seconds": "4"}).video.ID
	s.await(90*time.Second, film)
	thriftyKey := s.newKey(s.reelway("accounts", "create", "Thrifty", "--credits", "0.5").AccountID, "videos:write,videos:read")
	thrifty := s.call(http.MethodPost, "/v1/videos", map[string]any{"model": "sora-2", "prompt": "A paper boat", "seconds": "4"}, "Authorization", "Bearer "+thriftyKey).video.ID
	s.eventually(90*time.Second, "the thrifty account's video is done", func() bool {
		return s.call(http.MethodGet, "/v1/videos/"+thrifty, nil, "Authorization", "Bearer "+thriftyKey).video.Status == "completed"
	})
	png, _ := picture(t, 7, 0)
	file := s.post("/v1/uploads", nil, "file", png).video.ID
	promised := s.call(http.MethodPost, "/v1/uploads", map[string]any{"bytes": 100, "content_type": "image/png"}).video.ID
	ours := receive(t)
	told := s.endpoint(ours.url)
	test := s.call(http.MethodPost, "/v1/webhook_endpoints/"+told.ID+"/test", nil)
	delivery := test.video.ID
	s.eventually(time.Minute, "the test is delivered", func() bool {
		return strings.Contains(string(s.call(http.MethodGet, "/v1/webhook_deliveries/"+delivery, nil).raw), `"state":"delivered"`)
	})
	gone := s.endpoint(ours.url)
	lost := s.call(http.MethodPost, "/v1/webhook_endpoints/"+gone.ID+"/test", nil).video.ID
	s.eventually(time.Minute, "the test is delivered", func() bool {
		return strings.Contains(string(s.call(http.MethodGet, "/v1/webhook_deliveries/"+lost, nil).raw), `"state":"delivered"`)
	})
	s.call(http.MethodDelete, "/v1/webhook_endpoints/"+gone.ID, nil)
	token := s.token(map[string]any{"user": "alice"})
	open := video("[fault:hang_after_accept]") // not finished for some seconds

	// What stands in the place of an example's id.
	ids := map[string]func() string{
		"/v1/videos/{id}": func() string { return done }, "/v1/models/{id}": func() string { return "kling-v2-6" },
		"/v1/webhook_endpoints/{id}": func() string { return told.ID }, "/v1/webhook_deliveries/{id}": func() string { return delivery },
		"/v1/realtime/tokens/{id}": func() string { return token.ID }, "/v1/uploads/{id}": func() string { return file },
	}
	fresh := map[string]func() string{
		"deleteVideo":           func() string { id := video("A paper boat"); s.await(90*time.Second, id); return id },
		"cancelVideo":           func() string { return video("[fault:hang_after_accept]") },
		"deleteWebhookEndpoint": func() string { return s.endpoint(ours.url).ID },
		"remixVideo":            func() string { return film },
		"deleteUpload":          func() string { return s.post("/v1/uploads", nil, "file", png).video.ID },
		"replayDeadLetter":      func() string { return "7" }, // there is none: TestWebhookCommands replays one
	}
	idOf := func(op operation) string {
		if f := fresh[op.OperationID]; f != nil {
			return f()
		}
		for prefix, f := range ids {
			if strings.HasPrefix(op.path, prefix) {
				return f()
			}
		}
		return ""
	}
	for _, id := range []string{"downloadVideo", "deleteVideo"} {
		if a := c.send(of[id], key, map[string]string{"id": open}, nil); a.status != http.StatusConflict {
			t.Errorf("%s of an unfinished video answers %d %s", id, a.status, a.raw)
		}
	}
	for _, op := range ops {
		examples := map[string]string{}
		for _, p := range op.Parameters {
			if p.In == "query" && p.Example != nil {
				examples[p.Name] = fmt.Sprint(p.Example)
			}
		}
		for i, body := range op.examples() {
			examples["id"] = idOf(op)
			want := http.StatusOK
			switch op.OperationID {
			case "downloadVideo":
				want = http.StatusFound
			case "openStream":
				want = http.StatusSwitchingProtocols
			case "replayDeadLetter":
				want = http.StatusNotFound
			}
			body = bytes.ReplaceAll(body, []byte(exampleVideo), []byte(film))
			key := c.key(op)
			header := []string{"Idempotency-Key", fmt.Sprint(op.OperationID, i)}
			if want == http.StatusSwitchingProtocols {
				header = handshake
			}
			if a := c.send(op, key, examples, body, header...); a.status != want {
				t.Errorf("%s: its example %s answers %d %s", op.OperationID, body, a.status, a.raw)
			}
		}
		c.refusals(op, idOf, poorKey, billing)
	}

	// Refusals of single operations.
	for _, x := range []struct {
		id, key string
		values  map[string]string
		body    string
		header  []string
		want    int
	}{
		{"createVideo", poorKey, nil, `{"model":"kling-v2-6","prompt":"A paper boat"}`, nil, http.StatusPaymentRequired},
		{"createVideo", key, nil, `{"model":"kling-v2-6","prompt":"A paper plane"}`, []string{"Idempotency-Key", "createVideo0"}, http.StatusConflict},
		{"createVideo", key, nil, `{"model":"kling-v2-6","duration":7,"aspect_ratio":"2:1","seconds":"x"}`, nil, http.StatusBadRequest},
		{"cancelVideo", key, map[string]string{"id": done}, "", nil, http.StatusConflict},
		{"downloadVideo", key, map[string]string{"id": done, "variant": "thumbnail"}, "", nil, http.StatusNotFound}, // the stack makes none
		{"deleteWebhookEndpoint", key, map[string]string{"id": "default"}, "", nil, http.StatusConflict},
		{"replayWebhookDelivery", key, map[string]string{"id": lost}, "", nil, http.StatusConflict},
		{"remixVideo", thriftyKey, map[string]string{"id": thrifty}, `{"prompt":"p"}`, nil, http.StatusPaymentRequired},
		{"editVideo", thriftyKey, nil, `{"prompt":"p","video":{"id":"` + thrifty + `"}}`, nil, http.StatusPaymentRequired},
		{"extendVideo", thriftyKey, nil, `{"prompt":"p","video":{"id":"` + thrifty + `"}}`, nil, http.StatusPaymentRequired},
		{"remixVideo", key, map[string]string{"id": film}, `{"prompt":"p"}`, []string{"Idempotency-Key", "remixVideo0"}, http.StatusConflict},
		{"editVideo", key, nil, `{"prompt":"p","video":{"id":"` + film + `"}}`, []string{"Idempotency-Key", "editVideo0"}, http.StatusConflict},
		{"extendVideo", key, nil, `{"prompt":"p","video":{"id":"` + film + `"}}`, []string{"Idempotency-Key", "extendVideo0"}, http.StatusConflict},
		{"editVideo", key, nil, `{"prompt":"p","video":{"id":"video_absent"}}`, nil, http.StatusNotFound},
		{"extendVideo", key, nil, `{"prompt":"p","video":{"id":"video_absent"}}`, nil, http.StatusNotFound},
		{"completeUpload", key, map[string]string{"id": promised}, "", nil, http.StatusConflict},
		{"getStatement", key, map[string]string{"month": "2026-11", "format": "csv"}, "", nil, http.StatusOK},
		{"getWebhookDelivery", key, map[string]string{"id": delivery}, "", nil, http.StatusOK},
		{"getVideo", key, map[string]string{"id": done}, "", nil, http.StatusOK},
		{"getUsage", key, map[string]string{"group_by": "day,model,provider,api_key,user"}, "", nil, http.StatusOK},
		{"listVideos", key, map[string]string{"user": "nobody"}, "", nil, http.StatusOK},
		{"watchVideo", key, map[string]string{"id": done, "token": "wrong"}, "", []string{"Authorization", ""}, http.StatusUnauthorized},
	} {
		var body []byte
		if x.body != "" {
			body = []byte(x.body)
		}
		if a := c.send(of[x.id], x.key, x.values, body, x.header...); a.status != x.want {
			t.Errorf("%s %v %s answers %d %s, want %d", x.id, x.values, x.body, a.status, a.raw, x.want)
		}
	}
	// All models are described, not those alone that the examples name.
	if a := c.send(of["getModel"], key, map[string]string{"id": "kling-3"}, nil); a.status != http.StatusOK || !strings.Contains(string(a.raw), `"object":"alias"`) {
		t.Errorf("an alias: %d %s", a.status, a.raw)
	}
	for range 100 { // more endpoints than an account may have
		if a := c.send(of["createWebhookEndpoint"], key, nil, []byte(`{"url":"`+ours.url+`"}`)); a.status != http.StatusOK {
			break
		}
	}
	// The same file to everybody, and not twice to one.
	served := c.send(of["getOpenAPI"], "", nil, nil)
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil || !bytes.Equal(compact.Bytes(), served.raw) {
		t.Error("what is served is not docs/openapi.json: run make generate")
	}
	if a := c.send(of["getOpenAPI"], "", nil, nil, "If-None-Match", served.header.Get("ETag")); a.status != http.StatusNotModified || !strings.Contains(a.header.Get("Cache-Control"), "max-age=") {
		t.Errorf("a copy is answered with %d %v", a.status, a.header)
	}

	// What was told of and never seen. A service's own failures cannot be asked for,
	// and one operation's limit is every one's.
	for _, op := range ops {
		for status := range op.Responses {
			n, _ := strconv.Atoi(status)
			if c.seen[op.OperationID][n] == 0 && n < 500 && n != http.StatusTooManyRequests && (op.OperationID != "replayDeadLetter" || n != http.StatusOK) &&
				(op.OperationID != "watchVideo" || n != http.StatusNoContent) { // which takes the cursor of the end: notifier's tests
				t.Errorf("%s tells of %d, which nothing was answered with", op.OperationID, n)
			}
		}
	}
}

// refusals makes every request wrong in each way that is told of all such.
func (c *caller) refusals(op operation, idOf func(operation) string, poor, billing string) {
	t := c.s.t
	t.Helper()
	body := op.examples()[0]
	expect := func(what string, a answer, want int) {
		t.Helper()
		if _, told := op.Responses[strconv.Itoa(want)]; told && a.status != want {
			t.Errorf("%s %s answers %d %s, want %d", op.OperationID, what, a.status, a.raw, want)
		}
	}
	if op.scope() == "" {
		return
	}
	values := map[string]string{"month": "2026-11"}
	var header []string
	if op.OperationID == "openStream" {
		header = handshake
	}
	expect("without a key", c.send(op, "wrong", values, body, header...), http.StatusUnauthorized)
	other := billing
	if op.scope() == "billing:read" {
		other = poor
	}
	expect("without its scope", c.send(op, other, values, body, header...), http.StatusForbidden)
	if strings.Contains(op.path, "{id}") {
		nowhere := "nothing"
		if strings.Contains(op.path, "/realtime/") {
			nowhere = "key_1"
		}
		expect("of nothing", c.send(op, c.key(op), map[string]string{"id": nowhere}, body), http.StatusNotFound)
	}
	if op.RequestBody != nil {
		id := map[string]string{}
		if strings.Contains(op.path, "{id}") && op.OperationID != "deleteWebhookEndpoint" {
			id["id"] = idOf(op)
		}
		expect("with an unknown field", c.send(op, c.key(op), id, []byte(`{"nothing":1}`)), http.StatusBadRequest)
		if _, told := op.Responses["413"]; told {
			expect("with a body that is too large", c.send(op, c.key(op), id, []byte(`{"prompt":"`+strings.Repeat("a", 1<<20)+`"}`)), http.StatusRequestEntityTooLarge)
		}
		return
	}
	for _, p := range op.Parameters {
		bad := map[string]string{"limit": "0", "month": "x", "variant": "x", "user": strings.Repeat("a", 600)}[p.Name]
		if p.In == "query" && bad != "" && op.OperationID != "watchVideos" {
			values := map[string]string{p.Name: bad}
			if strings.Contains(op.path, "{id}") {
				values["id"] = idOf(op)
			}
			expect("with "+p.Name, c.send(op, c.key(op), values, nil), http.StatusBadRequest)
		}
	}
	if op.OperationID == "openStream" {
		expect("without an upgrade", c.send(op, c.key(op), nil, nil), http.StatusUpgradeRequired)
	}
}

// A key's limit is told by every answer that a key is needed for, in the headers
// that OpenAI uses, and counts down; one too many says when to come again.
func TestRateLimitIsTold(t *testing.T) {
	t.Parallel()
	ops, _, v := readContract(t)
	s := setup(t)
	c := &caller{s: s, v: v, seen: map[string]map[int]int{}}
	account := s.reelway("accounts", "create", "Acme").AccountID
	limited := s.newKey(account, "videos:read,videos:write")
	id := s.reelway("keys", "list", "--account", account).APIKeys[0].ID
	const per = 1000
	limit := func(n int) { s.reelway("keys", "limit", id, "--per-minute", strconv.Itoa(n)) }
	limit(per)
	const of, left, reset = "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"
	var models operation
	for _, op := range ops {
		if op.OperationID == "listModels" {
			models = op
		}
		if op.scope() == "" || op.Tags[0] == "live" && op.method == http.MethodGet { // streams are counted otherwise
			continue
		}
		// Most are refused: nothing of it is there, and billing is not in its scopes.
		a := c.send(op, limited, map[string]string{"id": "nothing"}, op.examples()[0])
		remaining, err := strconv.Atoi(a.header.Get(left))
		again, rerr := time.ParseDuration(a.header.Get(reset))
		if a.header.Get(of) != strconv.Itoa(per) || err != nil || remaining < 0 || remaining >= per || rerr != nil || again <= 0 || again > 2*time.Minute {
			t.Errorf("%s answers %d with %v", op.OperationID, a.status, a.header)
		}
	}
	s.eventually(time.Minute, "the rest counts down", func() bool { // the window may move on in between
		before, _ := strconv.Atoi(c.send(models, limited, nil, nil).header.Get(left))
		after, _ := strconv.Atoi(c.send(models, limited, nil, nil).header.Get(left))
		return after == before-1
	})
	limit(1)
	var a answer
	s.eventually(time.Minute, "a request is one too many", func() bool {
		a = c.send(models, limited, nil, nil)
		return a.status == http.StatusTooManyRequests
	})
	after, err := strconv.Atoi(a.header.Get("Retry-After"))
	if err != nil || after < 1 || a.header.Get("X-Should-Retry") != "true" || a.header.Get(left) != "0" || a.fault.Code != "rate_limited" || a.fault.RetryAfter <= 0 {
		t.Errorf("one too many: %v %s", a.header, a.raw)
	}
	if free := c.send(models, key, nil, nil); free.header.Get(of) != "" {
		t.Errorf("a key without a limit is told one: %v", free.header)
	}
}

// item is a folder or a request of a Postman collection.
type item struct {
	Name    string
	Item    []item
	Request *struct {
		Method string
		Header []struct{ Key string }
		Auth   struct{ Type string }
		URL    struct {
			Raw      string
			Host     []string
			Path     []string
			Variable []struct{ Key, Value string }
		}
		Body struct{ Mode, Raw string }
	}
}

// The Postman collection has every operation with its examples as they are in the
// document, and its two variables.
func TestPostmanCollectionIsComplete(t *testing.T) {
	t.Parallel()
	ops, _, _ := readContract(t)
	raw, err := os.ReadFile("../docs/postman.json")
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Info     struct{ Name, Schema string }
		Auth     struct{ Type string }
		Item     []item
		Variable []struct{ Key string }
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	if all.Info.Name == "" || !strings.HasSuffix(all.Info.Schema, "/v2.1.0/collection.json") || all.Auth.Type != "bearer" || len(all.Variable) != 2 ||
		all.Variable[0].Key != "base_url" || all.Variable[1].Key != "api_key" {
		t.Errorf("%+v %+v %+v", all.Info, all.Auth, all.Variable)
	}
	bodies := map[string][]string{}
	for _, folder := range all.Item {
		if folder.Name == "" || len(folder.Item) == 0 {
			t.Errorf("folder %q holds nothing", folder.Name)
		}
		for _, x := range folder.Item {
			r := x.Request
			if r == nil || x.Name == "" || !strings.HasPrefix(r.URL.Raw, "{{base_url}}/v1/") || len(r.URL.Host) != 1 || r.URL.Host[0] != "{{base_url}}" {
				t.Fatalf("%q is no request: %+v", x.Name, r)
			}
			path := "/" + strings.Join(r.URL.Path, "/")
			for _, v := range r.URL.Variable {
				path = strings.Replace(path, ":"+v.Key, "{"+v.Key+"}", 1)
				if v.Value == "" {
					t.Errorf("%q has no %s", x.Name, v.Key)
				}
			}
			at := r.Method + " " + path
			bodies[at] = append(bodies[at], r.Body.Raw)
		}
	}
	for _, op := range ops {
		at := op.method + " " + op.path
		got := bodies[at]
		delete(bodies, at)
		if len(got) != len(op.examples()) {
			t.Errorf("%s: %d requests for %d examples", at, len(got), len(op.examples()))
			continue
		}
		for i, want := range op.examples() {
			var a, b any
			if want != nil && (json.Unmarshal(want, &a) != nil || json.Unmarshal([]byte(got[i]), &b) != nil || !reflect.DeepEqual(a, b)) {
				t.Errorf("%s sends %s, want %s", at, got[i], want)
			}
		}
	}
	if len(bodies) > 0 {
		t.Errorf("requests that there are not: %v", bodies)
	}
}
