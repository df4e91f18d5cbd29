package kling_test

import (
	"context"
	"errors"
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
	"reelway.dev/pkg/provider/providertest"
)

func adapter(url string, keys ...[]byte) *kling.Adapter {
	return kling.New(kling.Config{BaseURL: url, AccessKey: "a", SecretKey: "a-secret-of-at-least-32-bytes-....", WebhookKeys: keys, Client: http.DefaultClient, Now: time.Now})
}

func TestRecorded(t *testing.T) {
	t.Parallel()
	open := func(url string) provider.Adapter {
		return kling.New(kling.Config{BaseURL: url, APIKey: "k", Client: http.DefaultClient, Now: time.Now})
	}
	providertest.Recorded(t, open, provider.Task{AttemptID: "att_1", Model: "kling-v2-6", Prompt: "p", Duration: 5}, "k1")
}

// A model of the new generation is not called with keys that it does not take.
func TestNewGenerationNeedsThePlainKey(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a call was made") }))
	defer srv.Close()
	_, err := adapter(srv.URL).Submit(context.Background(), provider.Task{Model: "kling-3.0", Prompt: "p"})
	var refused *provider.RefusedError
	// Of this model, and not of the key: a refused key rests, for all of its models.
	if !errors.As(err, &refused) || refused.Fault.Code != fault.ProviderRejected || refused.Cause != provider.NoAccess || refused.Fault.Retryable {
		t.Error(err)
	}
}

// Only the task that has this attempt's id is found; an answer to another question
// adopts nothing.
func TestNobodyElsesTaskIsFound(t *testing.T) {
	t.Parallel()
	for model, body := range map[string]string{
		"kling-v2-6": `{"code":0,"data":{"task_id":"k1","task_status":"submitted","task_info":{"external_task_id":"att_2"}}}`,
		"kling-3.0":  `{"code":0,"data":[{"id":"k1","status":"submitted","external_id":"att_2"}]}`,
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) }))
		a := kling.New(kling.Config{BaseURL: srv.URL, APIKey: "k", Client: srv.Client(), Now: time.Now})
		for attempt, want := range map[string]bool{"att_1": false, "att_2": true} {
			r, found, err := a.Find(t.Context(), provider.Task{Model: model, AttemptID: attempt})
			if found != want || (err == nil) != want || want && r.TaskID != "k1" {
				t.Errorf("%s, %s: %+v %v %v", model, attempt, r, found, err)
			}
		}
		srv.Close()
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
	if id, err := a.Submit(context.Background(), provider.Task{Model: "kling-v2-6", Prompt: "p"}); err != nil || id != "k1" {
		t.Fatal(id, err)
	}
	// The connection is reused now: net/http must not resend by itself.
	var refused *provider.RefusedError
	if _, err := a.Submit(context.Background(), provider.Task{Model: "kling-v2-6", Prompt: "p"}); err == nil || errors.As(err, &refused) {
		t.Errorf("a lost answer is %v", err)
	}
	if posts.Load() != 2 {
		t.Errorf("%d posts", posts.Load())
	}
	srv.Close()
	if _, err := a.Submit(context.Background(), provider.Task{Model: "kling-v2-6", Prompt: "p"}); !errors.As(err, &refused) || !refused.Fault.Retryable {
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
	f.Add([]byte(`{"id":"k","status":"succeeded","external_id":"j","outputs":[{"type":"video","url":"https://x.example/v.mp4"}]}`))
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
