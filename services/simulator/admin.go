package simulator

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// adminTasks lists the accepted tasks, the first accepted first.
func (s *Service) adminTasks(w http.ResponseWriter, r *http.Request) {
	external, prompt := r.URL.Query().Get("external_id"), r.URL.Query().Get("prompt")
	s.mu.Lock()
	out := []Task{}
	for _, t := range s.order {
		if (external == "" || external == t.ExternalID) && (prompt == "" || prompt == t.Prompt) {
			out = append(out, *t)
		}
	}
	s.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{"tasks": out})
}

// adminMove takes a task to a state by hand and sends the webhook of it, so
// that a test need not wait for a render.
func (s *Service) adminMove(w http.ResponseWriter, r *http.Request) {
	var in struct{ State string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&in); err != nil ||
		in.State != "running" && in.State != "succeeded" && in.State != "failed" {
		answer(w, http.StatusBadRequest, map[string]any{"error": "state must be running, succeeded or failed"})
		return
	}
	s.mu.Lock()
	t := s.tasks[r.PathValue("id")]
	s.mu.Unlock()
	if t == nil {
		answer(w, http.StatusNotFound, map[string]any{"error": "no such task"})
		return
	}
	state := t.outcome(in.State)
	if !s.set(t.ID, state) {
		answer(w, http.StatusConflict, map[string]any{"error": "the task has ended"})
		return
	}
	s.wg.Go(func() { s.notify(t, host(r), state) })
	answer(w, http.StatusOK, map[string]any{"state": state})
}

// adminFaults sets a fault of one provider for the next calls or for a time; a
// count and a time of nothing end it.
func (s *Service) adminFaults(w http.ResponseWriter, r *http.Request) {
	var f struct {
		Provider   string `json:"provider"`
		Fault      string `json:"fault"`
		Count      int    `json:"count,omitempty"`
		For        string `json:"for,omitempty"`         // a duration: 30s
		RetryAfter int    `json:"retry_after,omitempty"` // seconds
	}
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&f)
	var lasts time.Duration
	if err == nil && f.For != "" {
		lasts, err = time.ParseDuration(f.For)
	}
	if err != nil || !known(f.Provider) || !slices.Contains(slices.Concat(callWords, taskWords, providerWords), f.Fault) || f.Count < 0 || lasts < 0 || f.RetryAfter < 0 {
		answer(w, http.StatusBadRequest, map[string]any{"error": "provider, a fault of docs/simulator.md, and count (0 or more) or for (a duration) are needed"})
		return
	}
	s.mu.Lock()
	if s.faults[f.Provider] == nil {
		s.faults[f.Provider] = map[string]fault{}
	}
	s.faults[f.Provider][f.Fault] = fault{calls: f.Count, until: time.Now().Add(lasts), retryAfter: f.RetryAfter}
	s.mu.Unlock()
	answer(w, http.StatusOK, f)
}
