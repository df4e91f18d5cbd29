package simulator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
)

// fetchWord in a prompt has the simulator fetch the files that a task is made
// from, as a provider does, before it accepts the task.
const fetchWord = "[fetch]"

// Input is a file that a task is made from.
type Input struct {
	URL string `json:"url"`
	// What came of the fetch; empty without [fetch].
	ContentType string `json:"content_type,omitempty"`
	SHA256      string `json:"sha256,omitempty"` // in hexadecimal
	Error       string `json:"error,omitempty"`
}

// inputs are the files behind addresses, of which some may be empty.
func inputs(urls ...string) (out []Input) {
	for _, u := range urls {
		if u != "" {
			out = append(out, Input{URL: u})
		}
	}
	return out
}

// fetch fetches the files of a task whose prompt asks for it.
func (s *Service) fetch(ctx context.Context, t *Task) {
	if !strings.Contains(t.Prompt, fetchWord) {
		return
	}
	for i := range t.Inputs {
		in := &t.Inputs[i]
		if err := s.fetchOne(ctx, in); err != nil {
			in.Error = err.Error()
		}
	}
}

func (s *Service) fetchOne(ctx context.Context, in *Input) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, in.URL, nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		in.Error = resp.Status
		return nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, resp.Body); err != nil {
		return err
	}
	in.ContentType, in.SHA256 = resp.Header.Get("Content-Type"), hex.EncodeToString(sum.Sum(nil))
	return nil
}
