package atlascloud_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/atlascloud"
)

var secret = []byte("agreed")

func adapter(url string) *atlascloud.Adapter {
	return atlascloud.New(atlascloud.Config{BaseURL: url, APIKey: "k", Client: http.DefaultClient, Now: time.Now, HMACSecret: secret})
}

func TestErrorTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status int
		body   string
		want   fault.Code
		retry  bool
	}{
		{400, `{"code":400,"msg":"no model"}`, fault.InvalidRequest, false}, {401, `{"code":401,"msg":"unauthorized"}`, fault.ProviderUnavailable, false},
		{402, `{}`, fault.ProviderUnavailable, false}, {403, `{}`, fault.ProviderRejected, false}, {404, `{}`, fault.ProviderRejected, false},
		{413, `{}`, fault.PayloadTooLarge, false}, {429, `{"code":429,"msg":"slow"}`, fault.RateLimited, true}, {451, `{}`, fault.ProviderRejected, false},
		{500, `{"code":500,"msg":"x","data":null}`, fault.ProviderUnavailable, true}, {503, `{"code":503,"msg":"x","data":null}`, fault.ProviderUnavailable, true},
		{502, `<html>bad gateway</html>`, "", false}, {500, `{"code":500,"data":{"id":"a"}}`, "", false}, {200, `{"code":200,"data":{}}`, "", false}, {200, `garb`, "", false}, {302, `{}`, "", false},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		}))
		_, err := adapter(srv.URL).Submit(context.Background(), provider.Task{Prompt: "p", Duration: 5})
		srv.Close()
		var refused *provider.RefusedError
		if known := errors.As(err, &refused); err == nil || known != (c.want != "") || known && (refused.Fault.Code != c.want || refused.Fault.Retryable != c.retry) {
			t.Errorf("%d %s: %v", c.status, c.body, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]time.Duration{"7": 7 * time.Second, "": 0, "soon": 0, "-5": 0, "999999": time.Hour} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", value)
			w.WriteHeader(http.StatusTooManyRequests)
		}))
		_, err := adapter(srv.URL).Submit(context.Background(), provider.Task{Prompt: "p"})
		srv.Close()
		var refused *provider.RefusedError
		if !errors.As(err, &refused) || refused.Fault.RetryAfter != want {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func sign(body []byte) http.Header {
	m := hmac.New(sha256.New, secret)
	m.Write(body)
	h := http.Header{}
	h.Set("x-ai-signature", hex.EncodeToString(m.Sum(nil)))
	return h
}

// Kling's words behind Atlas Cloud, with the generic signature.
func TestGenericSignature(t *testing.T) {
	t.Parallel()
	body := []byte(`{"task_id":"t","task_status":"completed","task_result":{"videos":[{"id":"v","url":"https://x.example/v.mp4","duration":"5"}]}}`)
	a := adapter("https://a.example")
	r, err := a.ParseWebhook(context.Background(), sign(body), body, time.Now())
	if err != nil || r.State != provider.Succeeded || r.TaskID != "t" || r.ResultURL != "https://x.example/v.mp4" {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := a.ParseWebhook(context.Background(), sign([]byte("x")), body, time.Now()); !errors.Is(err, provider.ErrBadSignature) {
		t.Error(err)
	}
	if _, err := a.ParseWebhook(context.Background(), http.Header{}, body, time.Now()); !errors.Is(err, provider.ErrBadSignature) {
		t.Error(err)
	}
}

func FuzzParseWebhook(f *testing.F) {
	for _, s := range []string{`{"session_id":"a","status":"OK","payload":{"status":"completed","outputs":["https://x.example/v.mp4"]}}`,
		`{"session_id":"a","status":"ERROR","payload":{"status":"failed","error_code":1039},"error":"x"}`, `{"session_id":"a","status":"OK","payload":{"status":"new word"}}`,
		`{"task_id":"t","task_status":"completed","task_result":{"videos":[{"url":"u"}]}}`} {
		f.Add([]byte(s))
	}
	a := adapter("https://a.example")
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := a.ParseWebhook(context.Background(), sign(body), body, time.Unix(1_800_000_000, 0))
		if err == nil && (r.TaskID == "" || r.State == provider.Succeeded && r.ResultURL == "" || r.State == provider.Failed && r.Err == nil) {
			t.Fatalf("%+v", r)
		}
	})
}
