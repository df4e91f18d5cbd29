package simulator

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Source of the shapes: PROVIDERS of Atlas Cloud, docs of predictions,
// webhooks and errors.

func atlasError(w http.ResponseWriter, status int, msg string) {
	answer(w, status, map[string]any{"code": status, "msg": msg, "request_id": "sim", "data": nil})
}

func (s *Service) atlasSubmit(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+s.cfg.AtlasKey {
		atlasError(w, http.StatusUnauthorized, "unauthorized")
		return
	}
	var in struct {
		Model, Prompt, Resolution string
		Duration                  int
		AspectRatio               string `json:"aspect_ratio"`
		WebhookURL                string `json:"webhook_url"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 50<<20)).Decode(&in); err != nil || in.Model == "" {
		atlasError(w, http.StatusBadRequest, "bad JSON or no model")
		return
	}
	t := &Task{ID: taskID("atlas"), Provider: "atlascloud", model: in.Model, seconds: max(in.Duration, 1), callback: in.WebhookURL}
	t.width, t.height = pixels(in.Resolution, in.AspectRatio)
	f := words(in.Prompt)
	job := jobOf(in.WebhookURL)
	s.before(r, t.Provider, f)
	switch {
	case s.callsLeft(t.Provider, job, f, "rate_limit"):
		w.Header().Set("Retry-After", "1")
		atlasError(w, http.StatusTooManyRequests, "too many requests")
		return
	case s.callsLeft(t.Provider, job, f, "error500"):
		atlasError(w, http.StatusInternalServerError, "internal error")
		return
	}
	t.policy = s.take(t.Provider, f, "policy")
	s.accept(t, in.Prompt, host(r))
	if s.after(w, r, t) {
		return
	}
	answer(w, http.StatusOK, map[string]any{"code": 200, "data": map[string]any{"id": t.ID, "status": "starting"}})
}

func (s *Service) atlasPoll(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+s.cfg.AtlasKey {
		atlasError(w, http.StatusUnauthorized, "unauthorized")
		return
	}
	t, ok := s.find(r.PathValue("id"))
	if !ok {
		atlasError(w, http.StatusNotFound, "prediction not found")
		return
	}
	if s.take(t.Provider, t.faults, "garbage_poll") {
		_, _ = w.Write([]byte("<html>bad gateway</html>"))
		return
	}
	answer(w, http.StatusOK, map[string]any{"code": 200, "data": t.prediction(t.State, host(r))})
}

func (t *Task) prediction(state, host string) map[string]any {
	p := map[string]any{"id": t.ID, "model": t.model, "outputs": []string{}}
	switch state {
	case "queued":
		p["status"] = "starting"
	case "running":
		p["status"] = "processing"
	case "succeeded":
		p["status"] = "completed"
		if u := t.result(host); u != "" {
			p["outputs"] = []string{u}
		}
	case "failed":
		p["status"], p["error"] = "failed", "the render stopped half-way"
		if t.policy {
			p["error"], p["error_code"] = "input refused by moderation: violence", 1039
		}
	}
	return p
}

func (s *Service) atlasKeys(w http.ResponseWriter, _ *http.Request) {
	pub, _ := s.key.Public().(ed25519.PublicKey)
	answer(w, http.StatusOK, map[string]any{"keys": []any{map[string]any{
		"kty": "OKP", "crv": "Ed25519", "kid": "sim-1", "x": base64.RawURLEncoding.EncodeToString(pub),
	}}})
}

func (s *Service) atlasWebhook(t *Task, host, state string) ([]byte, http.Header) {
	status := "OK"
	p := t.prediction(state, host)
	if state == "failed" {
		status = "ERROR"
	}
	body, _ := json.Marshal(map[string]any{"session_id": t.ID, "event_type": "video.task.terminal", "status": status, "payload": p, "error": p["error"]})
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	sig := ed25519.Sign(s.key, append([]byte(stamp+"."), body...))
	if t.faults["webhook_bad_signature"] > 0 {
		sig = badSignature(sig)
	}
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	h.Set("X-AtlasCloud-Webhook-Event", "video.task.terminal")
	h.Set("X-AtlasCloud-Webhook-Id", t.ID)
	h.Set("X-AtlasCloud-Webhook-Timestamp", stamp)
	h.Set("X-AtlasCloud-Webhook-Key-Id", "sim-1")
	h.Set("X-AtlasCloud-Webhook-Signature-Ed25519", base64.RawURLEncoding.EncodeToString(sig))
	return body, h
}
