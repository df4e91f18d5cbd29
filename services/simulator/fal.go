package simulator

import (
	"cmp"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"reelway.dev/pkg/webhooksig"
)

// fal is fal's queue. Source of the shapes: docs.fal.ai and the types of its
// client.
func fal() *dialect {
	submit := submits(http.StatusOK, falRead, func(t Task, host string) any {
		at := t.falURL(host)
		return map[string]any{"request_id": t.ID, "gateway_request_id": t.ID, "status": "IN_QUEUE", "queue_position": 0,
			"response_url": at, "status_url": at + "/status", "cancel_url": at + "/cancel"}
	})
	return &dialect{
		name: "fal", calls: []string{"succeeded", "failed", "canceled"}, policyLate: true,
		key: func(_ *Service, r *http.Request) string {
			key, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Key ")
			return key
		},
		own: simulatedKey,
		refuse: func(k refusal, detail string) (int, any) {
			status := map[refusal]int{unauthorized: 401, noBalance: 403, invalid: 422, notFound: 404, rateLimited: 429, broken: 503}[k]
			switch k {
			case invalid:
				return status, falDetail("missing", detail)
			case noBalance:
				detail = "User is locked. Reason: Exhausted balance."
			case broken:
				return status, map[string]any{"detail": detail, "error_type": "runner_scheduling_failure"}
			}
			return status, map[string]any{"detail": detail}
		},
		routes: []route{
			{"POST", "/{owner}/{app}", submit},
			{"POST", "/{owner}/{app}/{rest...}", submit},
			{"GET", "/{owner}/{app}/requests/{id}/status", falStatus},
			{"GET", "/{owner}/{app}/requests/{id}", falResult},
			{"PUT", "/{owner}/{app}/requests/{id}/cancel", cancels(http.StatusAccepted, func(Task, string) any {
				return map[string]any{"status": "CANCELLATION_REQUESTED"}
			}, func(_ *Service, _ *dialect, w http.ResponseWriter, _ *http.Request, _ Task) {
				answer(w, http.StatusBadRequest, map[string]any{"status": "ALREADY_COMPLETED"})
			})},
			{"GET", "/.well-known/jwks.json", edKeys("")},
		},
		webhook: falWebhook,
	}
}

func falDetail(kind, msg string) map[string]any {
	return map[string]any{"detail": []any{map[string]any{"loc": []string{"body", "prompt"}, "msg": msg, "type": kind, "url": "https://docs.fal.ai/errors#" + kind}}}
}

func falRead(r *http.Request) (*Task, *refused) {
	var in struct {
		Prompt, Resolution, Duration string
		AspectRatio                  string `json:"aspect_ratio"`
		VideoURL                     string `json:"video_url"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Prompt == "" {
		return nil, &refused{invalid, "Field required"}
	}
	seconds, err := strconv.Atoi(strings.TrimSuffix(cmp.Or(in.Duration, "8s"), "s"))
	if err != nil {
		return nil, &refused{invalid, "duration is not one of the model's"}
	}
	t := &Task{Prompt: in.Prompt, model: r.PathValue("owner") + "/" + r.PathValue("app"), seconds: seconds, callback: r.URL.Query().Get("fal_webhook")}
	t.width, t.height = pixels(in.Resolution, in.AspectRatio)
	if strings.HasSuffix(r.URL.Path, "/extend-video") || strings.Contains(r.URL.Path, "/video-to-video/") {
		if in.VideoURL == "" {
			return nil, &refused{invalid, "Field required"}
		}
		t.of("", in.VideoURL)
	}
	return t, nil
}

// falURL drops the sub-path of a model, as fal does.
func (t *Task) falURL(host string) string { return host + "/fal/" + t.model + "/requests/" + t.ID }

func falStatus(s *Service, d *dialect) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		t, ok := s.asked(d, w, r, nil)
		if !ok {
			return
		}
		word, status := t.word(map[string]string{"queued": "IN_QUEUE", "running": "IN_PROGRESS"}), http.StatusAccepted
		if word == "" {
			word, status = "COMPLETED", http.StatusOK // a failure too
		}
		answer(w, status, map[string]any{"status": word, "request_id": t.ID, "response_url": t.falURL(host(r)), "logs": nil})
	}
}

func falResult(s *Service, d *dialect) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		t, ok := s.asked(d, w, r, nil)
		if !ok {
			return
		}
		status, body := t.falOutcome(host(r))
		w.Header().Set("X-Fal-Request-Id", t.ID)
		answer(w, status, body)
	}
}

func (t *Task) falOutcome(host string) (int, map[string]any) {
	switch {
	case t.State == "succeeded":
		out := map[string]any{"seed": 1}
		if u := t.result(host); u != "" {
			out["video"] = map[string]any{"url": u, "content_type": "video/mp4"}
		}
		return http.StatusOK, out
	case t.State == "failed" && t.policy:
		return http.StatusUnprocessableEntity, falDetail("content_policy_violation", "The content could not be processed because it was flagged by a content checker.")
	case t.State == "failed":
		return http.StatusInternalServerError, map[string]any{"detail": "the render stopped half-way", "error_type": "runner_server_error"}
	case t.State == "canceled":
		return http.StatusBadRequest, map[string]any{"detail": "Request was cancelled", "error_type": "request_cancelled"}
	}
	return http.StatusBadRequest, map[string]any{"detail": "Request is still in progress"}
}

func falWebhook(s *Service, t Task, host string) ([]byte, http.Header) {
	status, payload := t.falOutcome(host)
	m := map[string]any{"request_id": t.ID, "gateway_request_id": t.ID, "status": "OK", "payload": payload}
	if status != http.StatusOK {
		m["status"], m["error"] = "ERROR", "Invalid status code: "+strconv.Itoa(status)
	}
	body := t.payload(m)
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	h := http.Header{}
	h.Set("X-Fal-Webhook-Request-Id", t.ID)
	h.Set("X-Fal-Webhook-User-Id", "user_1")
	h.Set("X-Fal-Webhook-Timestamp", stamp)
	h.Set("X-Fal-Webhook-Signature", hex.EncodeToString(t.signed(ed25519.Sign(s.key, webhooksig.FalMessage(t.ID, "user_1", stamp, body)))))
	return body, h
}
