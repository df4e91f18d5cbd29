package byteplus_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/byteplus"
	"reelway.dev/pkg/provider/providertest"
)

func open(url string) provider.Adapter {
	return byteplus.New(byteplus.Config{Account: provider.Account{BaseURL: url, APIKey: "k", Client: http.DefaultClient, Now: time.Now}})
}

func TestRecorded(t *testing.T) {
	t.Parallel()
	providertest.Recorded(t, open, provider.Task{Model: "seedance-1-5-pro-251215", Prompt: "p", Duration: 5}, "cgt-1")
}

func FuzzParseWebhook(f *testing.F) {
	for _, s := range []string{`{"id":"cgt-1","status":"succeeded","content":{"video_url":"https://x.example/v.mp4"}}`,
		`{"id":"cgt-1","status":"failed","error":{"code":"OutputVideoSensitiveContentDetected","message":"m"}}`, `{"id":"cgt-1","status":"new word"}`} {
		f.Add([]byte(s))
	}
	p, _ := open("https://b.example").(provider.WebhookParser)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := p.ParseWebhook(context.Background(), http.Header{}, body, time.Unix(1_800_000_000, 0))
		providertest.CheckReport(t, r, err)
	})
}
