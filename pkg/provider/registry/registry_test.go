package registry_test

import (
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/webhooksig"
)

func load(t *testing.T, environ ...string) registry.Config {
	t.Helper()
	var c registry.Config
	if err := run.Load(environ, nil, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEachProviderIsOffWithoutAKey(t *testing.T) {
	t.Parallel()
	if c := load(t); c.HasKey() {
		t.Error("there is a key without one")
	} else if p, err := registry.Open(c); err != nil || len(p.Adapters) != 0 {
		t.Errorf("%v %v", p.Adapters, err)
	}
	for name, environ := range map[string][]string{
		"atlascloud": {"REELWAY_ATLASCLOUD_KEY=k"}, "kling": {"REELWAY_KLING_KEY=k"}, "fal": {"REELWAY_FAL_KEY=k"},
		"replicate": {"REELWAY_REPLICATE_KEY=k"}, "runway": {"REELWAY_RUNWAY_KEY=k"}, "luma": {"REELWAY_LUMA_KEY=k"},
		"minimax": {"REELWAY_MINIMAX_KEY=k"}, "byteplus": {"REELWAY_BYTEPLUS_KEY=k"}, "veo": {"REELWAY_VEO_KEY=k"},
		"openai": {"REELWAY_OPENAI_KEY=k", "REELWAY_OPENAI_URL=https://o.example/v1"},
	} {
		c := load(t, environ...)
		p, err := registry.Open(c)
		if got := slices.Collect(maps.Keys(p.Adapters)); err != nil || !c.HasKey() || len(got) != 1 || got[0] != name {
			t.Errorf("%s: %v %v", name, got, err)
		}
		if _, ok := p.Parsers[name]; ok == (name == "runway") {
			t.Errorf("%s: callbacks are taken: %v", name, ok)
		}
	}
}

// Every wrong secret is named, and none is shown.
func TestBadSettingsAreNamed(t *testing.T) {
	t.Parallel()
	_, err := registry.Open(load(t, "REELWAY_REPLICATE_KEY=k", "REELWAY_REPLICATE_WEBHOOK_SECRET=s3cret", "REELWAY_OPENAI_KEY=k"))
	if err == nil || !strings.Contains(err.Error(), "REELWAY_REPLICATE_WEBHOOK_SECRET") || !strings.Contains(err.Error(), "REELWAY_OPENAI_URL") || strings.Contains(err.Error(), "s3cret") {
		t.Error(err)
	}
}

// A key is sent to its own provider's results only.
func TestResultHeader(t *testing.T) {
	t.Parallel()
	p, err := registry.Open(load(t, "REELWAY_VEO_KEY=k", "REELWAY_RUNWAY_KEY=k"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		provider, url string
		want          int
	}{
		{"veo", "https://generativelanguage.googleapis.com/v1beta/files/f:download?alt=media", 1}, {"veo", "https://elsewhere.example/f", 0},
		{"runway", "https://generativelanguage.googleapis.com/f", 0}, {"nobody", "https://generativelanguage.googleapis.com/f", 0},
	} {
		if got := p.ResultHeader(c.provider, "", c.url); len(got) != c.want {
			t.Errorf("%s %s: %v", c.provider, c.url, got)
		}
	}
}

// A file may describe further providers, but not in the place of ours.
func TestDescribedProviders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	spec := func(name, rest string) string {
		return `
- name: ` + name + `
  base_url: https://acme.example
  key_file: ` + write("key", "k\n") + `
  submit: {path: /v1/videos, body: {prompt: "{prompt}"}, task_id: id}
  poll: {path: "/v1/videos/{task_id}"}
  task: {id: id, status: status, result: [url], states: {succeeded: [done], failed: [failed]}}
  webhook: {signature: standard, secret_file: ` + rest + `}
`
	}
	good := write("whsec", "whsec_c2ltdWxhdGVkLXdlYmhvb2stc2VjcmV0LWtleQ==\n")
	c := load(t, "REELWAY_PROVIDERS_FILE="+write("good.yaml", spec("acme", good)))
	p, err := registry.Open(c)
	if _, ok := p.Adapters["acme"].(provider.WebhookParser); err != nil || !ok || !c.HasKey() {
		t.Errorf("%v %v", p.Adapters, err)
	}
	_, err = registry.Open(load(t, "REELWAY_PROVIDERS_FILE="+write("bad.yaml", spec("kling", good)+spec("acme", write("bad", "s3cret")))))
	if err == nil || !strings.Contains(err.Error(), `"kling": the name`) || !strings.Contains(err.Error(), `"acme": a webhook secret`) || strings.Contains(err.Error(), "s3cret") {
		t.Error(err)
	}
	hmac := func(secret string) string {
		return strings.Replace(spec("acme", write("hmac", secret)), "signature: standard", "signature: hmac-sha256, header: X-Sig", 1)
	}
	p, err = registry.Open(load(t, "REELWAY_PROVIDERS_FILE="+write("hmac.yaml", hmac("a-secret-of-some-bytes\n"))))
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(`{"id":"t1","status":"done","url":"https://x.example/v.mp4"}`)
	signed := webhooksig.Scheme{Algorithm: webhooksig.HMACSHA256, Header: "X-Sig"}.Sign([]byte("a-secret-of-some-bytes"), body, time.Now())
	if r, err := p.Parsers["acme"].ParseWebhook(t.Context(), signed, body, time.Now()); err != nil || r.Hint || r.TaskID != "t1" {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := p.Parsers["acme"].ParseWebhook(t.Context(), http.Header{}, body, time.Now()); !errors.Is(err, provider.ErrBadSignature) {
		t.Errorf("unsigned: %v", err)
	}
	_, err = registry.Open(load(t, "REELWAY_PROVIDERS_FILE="+write("short.yaml", hmac("s3cret"))))
	if err == nil || !strings.Contains(err.Error(), `"acme": webhook.secret_file`) || strings.Contains(err.Error(), "s3cret") {
		t.Error(err)
	}
	if _, err := registry.Open(load(t, "REELWAY_PROVIDERS_FILE=/nowhere/at/all")); err == nil {
		t.Error("a missing file is no error")
	}
}
