package veo

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/providertest"
	"reelway.dev/pkg/webhooksig"
)

func open(url string) provider.Adapter {
	return New(Config{Account: provider.Account{BaseURL: url, APIKey: "k", Client: http.DefaultClient, Now: time.Now}})
}

const op = "models/veo-3.1-generate-preview/operations/o1"

func TestRecorded(t *testing.T) {
	t.Parallel()
	providertest.Recorded(t, open, provider.Task{Model: "veo-3.1-generate-preview", Prompt: "p", Duration: 8}, op)
}

// A static webhook is signed as Standard Webhooks are, in the same header.
func TestStaticWebhook(t *testing.T) {
	t.Parallel()
	key := []byte("0123456789abcdef01234567")
	now := time.Unix(1_800_000_000, 0)
	body := []byte(`{"type":"video.generated","version":"v1","data":{"id":"o1","output_file_uri":"https://g.example/f"}}`)
	stamp := strconv.FormatInt(now.Unix(), 10)
	h := http.Header{}
	h.Set("webhook-id", "m1")
	h.Set("webhook-timestamp", stamp)
	h.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(webhooksig.StandardMAC(key, "m1", stamp, body)))
	a := New(Config{WebhookKeys: [][]byte{key}})
	if r, err := a.ParseWebhook(context.Background(), h, body, now); err != nil || r.TaskID != "o1" || !r.Hint {
		t.Errorf("%+v %v", r, err)
	}
	for name, c := range map[string]struct {
		a    *Adapter
		body []byte
		at   time.Time
	}{"altered": {a, append(body, ' '), now}, "stale": {a, body, now.Add(time.Hour)}, "no secret": {New(Config{}), body, now}} {
		if _, err := c.a.ParseWebhook(context.Background(), h, c.body, c.at); !errors.Is(err, provider.ErrBadSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Callers' images are fetched, and refused when they are none.
func TestImages(t *testing.T) {
	t.Parallel()
	png := "\x89PNG\r\n\x1a\n0000"
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/image":
			_, _ = w.Write([]byte(png))
		case "/huge":
			_, _ = w.Write(make([]byte, maxImage+1))
		case "/page":
			w.Header().Set("Content-Type", "image/png")
			_, _ = w.Write([]byte("<html>"))
		case "/away":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/v1beta/models/veo:predictLongRunning":
			_, _ = w.Write([]byte(`{"name":"` + op + `"}`))
		default:
			http.NotFound(w, r)
		}
	}))
	defer web.Close()
	account := provider.Account{BaseURL: web.URL, APIKey: "k", Client: http.DefaultClient, Now: time.Now}
	a := New(Config{Account: account, Images: http.DefaultClient})
	if id, err := a.Submit(context.Background(), provider.Task{Model: "veo", ImageURL: web.URL + "/image", EndImageURL: web.URL + "/image"}); err != nil || id != op {
		t.Error(id, err)
	}
	for _, path := range []string{"/huge", "/page", "/gone"} {
		_, err := a.Submit(context.Background(), provider.Task{Model: "veo", ImageURL: web.URL + path})
		var refused *provider.RefusedError
		if !errors.As(err, &refused) || refused.Fault.Code != fault.InvalidRequest || refused.Fault.Retryable {
			t.Errorf("%s: %v", path, err)
		}
	}
	var refused *provider.RefusedError
	if _, err := a.Submit(context.Background(), provider.Task{Model: "veo", ImageURL: web.URL + "/away"}); !errors.As(err, &refused) || refused.Fault.Code != fault.Unavailable || !refused.Fault.Retryable {
		t.Errorf("a host that is away for a moment ends the job: %v", err)
	}
	if _, err := New(Config{Account: account}).Submit(context.Background(), provider.Task{Model: "veo", ImageURL: web.URL + "/image"}); !errors.As(err, &refused) {
		t.Error(err)
	}
}

func FuzzParseWebhook(f *testing.F) {
	f.Add([]byte(`{"type":"video.generated","version":"v1","timestamp":"t","data":{"id":"o1","output_file_uri":"u","file_name":"f"},"user_metadata":{"job":"j"}}`))
	f.Add([]byte(`{"type":"batch.completed","data":{"id":"b1"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parse(body) // below the signature, which no fuzzer gets past
		providertest.CheckReport(t, r, err)
	})
}
