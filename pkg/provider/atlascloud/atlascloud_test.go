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

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/atlascloud"
	"reelway.dev/pkg/provider/providertest"
)

var secret = []byte("agreed")

func adapter(url string) *atlascloud.Adapter {
	return atlascloud.New(atlascloud.Config{BaseURL: url, APIKey: "k", Client: http.DefaultClient, Now: time.Now, HMACSecret: secret})
}

// An operator who does not trust the 5xx envelope has it held for unknown.
func TestServerErrorUnknown(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte(`{"code":500,"msg":"x","data":null}`))
	}))
	defer srv.Close()
	for _, unknown := range []bool{false, true} {
		a := atlascloud.New(atlascloud.Config{BaseURL: srv.URL, APIKey: "k", Client: srv.Client(), Now: time.Now, ServerErrorUnknown: unknown})
		var refused *provider.RefusedError
		if _, err := a.Submit(t.Context(), provider.Task{Model: "m"}); err == nil || errors.As(err, &refused) == unknown {
			t.Errorf("unknown %v: %v", unknown, err)
		}
	}
}

func TestRecorded(t *testing.T) {
	t.Parallel()
	providertest.Recorded(t, func(url string) provider.Adapter { return adapter(url) }, provider.Task{Prompt: "p", Duration: 5}, "a1")
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
