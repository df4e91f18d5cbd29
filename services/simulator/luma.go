package simulator

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// luma is both of Luma's APIs, as on two hosts: Dream Machine below
// /dream-machine/v1 and the Agents API below /v1. Callbacks are unsigned.
// Source of the shapes: the lumaai SDK, and integrations of the Agents API.
func luma() *dialect {
	show := func(t Task, host string) any { return t.generation(host) }
	return &dialect{
		name: "luma", calls: []string{"running", "succeeded", "failed"}, policyLate: true, key: bearer, own: simulatedKey,
		refuse: func(k refusal, detail string) (int, any) {
			return map[refusal]int{unauthorized: 401, noBalance: 402, invalid: 422, notFound: 404, rateLimited: 429, broken: 500}[k], map[string]any{"detail": detail}
		},
		routes: []route{
			{"POST", "/dream-machine/v1/generations/video", submits(http.StatusCreated, lumaRead, show)},
			{"POST", "/dream-machine/v1/generations/video/modify", submits(http.StatusCreated, lumaReadModify, show)},
			{"GET", "/dream-machine/v1/generations/{id}", shows(show, nil)},
			{"POST", "/v1/generations", submits(http.StatusCreated, lumaRead, show)},
			{"GET", "/v1/generations/{id}", shows(show, nil)},
		},
		webhook: func(_ *Service, t Task, host string) ([]byte, http.Header) {
			return t.payload(t.generation(host)), http.Header{}
		},
	}
}

func lumaRead(r *http.Request) (*Task, *refused) {
	var in struct {
		Model, Type, Prompt, Resolution, Duration string
		Video                                     struct{ Resolution, Duration string }
		AspectRatio                               string `json:"aspect_ratio"`
		CallbackURL                               string `json:"callback_url"`
		Keyframes                                 struct{ Frame0 struct{ Type, ID string } }
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, &refused{invalid, "bad JSON"}
	}
	t := &Task{Prompt: in.Prompt, model: in.Model, callback: in.CallbackURL, kind: "dream"}
	if !strings.Contains(r.URL.Path, "/dream-machine/") {
		t.kind, in.Resolution, in.Duration = "agents", in.Video.Resolution, in.Video.Duration
		if in.Type != "video" {
			return nil, &refused{invalid, "type must be video"}
		}
	}
	in.Duration = cmp.Or(in.Duration, "5s")
	seconds, err := strconv.Atoi(strings.TrimSuffix(in.Duration, "s"))
	if err != nil || !strings.HasSuffix(in.Duration, "s") || in.Model == "" {
		return nil, &refused{invalid, "model and a duration such as 5s are needed"}
	}
	t.seconds = seconds
	t.width, t.height = pixels(in.Resolution, in.AspectRatio)
	if in.Keyframes.Frame0.Type == "generation" {
		t.of(in.Keyframes.Frame0.ID, "")
	}
	return t, nil
}

func lumaReadModify(r *http.Request) (*Task, *refused) {
	var in struct {
		Kind                string `json:"generation_type"`
		Model, Prompt, Mode string
		Media               struct{ URL string }
		CallbackURL         string `json:"callback_url"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || in.Kind != "modify_video" || in.Model == "" || in.Media.URL == "" {
		return nil, &refused{invalid, "generation_type, model and media are needed"}
	}
	if manner, strength, _ := strings.Cut(in.Mode, "_"); !slices.Contains([]string{"adhere", "flex", "reimagine"}, manner) || !slices.Contains([]string{"1", "2", "3"}, strength) {
		return nil, &refused{invalid, "mode is not one of the nine"}
	}
	t := &Task{Prompt: in.Prompt, model: in.Model, kind: "dream", callback: in.CallbackURL}
	return t.of("", in.Media.URL), nil
}

func (t *Task) generation(host string) map[string]any {
	running := "dreaming"
	if t.kind == "agents" {
		running = "processing"
	}
	m := map[string]any{"id": t.ID, "model": t.model, "created_at": t.Created, "failure_reason": nil,
		"state": t.word(map[string]string{"queued": "queued", "running": running, "succeeded": "completed", "failed": "failed"})}
	var url string
	switch t.State {
	case "succeeded":
		url = t.result(host)
	case "failed":
		m["failure_reason"] = "the render stopped half-way"
		if t.policy {
			m["failure_reason"] = "Content moderation failed"
		}
	}
	if t.kind == "agents" && t.State == "failed" {
		m["failure_code"] = "generation_failed"
		switch {
		case t.policy:
			m["failure_code"] = "content_moderated"
		case t.faults["budget_exhausted"] > 0:
			m["failure_code"] = "budget_exhausted"
		}
	}
	switch {
	case t.kind == "agents" && url == "":
		m["output"] = []any{}
	case t.kind == "agents":
		m["output"] = []any{map[string]any{"type": "video", "url": url}}
	case url == "":
		m["assets"] = nil
	default:
		m["assets"] = map[string]any{"video": url}
	}
	return m
}
