package openai_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/openai"
	"reelway.dev/pkg/provider/providertest"
)

func open(url string) provider.Adapter {
	return openai.New(openai.Config{Account: provider.Account{BaseURL: url + "/v1", APIKey: "k", Client: http.DefaultClient, Now: time.Now}})
}

func TestRecorded(t *testing.T) {
	t.Parallel()
	providertest.Recorded(t, open, provider.Task{Model: "sora-2", Prompt: "p", Duration: 8, Width: 1280, Height: 720}, "video_1")
}

func FuzzParseWebhook(f *testing.F) {
	f.Add([]byte(`{"id":"evt_1","object":"event","created_at":1,"type":"video.completed","data":{"id":"video_1"}}`))
	f.Add([]byte(`{"id":"evt_1","object":"event","type":"video.failed","data":{"id":"video_1"}}`))
	p, _ := open("https://o.example").(provider.WebhookParser)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := p.ParseWebhook(context.Background(), http.Header{}, body, time.Unix(1_800_000_000, 0))
		providertest.CheckReport(t, r, err)
	})
}
