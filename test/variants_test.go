package test

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// OpenAI's own SDK gets a video's thumbnail and sprite sheet; all of it goes
// when the video is deleted.
func TestVariants(t *testing.T) {
	t.Parallel()
	s := setup(t, "REELWAY_VARIANTS=auto", "REELWAY_VARIANTS_TIMEOUT=2m")
	id := s.call(http.MethodPost, "/v1/videos", request("kling-v2-6", "x")).video.ID
	if a := s.call(http.MethodGet, "/v1/videos/"+id+"/content?variant=poster&download=perhaps", nil); a.status != http.StatusBadRequest || len(a.fault.Fields) != 2 || a.fault.Fields[0].Name != "variant" || a.fault.Fields[1].Name != "download" {
		t.Errorf("a wrong question: %d %s", a.status, a.raw)
	}
	v := s.await(3*time.Minute, id)
	if v.Artifact == nil || v.Artifact.Thumbnail == nil || v.Artifact.Spritesheet == nil || v.Artifact.Media == nil || v.Artifact.VariantsMissing != "" {
		t.Fatalf("%+v; log:\n%s", v.Artifact, s.log)
	}
	if m := v.Artifact.Media; m.VideoCodec != "h264" || m.FrameRate <= 0 {
		t.Errorf("%+v", m)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := openai.NewClient(option.WithBaseURL(s.base+"/v1"), option.WithAPIKey(key))
	for variant, want := range map[openai.VideoDownloadContentParamsVariant]struct {
		kind  string
		bytes int64
	}{
		openai.VideoDownloadContentParamsVariantVideo:       {"video/mp4", v.Artifact.Bytes},
		openai.VideoDownloadContentParamsVariantThumbnail:   {v.Artifact.Thumbnail.ContentType, v.Artifact.Thumbnail.Bytes},
		openai.VideoDownloadContentParamsVariantSpritesheet: {"image/jpeg", v.Artifact.Spritesheet.Bytes},
	} {
		resp, err := c.Videos.DownloadContent(ctx, id, openai.VideoDownloadContentParams{Variant: variant}) //nolint:staticcheck // OpenAI closed its service; the SDK's dialect is what we serve
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if kind := resp.Header.Get("Content-Type"); err != nil || kind != want.kind || int64(len(data)) != want.bytes || http.DetectContentType(data) != want.kind {
			t.Errorf("%s is %d bytes of %s, want %d of %s: %v", variant, len(data), kind, want.bytes, want.kind, err)
		}
	}
	for query, want := range map[string]string{"": "inline; filename=" + id + ".mp4", "?download=true": "attachment; filename=" + id + ".mp4",
		"?variant=spritesheet&download=1": "attachment; filename=" + id + ".spritesheet.jpg"} {
		req, err := http.NewRequest(http.MethodGet, s.base+"/v1/videos/"+id+"/content"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if got := resp.Header.Get("Content-Disposition"); got != want {
			t.Errorf("content%s is %q, want %q", query, got, want)
		}
	}
	stored := func() (out []string) {
		all, err := filepath.Glob(s.dir + "/data/bucket/videos/*/*/*")
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(all, func(name string) bool { return strings.HasSuffix(name, ".attrs") })
	}
	if files := stored(); len(files) != 3 {
		t.Errorf("the bucket has %v, want the video and two images", files)
	}
	if a := s.call(http.MethodDelete, "/v1/videos/"+id, nil); a.status != http.StatusOK {
		t.Fatalf("delete: %d %s", a.status, a.raw)
	}
	s.eventually(time.Minute, "all files are gone", func() bool { return len(stored()) == 0 })
}

// Where no variants are made, the answer says so and the video is there.
func TestVariantsAreClearlyAbsent(t *testing.T) {
	t.Parallel()
	s := setup(t, "REELWAY_VARIANTS=auto", "REELWAY_FFMPEG=/nowhere/ffmpeg")
	id := s.call(http.MethodPost, "/v1/videos", request("kling-v2-6", "x")).video.ID
	v := s.await(90*time.Second, id)
	if a := v.Artifact; a == nil || a.Thumbnail != nil || a.Spritesheet != nil || a.Media != nil || a.VariantsMissing != "no_ffmpeg" {
		t.Errorf("%+v", a)
	}
	for _, variant := range []string{"thumbnail", "spritesheet"} {
		a := s.call(http.MethodGet, "/v1/videos/"+id+"/content?variant="+variant, nil)
		if a.status != http.StatusNotFound || a.fault.Retryable || !strings.Contains(a.fault.Message, "no "+variant) || !strings.Contains(a.fault.Message, "no ffmpeg") {
			t.Errorf("%s: %d %s", variant, a.status, a.raw)
		}
	}
	if a := s.call(http.MethodGet, "/v1/videos/"+id+"/content?variant=video", nil); a.status != http.StatusOK || int64(len(a.raw)) != v.Artifact.Bytes {
		t.Errorf("the video: %d, %d bytes", a.status, len(a.raw))
	}
}
