package test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// OpenAI's own Go SDK, unchanged but for base URL and key.
func openAISDK(t *testing.T, s *stack) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
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

// The SDK makes videos of others where the model can, and is refused, in its own
// errors, where it cannot.
func TestOpenAISDKOfVideos(t *testing.T) {
	t.Parallel()
	s := setup(t, everyProvider...)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	c := openai.NewClient(option.WithBaseURL(s.base+"/v1"), option.WithAPIKey(s.key))
	other, err := c.Videos.NewAndPoll(ctx, openai.VideoNewParams{Model: "seedance-2.0", Prompt: "A paper boat", Seconds: "8", Size: "720x1280"}, 200)
	if err != nil || other.Status != openai.VideoStatusCompleted {
		t.Fatalf("%+v %v", other, err)
	}
	made, err := c.Videos.NewAndPoll(ctx, openai.VideoNewParams{Model: "sora-2", Prompt: "A kite", Seconds: "4", Size: "1280x720"}, 200)
	if err != nil || made.Status != openai.VideoStatusCompleted {
		t.Fatalf("%+v %v", made, err)
	}
	edit := func(id string) (*openai.Video, error) {
		return c.Videos.Edit(ctx, openai.VideoEditParams{Prompt: "At night",
			Video: openai.VideoEditParamsVideoUnion{OfVideoEditsVideoVideoReferenceInputParam: &openai.VideoEditParamsVideoVideoReferenceInputParam{ID: id}}})
	}
	extend := func(id string, seconds openai.VideoSeconds) (*openai.Video, error) {
		return c.Videos.Extend(ctx, openai.VideoExtendParams{Prompt: "It flies on", Seconds: seconds,
			Video: openai.VideoExtendParamsVideoUnion{OfVideoExtendsVideoVideoReferenceInputParam: &openai.VideoExtendParamsVideoVideoReferenceInputParam{ID: id}}})
	}
	remixed, err1 := c.Videos.Remix(ctx, made.ID, openai.VideoRemixParams{Prompt: "In the rain"})
	edited, err2 := edit(made.ID)
	extended, err3 := extend(made.ID, "8")
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	for want, v := range map[string]*openai.Video{"a remix of 4": remixed, "an edit of 4": edited, "an extension of 8": extended} {
		s.await(90*time.Second, v.ID)
		got, err := c.Videos.Get(ctx, v.ID)
		if err != nil || got.Status != openai.VideoStatusCompleted || got.RemixedFromVideoID != made.ID || !strings.HasSuffix(want, " "+string(got.Seconds)) || got.Size != made.Size {
			t.Errorf("%s: %+v %v", want, got, err)
		}
	}
	var e *openai.Error
	if _, err := c.Videos.Remix(ctx, other.ID, openai.VideoRemixParams{Prompt: "p"}); !errors.As(err, &e) || e.StatusCode != http.StatusBadRequest || e.Param != "video" || !strings.Contains(e.Message, "choose one of") {
		t.Errorf("%v", err)
	}
	if _, err := extend(made.ID, "5"); !errors.As(err, &e) || e.StatusCode != http.StatusBadRequest || e.Param != "duration" {
		t.Errorf("%v", err)
	}
	if _, err := edit("video_absent"); !errors.As(err, &e) || e.StatusCode != http.StatusNotFound || e.Param != "video" {
		t.Errorf("%v", err)
	}
	file := openai.VideoEditParamsVideoUnion{OfFile: openai.File(strings.NewReader("no video"), "a.mp4", "video/mp4")}
	if _, err := c.Videos.Edit(ctx, openai.VideoEditParams{Prompt: "p", Video: file}); !errors.As(err, &e) || e.StatusCode != http.StatusBadRequest || e.Param != "video" || !strings.Contains(e.Message, "MP4") {
		t.Errorf("%v", err)
	}
	for _, id := range []string{made.ID, remixed.ID, edited.ID, extended.ID} {
		if _, err := c.Videos.Delete(ctx, id); err != nil {
			t.Error(err)
		}
	}
}

// A file of the caller's own is edited as well: by the model that is named, or by
// the first that takes any video. The provider is given its bytes.
func TestOpenAISDKEditsAFile(t *testing.T) {
	t.Parallel()
	s := setup(t, everyProvider...)
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	c := openai.NewClient(option.WithBaseURL(s.base+"/v1"), option.WithAPIKey(s.key))
	made, err := c.Videos.NewAndPoll(ctx, openai.VideoNewParams{Model: "seedance-2.0", Prompt: "A paper boat", Seconds: "4"}, 200)
	if err != nil || made.Status != openai.VideoStatusCompleted {
		t.Fatalf("%+v %v", made, err)
	}
	resp, err := c.Videos.DownloadContent(ctx, made.ID, openai.VideoDownloadContentParams{})
	if err != nil {
		t.Fatal(err)
	}
	film, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	raw := sha256.Sum256(film)
	sum := hex.EncodeToString(raw[:])
	edit := func(prompt string, fields map[string]any, file []byte, opts ...option.RequestOption) (*openai.Video, error) {
		p := openai.VideoEditParams{Prompt: prompt, Video: openai.VideoEditParamsVideoUnion{OfFile: openai.File(bytes.NewReader(file), "a.bin", "application/octet-stream")}}
		p.SetExtraFields(fields)
		return c.Videos.Edit(ctx, p, opts...)
	}
	for model, x := range map[string]struct {
		fields             map[string]any
		want, seconds, due string
	}{
		"of none":                {nil, "replicate-gen4-aleph", "5", "0.900000"}, // as long as its source, which may be 5 s
		"of one by the second":   {map[string]any{"model": "runway-seedance-2.0", "seconds": "4", "max_cost": "1.44"}, "runway-seedance-2.0", "4", "1.440000"},
		"of one like its source": {map[string]any{"model": "replicate-gen4-aleph"}, "replicate-gen4-aleph", "5", "0.900000"},
	} {
		prompt := "At night [fetch] " + model
		v, err := edit(prompt, x.fields, film)
		if err != nil {
			t.Errorf("%s: %v", model, err)
			continue
		}
		got := s.await(90*time.Second, v.ID)
		if got.Status != "completed" || got.Model != x.want || got.Seconds != x.seconds || got.RemixedFrom != nil || got.Cost.Quote != x.due || got.Cost.Captured != x.due {
			t.Errorf("%s: %+v", model, got)
		}
		if in := s.task(prompt).Inputs; len(in) != 1 || in[0].SHA256 != sum || in[0].ContentType != "video/mp4" {
			t.Errorf("%s: the provider got %+v, want %s", model, in, sum)
		}
	}
	// The same key and file are the same video.
	var ids []string
	for range 2 {
		v, err := edit("Once", nil, film, option.WithHeader("Idempotency-Key", "edit 1"))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, v.ID)
	}
	if ids[0] != ids[1] {
		t.Errorf("%v", ids)
	}
	s.await(90*time.Second, ids[0])
	image, _ := picture(t, 1, 0)
	var e *openai.Error
	for name, x := range map[string]struct {
		fields map[string]any
		file   []byte
		param  string
		says   string
	}{
		"an image":       {nil, image, "video_url", "is image/png"},
		"no medium":      {nil, []byte("no video"), "video", "is not a JPEG"},
		"empty":          {nil, nil, "video", "is empty"},
		"its own only":   {map[string]any{"model": "sora-2"}, film, "video_url", "works only on videos that it made"},
		"no such task":   {map[string]any{"model": "seedance-2.0"}, film, "video_url", "choose one of"},
		"an address too": {map[string]any{"video_url": "https://v.example/a.mp4"}, film, "video_url", "is there twice"},
		"an id too":      {map[string]any{"video[id]": made.ID}, film, "video_url", "contradicts video"},
		"too dear":       {map[string]any{"model": "runway-seedance-2.0", "seconds": "4", "max_cost": "1"}, film, "max_cost", "1.44"},
	} {
		if _, err := edit("p", x.fields, x.file); !errors.As(err, &e) || e.StatusCode != http.StatusBadRequest || e.Param != x.param || !strings.Contains(e.Message, x.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.eventually(60*time.Second, "no file is left", func() bool {
		names, err := filepath.Glob(filepath.Join(s.dir, "data/bucket/uploads/*/*.*"))
		return err == nil && len(names) == 0
	})
	s.books(-1)
}
