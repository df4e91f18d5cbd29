package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/fault"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// platforms is where a video is shown: the ratio that is native there.
var platforms = map[string]string{
	"tiktok": "9:16", "instagram": "9:16", "reels": "9:16", "shorts": "9:16", "youtube_shorts": "9:16", "snapchat": "9:16", "stories": "9:16",
	"youtube": "16:9", "vimeo": "16:9", "tv": "16:9", "linkedin": "16:9", "x": "16:9", "twitter": "16:9", "facebook": "1:1", "instagram_feed": "1:1",
}

var shortSide = map[string]int32{"480p": 480, "540p": 540, "720p": 720, "768p": 768, "1080p": 1080, "1440p": 1440, "2160p": 2160}

// capSide is the side that a tier's cap judges. 768p is its maker's name for
// what others call 720p.
func capSide(resolution string) int32 {
	if resolution == "768p" {
		return 720
	}
	return shortSide[resolution]
}

// pixels is a resolution's native size at a ratio: the short side is the
// resolution's name, both sides even; a square has about the same area.
func pixels(resolution, ratio string) (w, h int32) {
	short := shortSide[resolution]
	a, b, _ := strings.Cut(ratio, ":")
	x, _ := strconv.ParseInt(a, 10, 32)
	y, _ := strconv.ParseInt(b, 10, 32)
	if short == 0 || x <= 0 || y <= 0 {
		return 0, 0
	}
	if x == y {
		side := short * 4 / 3
		return side, side
	}
	long := (int32(int64(short)*max(x, y)/min(x, y)) + 1) / 2 * 2
	if x > y {
		return long, short
	}
	return short, long
}

// Resolve turns a request into what is priced and sent. It names every wrong
// field at once, with what would be right. maxResolution is the tier's cap, made
// the video of the caller's own that the request names as its source, or nil.
func (m Model) Resolve(r *videov1.VideoRequest, maxResolution string, made *Made) (*videov1.VideoParams, []fault.Field) {
	var bad []fault.Field
	wrong := func(field, format string, a ...any) {
		bad = append(bad, fault.Field{Name: field, Message: fmt.Sprintf(format, a...)})
	}
	p := &videov1.VideoParams{Model: m.ID, Prompt: r.GetPrompt(), NegativePrompt: r.GetNegativePrompt(), ImageUrl: r.GetImageUrl(),
		EndImageUrl: r.GetEndImageUrl(), Seed: r.Seed, Audio: r.GetAudio() || m.AudioAlways, Watermark: r.GetWatermark(),
		ProviderModel: m.ProviderModels[Task(r)]}
	if !m.Priced() {
		bad = append(bad, m.unpriced())
	}
	m.texts(r, wrong)
	ofVideo := slices.Contains(sourceTasks, Task(r))
	if ofVideo {
		r = proto.CloneOf(r)
		m.source(r, made, p, wrong)
	}
	switch {
	case ofVideo:
	case p.GetEndImageUrl() != "" && p.GetImageUrl() == "":
		wrong("end_image_url", "needs image_url as well")
	case p.GetProviderModel() == "" && Task(r) == FramesToVideo:
		wrong("end_image_url", "%s offers no %s; it offers %s", m.ID, FramesToVideo, strings.Join(m.tasks(), ", "))
	case p.GetProviderModel() == "":
		wrong("image_url", "%s offers no %s; it offers %s", m.ID, Task(r), strings.Join(m.tasks(), ", "))
	}
	if p.Seed != nil && !m.Seed {
		wrong("seed", "%s takes none", m.ID)
	}
	if p.GetAudio() && !m.Audio {
		wrong("audio", "%s makes no sound", m.ID)
	}
	if m.AudioAlways && r.Audio != nil && !r.GetAudio() {
		wrong("audio", "%s always makes sound", m.ID)
	}
	if p.GetWatermark() && !m.Watermark {
		wrong("watermark", "%s adds none on demand", m.ID)
	}
	if r.Watermark != nil && !r.GetWatermark() && m.Provenance["visible"] == "always" {
		wrong("watermark", "%s always adds one", m.ID)
	}
	m.shape(r, p, maxResolution, wrong)
	p.DurationSeconds = m.length(r, made, p.GetResolution(), wrong)
	if made != nil && len(bad) == 0 && m.Sources[Task(r)].Own {
		m.keeps(made, p, wrong)
	}
	if len(bad) > 0 {
		return nil, bad
	}
	p.Width, p.Height = pixels(p.GetResolution(), p.GetAspectRatio())
	return p, nil
}

// texts checks prompt and negative prompt.
func (m Model) texts(r *videov1.VideoRequest, wrong func(field, format string, a ...any)) {
	if strings.TrimSpace(r.GetPrompt()) == "" && r.GetImageUrl() == "" {
		wrong("prompt", "is required")
	}
	if r.GetNegativePrompt() != "" && !m.NegativePrompt {
		wrong("negative_prompt", "%s takes none", m.ID)
	}
	for _, t := range []struct {
		field, text string
		limit       int
	}{{"prompt", r.GetPrompt(), m.PromptCharacters}, {"negative_prompt", r.GetNegativePrompt(), m.NegativePromptCharacters}} {
		if n := utf8.RuneCountInString(t.text); t.limit > 0 && n > t.limit {
			wrong(t.field, "has %d characters; %s takes at most %d", n, m.ID, t.limit)
		}
	}
}

// claim is what one field of a request says of ratio or resolution.
type claim struct{ field, ratio, resolution string }

// shape settles ratio and resolution from platform, size, aspect_ratio and
// resolution; fields that contradict each other are both named.
func (m Model) shape(r *videov1.VideoRequest, p *videov1.VideoParams, maxResolution string, wrong func(field, format string, a ...any)) {
	var claims []claim
	if v := r.GetPlatform(); v != "" {
		ratio, ok := platforms[strings.ToLower(v)]
		if !ok {
			wrong("platform", "%q is not known; use one of %s", v, strings.Join(slices.Sorted(maps.Keys(platforms)), ", "))
		} else {
			claims = append(claims, claim{field: "platform", ratio: ratio})
		}
	}
	if v := r.GetSize(); v != "" {
		if c, ok := m.size(v); ok {
			claims = append(claims, c)
		} else {
			wrong("size", "%q is not a size of %s; use for example %s", v, m.ID, m.example(maxResolution))
		}
	}
	if v := r.GetAspectRatio(); v != "" {
		if slices.Contains(m.Ratios, v) {
			claims = append(claims, claim{field: "aspect_ratio", ratio: v})
		} else {
			wrong("aspect_ratio", "%s makes %s, not %q", m.ID, strings.Join(m.Ratios, ", "), v)
		}
	}
	if v := strings.ToLower(r.GetResolution()); v != "" {
		if slices.Contains(m.Resolutions, v) {
			claims = append(claims, claim{field: "resolution", resolution: v})
		} else {
			wrong("resolution", "%s makes %s, not %q", m.ID, strings.Join(m.Resolutions, ", "), v)
		}
	}
	var ratioFrom, resolutionFrom claim
	for _, c := range claims {
		if c.ratio != "" {
			if ratioFrom.ratio != "" && ratioFrom.ratio != c.ratio {
				wrong(c.field, "%s contradicts %s, which means %s", c.ratio, ratioFrom.field, ratioFrom.ratio)
			} else if ratioFrom.ratio == "" {
				ratioFrom = c
			}
		}
		if c.resolution != "" {
			if resolutionFrom.resolution != "" && resolutionFrom.resolution != c.resolution {
				wrong(c.field, "%s contradicts %s, which means %s", c.resolution, resolutionFrom.field, resolutionFrom.resolution)
			} else if resolutionFrom.resolution == "" {
				resolutionFrom = c
			}
		}
	}
	p.AspectRatio, p.Resolution = ratioFrom.ratio, resolutionFrom.resolution
	if p.GetAspectRatio() == "" {
		p.AspectRatio = m.Ratios[0]
	} else if !slices.Contains(m.Ratios, p.GetAspectRatio()) {
		wrong(ratioFrom.field, "needs %s, which %s does not make; it makes %s", p.GetAspectRatio(), m.ID, strings.Join(m.Ratios, ", "))
	}
	offered := m.resolutions(Task(r))
	if p.GetResolution() == "" {
		p.Resolution = offered[0]
		if slices.Contains(offered, "720p") {
			p.Resolution = "720p"
		}
	} else if !slices.Contains(offered, p.GetResolution()) {
		wrong(resolutionFrom.field, "%s makes %s for %s, not %q", m.ID, strings.Join(offered, ", "), Task(r), p.GetResolution())
	}
	limit := shortSide[maxResolution]
	if limit > 0 && capSide(p.GetResolution()) > limit {
		field := resolutionFrom.field
		if field == "" {
			field = "model"
		}
		wrong(field, "%s is above %s, the most that this account may ask for", p.GetResolution(), maxResolution)
	}
}

func (m Model) size(v string) (claim, bool) {
	for _, r := range m.Resolutions {
		for _, ratio := range m.Ratios {
			if w, h := pixels(r, ratio); fmt.Sprintf("%dx%d", w, h) == strings.ToLower(v) {
				return claim{"size", ratio, r}, true
			}
		}
	}
	return claim{}, false
}

// example is sizes that an account of this cap may ask for.
func (m Model) example(maxResolution string) string {
	best := m.Resolutions[0]
	for _, r := range m.Resolutions {
		if limit := shortSide[maxResolution]; shortSide[r] > shortSide[best] && (limit == 0 || shortSide[r] <= limit) {
			best = r
		}
	}
	var out []string
	for _, ratio := range m.Ratios[:min(len(m.Ratios), 3)] {
		w, h := pixels(best, ratio)
		out = append(out, fmt.Sprintf("%dx%d", w, h))
	}
	return strings.Join(out, ", ")
}

func list(ns []int32) string {
	var out []string
	for _, n := range ns {
		out = append(out, strconv.Itoa(int(n)))
	}
	return strings.Join(out, ", ")
}
