package catalog_test

import (
	"fmt"
	"slices"
	"testing"

	"reelway.dev/pkg/catalog"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

func TestEveryEntryIsPricedAtEveryShape(t *testing.T) {
	t.Parallel()
	for _, m := range catalog.Builtin().Models() {
		for _, r := range m.Resolutions {
			for _, d := range m.Durations {
				for _, a := range m.Ratios {
					req := &videov1.VideoRequest{Prompt: "p", Resolution: r, DurationSeconds: d, AspectRatio: a}
					if m.ProviderModels[catalog.TextToVideo] == "" {
						req.ImageUrl = "https://i.example/a.png"
					}
					p, bad := m.Resolve(req, "2160p")
					if ds := m.DurationsAt[r]; ds != nil && !slices.Contains(ds, d) {
						if len(bad) != 1 || bad[0].Name != "duration" {
							t.Errorf("%s takes %d s at %s: %v", m.ID, d, r, bad)
						}
						continue
					}
					if bad != nil {
						t.Fatalf("%s %s %d %s: %v", m.ID, r, d, a, bad)
					}
					if _, total, err := m.Quote(p); err != nil || total < 50_000 || total > 50_000_000 {
						t.Errorf("%s %s %d s costs %d: %v", m.ID, r, d, total, err)
					}
					if p.GetWidth()%2+p.GetHeight()%2 != 0 {
						t.Errorf("%s %s %s has odd pixels", m.ID, r, a)
					}
				}
			}
		}
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	m, _ := catalog.Builtin().Model("kling-v2-6")
	for name, c := range map[string]struct {
		r    *videov1.VideoRequest
		want string // WxH, or the wrong fields
	}{
		"openai's form":        {&videov1.VideoRequest{Prompt: "p", Size: "1280x720", DurationSeconds: 5}, "1280x720"},
		"platform":             {&videov1.VideoRequest{Prompt: "p", Platform: "TikTok"}, "720x1280"},
		"ratio":                {&videov1.VideoRequest{Prompt: "p", AspectRatio: "1:1"}, "960x960"},
		"agreeing fields":      {&videov1.VideoRequest{Prompt: "p", Platform: "youtube", Size: "1280x720", AspectRatio: "16:9", Resolution: "720p"}, "1280x720"},
		"ratio contradicts":    {&videov1.VideoRequest{Prompt: "p", Platform: "tiktok", AspectRatio: "16:9"}, "[{aspect_ratio 16:9 contradicts platform, which means 9:16}]"},
		"size contradicts":     {&videov1.VideoRequest{Prompt: "p", Platform: "tiktok", Size: "1280x720"}, "[{size 16:9 contradicts platform, which means 9:16}]"},
		"resolution contradic": {&videov1.VideoRequest{Prompt: "p", Size: "1920x1080", Resolution: "720p"}, "[{resolution 720p contradicts size, which means 1080p}]"},
		"tier cap":             {&videov1.VideoRequest{Prompt: "p", Resolution: "1080p"}, "[{resolution 1080p is above 720p, the most that this account may ask for}]"},
		"all wrong at once": {&videov1.VideoRequest{DurationSeconds: 7, AspectRatio: "2:1", EndImageUrl: "https://e.example/x"},
			"[{prompt is required} {end_image_url needs image_url as well} {duration kling-v2-6 makes 5, 10 seconds, not 7} {aspect_ratio kling-v2-6 makes 16:9, 9:16, 1:1, not \"2:1\"}]"},
	} {
		limit := "720p"
		if name == "resolution contradic" {
			limit = "1080p"
		}
		p, bad := m.Resolve(c.r, limit)
		got := fmt.Sprintf("%dx%d", p.GetWidth(), p.GetHeight())
		if bad != nil {
			got = fmt.Sprint(bad)
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestUnpricedModelIsRefused(t *testing.T) {
	t.Parallel()
	_, err := catalog.Parse([]byte(`[{id: x, provider: p, source: s, provider_models: {text-to-video: x}, durations: [5], resolutions: [720p], ratios: ["16:9"]}]`))
	if err == nil || err.Error() != `model "x": has no price at 720p` {
		t.Error(err)
	}
}

// The catalogue of a stack has no models of providers that are off.
func TestOnly(t *testing.T) {
	t.Parallel()
	c := catalog.Builtin().Only(func(p string) bool { return p == "veo" })
	if _, ok := c.Model("kling-v2-6"); ok || len(c.Models()) == 0 {
		t.Errorf("%d models", len(c.Models()))
	}
	if m, ok := c.Model("veo-3.1"); !ok || m.Provider != "veo" {
		t.Error("veo-3.1 is gone")
	}
	if m, ok := c.Model(""); !ok || m.Provider != "veo" {
		t.Errorf("the default is %q", m.ID)
	}
}

// A tier that allows 720p allows its maker's name for it.
func TestCap(t *testing.T) {
	t.Parallel()
	m, _ := catalog.Builtin().Model("hailuo-3")
	if p, bad := m.Resolve(&videov1.VideoRequest{Prompt: "p"}, "720p"); bad != nil || p.GetWidth() != 1366 || p.GetHeight() != 768 {
		t.Errorf("%v %v", p, bad)
	}
	if _, bad := m.Resolve(&videov1.VideoRequest{Prompt: "p", Resolution: "1440p"}, "1080p"); bad == nil {
		t.Error("2K passes a cap of 1080p")
	}
}
