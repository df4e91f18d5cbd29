package simulator

import (
	"encoding/json"
	"net/http"
)

// byteplus is BytePlus ModelArk. Callbacks are unsigned. Source of the shapes:
// its SDK.
func byteplus() *dialect {
	show := func(t Task, host string) any { return t.arkTask(host) }
	return &dialect{
		name: "byteplus", calls: []string{"running", "succeeded", "failed", "canceled"}, key: bearer, own: simulatedKey,
		refuse: func(k refusal, detail string) (int, any) {
			type row struct {
				status int
				code   string
			}
			r := map[refusal]row{unauthorized: {401, "AuthenticationError"}, invalid: {400, "InvalidParameter"}, notFound: {404, "InvalidParameter"},
				policy: {400, "InputTextSensitiveContentDetected"}, noBalance: {403, "AccountOverdueError"}, rateLimited: {429, "RateLimitExceeded.EndpointRPMExceeded"},
				broken: {500, "InternalServiceError"}}[k]
			return r.status, map[string]any{"error": map[string]any{"code": r.code, "message": detail, "param": "", "type": http.StatusText(r.status)}}
		},
		routes: []route{
			{"POST", "/api/v3/contents/generations/tasks", submits(http.StatusOK, arkRead, func(t Task, _ string) any {
				return map[string]any{"id": t.ID}
			})},
			{"GET", "/api/v3/contents/generations/tasks/{id}", shows(show, nil)},
			{"DELETE", "/api/v3/contents/generations/tasks/{id}", arkDelete},
		},
		webhook: func(_ *Service, t Task, host string) ([]byte, http.Header) {
			return t.payload(t.arkTask(host)), http.Header{}
		},
	}
}

func arkRead(r *http.Request) (*Task, *refused) {
	var in struct {
		Model   string
		Content []struct {
			Type, Text, Role string
			ImageURL         struct{ URL string } `json:"image_url"`
			VideoURL         struct{ URL string } `json:"video_url"`
		}
		Resolution, Ratio string
		Duration          int
		CallbackURL       string `json:"callback_url"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Model == "" || len(in.Content) == 0 {
		return nil, &refused{invalid, "model and content are needed"}
	}
	t := &Task{model: in.Model, seconds: max(in.Duration, 1), callback: in.CallbackURL}
	for _, c := range in.Content {
		if c.Type == "text" {
			t.Prompt = c.Text
		}
		if c.Type == "video_url" {
			if c.Role != "reference_video" {
				return nil, &refused{invalid, "the role of a video is reference_video"}
			}
			t.of("", c.VideoURL.URL)
		}
	}
	t.width, t.height = pixels(in.Resolution, in.Ratio)
	return t, nil
}

// arkDelete cancels a task that waits, deletes one that has ended, and refuses
// one that runs.
func arkDelete(s *Service, d *dialect) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		t, ok := s.asked(d, w, r, nil)
		switch {
		case !ok:
			return
		case t.State == "running":
			answer(w, http.StatusConflict, map[string]any{"error": map[string]any{"code": "InvalidAction.RunningTaskDeletion", "message": "a running task cannot be deleted"}})
			return
		case t.State != "queued" || !s.set(t.ID, "canceled"):
			s.remove(t.ID)
		}
		answer(w, http.StatusOK, map[string]any{})
	}
}

func (t *Task) arkTask(host string) map[string]any {
	m := map[string]any{"id": t.ID, "model": t.model, "created_at": t.Created.Unix(), "updated_at": t.Created.Unix(), "status": t.word(map[string]string{
		"queued": "queued", "running": "running", "succeeded": "succeeded", "failed": "failed", "canceled": "cancelled"})}
	switch t.State {
	case "succeeded":
		m["content"] = map[string]any{}
		if u := t.result(host); u != "" {
			m["content"] = map[string]any{"video_url": u}
		}
		m["usage"] = map[string]any{"completion_tokens": t.width * t.height * 24 * t.seconds / 1024}
	case "failed":
		m["error"] = map[string]any{"code": "InternalServiceError", "message": "the render stopped half-way"}
	}
	return m
}
