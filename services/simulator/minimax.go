package simulator

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"
)

// minimax is MiniMax's v1 and v2. It challenges a callback URL before it takes
// a task, and signs nothing. Source of the shapes: platform.minimax.io.
func minimax() *dialect {
	return &dialect{
		name: "minimax", calls: []string{"running", "succeeded", "failed"},
		key: bearer, own: simulatedKey, admit: challenge,
		// v1's refusals come with status 200; routes of v2 have their own dialect.
		refuse: func(k refusal, detail string) (int, any) {
			code := map[refusal]int{unauthorized: 1004, invalid: 2013, notFound: 2013, policy: 1026, noBalance: 1008, rateLimited: 1002, broken: 1024}[k]
			return http.StatusOK, map[string]any{"task_id": "", "base_resp": map[string]any{"status_code": code, "status_msg": detail}}
		},
		routes: []route{
			{"POST", "/v1/video_generation", submits(http.StatusOK, minimaxRead, func(t Task, _ string) any {
				return map[string]any{"task_id": t.ID, "base_resp": map[string]any{"status_code": 0, "status_msg": "success"}}
			})},
			{"GET", "/v1/query/video_generation", shows(func(t Task, _ string) any { return t.minimaxV1(false) }, func(r *http.Request) string {
				return r.URL.Query().Get("task_id")
			})},
			{"GET", "/v1/files/retrieve", shows(func(t Task, host string) any {
				return map[string]any{"file": map[string]any{"file_id": t.ID, "download_url": t.result(host)}, "base_resp": map[string]any{"status_code": 0}}
			}, func(r *http.Request) string { return strings.TrimPrefix(r.URL.Query().Get("file_id"), "file-") })},
			{"POST", "/v2/video_generation", asV2(submits(http.StatusOK, minimaxReadV2, func(t Task, _ string) any {
				return map[string]any{"task_id": t.ID}
			}))},
			{"GET", "/v2/query/video_generation/{id}", asV2(shows(func(t Task, host string) any { return t.minimaxV2(host) }, nil))},
			{"DELETE", "/v2/video_generation/{id}", asV2(cancels(http.StatusOK, func(Task, string) any { return map[string]any{} },
				func(s *Service, _ *dialect, w http.ResponseWriter, _ *http.Request, t Task) {
					s.remove(t.ID)
					answer(w, http.StatusOK, map[string]any{})
				}))},
		},
		webhook: func(_ *Service, t Task, host string) ([]byte, http.Header) {
			if t.kind == "v2" {
				return t.payload(t.minimaxV2(host)), http.Header{}
			}
			return t.payload(t.minimaxV1(true)), http.Header{}
		},
	}
}

// asV2 answers refusals as v2 does.
func asV2(h func(*Service, *dialect) http.HandlerFunc) func(*Service, *dialect) http.HandlerFunc {
	return func(s *Service, d *dialect) http.HandlerFunc {
		second := *d
		second.refuse = func(k refusal, detail string) (int, any) {
			type row struct {
				status     int
				kind, code string
			}
			r := map[refusal]row{unauthorized: {401, "authorized_error", "1004"}, invalid: {400, "bad_request_error", "2013"},
				notFound: {404, "not_found_error", "2013"}, policy: {422, "unprocessable_entity_error", "1026"}, noBalance: {402, "insufficient_balance_error", "1008"},
				rateLimited: {429, "rate_limit_error", "1002"}, broken: {500, "server_error", "1000"}}[k]
			return r.status, map[string]any{"type": "error", "request_id": "sim",
				"error": map[string]any{"type": r.kind, "message": detail + " (" + r.code + ")", "http_code": r.status}}
		}
		return h(s, &second)
	}
}

// challenge posts a random string to the callback URL and wants it back.
func challenge(s *Service, t *Task) *refused {
	if t.callback == "" {
		return nil
	}
	shut := &refused{invalid, "invalid params, fail to check callback url"}
	if s.take(t.Provider, t.faults, "challenge_fails") {
		return shut
	}
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails (crypto/rand since Go 1.24)
	word := hex.EncodeToString(raw)
	ctx, cancel := context.WithTimeout(s.ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.callback, strings.NewReader(`{"challenge":"`+word+`"}`))
	if err != nil {
		return shut
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return shut
	}
	defer func() { _ = resp.Body.Close() }()
	var out struct{ Challenge string }
	if json.NewDecoder(io.LimitReader(resp.Body, 4096)).Decode(&out) != nil || out.Challenge != word || resp.StatusCode != http.StatusOK {
		return shut
	}
	return nil
}

func minimaxRead(r *http.Request) (*Task, *refused) {
	var in struct {
		Model, Prompt, Resolution string
		Duration                  int
		CallbackURL               string `json:"callback_url"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Model == "" || strings.HasPrefix(in.Model, "MiniMax-H3") {
		return nil, &refused{invalid, "invalid params, model"}
	}
	t := &Task{Prompt: in.Prompt, model: in.Model, seconds: max(in.Duration, 1), callback: in.CallbackURL}
	t.width, t.height = pixels(in.Resolution, "16:9")
	return t, nil
}

func minimaxReadV2(r *http.Request) (*Task, *refused) {
	var in struct {
		Model, Resolution, Ratio string
		Content                  []struct{ Type, Text string }
		Duration                 int
		CallbackURL              string `json:"callback_url"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || !strings.HasPrefix(in.Model, "MiniMax-H3") || len(in.Content) == 0 {
		return nil, &refused{invalid, "invalid params, model or content"}
	}
	t := &Task{model: in.Model, kind: "v2", seconds: max(in.Duration, 1), callback: in.CallbackURL}
	for _, c := range in.Content {
		t.Prompt += c.Text
	}
	t.width, t.height = pixels(in.Resolution, in.Ratio)
	return t, nil
}

// minimaxV1 is v1's task. Callbacks have words of their own.
func (t *Task) minimaxV1(callback bool) map[string]any {
	words := map[string]string{"queued": "Queueing", "running": "Processing", "succeeded": "Success", "failed": "Fail"}
	if callback {
		words = map[string]string{"queued": "queueing", "running": "processing", "succeeded": "success", "failed": "failed"}
	}
	m := map[string]any{"task_id": t.ID, "status": t.word(words), "file_id": "", "base_resp": map[string]any{"status_code": 0, "status_msg": "success"}}
	if t.State == "succeeded" && t.faults["empty_result"] == 0 {
		m["file_id"] = "file-" + t.ID
	}
	return m
}

func (t *Task) minimaxV2(host string) map[string]any {
	m := map[string]any{"id": t.ID, "model": t.model, "status": t.word(map[string]string{
		"queued": "queued", "running": "running", "succeeded": "succeeded", "failed": "failed", "canceled": "cancelled"})}
	switch t.State {
	case "succeeded":
		if u := t.result(host); u != "" {
			m["content"] = map[string]any{"url": u}
		}
	case "failed":
		m["error"] = map[string]any{"code": "1000", "message": "the render stopped half-way"}
	}
	return map[string]any{"task": m}
}
