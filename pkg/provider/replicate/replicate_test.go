package replicate_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/providertest"
	"reelway.dev/pkg/provider/replicate"
)

func open(url string) provider.Adapter {
	return replicate.New(replicate.Config{Account: provider.Account{BaseURL: url, APIKey: "k", Client: http.DefaultClient, Now: time.Now}})
}

func TestRecorded(t *testing.T) {
	t.Parallel()
	providertest.Recorded(t, open, provider.Task{Model: "google/veo-3.1", Prompt: "p", Duration: 8}, "r1")
}

func FuzzParseWebhook(f *testing.F) {
	for _, s := range []string{`{"id":"r1","status":"succeeded","output":"https://x.example/v.mp4"}`, `{"id":"r1","status":"succeeded","output":["https://x.example/v.mp4"]}`,
		`{"id":"r1","status":"failed","error":"flagged as sensitive (E005)"}`, `{"id":"r1","status":"aborted"}`, `{"id":"r1","status":"new word","output":{"a":1}}`} {
		f.Add([]byte(s))
	}
	p, _ := open("https://r.example").(provider.WebhookParser)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := p.ParseWebhook(context.Background(), http.Header{}, body, time.Unix(1_800_000_000, 0))
		providertest.CheckReport(t, r, err)
	})
}
