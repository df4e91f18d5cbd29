package fal

import (
	"net/http"
	"testing"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/providertest"
)

func TestRecorded(t *testing.T) {
	t.Parallel()
	open := func(url string) provider.Adapter {
		return New(Config{Account: provider.Account{BaseURL: url, APIKey: "k", Client: http.DefaultClient, Now: time.Now}})
	}
	providertest.Recorded(t, open, provider.Task{Model: "fal-ai/veo3.1/fast", Prompt: "p", Duration: 8}, "f1")
}

// A task that completed may have failed: the result tells.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		code   string
		want   bool
	}{
		{400, "", false}, {400, "x", true}, {422, policyType, true}, {500, "runner_server_error", true}, {504, "request_timeout", true},
		{500, "", false}, {502, "x", false}, {429, "x", false}, {401, "", false}, {404, "", false},
	} {
		if got := verdict(c.status, c.code); got != c.want {
			t.Errorf("%d %q: %v", c.status, c.code, got)
		}
	}
}

func FuzzParseWebhook(f *testing.F) {
	for _, s := range []string{`{"request_id":"f1","gateway_request_id":"f1","status":"OK","payload":{"video":{"url":"https://x.example/v.mp4"}}}`,
		`{"request_id":"f1","status":"ERROR","error":"x","payload":{"detail":[{"loc":["body","prompt"],"msg":"m","type":"content_policy_violation"}]}}`,
		`{"request_id":"f1","status":"OK","payload":null,"payload_error":"too large"}`, `{"request_id":"f1","status":"NEW"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parse(body) // below the signature, which no fuzzer gets past
		providertest.CheckReport(t, r, err)
	})
}
