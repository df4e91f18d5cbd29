package simulator

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// atlasCloud is Atlas Cloud. Source of the shapes: its docs of predictions,
// webhooks and errors.
func atlasCloud() *dialect {
	return &dialect{
		name: "atlascloud", calls: []string{"succeeded", "failed"}, policyLate: true,
		key: bearer, own: func(c Config) string { return c.AtlasKey },
		refuse: func(k refusal, detail string) (int, any) {
			status := map[refusal]int{unauthorized: 401, noBalance: 402, invalid: 400, notFound: 404, rateLimited: 429, broken: 500}[k]
			return status, map[string]any{"code": status, "msg": detail, "request_id": "sim", "data": nil}
		},
		routes: []route{
			{"POST", "/api/v1/model/generateVideo", submits(http.StatusOK, atlasRead, func(t Task, _ string) any {
				return map[string]any{"code": 200, "data": map[string]any{"id": t.ID, "status": "starting"}}
			})},
			{"GET", "/api/v1/model/prediction/{id}", shows(func(t Task, host string) any {
				return map[string]any{"code": 200, "data": t.prediction(host)}
			}, nil)},
			{"GET", "/api/v1/webhooks/jwks.json", edKeys("sim-1")},
			{"GET", "/api/v1/models", atlasModels},
			{"GET", "/model/schema/{file}", atlasSchema},
		},
		webhook: atlasWebhook,
	}
}

func atlasRead(r *http.Request) (*Task, *refused) {
	var in struct {
		Model, Prompt, Resolution string
		Duration                  int
		AspectRatio               string `json:"aspect_ratio"`
		WebhookURL                string `json:"webhook_url"`
		Image                     string
		LastImage                 string `json:"last_image"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Model == "" {
		return nil, &refused{invalid, "bad JSON or no model"}
	}
	t := &Task{Prompt: in.Prompt, model: in.Model, seconds: max(in.Duration, 1), callback: in.WebhookURL, Inputs: inputs(in.Image, in.LastImage)}
	t.width, t.height = pixels(in.Resolution, in.AspectRatio)
	return t, nil
}

func (t *Task) prediction(host string) map[string]any {
	p := map[string]any{"id": t.ID, "model": t.model, "outputs": []string{}, "status": t.word(map[string]string{
		"queued": "starting", "running": "processing", "succeeded": "completed", "failed": "failed", "canceled": "cancelled",
	})}
	switch t.State {
	case "succeeded":
		if u := t.result(host); u != "" {
			p["outputs"] = []string{u}
		}
	case "failed":
		p["error"] = "the render stopped half-way"
		if t.policy {
			p["error"], p["error_code"] = "input refused by moderation: violence", 1039
		}
	}
	return p
}

// edKeys serves the simulator's Ed25519 key as a JWK set; kid may be empty.
func edKeys(kid string) func(*Service, *dialect) http.HandlerFunc {
	return func(s *Service, _ *dialect) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			pub, _ := s.key.Public().(ed25519.PublicKey)
			k := map[string]any{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(pub)}
			if kid != "" {
				k["kid"] = kid
			}
			answer(w, http.StatusOK, map[string]any{"keys": []any{k}})
		}
	}
}

func atlasWebhook(s *Service, t Task, host string) ([]byte, http.Header) {
	status := "OK"
	p := t.prediction(host)
	if t.State == "failed" {
		status = "ERROR"
	}
	body := t.payload(map[string]any{"session_id": t.ID, "event_type": "video.task.terminal", "status": status, "payload": p, "error": p["error"]})
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	sig := t.signed(ed25519.Sign(s.key, append([]byte(stamp+"."), body...)))
	h := http.Header{}
	h.Set("X-AtlasCloud-Webhook-Event", "video.task.terminal")
	h.Set("X-AtlasCloud-Webhook-Id", t.ID)
	h.Set("X-AtlasCloud-Webhook-Timestamp", stamp)
	h.Set("X-AtlasCloud-Webhook-Key-Id", "sim-1")
	h.Set("X-AtlasCloud-Webhook-Signature-Ed25519", base64.RawURLEncoding.EncodeToString(sig))
	return body, h
}
