package simulator

import (
	"encoding/json"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"reelway.dev/pkg/id"
	"reelway.dev/pkg/webhooksig"
)

// Source of the shapes: klingai.com document-api, the /v1/videos generation.

func klingAnswer(w http.ResponseWriter, status, code int, message string, data any) {
	m := map[string]any{"code": code, "message": message, "request_id": "sim"}
	if data != nil {
		m["data"] = data
	}
	answer(w, status, m)
}

// klingAuth answers and returns false unless the token is a JWT of our keys or
// the plain key.
func (s *Service) klingAuth(w http.ResponseWriter, r *http.Request) bool {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token == "" {
		klingAnswer(w, http.StatusUnauthorized, 1001, "authorization is empty", nil)
		return false
	}
	if token == s.cfg.KlingAccess {
		return true
	}
	_, err := jwt.Parse(token, func(*jwt.Token) (any, error) { return []byte(s.cfg.KlingSecret), nil },
		jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer(s.cfg.KlingAccess), jwt.WithExpirationRequired())
	if err != nil {
		klingAnswer(w, http.StatusUnauthorized, 1002, "authorization is invalid", nil)
	}
	return err == nil
}

func (s *Service) klingSubmit(w http.ResponseWriter, r *http.Request) {
	if !s.klingAuth(w, r) {
		return
	}
	kind := r.PathValue("kind")
	var in struct {
		Model       string `json:"model_name"`
		Prompt      string
		Mode        string
		Duration    string
		AspectRatio string `json:"aspect_ratio"`
		Image       string
		CallbackURL string `json:"callback_url"`
		ExternalID  string `json:"external_task_id"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<20)).Decode(&in); err != nil {
		klingAnswer(w, http.StatusBadRequest, 1200, "bad JSON", nil)
		return
	}
	seconds, err := strconv.Atoi(in.Duration)
	switch {
	case kind != "text2video" && kind != "image2video":
		klingAnswer(w, http.StatusNotFound, 1203, "no such resource", nil)
		return
	case err != nil, in.Model == "", kind == "image2video" && in.Image == "":
		klingAnswer(w, http.StatusBadRequest, 1201, "model_name, duration and, for image2video, image are needed", nil)
		return
	}
	t := &Task{ID: taskID("kling"), Provider: "kling", ExternalID: in.ExternalID, model: in.Model, seconds: seconds, callback: in.CallbackURL}
	t.width, t.height = pixels(map[string]string{"pro": "1080p"}[in.Mode], in.AspectRatio)
	f := words(in.Prompt)
	job := jobOf(in.CallbackURL)
	s.before(r, t.Provider, f)
	if _, taken := s.find(in.ExternalID); taken && in.ExternalID != "" {
		klingAnswer(w, http.StatusBadRequest, 1201, "external_task_id is taken", nil)
		return
	}
	switch {
	case s.take(t.Provider, f, "policy"):
		klingAnswer(w, http.StatusBadRequest, 1301, "the prompt is refused by content safety", nil)
		return
	case s.callsLeft(t.Provider, job, f, "rate_limit"):
		w.Header().Set("Retry-After", "1")
		klingAnswer(w, http.StatusTooManyRequests, 1303, "parallel task over resource pack limit", nil)
		return
	case s.callsLeft(t.Provider, job, f, "error500"):
		klingAnswer(w, http.StatusInternalServerError, 5000, "internal error", nil)
		return
	}
	s.accept(t, in.Prompt, host(r))
	if s.after(w, r, t) {
		return
	}
	klingAnswer(w, http.StatusOK, 0, "SUCCEED", t.klingTask("queued", host(r)))
}

func (s *Service) klingPoll(w http.ResponseWriter, r *http.Request) {
	if !s.klingAuth(w, r) {
		return
	}
	t, ok := s.find(r.PathValue("id"))
	if !ok || t.Provider != "kling" {
		klingAnswer(w, http.StatusNotFound, 1203, "task not found", nil)
		return
	}
	if s.take(t.Provider, t.faults, "garbage_poll") {
		_, _ = w.Write([]byte("<html>bad gateway</html>"))
		return
	}
	klingAnswer(w, http.StatusOK, 0, "SUCCEED", t.klingTask(t.State, host(r)))
}

func (t *Task) klingTask(state, host string) map[string]any {
	m := map[string]any{"task_id": t.ID, "task_status": map[string]string{
		"queued": "submitted", "running": "processing", "succeeded": "succeed", "failed": "failed",
	}[state], "task_info": map[string]any{"external_task_id": t.ExternalID}, "created_at": t.Created.UnixMilli(), "updated_at": time.Now().UnixMilli()}
	switch state {
	case "succeeded":
		videos := []any{}
		if u := t.result(host); u != "" {
			videos = append(videos, map[string]any{"id": t.ID, "url": u, "duration": strconv.Itoa(t.seconds)})
		}
		m["task_result"] = map[string]any{"videos": videos}
	case "failed":
		m["task_status_msg"] = "the render stopped half-way"
	}
	return m
}

func (s *Service) klingWebhook(t *Task, host, state string) ([]byte, http.Header) {
	body, _ := json.Marshal(t.klingTask(state, host))
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	if s.hookKy != nil {
		msg, stamp := id.New("msg"), strconv.FormatInt(time.Now().Unix(), 10)
		mac := webhooksig.StandardMAC(s.hookKy, msg, stamp, body)
		if t.faults["webhook_bad_signature"] > 0 {
			mac = badSignature(mac)
		}
		h.Set("webhook-id", msg)
		h.Set("webhook-timestamp", stamp)
		h.Set("webhook-signature", "v1,"+b64(mac))
	}
	return body, h
}

func jobOf(callback string) string {
	u, err := url.Parse(callback)
	if err != nil {
		return ""
	}
	return path.Base(u.Path)
}
