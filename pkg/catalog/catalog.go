// Package catalog is the list of models: what each can do and what it costs,
// as data. It resolves a caller's request once; what it resolves is what is
// priced and what is sent.
package catalog

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"reelway.dev/pkg/fault"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

//go:embed models.yaml
var builtin []byte

// Model is one entry.
type Model struct {
	ID             string             `yaml:"id"`
	Provider       string             `yaml:"provider"`
	Name           string             `yaml:"name"`
	ProviderModels map[string]string  `yaml:"provider_models"` // task → the provider's name
	Durations      []int32            `yaml:"durations"`       // seconds, the first is the default
	DurationsAt    map[string][]int32 `yaml:"durations_at"`    // by resolution, where one takes fewer
	Resolutions    []string           `yaml:"resolutions"`
	Ratios         []string           `yaml:"ratios"` // the first is the default
	Audio          bool               `yaml:"audio"`
	Seed           bool               `yaml:"seed"`
	NegativePrompt bool               `yaml:"negative_prompt"`
	Watermark      bool               `yaml:"watermark"`        // can be asked for
	PricePerSecond map[string]int64   `yaml:"price_per_second"` // micro-credits by resolution
	AudioPerSecond int64              `yaml:"audio_per_second"` // micro-credits on top
	Source         string             `yaml:"source"`
}

// The tasks of a model.
const (
	TextToVideo  = "text-to-video"
	ImageToVideo = "image-to-video"
)

// Catalog is an immutable set of models.
type Catalog struct {
	models []Model
	byID   map[string]Model
}

// Builtin is the catalogue that ships with the binary.
func Builtin() *Catalog {
	c, err := Parse(builtin)
	if err != nil {
		panic(err) // a test proves that it parses
	}
	return c
}

// Parse reads a YAML list of models and proves that it is consistent; every
// fault is named. A model without a price for a resolution is one.
func Parse(data []byte) (*Catalog, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	c := &Catalog{byID: map[string]Model{}}
	if err := dec.Decode(&c.models); err != nil {
		return nil, fmt.Errorf("parse catalogue: %w", err)
	}
	var errs []error
	for _, m := range c.models {
		bad := func(format string, a ...any) {
			errs = append(errs, fmt.Errorf("model %q: "+format, append([]any{m.ID}, a...)...))
		}
		if _, twice := c.byID[m.ID]; twice || m.ID == "" || m.Provider == "" || m.Source == "" {
			bad("needs a unique id, a provider and a source")
		}
		if m.ProviderModels[TextToVideo] == "" && m.ProviderModels[ImageToVideo] == "" {
			bad("has no task")
		}
		if len(m.Durations) == 0 || len(m.Ratios) == 0 || len(m.Resolutions) == 0 {
			bad("needs durations, ratios and resolutions")
		}
		for r, ds := range m.DurationsAt {
			if !slices.Contains(m.Resolutions, r) || len(ds) == 0 || slices.ContainsFunc(ds, func(d int32) bool { return !slices.Contains(m.Durations, d) }) {
				bad("has durations_at %s that its durations and resolutions do not", r)
			}
		}
		for _, r := range m.Resolutions {
			if m.PricePerSecond[r] <= 0 {
				bad("has no price at %s", r)
			}
			for _, ratio := range m.Ratios {
				if w, h := pixels(r, ratio); w == 0 || h == 0 {
					bad("has no pixels at %s %s", r, ratio)
				}
			}
		}
		c.byID[m.ID] = m
	}
	return c, errors.Join(errs...)
}

// Only is the models of the providers that are on: a job for another one would
// wait for ever.
func (c *Catalog) Only(on func(provider string) bool) *Catalog {
	out := &Catalog{byID: map[string]Model{}}
	for _, m := range c.models {
		if on(m.Provider) {
			out.models = append(out.models, m)
			out.byID[m.ID] = m
		}
	}
	return out
}

// Models lists every model in the order of the file.
func (c *Catalog) Models() []Model { return slices.Clone(c.models) }

// Model finds one by id; an empty id is the first of the file.
func (c *Catalog) Model(id string) (Model, bool) {
	if id == "" && len(c.models) > 0 {
		return c.models[0], true
	}
	m, ok := c.byID[id]
	return m, ok
}

// ProviderModel is the provider's own name for what params ask of a model.
func (c *Catalog) ProviderModel(p *videov1.VideoParams) (string, error) {
	m, ok := c.byID[p.GetModel()]
	if name := m.ProviderModels[task(p.GetImageUrl())]; ok && name != "" {
		return name, nil
	}
	return "", fmt.Errorf("model %q is not in the catalogue", p.GetModel())
}

func task(image string) string {
	if image != "" {
		return ImageToVideo
	}
	return TextToVideo
}

// Proto is the model as callers see it.
func (m Model) Proto() *videov1.Model {
	return &videov1.Model{
		Id: m.ID, Provider: m.Provider, DisplayName: m.Name, Tasks: slices.Sorted(maps.Keys(m.ProviderModels)), DurationsSeconds: m.Durations,
		Resolutions: m.Resolutions, AspectRatios: m.Ratios, Audio: m.Audio, Seed: m.Seed, NegativePrompt: m.NegativePrompt,
		Watermark: m.Watermark, PricePerSecondMicros: slices.Min(slices.Collect(maps.Values(m.PricePerSecond))),
	}
}

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
// field at once. maxResolution is the tier's cap.
func (m Model) Resolve(r *videov1.VideoRequest, maxResolution string) (*videov1.VideoParams, []fault.Field) {
	var bad []fault.Field
	wrong := func(field, format string, a ...any) {
		bad = append(bad, fault.Field{Name: field, Message: fmt.Sprintf(format, a...)})
	}
	p := &videov1.VideoParams{Model: m.ID, Prompt: r.GetPrompt(), NegativePrompt: r.GetNegativePrompt(), ImageUrl: r.GetImageUrl(),
		EndImageUrl: r.GetEndImageUrl(), Seed: r.Seed, Audio: r.GetAudio(), Watermark: r.GetWatermark()}
	if strings.TrimSpace(p.GetPrompt()) == "" && p.GetImageUrl() == "" {
		wrong("prompt", "is required")
	}
	if m.ProviderModels[task(p.GetImageUrl())] == "" {
		wrong("image_url", "%s offers no %s", m.ID, task(p.GetImageUrl()))
	}
	if p.GetEndImageUrl() != "" && p.GetImageUrl() == "" {
		wrong("end_image_url", "needs image_url as well")
	}
	if p.GetNegativePrompt() != "" && !m.NegativePrompt {
		wrong("negative_prompt", "%s takes none", m.ID)
	}
	if p.Seed != nil && !m.Seed {
		wrong("seed", "%s takes none", m.ID)
	}
	if p.GetAudio() && !m.Audio {
		wrong("audio", "%s makes no sound", m.ID)
	}
	if p.GetWatermark() && !m.Watermark {
		wrong("watermark", "%s adds none on demand", m.ID)
	}
	p.DurationSeconds = r.GetDurationSeconds()
	if p.GetDurationSeconds() == 0 {
		p.DurationSeconds = m.Durations[0]
		if slices.Contains(m.Durations, 5) {
			p.DurationSeconds = 5
		}
	} else if !slices.Contains(m.Durations, p.GetDurationSeconds()) {
		wrong("duration", "%s makes %s seconds, not %d", m.ID, list(m.Durations), p.GetDurationSeconds())
	}
	m.shape(r, p, maxResolution, wrong)
	if ds := m.DurationsAt[p.GetResolution()]; ds != nil && !slices.Contains(ds, p.GetDurationSeconds()) {
		wrong("duration", "%s makes %s seconds at %s, not %d", m.ID, list(ds), p.GetResolution(), p.GetDurationSeconds())
	}
	if len(bad) > 0 {
		return nil, bad
	}
	p.Width, p.Height = pixels(p.GetResolution(), p.GetAspectRatio())
	return p, nil
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
	limit := shortSide[maxResolution]
	if p.GetResolution() == "" {
		p.Resolution = m.Resolutions[0]
		if slices.Contains(m.Resolutions, "720p") {
			p.Resolution = "720p"
		}
	}
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

// Quote prices resolved params: line by line, and the sum in micro-credits.
func (m Model) Quote(p *videov1.VideoParams) ([]*videov1.PriceLine, int64, error) {
	unit, ok := m.PricePerSecond[p.GetResolution()]
	if !ok || unit <= 0 {
		return nil, 0, fmt.Errorf("model %s has no price at %s", m.ID, p.GetResolution())
	}
	lines := []*videov1.PriceLine{{Description: fmt.Sprintf("%s, %s, a second", m.Name, p.GetResolution()), UnitMicros: unit}}
	if p.GetAudio() && m.AudioPerSecond > 0 {
		lines = append(lines, &videov1.PriceLine{Description: "sound, a second", UnitMicros: m.AudioPerSecond})
	}
	var total int64
	for _, l := range lines {
		l.Quantity = int64(p.GetDurationSeconds())
		if l.Quantity <= 0 || l.UnitMicros > math.MaxInt64/l.Quantity || total > math.MaxInt64-l.UnitMicros*l.Quantity {
			return nil, 0, fmt.Errorf("price of %s overflows", m.ID)
		}
		l.AmountMicros = l.UnitMicros * l.Quantity
		total += l.AmountMicros
	}
	return lines, total, nil
}

func list(ns []int32) string {
	var out []string
	for _, n := range ns {
		out = append(out, strconv.Itoa(int(n)))
	}
	return strings.Join(out, ", ")
}
