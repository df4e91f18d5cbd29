package catalog_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"reelway.dev/pkg/catalog"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Whatever the models that ship make of a video has a price, which is told.
func TestEverySourceTaskIsPriced(t *testing.T) {
	t.Parallel()
	priced := map[string]int{}
	for _, m := range catalog.Builtin().Models() {
		for _, s := range m.Proto().GetSources() {
			for _, r := range m.Resolutions {
				made := &catalog.Made{ID: "video_1", Model: m.ID, TaskID: "t1", URL: "bucket:v", Seconds: 4, Ratio: m.Ratios[0], Resolution: r}
				p, bad := m.Resolve(&videov1.VideoRequest{Prompt: "p", SourceVideo: "video_1", Extend: s.GetTask() == catalog.Extend}, "2160p", made)
				limits := m.TaskResolutions[s.GetTask()]
				switch {
				case !m.Priced(), limits != nil && !slices.Contains(limits, r) && s.GetOwn():
					if bad == nil {
						t.Errorf("%s %s at %s: %v", m.ID, s.GetTask(), r, p)
					}
					continue
				case bad != nil:
					t.Errorf("%s %s at %s: %v", m.ID, s.GetTask(), r, bad)
					continue
				}
				lines, total, err := m.Quote(p)
				if err != nil || total < 5_000 || total > 60_000_000 || lines[0].GetAmountMicros() != total {
					t.Errorf("%s %v costs %d: %v %v", m.ID, p, total, lines, err)
				}
				if p.GetSourceVideo() != "video_1" || (p.GetSourceTask() == "t1") != s.GetOwn() || (p.GetVideoUrl() == "bucket:v") == s.GetOwn() || p.GetProviderModel() == "" {
					t.Errorf("%s: %v", m.ID, p)
				}
				priced[s.GetTask()]++
			}
		}
	}
	if priced[catalog.VideoToVideo] < 4 || priced[catalog.Extend] < 8 {
		t.Error(priced)
	}
}

// worker is a model that works on videos in each of the ways.
const worker = `
- id: own
  provider: p
  source: s
  source_date: 2026-11
  provider_models: {text-to-video: x, video-to-video: x, extend: y}
  durations: [5, 8]
  resolutions: [720p, 1080p]
  task_resolutions: {extend: [720p]}
  ratios: ["16:9", "9:16"]
  sources:
    video-to-video: {own: true, seconds: 20, same_length: true}
    extend: {own: true, seconds: 30, durations: [7], prices: {720p: {clip: {7: 900000}}}}
  prices: {720p: {second: 10000}, 1080p: {second: 20000}}
  costs: {720p: {second: 9000}, 1080p: {second: 9000}}
- id: any
  provider: q
  source: s
  source_date: 2026-11
  provider_models: {video-to-video: z}
  resolutions: [720p]
  ratios: ["16:9", "9:16"]
  sources: {video-to-video: {seconds: 10, same_length: true}}
  prices: {720p: {second: 10000}}
`

func TestSources(t *testing.T) {
	t.Parallel()
	c, err := catalog.Parse([]byte(worker))
	if err != nil {
		t.Fatal(err)
	}
	made := func(change func(*catalog.Made)) *catalog.Made {
		m := &catalog.Made{ID: "video_1", Model: "own", TaskID: "t1", URL: "bucket:v", Seconds: 8, Ratio: "9:16", Resolution: "720p"}
		if change != nil {
			change(m)
		}
		return m
	}
	const url = "https://v.example/a.mp4"
	of := func(change func(*videov1.VideoRequest)) *videov1.VideoRequest {
		r := &videov1.VideoRequest{Prompt: "p", SourceVideo: "video_1"}
		if change != nil {
			change(r)
		}
		return r
	}
	for name, k := range map[string]struct {
		model string
		r     *videov1.VideoRequest
		made  *catalog.Made
		want  string // seconds, size and price; or the faults
	}{
		"a remix is as its source":  {"own", of(nil), made(nil), "8 s 720x1280 80000 of task t1"},
		"at its resolution's price": {"own", of(nil), made(func(m *catalog.Made) { m.Resolution = "1080p" }), "8 s 1080x1920 160000 of task t1"},
		"what goes on":              {"own", of(func(r *videov1.VideoRequest) { r.Extend = true }), made(nil), "7 s 720x1280 900000 of task t1"},
		"any video, of ours":        {"any", of(nil), made(nil), "8 s 720x1280 80000 of bucket:v"},
		"of a length not known":     {"any", &videov1.VideoRequest{Prompt: "p", VideoUrl: url}, nil, "10 s 1280x720 100000 of " + url},
		"with a shape of its own":   {"any", of(func(r *videov1.VideoRequest) { r.Size = "1280x720" }), made(nil), "8 s 1280x720 80000 of bucket:v"},
		"no prompt":                 {"any", of(func(r *videov1.VideoRequest) { r.Prompt = "" }), made(nil), "[{prompt is required}]"},
		"nothing to extend":         {"own", &videov1.VideoRequest{Prompt: "p", Extend: true}, nil, "[{video is required: the id of a completed video that is to go on, or video_url in its place}]"},
		"two sources":               {"own", of(func(r *videov1.VideoRequest) { r.VideoUrl = url }), made(nil), "[{video_url contradicts video; send one of them}]"},
		"an image besides":          {"own", of(func(r *videov1.VideoRequest) { r.ImageUrl = url }), made(nil), "[{image_url cannot be sent with a source video}]"},
		"a task it has not":         {"any", of(func(r *videov1.VideoRequest) { r.Extend = true }), made(nil), "{video any offers no extend; it offers video-to-video}"},
		"a stranger's video":        {"own", &videov1.VideoRequest{Prompt: "p", VideoUrl: url}, nil, "[{video_url own works only on videos that it made for you; send the id of one as video}"},
		"another model's video":     {"own", of(nil), made(func(m *catalog.Made) { m.Model = "any" }), "[{video was made by any; own works only on videos that it made itself}]"},
		"too long":                  {"any", of(nil), made(func(m *catalog.Made) { m.Seconds = 11 }), "{video has 11 seconds; any takes at most 10}"},
		"another length":            {"own", of(func(r *videov1.VideoRequest) { r.DurationSeconds = 5 }), made(nil), "[{duration own makes what is as long as its source; leave it out}]"},
		"length of an extension":    {"own", of(func(r *videov1.VideoRequest) { r.Extend, r.DurationSeconds = true, 5 }), made(nil), "[{duration own makes 7 seconds, not 5}]"},
		"another shape":             {"own", of(func(r *videov1.VideoRequest) { r.AspectRatio = "16:9" }), made(nil), "[{video is 9:16 at 720p, and own keeps that; 16:9 at 720p cannot be made of it}]"},
		"too large to extend":       {"own", of(func(r *videov1.VideoRequest) { r.Extend = true }), made(func(m *catalog.Made) { m.Resolution = "1080p" }), "[{video is 9:16 at 1080p, and own keeps that; 9:16 at 720p cannot be made of it}]"},
	} {
		m, _ := c.Model(k.model)
		p, bad := m.Resolve(k.r, "1080p", k.made)
		got := fmt.Sprint(bad)
		if bad == nil {
			_, total, err := m.Quote(p)
			got = fmt.Sprintf("%d s %dx%d %d of ", p.GetDurationSeconds(), p.GetWidth(), p.GetHeight(), total)
			if p.GetSourceTask() != "" {
				got += "task " + p.GetSourceTask()
			}
			got += p.GetVideoUrl()
			if err != nil || p.GetExtend() != k.r.GetExtend() {
				t.Errorf("%s: %v %v", name, p, err)
			}
		}
		if !strings.Contains(got, k.want) {
			t.Errorf("%s: %s\nwant %s", name, got, k.want)
		}
	}
	// A task's own price stands for its cost as well.
	m, _ := c.Model("own")
	for want, p := range map[int64]*videov1.VideoParams{77: {Resolution: "720p", DurationSeconds: 7, SourceVideo: "v", Extend: true}, 63_000: {Resolution: "720p", DurationSeconds: 7, SourceVideo: "v"}} {
		if got := m.Cost(p, 77); got != want {
			t.Errorf("%v costs %d, want %d", p, got, want)
		}
	}
}

func TestFaultsOfSources(t *testing.T) {
	t.Parallel()
	entry := func(sources string) string {
		return `[{id: x, provider: p, source: s, source_date: 2026-11, provider_models: {text-to-video: x, video-to-video: x, extend: x}, durations: [5], resolutions: [720p], ratios: ["16:9"], sources: {` +
			sources + `}, prices: {720p: {clip: {5: 100}}}}]`
	}
	for data, want := range map[string]string{
		entry(``):                         "",
		entry(`extend: {durations: [7]}`): "sources.extend: has no price for 7 seconds at 720p; a price is 1 to 1000000000 millionths",
		entry(`extend: {durations: [7, 7], prices: {720p: {second: 1}}}`): "sources.extend.durations: 7 is there twice",
		entry(`extend: {durations: [7], prices: {720p: {second: 1}}}`):    "",
		entry(`extend: {prices: {1080p: {second: 1}}}`):                   "sources.extend.prices.1080p: is not one of its resolutions for extend",
		entry(`extend: {same_length: true, seconds: 5}`):                  "sources.extend.same_length: is nothing that extend can make",
		entry(`video-to-video: {same_length: true}`):                      "sources.video-to-video.same_length: needs seconds, the longest source",
		entry(`video-to-video: {same_length: true, seconds: 5}`):          "sources.video-to-video: has no price for 1 seconds at 720p",
		entry(`video-to-video: {seconds: -1}`):                            "sources.video-to-video.seconds: must be 0 to 3600",
		entry(`text-to-video: {seconds: 1}`):                              "sources.text-to-video: is not one of its tasks that work on a video; these are video-to-video and extend",
		entry(`extend: {long: 1}`):                                        "sources.extend.long: is not a field here; the fields are own, seconds, same_length, durations, prices",
		strings.NewReplacer(" durations: [5],", "", "text-to-video: x, ", "", ", prices: {720p: {clip: {5: 100}}}", "").Replace(entry(`video-to-video: {same_length: true, seconds: 5}`)): "durations: is required",
	} {
		if _, err := catalog.Parse([]byte(data)); (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", data, err, want)
		}
	}
}
