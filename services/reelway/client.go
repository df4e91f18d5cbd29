package reelway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"

	"reelway.dev/pkg/videojson"
)

// client speaks to a Reelway through its public doors only.
type client struct{ base, key string }

// refusal is an answer that is not what was asked for, with Reelway's own words
// where it is Reelway that answered.
type refusal struct {
	status int
	fault  videojson.Fault
}

// Error implements error.
func (e *refusal) Error() string {
	if e.fault.Message == "" {
		return fmt.Sprintf("the server answered with status %d; is it Reelway's HTTP address?", e.status)
	}
	return e.fault.Code + ": " + e.fault.Message
}

// final reports whether the same request would be refused again.
func (e *refusal) final() bool {
	return e.status < 500 && e.status != http.StatusTooManyRequests && !e.fault.Retryable
}

// absence says that nobody answered.
type absence struct{ err error }

// Error implements error.
func (e *absence) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *absence) Unwrap() error { return e.err }

// call makes one request; header is name and value in turn.
func (c client) call(ctx context.Context, method, path string, in, out any, header ...string) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("marshal request: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "reelway")
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return &absence{fmt.Errorf("%s does not answer; is Reelway up, and is this its HTTP address? %w", c.base, err)}
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		return refused(resp)
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return &absence{fmt.Errorf("read the answer of %s: %w", c.base, err)}
	}
	return nil
}

// refused reads an answer that is an error.
func refused(resp *http.Response) error {
	e := &refusal{status: resp.StatusCode}
	var envelope struct{ Error videojson.Fault }
	if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&envelope) == nil {
		e.fault = envelope.Error
	}
	return e
}

// download saves a URL whole or not at all.
func download(ctx context.Context, url, name string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, fmt.Errorf("make request: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("download: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("download: status %d", resp.StatusCode)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".reelway-*")
	if err != nil {
		return 0, fmt.Errorf("save video: %w", err)
	}
	n, err := io.Copy(f, resp.Body)
	// A video is nobody's secret on this machine; CreateTemp makes it one.
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return 0, fmt.Errorf("save video: %w", err)
	}
	return n, nil
}
