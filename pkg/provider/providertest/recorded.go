package providertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
)

// recording is one answer of a provider and what an adapter makes of it.
type recording struct {
	Name   string
	Status int // 200 when left out
	Header map[string]string
	Body   json.RawMessage // a string stands for a body that is no JSON
	Task   struct{ Model, Image string }
	Want   string
}

func (r recording) body() []byte {
	var text string
	if json.Unmarshal(r.Body, &text) == nil {
		return []byte(text)
	}
	return r.Body
}

// Recorded plays the answers of testdata/submit.json and testdata/poll.json to
// the adapter. In the first, want is "accepted ID", "unknown", or a fault code,
// the provider's own code in brackets, "retry", the wait and the cause. In the second it
// is the state and the result, the fault with its cause, or the unknown word; or "error", which
// says nothing of the task. taskID is the one that is polled.
func Recorded(t *testing.T, open func(url string) provider.Adapter, task provider.Task, taskID string) {
	t.Helper()
	play(t, "testdata/submit.json", open, task, func(ctx context.Context, a provider.Adapter, task provider.Task) string {
		id, err := a.Submit(ctx, task)
		var refused *provider.RefusedError
		switch {
		case err == nil:
			return "accepted " + id
		case errors.As(err, &refused):
			return strings.TrimSpace(describe(refused.Fault) + " " + string(refused.Cause))
		}
		return "unknown"
	})
	play(t, "testdata/poll.json", open, task, func(ctx context.Context, a provider.Adapter, task provider.Task) string {
		r, err := a.Poll(ctx, taskID, task)
		if err != nil {
			return "error"
		}
		return tell(r)
	})
}

// tell is a report as recordings write it.
func tell(r provider.Report) string {
	s := string(r.State)
	switch {
	case r.State == provider.Succeeded:
		s += " " + r.ResultURL
	case r.State == provider.Failed:
		s = strings.TrimSpace(s + " " + describe(r.Err) + " " + string(r.Cause))
	case r.UnknownWord != "":
		s += " unknown word " + r.UnknownWord
	case r.Progress > 0:
		s += fmt.Sprintf(" %d%%", r.Progress)
	}
	return s
}

func play(t *testing.T, file string, open func(url string) provider.Adapter, task provider.Task, ask func(context.Context, provider.Adapter, provider.Task) string) {
	t.Helper()
	for _, row := range read(t, file) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for k, v := range row.Header {
				w.Header().Set(k, v)
			}
			if row.Status > 0 {
				w.WriteHeader(row.Status)
			}
			_, _ = w.Write(row.body())
		}))
		mine := task
		if row.Task.Model != "" {
			mine.Model = row.Task.Model
		}
		mine.ImageURL = row.Task.Image
		got := ask(t.Context(), open(srv.URL), mine)
		if got = strings.ReplaceAll(got, srv.URL, "BASE"); got != row.Want {
			t.Errorf("%s, %s: %s, want %s", file, row.Name, got, row.Want)
		}
		srv.Close()
	}
}

// read is the recordings of a file.
func read(t testing.TB, file string) []recording {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rows []recording
	if err := json.Unmarshal(data, &rows); err != nil || len(rows) == 0 {
		t.Fatalf("%s: %d rows, %v", file, len(rows), err)
	}
	return rows
}

// RecordedWebhooks plays the bodies of testdata/webhook.json to an adapter's
// parser below the signature; want is as in poll.json.
func RecordedWebhooks(t testing.TB, parse func(body []byte) (provider.Report, error)) {
	t.Helper()
	for _, row := range read(t, "testdata/webhook.json") {
		r, err := parse(row.body())
		got := "error"
		if err == nil {
			got = tell(r)
		}
		if got != row.Want {
			t.Errorf("testdata/webhook.json, %s: %s, want %s", row.Name, got, row.Want)
		}
	}
}

func describe(f *fault.Error) string {
	s := string(f.Code)
	if f.ProviderCode != "" {
		s += " (" + f.ProviderCode + ")"
	}
	if f.Retryable {
		s += " retry"
	}
	if f.RetryAfter > 0 {
		s += " " + f.RetryAfter.String()
	}
	return s
}

// CheckReport fails when a report that a parser let through breaks the
// contract; it is the property of every adapter's fuzz target.
func CheckReport(t *testing.T, r provider.Report, err error) {
	t.Helper()
	switch {
	case err != nil:
		if !errors.Is(err, provider.ErrBadBody) && !errors.Is(err, provider.ErrBadSignature) && !errors.Is(err, provider.ErrKeysUnavailable) {
			t.Fatalf("%v is none of a parser's errors", err)
		}
	case r.State == "", r.TaskID == "", r.State == provider.Succeeded && r.ResultURL == "" && !r.Hint,
		r.State == provider.Failed && r.Err == nil && !r.Hint, r.State != provider.Failed && r.Err != nil:
		t.Fatalf("%+v", r)
	}
}
