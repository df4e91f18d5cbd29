package test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// OpenAI's own Go SDK, unchanged but for base URL and key.
func openAISDK(t *testing.T, s *stack) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := openai.NewClient(option.WithBaseURL(s.base+"/v1"), option.WithAPIKey(s.key))
	var ids []string
	for range 3 {
		v, err := c.Videos.New(ctx, openai.VideoNewParams{Model: "seedance-2.0", Prompt: "A paper boat", Seconds: "8", Size: "720x1280"})
		if err != nil {
			t.Fatal(err)
		}
		if v.Status != openai.VideoStatusQueued || v.Seconds != "8" || v.Size != "720x1280" || v.Prompt != "A paper boat" || v.CreatedAt == 0 {
			t.Errorf("%+v", v)
		}
		ids = append(ids, v.ID)
	}
	for _, id := range ids {
		s.await(90*time.Second, id)
		v, err := c.Videos.Get(ctx, id)
		if err != nil || v.Status != openai.VideoStatusCompleted || v.Progress != 100 || v.CompletedAt == 0 {
			t.Fatalf("%+v %v", v, err)
		}
	}
	resp, err := c.Videos.DownloadContent(ctx, ids[0], openai.VideoDownloadContentParams{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || len(data) < 1000 || string(data[4:8]) != "ftyp" || resp.Header.Get("Content-Type") != "video/mp4" {
		t.Errorf("%d bytes of %s: %v", len(data), resp.Header.Get("Content-Type"), err)
	}
	pages := c.Videos.ListAutoPaging(ctx, openai.VideoListParams{Limit: openai.Int(2)})
	var listed []string
	for pages.Next() {
		listed = append(listed, pages.Current().ID)
	}
	if pages.Err() != nil || len(listed) != 3 || listed[0] != ids[2] {
		t.Errorf("%v %v", listed, pages.Err())
	}
	if d, err := c.Videos.Delete(ctx, ids[0]); err != nil || !d.Deleted {
		t.Errorf("%+v %v", d, err)
	}
	_, err = c.Videos.Get(ctx, ids[0])
	var e *openai.Error
	if !errors.As(err, &e) || e.StatusCode != http.StatusNotFound || e.Code != "not_found" {
		t.Errorf("%v", err)
	}
	_, err = c.Videos.New(ctx, openai.VideoNewParams{Model: "sora-9", Prompt: "p"})
	if !errors.As(err, &e) || e.StatusCode != http.StatusBadRequest || e.Param != "model" {
		t.Errorf("%v", err)
	}
}
