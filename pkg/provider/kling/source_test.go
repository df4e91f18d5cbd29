package kling_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"reelway.dev/pkg/provider"
)

// An extension names the source's video and nothing that the old API does not
// take; one of unknown outcome is never said to be absent.
func TestExtension(t *testing.T) {
	t.Parallel()
	var body, asked string
	answers := map[string]string{
		"/v1/videos/text2video/k1":  `{"code":1203,"message":"no such task"}`,
		"/v1/videos/image2video/k1": `{"code":0,"data":{"task_id":"k1","task_status":"succeed","task_result":{"videos":[{"id":"v9","url":"https://x.example/v.mp4"}]}}}`,
		"/v1/videos/video-extend":   `{"code":0,"data":{"task_id":"k2","task_status":"submitted"}}`,
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked += r.Method + " " + r.URL.Path + "\n"
		if r.Method == http.MethodPost {
			raw, _ := io.ReadAll(r.Body)
			body = string(raw)
		}
		answer, ok := answers[r.URL.Path]
		if !ok {
			answer = `{"code":1203,"message":"no such task"}`
		}
		_, _ = w.Write([]byte(answer))
	}))
	defer srv.Close()
	task := provider.Task{AttemptID: "att_1", Model: "kling-v1-6", Prompt: "it snows", NegativePrompt: "rain", SourceTask: "k1", Extend: true, Duration: 5, CallbackURL: "https://r.example/c"}
	id, err := adapter(srv.URL).Submit(t.Context(), task)
	if err != nil || id != "k2" || body != `{"callback_url":"https://r.example/c","negative_prompt":"rain","prompt":"it snows","video_id":"v9"}` {
		t.Errorf("%s %v: %s", id, err, body)
	}
	if _, found, err := adapter(srv.URL).Find(t.Context(), task); found || !errors.Is(err, provider.ErrNotSearchable) {
		t.Errorf("found %v, %v", found, err)
	}
	if asked != "GET /v1/videos/text2video/k1\nGET /v1/videos/image2video/k1\nPOST /v1/videos/video-extend\n" {
		t.Error(asked)
	}
	// A source that Kling forgot is a definite refusal, one that cannot be read is not.
	task.SourceTask = "gone"
	var refused *provider.RefusedError
	if _, err := adapter(srv.URL).Submit(context.Background(), task); !errors.As(err, &refused) || refused.Fault.Retryable || !strings.Contains(refused.Fault.Message, "not known") {
		t.Error(err)
	}
	answers["/v1/videos/text2video/gone"] = `{"code":5000,"message":"away"}`
	if _, err := adapter(srv.URL).Submit(context.Background(), task); !errors.As(err, &refused) || !refused.Fault.Retryable {
		t.Error(err)
	}
	if strings.Count(asked, "POST") != 1 {
		t.Error(asked)
	}
}
