package simulator

import (
	"encoding/json"
	"net/http"
	"strings"
)

// replicate is Replicate. Source of the shapes: replicate.com/docs and the
// types of its client.
func replicate() *dialect {
	show := func(t Task, host string) any { return t.replicatePrediction(host) }
	return &dialect{
		name: "replicate", calls: []string{"running", "succeeded", "failed", "canceled"}, policyLate: true, key: bearer, own: simulatedKey,
		refuse: func(k refusal, detail string) (int, any) {
			status := map[refusal]int{unauthorized: 401, noBalance: 402, invalid: 422, notFound: 404, rateLimited: 429, broken: 500}[k]
			return status, map[string]any{"title": http.StatusText(status), "status": status, "detail": detail}
		},
		routes: []route{
			{"POST", "/v1/models/{owner}/{name}/predictions", submits(http.StatusCreated, replicateRead, show)},
			{"POST", "/v1/predictions", submits(http.StatusCreated, replicateRead, show)},
			{"GET", "/v1/predictions/{id}", shows(show, nil)},
			{"GET", "/v1/webhooks/default/secret", func(s *Service, d *dialect) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					if _, ok := s.enter(d, w, r); ok {
						answer(w, http.StatusOK, map[string]any{"key": s.cfg.WebhookSecret})
					}
				}
			}},
			{"POST", "/v1/predictions/{id}/cancel", cancels(http.StatusOK, show, func(_ *Service, _ *dialect, w http.ResponseWriter, r *http.Request, t Task) {
				answer(w, http.StatusOK, t.replicatePrediction(host(r)))
			})},
		},
		webhook: func(s *Service, t Task, host string) ([]byte, http.Header) {
			body := t.payload(t.replicatePrediction(host))
			return body, s.standard(t, body)
		},
	}
}

func replicateRead(r *http.Request) (*Task, *refused) {
	var in struct {
		Version string
		Input   struct {
			Prompt, Resolution string
			Duration           int
			AspectRatio        string `json:"aspect_ratio"`
			Video              string
		}
		Webhook string
		Events  []string `json:"webhook_events_filter"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, &refused{invalid, "bad JSON: " + err.Error()}
	}
	model := r.PathValue("owner") + "/" + r.PathValue("name")
	if model == "/" {
		model = in.Version
	}
	if model == "" || in.Input.Prompt == "" {
		return nil, &refused{invalid, "- input: prompt is required"}
	}
	t := &Task{Prompt: in.Input.Prompt, model: model, seconds: max(in.Input.Duration, 1), callback: in.Webhook, events: in.Events}
	t.width, t.height = pixels(in.Input.Resolution, in.Input.AspectRatio)
	if strings.HasSuffix(model, "/gen4-aleph") {
		if in.Input.Video == "" {
			return nil, &refused{invalid, "- input: video is required"}
		}
		t.seconds = 5
		t.of("", in.Input.Video)
	}
	return t, nil
}

func (t *Task) replicatePrediction(host string) map[string]any {
	at := host + "/replicate/v1/predictions/" + t.ID
	m := map[string]any{"id": t.ID, "model": t.model, "version": "hidden", "input": map[string]any{"prompt": t.Prompt}, "output": nil, "error": nil, "logs": "",
		"created_at": t.Created, "urls": map[string]any{"get": at, "cancel": at + "/cancel"}, "status": t.word(map[string]string{
			"queued": "starting", "running": "processing", "succeeded": "succeeded", "failed": "failed", "canceled": "canceled"})}
	switch t.State {
	case "succeeded":
		if u := t.result(host); u != "" {
			m["output"] = u
			if strings.HasPrefix(t.model, "wan-video/") { // some models make lists
				m["output"] = []string{u}
			}
		}
	case "failed":
		m["error"] = "Prediction interrupted; please retry (code: PA)"
		if t.policy {
			m["error"] = "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"
		}
	}
	return m
}
