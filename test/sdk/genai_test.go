package sdk

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/genai"
)

func TestGenAI(t *testing.T) {
	t.Parallel()
	srv := simulate(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	open := func(apiKey string) *genai.Client {
		c, err := genai.NewClient(ctx, &genai.ClientConfig{APIKey: apiKey, Backend: genai.BackendGeminiAPI, HTTPClient: srv.Client(), HTTPOptions: genai.HTTPOptions{BaseURL: srv.URL + "/veo"}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const model = "veo-3.1-generate-preview"
	c := open(key)
	finish := func(prompt string, cfg *genai.GenerateVideosConfig) *genai.GenerateVideosOperation {
		op, err := c.Models.GenerateVideosFromSource(ctx, model, &genai.GenerateVideosSource{Prompt: prompt}, cfg)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for err == nil && !op.Done {
			<-tick.C
			op, err = c.Operations.GetVideosOperation(ctx, op, nil)
		}
		if err != nil {
			t.Fatalf("%s: %v", prompt, err)
		}
		return op
	}
	seconds := int32(4)
	op := finish("A paper boat", &genai.GenerateVideosConfig{NumberOfVideos: 1, DurationSeconds: &seconds, AspectRatio: "16:9", Resolution: "720p"})
	if op.Error != nil || len(op.Response.GeneratedVideos) != 1 {
		t.Fatalf("%+v", op)
	}
	if data, err := c.Files.Download(ctx, genai.NewDownloadURIFromGeneratedVideo(op.Response.GeneratedVideos[0]), nil); err != nil || !isVideo(data) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if op := finish("[fault:policy]", nil); op.Error != nil || op.Response.RAIMediaFilteredCount != 1 || len(op.Response.RAIMediaFilteredReasons) != 1 || len(op.Response.GeneratedVideos) != 0 {
		t.Errorf("%+v", op)
	}
	if op := finish("[fault:fail_halfway]", nil); op.Error["code"] != 13.0 {
		t.Errorf("%+v", op)
	}
	var e genai.APIError
	seconds = 60
	if _, err := c.Models.GenerateVideosFromSource(ctx, model, &genai.GenerateVideosSource{Prompt: "p"}, &genai.GenerateVideosConfig{DurationSeconds: &seconds}); !errors.As(err, &e) || e.Code != 400 || e.Status != "INVALID_ARGUMENT" {
		t.Error(err)
	}
	if _, err := open("wrong").Models.GenerateVideosFromSource(ctx, model, &genai.GenerateVideosSource{Prompt: "p"}, nil); !errors.As(err, &e) || e.Code != 400 || len(e.Details) != 1 || e.Details[0]["reason"] != "API_KEY_INVALID" {
		t.Error(err)
	}
}
