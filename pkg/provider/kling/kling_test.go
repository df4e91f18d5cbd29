package kling_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/kling"
)

func adapter(url string, keys ...[]byte) *kling.Adapter {
	return kling.New(kling.Config{BaseURL: url, AccessKey: "a", SecretKey: "a-secret-of-at-least-32-bytes-....", WebhookKeys: keys, Client: http.DefaultClient, Now: time.Now})
}

func TestErrorTable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status, code int
		want         fault.Code
		retry        bool
	}{
		{401, 1000, fault.ProviderUnavailable, false}, {401, 1004, fault.ProviderUnavailable, true}, {429, 1101, fault.ProviderUnavailable, false},
		{429, 1102, fault.ProviderUnavailable, false}, {403, 1103, fault.ProviderRejected, false}, {400, 1201, fault.InvalidRequest, false},
		{400, 1300, fault.ContentPolicy, false}, {400, 1301, fault.ContentPolicy, false}, {429, 1302, fault.RateLimited, true},
		{429, 1303, fault.RateLimited, true}, {429, 1304, fault.ProviderUnavailable, false},
		{500, 5000, "", false}, {503, 5001, "", false}, {400, 9999, "", false}, // unknown outcomes
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = fmt.Fprintf(w, `{"code":%d,"message":"m","request_id":"r"}`, c.code)
		}))
		_, err := adapter(srv.URL).Submit(context.Background(), provider.Task{AttemptID: "att_1", Prompt: "p", Duration: 5})
		srv.Close()
		var refused *provider.RefusedError
		if known := errors.As(err, &refused); known != (c.want != "") || known && (refused.Fault.Code != c.want || refused.Fault.Retryable != c.retry) {
			t.Errorf("%d %d: %v", c.status, c.code, err)
		}
	}
}

// What was surely not sent may be repeated; what may have arrived may not.
func TestLostAnswersAreUnknown(t *testing.T) {
	t.Parallel()
	var posts atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if r.Method == http.MethodPost {
			if posts.Add(1) > 1 {
				panic(http.ErrAbortHandler)
			}
		}
		_, _ = w.Write([]byte(`{"code":0,"data":{"task_id":"k1","task_status":"submitted"}}`))
	}))
	srv.Config.ErrorLog = nil
	a := adapter(srv.URL)
	if id, err := a.Submit(context.Background(), provider.Task{Prompt: "p"}); err != nil || id != "k1" {
		t.Fatal(id, err)
	}
	// The connection is reused now: net/http must not resend by itself.
	var refused *provider.RefusedError
	if _, err := a.Submit(context.Background(), provider.Task{Prompt: "p"}); err == nil || errors.As(err, &refused) {
		t.Errorf("a lost answer is %v", err)
	}
	if posts.Load() != 2 {
		t.Errorf("%d posts", posts.Load())
	}
	srv.Close()
	if _, err := a.Submit(context.Background(), provider.Task{Prompt: "p"}); !errors.As(err, &refused) || !refused.Fault.Retryable {
		t.Errorf("a closed port is %v", err)
	}
}

func TestUnsignedCallbacksAreHints(t *testing.T) {
	t.Parallel()
	body := []byte(`{"task_id":"k","task_status":"succeed","task_result":{"videos":[{"url":"https://x.example/v.mp4"}]}}`)
	r, err := adapter("https://k.example").ParseWebhook(context.Background(), http.Header{}, body, time.Now())
	if err != nil || !r.Hint || r.State != provider.Succeeded {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := adapter("https://k.example", []byte("a-key-of-24-bytes-and-so")).ParseWebhook(context.Background(), http.Header{}, body, time.Now()); !errors.Is(err, provider.ErrBadSignature) {
		t.Error(err)
	}
}

func FuzzParseWebhook(f *testing.F) {
	f.Add([]byte(`{"task_id":"k","task_status":"succeed","task_result":{"videos":[{"url":"https://x.example/v.mp4"}]}}`))
	f.Add([]byte(`{"task_id":"k","task_status":"failed","task_status_msg":"risk control"}`))
	f.Add([]byte(`{"task_id":"k","task_status":"new word"}`))
	a := adapter("https://k.example")
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := a.ParseWebhook(context.Background(), http.Header{}, body, time.Unix(1_800_000_000, 0))
		if err != nil {
			return
		}
		if r.TaskID == "" || r.State == provider.Succeeded && r.ResultURL == "" || r.State == provider.Failed && r.Err == nil {
			t.Fatalf("%+v", r)
		}
		if (r.State == provider.Succeeded || r.State == provider.Failed) && !strings.Contains(string(body), "succe") && !strings.Contains(string(body), "fail") && !strings.Contains(string(body), `\u`) {
			t.Fatalf("a final state from %q", body)
		}
	})
}
