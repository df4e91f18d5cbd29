package luma_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/luma"
	"reelway.dev/pkg/provider/providertest"
)

func open(url string) provider.Adapter {
	return luma.New(luma.Config{Account: provider.Account{BaseURL: url, APIKey: "k", Client: http.DefaultClient, Now: time.Now}, AgentsURL: url})
}

func TestRecorded(t *testing.T) {
	t.Parallel()
	providertest.Recorded(t, open, provider.Task{Model: "ray-3.2", Prompt: "p", Duration: 5}, "l1")
}

func FuzzParseWebhook(f *testing.F) {
	for _, s := range []string{`{"id":"l1","state":"completed","assets":{"video":"https://x.example/v.mp4"}}`, `{"id":"l1","state":"completed","output":[{"type":"video","url":"https://x.example/v.mp4"}]}`,
		`{"id":"l1","state":"failed","failure_reason":"moderation"}`, `{"id":"l1","state":"new word"}`} {
		f.Add([]byte(s))
	}
	p, _ := open("https://l.example").(provider.WebhookParser)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := p.ParseWebhook(context.Background(), http.Header{}, body, time.Unix(1_800_000_000, 0))
		providertest.CheckReport(t, r, err)
	})
}
