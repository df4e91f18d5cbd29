package catalog_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/fault"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// A price may be wrong; it is never absurd: 0.005 to 60 credits for a video,
// with the sum that its lines say.
func TestEveryEntryIsPricedAtEveryShape(t *testing.T) {
	t.Parallel()
	models, unpriced := catalog.Builtin().Models(), 0
	for _, m := range models {
		if m.SourceURL == "" {
			t.Errorf("%s names no address as its source", m.ID)
		}
		if !m.Priced() {
			unpriced++
		}
		for _, task := range []string{catalog.TextToVideo, catalog.ImageToVideo, catalog.FramesToVideo} {
			for _, r := range m.Resolutions {
				for _, d := range m.Durations {
					for _, a := range m.Ratios {
						for _, sound := range []bool{false, true} {
							shape(t, m, task, &videov1.VideoRequest{Prompt: "p", Resolution: r, DurationSeconds: d, AspectRatio: a}, sound)
						}
					}
				}
			}
		}
	}
	if len(models) < 60 || unpriced == 0 || unpriced > len(models)/4 {
		t.Errorf("%d models, %d of them without a price", len(models), unpriced)
	}
}

// shape asks a model for one video and checks the price, or the reason why not.
func shape(t *testing.T, m catalog.Model, task string, req *videov1.VideoRequest, sound bool) {
	t.Helper()
	if task != catalog.TextToVideo {
		req.ImageUrl = "https://i.example/a.png"
	}
	if task == catalog.FramesToVideo {
		req.EndImageUrl = "https://i.example/b.png"
	}
	if sound {
		req.Audio = proto.Bool(true)
	}
	want := []string{}
	if !m.Priced() {
		want = append(want, "model")
	}
	switch {
	case m.ProviderModels[task] == "" && task == catalog.FramesToVideo:
		want = append(want, "end_image_url")
	case m.ProviderModels[task] == "":
		want = append(want, "image_url")
	}
	if sound && !m.Audio {
		want = append(want, "audio")
	}
	if rs := m.TaskResolutions[task]; rs != nil && !slices.Contains(rs, req.GetResolution()) {
		want = append(want, "resolution")
	}
	if ds := m.DurationsAt[req.GetResolution()]; ds != nil && !slices.Contains(ds, req.GetDurationSeconds()) {
		want = append(want, "duration")
	}
	p, bad := m.Resolve(req, "2160p", nil)
	got := []string{}
	for _, f := range bad {
		got = append(got, f.Name)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%s %s %v: %v, want faults of %v", m.ID, task, req, bad, want)
	}
	if len(bad) > 0 {
		return
	}
	lines, total, err := m.Quote(p)
	if err != nil || total < 5_000 || total > 60_000_000 || len(lines) != 1 || lines[0].GetUnitMicros()*lines[0].GetQuantity() != total || lines[0].GetAmountMicros() != total {
		t.Errorf("%s %v costs %d: %v, %v", m.ID, p, total, lines, err)
	}
	if got := told(m.Proto(), p); got != total {
		t.Errorf("%s %v costs %d and is told to cost %d", m.ID, p, total, got)
	}
	if p.GetWidth() == 0 || p.GetWidth()%2+p.GetHeight()%2 != 0 || p.GetProviderModel() != m.ProviderModels[task] {
		t.Errorf("%s is %v", m.ID, p)
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
			"[{prompt is required} {end_image_url needs image_url as well} {aspect_ratio kling-v2-6 makes 16:9, 9:16, 1:1, not \"2:1\"} {duration kling-v2-6 makes 5, 10 seconds, not 7}]"},
	} {
		limit := "720p"
		if name == "resolution contradic" {
			limit = "1080p"
		}
		p, bad := m.Resolve(c.r, limit, nil)
		got := fmt.Sprintf("%dx%d", p.GetWidth(), p.GetHeight())
		if bad != nil {
			got = fmt.Sprint(bad)
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// told is the price of a video by what callers are shown of its model.
func told(m *videov1.Model, p *videov1.VideoParams) (total int64) {
	for _, x := range m.GetPrices() {
		switch {
		case x.GetResolution() != p.GetResolution() || x.GetAudio() != p.GetAudio():
		case x.GetClipSeconds() == p.GetDurationSeconds():
			return x.GetAmountMicros()
		case x.GetClipSeconds() == 0:
			total = x.GetAmountMicros() * int64(p.GetDurationSeconds())
		}
	}
	return total
}

// every is a model that can do little, to be refused a lot.
const every = `
- {id: unpriced, provider: p, source: s, source_date: 2026-11, provider_models: {text-to-video: x}, durations: [5], resolutions: [720p], ratios: ["16:9"]}
- id: little
  provider: p
  source: s
  source_date: 2026-11-24
  provider_models: {image-to-video: x, start-end-frame-to-video: x}
  task_resolutions: {start-end-frame-to-video: [1080p]}
  durations: [8, 6]
  durations_at: {1080p: [8]}
  resolutions: [720p, 1080p]
  ratios: ["16:9"]
  audio: true
  audio_always: true
  provenance: {visible: always}
  negative_prompt: true
  prompt_characters: 5
  negative_prompt_characters: 3
  prices: {720p: {second: 10000}, 1080p: {clip: {8: 90000}, clip_with_audio: {8: 95000}}}
`

// Each refusal names the field, and what the model can do instead.
func TestRefusals(t *testing.T) {
	t.Parallel()
	c, err := catalog.Parse([]byte(every))
	if err != nil {
		t.Fatal(err)
	}
	const image = "https://i.example/a.png"
	for name, k := range map[string]struct {
		model string
		r     *videov1.VideoRequest
		want  string
	}{
		"no price":            {"unpriced", &videov1.VideoRequest{Prompt: "p"}, "[{model unpriced has no price yet and cannot be used; choose one with priced true, or ask the operator to set its price}]"},
		"no text":             {"little", &videov1.VideoRequest{Prompt: "p"}, "[{image_url little offers no text-to-video; it offers image-to-video, start-end-frame-to-video}]"},
		"no image":            {"unpriced", &videov1.VideoRequest{Prompt: "p", ImageUrl: image}, "image_url unpriced offers no image-to-video; it offers text-to-video}]"},
		"no end":              {"unpriced", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, EndImageUrl: image}, "end_image_url unpriced offers no start-end-frame-to-video; it offers text-to-video}]"},
		"end alone":           {"little", &videov1.VideoRequest{Prompt: "p", EndImageUrl: image}, "[{end_image_url needs image_url as well}]"},
		"long prompt":         {"little", &videov1.VideoRequest{Prompt: "äöüßé!", ImageUrl: image}, "[{prompt has 6 characters; little takes at most 5}]"},
		"just long enough":    {"little", &videov1.VideoRequest{Prompt: "äöüßé", ImageUrl: image}, ""},
		"long negative":       {"little", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, NegativePrompt: "blur"}, "[{negative_prompt has 4 characters; little takes at most 3}]"},
		"negative":            {"unpriced", &videov1.VideoRequest{Prompt: "p", NegativePrompt: "n"}, "negative_prompt unpriced takes none}"},
		"seed":                {"little", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, Seed: proto.Int64(1)}, "[{seed little takes none}]"},
		"no sound":            {"unpriced", &videov1.VideoRequest{Prompt: "p", Audio: proto.Bool(true)}, "audio unpriced makes no sound}"},
		"always sound":        {"little", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, Audio: proto.Bool(false)}, "[{audio little always makes sound}]"},
		"no mark":             {"little", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, Watermark: proto.Bool(true)}, "[{watermark little adds none on demand}]"},
		"always a mark":       {"little", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, Watermark: proto.Bool(false)}, "[{watermark little always adds one}]"},
		"duration":            {"little", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, DurationSeconds: 7}, "[{duration little makes 8, 6 seconds, not 7}]"},
		"duration there":      {"little", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, DurationSeconds: 6, Resolution: "1080p"}, "[{duration little makes 8 seconds at 1080p, not 6}]"},
		"resolution":          {"little", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, Resolution: "480p"}, "[{resolution little makes 720p, 1080p, not \"480p\"}]"},
		"resolution of task":  {"little", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, EndImageUrl: image, Resolution: "720p"}, "[{resolution little makes 1080p for start-end-frame-to-video, not \"720p\"}]"},
		"ratio":               {"little", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, AspectRatio: "1:1"}, "[{aspect_ratio little makes 16:9, not \"1:1\"}]"},
		"size":                {"little", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, Size: "1x1"}, "[{size \"1x1\" is not a size of little; use for example 1920x1080}]"},
		"platform":            {"little", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, Platform: "radio"}, "[{platform \"radio\" is not known; use one of "},
		"platform of another": {"little", &videov1.VideoRequest{Prompt: "p", ImageUrl: image, Platform: "tiktok"}, "[{platform needs 9:16, which little does not make; it makes 16:9}]"},
	} {
		m, _ := c.Model(k.model)
		_, bad := m.Resolve(k.r, "1080p", nil)
		if got := fmt.Sprint(bad); (k.want == "") != (bad == nil) || !strings.Contains(got, k.want) {
			t.Errorf("%s: %s\nwant %s", name, got, k.want)
		}
	}
	// What has no price is refused at the price as well, were it ever resolved.
	m, _ := c.Model("unpriced")
	var f *fault.Error
	if _, _, err := m.Quote(&videov1.VideoParams{Resolution: "720p", DurationSeconds: 5}); !errors.As(err, &f) || f.Code != fault.InvalidRequest || f.Fields[0].Name != "model" {
		t.Errorf("%v", err)
	}
	if p := m.Proto(); p.GetPriced() || p.GetPricePerSecondMicros() != 0 {
		t.Errorf("%v", p)
	}
	// The first with a price is the default, at the resolution of its task.
	if m, _ = c.Model(""); m.ID != "little" {
		t.Errorf("the default is %s", m.ID)
	}
	p, bad := m.Resolve(&videov1.VideoRequest{ImageUrl: image, EndImageUrl: image}, "1080p", nil)
	lines, total, err := m.Quote(p)
	if bad != nil || err != nil || p.GetResolution() != "1080p" || p.GetDurationSeconds() != 8 || total != 95_000 || lines[0].GetDescription() != "little, 1080p, with sound, a clip of 8 s" {
		t.Errorf("%v %v %v %d %v", bad, p, lines, total, err)
	}
}

// Every fault of a file is told at once, with its line, entry and field.
func TestFaultsOfAFile(t *testing.T) {
	t.Parallel()
	_, err := catalog.Parse([]byte(`
- id: bad id
  provider: P
  provider_models: {text-to-video: x, lip-sync: y, image-to-video: "a b"}
  durations: [5, 5, 0]
  durations_at: {4k: [5], 720p: [6]}
  resolutions: [720p, 4k]
  task_resolutions: {start-end-frame-to-video: [720p], text-to-video: []}
  ratios: ["16/9"]
  colour: red
  seed: maybe
  audio_always: true
  provenance: {exif: always, c2pa: sometimes}
  prompt_characters: -1
  typical_time: 3m
  max_time: 2m
  result_life: forever
  on_uncertain: hope
  prices: {1080p: {second: 1}, 720p: {second: -1, clip: {7: 0}, each: 3, second_with_audio: 5}}
  source_url: ftp://x
- id: again
  provider: p
  source: s
  source_date: 2026-13
  provider_models: {}
  resolutions: []
- {id: again, provider: p, durations: "5", source: s, source_date: 2026-11, provider_models: {text-to-video: x}, resolutions: [720p], ratios: ["16:9"]}
- just a text
`))
	if err == nil {
		t.Fatal("read")
	}
	for _, want := range []string{
		`catalogue:2: model "bad id": id: must be 1 to 128 letters, digits, dots, dashes, underscores, colons and slashes`,
		`catalogue:3: model "bad id": provider: is required: lower-case letters, digits and dashes`,
		`provider_models.lip-sync: is not a task that requests can express; the tasks are text-to-video, image-to-video, start-end-frame-to-video, video-to-video, extend`,
		`provider_models.image-to-video: must be the provider's name of the model, 1 to 256 characters without spaces`,
		`catalogue:5: model "bad id": durations: 5 is there twice`,
		`durations: 0 must be 1 to 3600 seconds`,
		`durations_at.720p: 6 is not one of its durations`,
		`resolutions: "4k" is not known; use 480p, 540p, 720p, 768p, 1080p, 1440p, 2160p`,
		`task_resolutions.start-end-frame-to-video: is not one of its tasks`,
		`task_resolutions.text-to-video: must be some of its resolutions`,
		`ratios: "16/9" must be WIDTH:HEIGHT, such as 16:9`,
		`catalogue:10: model "bad id": colour: is not a field here; the fields are id, provider, name, `,
		`catalogue:11: model "bad id": seed: must be true or false`,
		`audio_always: needs audio: true`,
		`provenance.exif: is not known; use synthid, c2pa or visible`,
		`provenance.c2pa: "sometimes" must be always, optional or removable`,
		`prompt_characters: must be 0 to 10000`,
		`typical_time: must not be above max_time`,
		`result_life: must be a length of time such as 90s`,
		`on_uncertain: "hope" must be wait or resubmit`,
		`prices.720p.each: is not a field here; the fields are second, second_with_audio, clip, clip_with_audio`,
		`source: is required: where the entry comes from, in words`,
		`source_date: is required: YYYY-MM or YYYY-MM-DD`,
		`source_url: must be an https URL`,
		`catalogue:25: model "again": provider_models: is required: the provider's name of the model by task; the tasks are `,
		`catalogue:21: model "again": durations: is required: whole seconds, the default first`,
		`catalogue:21: model "again": ratios: is required`,
		`catalogue:27: model "again": id: is there twice in this file`,
		`catalogue:27: model "again": durations: must be a list of whole numbers`,
		`catalogue:28: a model without id: entry: must be fields with values`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %s\nin %s", want, err)
		}
	}
	for data, want := range map[string]string{
		"":             "catalogue: is empty; write [] for no models",
		"id: x":        "catalogue:1: must be a list of models, each beginning with a dash",
		"- [\n":        "catalogue: is not YAML: ",
		"[]\n---\n[]":  "catalogue:2: another document begins",
		"[]\n---\n- [": "catalogue: is not YAML: ",
		priced("{}"):   `model "x": prices.720p: has no price for 5 seconds`,
		priced(`{second: 1, clip: {5: 2, 9: 1}}`):                             `prices.720p.clip: 9 is not one of its durations at 720p`,
		priced(`{second: -1}`):                                                `prices.720p.second: must be 1 to 1000000000 millionths`,
		priced(`{second: 9999999999}`):                                        `prices.720p.second: must be 1 to 1000000000 millionths`,
		priced(`{second: 1, second_with_audio: 2}`):                           `prices.720p: has a price with sound, which the model does not make`,
		strings.Replace(priced("{second: 1}"), "720p]", "720p, 480p]", 1):     `prices: leaves out 480p: name every resolution, or none`,
		strings.Replace(priced("{second: 1}"), "prices: {7", "prices: {8", 1): `prices.820p: is not one of its resolutions`,
		strings.Replace(priced("{second: 1}"), "prices", "costs", 1):          "",
		priced("{second: 1}"):                                                 "",
	} {
		if _, err := catalog.Parse([]byte(data)); (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", data, err, want)
		}
	}
}

// priced is a model with this price.
func priced(price string) string {
	return `[{id: x, provider: p, source: s, source_date: 2026-11, provider_models: {text-to-video: x}, durations: [5], resolutions: [720p], ratios: ["16:9"], prices: {720p: ` + price + `}}]`
}

// A job outlives its model's entry; one that an older version accepted is asked
// of the catalogue.
func TestProviderModel(t *testing.T) {
	t.Parallel()
	c := catalog.Builtin()
	for want, p := range map[string]*videov1.VideoParams{
		"settled":            {Model: "gone", ProviderModel: "settled"},
		"gen4_turbo":         {Model: "gen-4-turbo", ImageUrl: "https://i.example/a.png"},
		"MiniMax-Hailuo-2.3": {Model: "hailuo-2.3"},
	} {
		if got, err := c.ProviderModel(p); got != want || err != nil {
			t.Errorf("%s: %s %v", want, got, err)
		}
	}
	for _, p := range []*videov1.VideoParams{{Model: "gone"}, {Model: "gen-4-turbo"}} {
		if got, err := c.ProviderModel(p); err == nil {
			t.Errorf("%v is %s", p, got)
		}
	}
}

func TestOnUncertain(t *testing.T) {
	t.Parallel()
	c, err := catalog.Parse([]byte(strings.Replace(priced("{second: 1}"), "id: x", "id: x, on_uncertain: resubmit", 1)))
	if err != nil {
		t.Fatal(err)
	}
	for model, want := range map[string]string{"gone": catalog.Wait, "x": catalog.Resubmit} {
		if got := c.OnUncertain(model); got != want {
			t.Errorf("%s: %q, want %q", model, got, want)
		}
	}
	if got := catalog.Builtin().OnUncertain("veo-3.1"); got != catalog.Wait {
		t.Error(got)
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
	if p, bad := m.Resolve(&videov1.VideoRequest{Prompt: "p"}, "720p", nil); bad != nil || p.GetWidth() != 1366 || p.GetHeight() != 768 {
		t.Errorf("%v %v", p, bad)
	}
	if _, bad := m.Resolve(&videov1.VideoRequest{Prompt: "p", Resolution: "1440p"}, "1080p", nil); bad == nil {
		t.Error("2K passes a cap of 1080p")
	}
}
