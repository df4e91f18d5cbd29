package sdk

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

func TestOpenAI(t *testing.T) {
	t.Parallel()
	srv := simulate(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := openai.NewClient(option.WithBaseURL(srv.URL+"/openai/v1"), option.WithAPIKey(key), option.WithWebhookSecret(secret), option.WithHTTPClient(srv.Client()))
	callbacks, came := receive(t)
	v, err := c.Videos.NewAndPoll(ctx, openai.VideoNewParams{Model: "sora-2", Prompt: "A paper boat [fault:rate_limit:1]", Seconds: "4", Size: "1280x720"}, 100)
	if err != nil || v.Status != openai.VideoStatusCompleted || v.Progress != 100 || v.Size != "1280x720" {
		t.Fatalf("%+v %v", v, err)
	}
	resp, err := c.Videos.DownloadContent(ctx, v.ID, openai.VideoDownloadContentParams{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || !isVideo(data) {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	remixed, err := c.Videos.Remix(ctx, v.ID, openai.VideoRemixParams{Prompt: "In the rain"})
	if err != nil || remixed.RemixedFromVideoID != v.ID || remixed.Seconds != v.Seconds || remixed.Size != v.Size {
		t.Errorf("%+v %v", remixed, err)
	}
	edited, err := c.Videos.Edit(ctx, openai.VideoEditParams{Prompt: "At night",
		Video: openai.VideoEditParamsVideoUnion{OfVideoEditsVideoVideoReferenceInputParam: &openai.VideoEditParamsVideoVideoReferenceInputParam{ID: v.ID}}})
	if err != nil || edited.RemixedFromVideoID != v.ID {
		t.Errorf("%+v %v", edited, err)
	}
	extended, err := c.Videos.Extend(ctx, openai.VideoExtendParams{Prompt: "It sinks", Seconds: "8",
		Video: openai.VideoExtendParamsVideoUnion{OfVideoExtendsVideoVideoReferenceInputParam: &openai.VideoExtendParamsVideoVideoReferenceInputParam{ID: v.ID}}})
	if err != nil || extended.RemixedFromVideoID != v.ID || extended.Seconds != "12" {
		t.Errorf("%+v %v", extended, err)
	}
	v, err = c.Videos.NewAndPoll(ctx, openai.VideoNewParams{Prompt: "[fault:policy]"}, 100)
	if err != nil || v.Status != openai.VideoStatusFailed || v.Error.Code != "moderation_blocked" {
		t.Errorf("%+v %v", v, err)
	}
	var e *openai.Error
	if _, err = c.Videos.New(ctx, openai.VideoNewParams{Prompt: "p", Seconds: "900"}); !errors.As(err, &e) || e.StatusCode != http.StatusBadRequest || e.Code != "invalid_value" {
		t.Error(err)
	}
	if _, err = c.Videos.Get(ctx, "video_absent"); !errors.As(err, &e) || e.StatusCode != http.StatusNotFound {
		t.Error(err)
	}
	if _, err = c.Videos.New(ctx, openai.VideoNewParams{Prompt: "p"}, option.WithAPIKey("wrong")); !errors.As(err, &e) || e.StatusCode != http.StatusUnauthorized || e.Code != "invalid_api_key" {
		t.Error(err)
	}
	// A JSON body, as clients without forms send it, that names a callback.
	var created openai.Video
	if err := c.Post(ctx, "videos", map[string]any{"prompt": "A kite", "callback_url": callbacks}, &created); err != nil {
		t.Fatal(err)
	}
	told := next(t, came)
	event, err := c.Webhooks.Unwrap(told.body, told.header)
	if err != nil || event.Type != "video.completed" || event.Data.ID != created.ID {
		t.Errorf("%+v %v", event, err)
	}
	if _, err := c.Webhooks.Unwrap(append(told.body, ' '), told.header); err == nil {
		t.Error("a changed body is verified")
	}
}
