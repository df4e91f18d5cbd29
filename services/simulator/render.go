package simulator

import (
	"bytes"
	"net/http"
	"slices"
	"strconv"
	"time"
)

func (s *Service) step() time.Duration {
	return time.Duration(float64(s.cfg.Render) / s.cfg.TimeScale / 4)
}

func (s *Service) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// accept records a task and starts its render. It returns the task as it begins;
// false when its external id is taken.
func (s *Service) accept(t *Task, host string) (Task, bool) {
	t.Created, t.State = time.Now().UTC(), "queued"
	if m := sizeWord.FindStringSubmatch(t.Prompt); m != nil {
		n, _ := strconv.ParseInt(m[1], 10, 64)
		t.size = n << 20
	}
	s.mu.Lock()
	if t.ExternalID != "" {
		if s.byExt[t.ExternalID] != nil {
			s.mu.Unlock()
			return Task{}, false
		}
		s.byExt[t.ExternalID] = t
	}
	s.tasks[t.ID] = t
	s.order = append(s.order, t)
	s.journal.write(entry{Task: t.keep(host)})
	first := *t
	s.mu.Unlock()
	s.wg.Go(func() { s.render(t, host) })
	return first, true
}

// set moves a task to a state; false when it has ended already.
func (s *Service) set(id, state string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[id]
	if t == nil || t.State == "succeeded" || t.State == "failed" || t.State == "canceled" {
		return false
	}
	t.State, t.Charged = state, state == "succeeded"
	s.journal.write(entry{ID: id, Was: state})
	return true
}

func (s *Service) render(t *Task, host string) {
	if t.faults["webhook_before_response"] > 0 && !s.wait(s.step()/4) || !s.wait(s.step()) {
		return
	}
	if !s.set(t.ID, "running") {
		return
	}
	s.notify(t, host, "running")
	if !s.wait(3 * s.step()) {
		return
	}
	final := t.outcome("succeeded")
	if !s.set(t.ID, final) {
		return
	}
	s.notify(t, host, final)
	if t.faults["webhook_twice"] > 0 {
		s.notify(t, host, final)
	}
	if t.faults["webhook_out_of_order"] > 0 {
		s.notify(t, host, "running")
	}
}

// outcome is where a task that would end in state ends, for its faults.
func (t *Task) outcome(state string) string {
	if state == "succeeded" && (t.policy || t.faults["fail_halfway"]+t.faults["budget_exhausted"] > 0) {
		return "failed"
	}
	return state
}

// notify posts a webhook, repeating it on a 5xx or a failure to connect.
func (s *Service) notify(t *Task, host, state string) {
	event := "completed"
	if state == "running" {
		event = "start"
	}
	if len(t.events) > 0 && !slices.Contains(t.events, event) {
		return
	}
	called := slices.Contains(t.d.calls, state) || state == "running" && t.faults["webhook_out_of_order"] > 0
	if t.callback == "" || t.d.webhook == nil || t.faults["webhook_never"] > 0 || !called {
		return
	}
	shown, ok := s.find(t.ID)
	if !ok {
		return
	}
	shown.State = state
	body, header := t.d.webhook(s, shown, host)
	for try := range 8 {
		status, err := s.post(t.callback, header, body)
		if err == nil && status < 500 {
			s.log.Info("webhook sent", "provider", t.Provider, "job_id", t.JobID, "task_state", state, "status", status)
			return
		}
		if !s.wait(min(100*time.Millisecond<<try, 5*time.Second)) {
			return
		}
	}
}

func (s *Service) post(url string, h http.Header, body []byte) (status int, err error) {
	req, err := http.NewRequestWithContext(s.ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return http.StatusBadRequest, nil //nolint:nilerr // a callback that is no URL is never called
	}
	req.Header = h.Clone()
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

func (s *Service) find(key string) (Task, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[key]
	if t == nil {
		t = s.byExt[key]
	}
	if t == nil {
		return Task{}, false
	}
	return *t, true
}

// remove forgets a task for the provider's own API; /admin still lists it.
func (s *Service) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, id)
}

func (t *Task) result(host string) string {
	switch {
	case t.faults["expired_result"] > 0:
		return host + "/media/expired.mp4"
	case t.faults["empty_result"] > 0:
		return ""
	}
	return host + "/media/" + t.ID + ".mp4"
}
