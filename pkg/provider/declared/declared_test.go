package declared_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/declared"
	"reelway.dev/pkg/provider/providertest"
)

func specs(t testing.TB) []declared.Spec {
	t.Helper()
	data, err := os.ReadFile("testdata/providers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := declared.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Every fault of a description is named at once.
func TestBadDescriptionsAreNamed(t *testing.T) {
	t.Parallel()
	_, err := declared.Parse([]byte(`
- name: "Bad Name"
  base_url: ftp://x
  submit: {path: v1, body: {p: "{prompt}", x: "{colour}"}}
  poll: {path: /tasks}
  task: {status: s, states: {done: [x]}}
  errors: {status: {500: {code: provider_unavailable, retry: true, meaning: m}, 422: {code: weird, meaning: m}}}
  webhook: {signature: md5}
`))
	for _, want := range []string{"name must", "base_url must", "submit.path must", "{task_id}", "submit.task_id", `no "done"`, "succeeded and failed", "status 500: only a 4xx", "422 needs", "{colour}", "webhook.signature"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if _, err := declared.Parse([]byte(`[{name: aa, colour: red}]`)); err == nil || !strings.Contains(err.Error(), "colour") {
		t.Error(err)
	}
	if _, err := declared.Parse([]byte("[]\n---\n[]")); err == nil || !strings.Contains(err.Error(), "another document") {
		t.Error(err)
	}
}

// Fields keep their types, and empty ones take their keys along.
func TestBody(t *testing.T) {
	t.Parallel()
	var got map[string]any
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewDecoder(r.Body).Decode(&got)
		_, _ = w.Write([]byte(`{"id":42}`))
	}))
	defer srv.Close()
	a := declared.New(specs(t)[1], provider.Account{BaseURL: srv.URL, APIKey: "k", Client: srv.Client(), Now: time.Now}, nil)
	seed := int64(7)
	id, err := a.Submit(context.Background(), provider.Task{Model: "m", Prompt: "say {model}", Duration: 5, Width: 1280, Height: 720, Seed: &seed})
	if err != nil || id != "42" {
		t.Fatal(id, err)
	}
	raw, _ := json.Marshal(got)
	if want := `{"duration":5,"model":"m","promptText":"say {model}","ratio":"1280:720","seed":7}`; string(raw) != want {
		t.Errorf("%s, want %s", raw, want)
	}
	if _, ok := a.(provider.WebhookParser); ok {
		t.Error("it takes webhooks that nobody described")
	}
}

// An answer that names a code and a task is no refusal, which would be submitted
// again: the task may exist.
func TestACodeBesideATaskRefusesNothing(t *testing.T) {
	t.Parallel()
	s := specs(t)[1]
	s.Submit.TaskID = "id"
	s.Errors.Code, s.Errors.Codes = "code", map[string]declared.Rule{"1002": {Code: fault.RateLimited, Retry: true, Meaning: "slow down"}}
	for body, refuses := range map[string]bool{`{"code":1002}`: true, `{"code":1002,"id":""}`: true, `{"code":1002,"id":"t1"}`: false} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		a := declared.New(s, provider.Account{BaseURL: srv.URL, APIKey: "k", Client: srv.Client(), Now: time.Now}, nil)
		_, err := a.Submit(t.Context(), provider.Task{Model: "m", Prompt: "p"})
		var refused *provider.RefusedError
		if errors.As(err, &refused) != refuses || err == nil {
			t.Errorf("%s: %v", body, err)
		}
		srv.Close()
	}
}

func FuzzParseWebhook(f *testing.F) {
	f.Add([]byte(`{"id":"r1","status":"succeeded","output":["https://x.example/v.mp4"]}`))
	f.Add([]byte(`{"id":1,"status":"failed","error":"flagged"}`))
	f.Add([]byte(`{"id":"r1","status":"new word"} {}`))
	p, _ := declared.New(specs(f)[0], provider.Account{Now: time.Now}, nil).(provider.WebhookParser)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := p.ParseWebhook(context.Background(), http.Header{}, body, time.Unix(1_800_000_000, 0))
		providertest.CheckReport(t, r, err)
	})
}
