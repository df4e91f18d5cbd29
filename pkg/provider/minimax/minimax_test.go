package minimax_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/minimax"
	"reelway.dev/pkg/provider/providertest"
)

func open(url string) provider.Adapter {
	return minimax.New(minimax.Config{Account: provider.Account{BaseURL: url, APIKey: "k", Client: http.DefaultClient, Now: time.Now}})
}

func TestRecorded(t *testing.T) {
	t.Parallel()
	providertest.Recorded(t, open, provider.Task{Model: "MiniMax-Hailuo-2.3", Prompt: "p", Duration: 6, Resolution: "768p"}, "m1")
}

// A create that was refused for the callback address alone is sent once more
// without it, and any other never.
func TestRefusedAddress(t *testing.T) {
	t.Parallel()
	type answer struct {
		Status int // 200 when left out
		Body   json.RawMessage
	}
	data, err := os.ReadFile("testdata/callback.json")
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		answer
		Name    string
		Then    answer // to a create without an address
		Task    struct{ Model string }
		Creates int
		Want    string
	}
	if err := json.Unmarshal(data, &rows); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		t.Run(row.Name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var bodies []map[string]any
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var body map[string]any
				_ = json.NewDecoder(r.Body).Decode(&body)
				mu.Lock()
				bodies = append(bodies, body)
				mu.Unlock()
				a := row.answer
				if body["callback_url"] == nil {
					a = row.Then
				}
				w.WriteHeader(cmp.Or(a.Status, http.StatusOK))
				_, _ = w.Write(a.Body)
			}))
			defer srv.Close()
			task := provider.Task{Model: cmp.Or(row.Task.Model, "MiniMax-Hailuo-2.3"), Prompt: "p", Duration: 6, Resolution: "768p", CallbackURL: "https://r.example/v1/callbacks/minimax/video_1?token=s3cret"}
			var logged bytes.Buffer
			a := minimax.New(minimax.Config{Account: provider.Account{BaseURL: srv.URL, Client: http.DefaultClient, Now: time.Now}, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
			for range 2 { // the log is told once
				bodies = nil
				id, err := a.Submit(t.Context(), task)
				got := "unknown"
				var refused *provider.RefusedError
				if err == nil {
					got = "accepted " + id
				} else if errors.As(err, &refused) {
					got = string(refused.Fault.Code)
				}
				if got != row.Want || len(bodies) != row.Creates || bodies[0]["callback_url"] != task.CallbackURL {
					t.Fatalf("%s after %d creates, want %s after %d: %v", got, len(bodies), row.Want, row.Creates, err)
				}
			}
			if row.Creates == 2 {
				delete(bodies[0], "callback_url")
				if !reflect.DeepEqual(bodies[0], bodies[1]) {
					t.Errorf("%v is another task than %v", bodies[1], bodies[0])
				}
			}
			if n := strings.Count(logged.String(), "level=WARN"); n != row.Creates-1 || strings.Contains(logged.String(), "s3cret") {
				t.Errorf("the log: %s", &logged)
			}
		})
	}
}

func TestChallenge(t *testing.T) {
	t.Parallel()
	c, _ := open("https://m.example").(provider.Challenger)
	for body, want := range map[string]string{
		`{"challenge":"abc"}`:                              `{"challenge":"abc"}`,
		`{"challenge":"<script>"}`:                         `{"challenge":"\u003cscript\u003e"}`,
		`{"challenge":""}`:                                 "",
		`{"challenge":1}`:                                  "",
		`{"challenge":"abc","task_id":"m1"}`:               "",
		`{"task_id":"m1","status":"success"}`:              "",
		`garbage`:                                          "",
		`{"challenge":"` + strings.Repeat("x", 300) + `"}`: "",
	} {
		if got, ok := c.Challenge([]byte(body)); string(got) != want || ok != (want != "") {
			t.Errorf("%s: %s %v", body, got, ok)
		}
	}
}

func FuzzParseWebhook(f *testing.F) {
	for _, s := range []string{`{"task_id":"m1","status":"success","file_id":"f","base_resp":{"status_code":0}}`, `{"task_id":"m1","status":"failed","base_resp":{"status_code":1027}}`,
		`{"task":{"id":"m1","status":"succeeded","content":{"url":"https://x.example/v.mp4"}}}`, `{"task":{"id":"m1","status":"failed","error":{"code":1026}}}`, `{"task_id":"m1","status":"new word"}`} {
		f.Add([]byte(s))
	}
	p, _ := open("https://m.example").(provider.WebhookParser)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := p.ParseWebhook(context.Background(), http.Header{}, body, time.Unix(1_800_000_000, 0))
		providertest.CheckReport(t, r, err)
	})
}
