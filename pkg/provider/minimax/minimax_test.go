package minimax_test

import (
	"context"
	"net/http"
	"strings"
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
