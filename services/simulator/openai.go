package simulator

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// openAI is a server of the OpenAI Videos dialect, which takes a callback URL
// per request in callback_url, as some gateways do. Source of the shapes:
// openai-go and openai.
func openAI() *dialect {
	show := func(t Task, _ string) any { return t.openAIVideo() }
	return &dialect{
		name: "openai", calls: []string{"succeeded", "failed"}, policyLate: true, key: bearer, own: simulatedKey,
		refuse: func(k refusal, detail string) (int, any) {
			type row struct {
				status     int
				kind, code string
			}
			r := map[refusal]row{unauthorized: {401, "invalid_request_error", "invalid_api_key"}, noBalance: {429, "insufficient_quota", "insufficient_quota"}, invalid: {400, "invalid_request_error", "invalid_value"},
				notFound: {404, "invalid_request_error", "not_found"}, rateLimited: {429, "rate_limit_error", "rate_limit_exceeded"},
				broken: {500, "server_error", "server_error"}, tooLate: {400, "invalid_request_error", "not_finished"}}[k]
			return r.status, map[string]any{"error": map[string]any{"message": detail, "type": r.kind, "param": nil, "code": r.code}}
		},
		routes: []route{
			{"POST", "/v1/videos", submits(http.StatusOK, openAIRead, show)},
			{"POST", "/v1/videos/{id}/remix", submits(http.StatusOK, openAIReadSource, show)},
			{"POST", "/v1/videos/edits", submits(http.StatusOK, openAIReadSource, show)},
			{"POST", "/v1/videos/extensions", submits(http.StatusOK, openAIReadSource, show)},
			{"GET", "/v1/videos/{id}", shows(show, nil)},
			{"GET", "/v1/videos/{id}/content", func(s *Service, d *dialect) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					t, ok := s.asked(d, w, r, nil)
					if !ok {
						return
					}
					if t.State != "succeeded" || t.faults["expired_result"]+t.faults["empty_result"] > 0 {
						d.deny(w, notFound, "the video has no content")
						return
					}
					s.serveMedia(w, t.ID)
				}
			}},
			{"DELETE", "/v1/videos/{id}", func(s *Service, d *dialect) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					t, ok := s.asked(d, w, r, nil)
					switch {
					case !ok:
					case t.State != "succeeded" && t.State != "failed":
						d.deny(w, tooLate, "only a finished video can be deleted")
					default:
						s.remove(t.ID)
						answer(w, http.StatusOK, map[string]any{"id": t.ID, "object": "video.deleted", "deleted": true})
					}
				}
			}},
		},
		webhook: func(s *Service, t Task, _ string) ([]byte, http.Header) {
			kind := map[string]string{"succeeded": "video.completed", "failed": "video.failed"}[t.State]
			body := t.payload(map[string]any{"id": "evt_" + t.ID, "object": "event", "created_at": t.Created.Unix(), "type": kind, "data": map[string]any{"id": t.ID}})
			return body, s.standard(t, body)
		},
	}
}

func openAIRead(r *http.Request) (*Task, *refused) {
	var in struct {
		Model, Prompt, Seconds, Size string
		CallbackURL                  string `json:"callback_url"`
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
		if err := r.ParseMultipartForm(1 << 20); err != nil { //nolint:gosec // submits bounds every body
			return nil, &refused{invalid, "bad form"}
		}
		in.Model, in.Prompt, in.Seconds, in.Size, in.CallbackURL = r.PostFormValue("model"), r.PostFormValue("prompt"), r.PostFormValue("seconds"), r.PostFormValue("size"), r.PostFormValue("callback_url")
	} else if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, &refused{invalid, "bad JSON"}
	}
	in.Model, in.Seconds, in.Size = cmp.Or(in.Model, "sora-2"), cmp.Or(in.Seconds, "4"), cmp.Or(in.Size, "720x1280")
	t := &Task{Prompt: in.Prompt, model: in.Model, callback: in.CallbackURL}
	var err error
	if t.seconds, err = strconv.Atoi(in.Seconds); err != nil || t.seconds < 1 || t.seconds > 60 {
		return nil, &refused{invalid, "Invalid value for seconds"}
	}
	if n, err := fmt.Sscanf(in.Size, "%dx%d", &t.width, &t.height); n != 2 || err != nil || t.width < 16 || t.width > 4096 || t.height < 16 || t.height > 4096 {
		return nil, &refused{invalid, "Invalid value for size"}
	}
	return t, nil
}

// openAIReadSource reads a remix, an edit or an extension. Files are not taken.
func openAIReadSource(r *http.Request) (*Task, *refused) {
	var in struct {
		Prompt, Seconds string
		CallbackURL     string `json:"callback_url"`
		Video           struct{ ID string }
	}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
		if err := r.ParseMultipartForm(1 << 20); err != nil { //nolint:gosec // submits bounds every body
			return nil, &refused{invalid, "bad form"}
		}
		in.Prompt, in.Seconds, in.CallbackURL, in.Video.ID = r.PostFormValue("prompt"), r.PostFormValue("seconds"), r.PostFormValue("callback_url"), r.PostFormValue("video[id]")
	} else if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, &refused{invalid, "bad JSON"}
	}
	t := &Task{Prompt: in.Prompt, callback: in.CallbackURL}
	if strings.HasSuffix(r.URL.Path, "/extensions") {
		n, err := strconv.Atoi(in.Seconds)
		if err != nil || n%4 != 0 || n < 4 || n > 20 {
			return nil, &refused{invalid, "Invalid value for seconds"}
		}
		t.seconds, t.whole = n, true // the whole is shown
	}
	source := cmp.Or(in.Video.ID, r.PathValue("id"))
	if source == "" || in.Prompt == "" {
		return nil, &refused{invalid, "video and prompt are required"}
	}
	return t.of(source, ""), nil
}

func (t *Task) openAIVideo() map[string]any {
	m := map[string]any{"id": t.ID, "object": "video", "model": t.model, "prompt": t.Prompt, "seconds": strconv.Itoa(t.seconds),
		"size": fmt.Sprintf("%dx%d", t.width, t.height), "created_at": t.Created.Unix(), "completed_at": nil, "expires_at": nil, "error": nil,
		"progress": map[string]int{"running": 50, "succeeded": 100}[t.State],
		"status":   t.word(map[string]string{"queued": "queued", "running": "in_progress", "succeeded": "completed", "failed": "failed"})}
	if t.Source != "" {
		m["remixed_from_video_id"] = t.Source
	}
	switch t.State {
	case "succeeded":
		m["completed_at"], m["expires_at"] = t.Created.Unix(), t.Created.Unix()+3600
	case "failed":
		m["error"] = map[string]any{"code": "internal_error", "message": "the render stopped half-way"}
		if t.policy {
			m["error"] = map[string]any{"code": "moderation_blocked", "message": "the prompt was blocked by moderation"}
		}
	}
	return m
}
