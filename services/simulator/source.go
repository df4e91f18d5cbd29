package simulator

import (
	"context"
	"io"
	"net/http"
	"time"
)

// of makes t a task on a video: one that another task of the same provider made,
// whose name is task, or one at an address.
func (t *Task) of(task, url string) *Task {
	t.sourceTask, t.Source = task, task+url
	t.Inputs = append(t.Inputs, inputs(url)...)
	return t
}

// admitSource sees to it that a task's source exists: a finished task of the same
// account, or a video that can be fetched, as it is when the caller has signed
// its address well. What the request leaves open is as in the source.
func (s *Service) admitSource(ctx context.Context, t *Task) *refused {
	if t.sourceTask == "" {
		if t.Source != "" && !s.fetches(ctx, t.Source) {
			return &refused{invalid, "the source video cannot be fetched"}
		}
		if t.Source != "" && t.seconds == 0 {
			t.seconds = 5
		}
		if t.Source != "" && t.width == 0 {
			t.width, t.height = pixels("", "")
		}
		return nil
	}
	made, ok := s.find(t.sourceTask)
	switch {
	case !ok || made.Provider != t.Provider || made.Key != t.Key:
		return &refused{notFound, "no such source video"}
	case made.State != "succeeded":
		return &refused{invalid, "the source video is not finished"}
	}
	if t.seconds == 0 {
		t.seconds = made.seconds
	}
	if t.width == 0 {
		t.width, t.height = made.width, made.height
	}
	if t.model == "" {
		t.model = made.model
	}
	if t.whole {
		t.seconds += made.seconds
	}
	return nil
}

// fetches reports whether there is a video at an address.
func (s *Service) fetches(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	head := make([]byte, 12)
	_, err = io.ReadFull(resp.Body, head)
	return err == nil && resp.StatusCode == http.StatusOK && string(head[4:8]) == "ftyp"
}
