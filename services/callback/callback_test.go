package callback_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"reelway.dev/pkg/callbacktoken"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/kling"
	"reelway.dev/pkg/provider/minimax"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	"reelway.dev/services/callback"
)

// memory counts what it is given, and keeps the task that was named last.
type memory struct {
	observations, polls atomic.Int64

	task atomic.Value
}

func (m *memory) PublishObservation(context.Context, *eventv1.Observation) error {
	m.observations.Add(1)
	return nil
}

func (m *memory) SchedulePoll(_ context.Context, p *eventv1.PollAttempt, _ time.Time) error {
	m.polls.Add(1)
	m.task.Store(p.GetProviderTaskId())
	return nil
}

// A challenge is answered at a URL of ours, for a provider that sends them,
// and publishes nothing: there may be no task yet.
func TestChallenge(t *testing.T) {
	t.Parallel()
	var bus memory
	srv := httptest.NewUnstartedServer(nil)
	defer srv.Close()
	tokens, err := callbacktoken.New("http://"+srv.Listener.Addr().String(), []byte("a secret of at least thirty-two bytes"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := callback.New(callback.Deps{Bus: &bus, Tokens: tokens, Logger: slog.New(slog.DiscardHandler), Now: time.Now, Parsers: map[string]provider.WebhookParser{
		minimax.Name: minimax.New(minimax.Config{}), kling.Name: kling.New(kling.Config{Now: time.Now}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = s.Handler()
	srv.Start()
	for name, c := range map[string]struct {
		url, body string
		status    int
		want      string
	}{
		"challenge":             {tokens.URL(minimax.Name, "video_1", "att_1", ""), `{"challenge":"abc"}`, 200, `{"challenge":"abc"}`},
		"challenge by a forger": {tokens.URL(minimax.Name, "video_1", "att_1", "") + "x", `{"challenge":"abc"}`, 401, "bad_token"},
		"not this provider's":   {tokens.URL(kling.Name, "video_1", "att_1", ""), `{"challenge":"abc"}`, 400, "garbage"},
		"callback":              {tokens.URL(minimax.Name, "video_1", "att_1", ""), `{"task_id":"m1","status":"processing","base_resp":{"status_code":0}}`, 200, "hint"},
	} {
		resp, err := http.Post(c.url, "application/json", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || !strings.Contains(string(body), c.want) || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s %v", name, resp.StatusCode, body, err)
		}
	}
	if bus.observations.Load() != 0 || bus.polls.Load() != 1 || bus.task.Load() != "m1" {
		t.Errorf("%d observations, %d polls, of %v", bus.observations.Load(), bus.polls.Load(), bus.task.Load())
	}
}
