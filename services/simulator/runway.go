package simulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// runway is Runway, which has no webhooks. Source of the shapes:
// docs.dev.runwayml.com and the types of its SDK.
func runway() *dialect {
	submit := submits(http.StatusOK, runwayRead, runwayCreated)
	return &dialect{
		name: "runway", policyLate: true, admit: withinTheDay,
		key: bearer, own: simulatedKey,
		refuse: func(k refusal, detail string) (int, any) {
			status := map[refusal]int{unauthorized: 401, noBalance: 400, invalid: 400, notFound: 404, rateLimited: 429, broken: 502}[k]
			if k == noBalance {
				detail = "You do not have enough credits to run this task."
			}
			return status, map[string]any{"error": detail}
		},
		routes: []route{
			{"POST", "/v1/text_to_video", submit},
			{"POST", "/v1/image_to_video", submit},
			{"POST", "/v1/video_to_video", submits(http.StatusOK, runwayReadVideo, runwayCreated)},
			{"GET", "/v1/tasks/{id}", shows(func(t Task, host string) any { return t.runwayTask(host) }, nil)},
			{"DELETE", "/v1/tasks/{id}", cancels(http.StatusNoContent, nil, func(s *Service, _ *dialect, w http.ResponseWriter, _ *http.Request, t Task) {
				s.remove(t.ID) // a task that has ended is deleted
				w.WriteHeader(http.StatusNoContent)
			})},
		},
	}
}

// withinTheDay refuses a task beyond the limit of a day, as Runway does: with the
// status of any slow-down, and words of its own.
func withinTheDay(s *Service, t *Task) *refused {
	if s.take(t.Provider, t.faults, "daily_limit") {
		return &refused{rateLimited, "Your daily task limit has been reached."}
	}
	return nil
}

func runwayCreated(t Task, _ string) any {
	return map[string]any{"id": t.ID, "estimatedCost": map[string]any{"credits": 12 * t.seconds}}
}

// runwayReadVideo reads a task on a video. Seedance names its source promptVideo
// and makes a length of its own; Aleph follows the source.
func runwayReadVideo(r *http.Request) (*Task, *refused) {
	var in struct {
		Model, PromptText, PromptVideo, VideoURI, Ratio, Mode string
		Duration                                              int
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Header.Get("X-Runway-Version") != "2024-11-06" {
		return nil, &refused{invalid, "Validation of body failed"}
	}
	t := &Task{Prompt: in.PromptText, model: in.Model, seconds: in.Duration}
	seedance := strings.HasPrefix(in.Model, "seedance")
	if seedance && (in.PromptVideo == "" || in.VideoURI != "") || !seedance && (in.VideoURI == "" || in.PromptVideo != "") ||
		in.Model == "aleph2" && in.Duration != 0 || in.Mode != "" && in.Model == "seedance2" {
		return nil, &refused{invalid, "Validation of body failed"}
	}
	if in.Ratio != "" {
		if n, err := fmt.Sscanf(in.Ratio, "%d:%d", &t.width, &t.height); n != 2 || err != nil || t.width < 16 || t.width > 4096 || t.height < 16 || t.height > 4096 {
			return nil, &refused{invalid, "Validation of body failed"}
		}
	}
	return t.of("", in.PromptVideo+in.VideoURI), nil
}

func runwayRead(r *http.Request) (*Task, *refused) {
	var in struct {
		Model, PromptText, Ratio string
		PromptImage              any
		Duration                 int
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Header.Get("X-Runway-Version") != "2024-11-06" {
		return nil, &refused{invalid, "Validation of body failed"}
	}
	t := &Task{Prompt: in.PromptText, model: in.Model, seconds: in.Duration}
	if n, err := fmt.Sscanf(in.Ratio, "%d:%d", &t.width, &t.height); n != 2 || err != nil || t.width < 16 || t.width > 4096 || t.height < 16 || t.height > 4096 ||
		in.Model == "" || in.Duration < 2 || in.Duration > 10 {
		return nil, &refused{invalid, "Validation of body failed"}
	}
	if r.URL.Path == "/runway/v1/image_to_video" && in.PromptImage == nil {
		return nil, &refused{invalid, "Validation of body failed"}
	}
	return t, nil
}

func (t *Task) runwayTask(host string) map[string]any {
	m := map[string]any{"id": t.ID, "createdAt": t.Created, "status": t.word(map[string]string{
		"queued": "PENDING", "running": "RUNNING", "succeeded": "SUCCEEDED", "failed": "FAILED", "canceled": "CANCELLED"})}
	switch t.State {
	case "queued":
		m["estimatedCost"] = map[string]any{"credits": 12 * t.seconds}
	case "running":
		m["progress"], m["estimatedCost"] = 0.5, map[string]any{"credits": 12 * t.seconds}
	case "canceled":
		m["cost"] = map[string]any{"credits": 0}
	case "succeeded":
		m["output"], m["cost"] = []string{}, map[string]any{"credits": 12 * t.seconds}
		if u := t.result(host); u != "" {
			m["output"] = []string{u}
		}
	case "failed":
		m["failure"], m["failureCode"], m["cost"] = "An unexpected error occurred.", "INTERNAL.BAD_OUTPUT.CODE01", map[string]any{"credits": 0}
		if t.policy {
			m["failure"], m["failureCode"] = "Content moderation", "SAFETY.INPUT.TEXT"
		}
	}
	return m
}
