package catalog

import (
	"maps"
	"slices"
	"strings"

	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Source is what a task that works on a video takes, and what it makes of it
// where that is not the model's.
type Source struct {
	// Own: it takes only what this very model made for the same account, which
	// is given by its task at the provider. The result has the source's shape.
	Own     bool  `yaml:"own"`
	Seconds int32 `yaml:"seconds"` // longest source; 0: not known
	// SameLength: the result is as long as its source. A source whose length is
	// not known is priced as the longest.
	SameLength bool             `yaml:"same_length"`
	Durations  []int32          `yaml:"durations"` // of extend, what is added
	Prices     map[string]Price `yaml:"prices"`    // micro-credits by resolution
}

// Made is a finished video of the caller's account that is to be worked on.
type Made struct {
	ID                string
	Model             string // that made it
	TaskID            string // the provider's
	URL               string // where its file is, for whoever takes any video
	Seconds           int32
	Ratio, Resolution string // "16:9", "720p"
}

// sourceTasks are those that work on a video.
var sourceTasks = []string{VideoToVideo, Extend}

// plainDurations are those of tasks without a source; a model that has none of
// these tasks prices what its sources make.
func (e *entry) plainDurations(resolution string) []int32 {
	if slices.ContainsFunc(e.tasks(), func(t string) bool { return !slices.Contains(sourceTasks, t) }) || len(e.tasks()) == 0 {
		return e.durations("", resolution)
	}
	var ds []int32
	for _, t := range e.tasks() {
		if e.Sources[t].Prices == nil {
			ds = append(ds, e.sourceDurations(t, resolution)...)
		}
	}
	return ds
}

// sourceDurations are all lengths that a task may make.
func (m Model) sourceDurations(task, resolution string) []int32 {
	s := m.Sources[task]
	if !s.SameLength {
		return m.durations(task, resolution)
	}
	var ds []int32
	for d := int32(1); d <= s.Seconds; d++ {
		ds = append(ds, d)
	}
	return ds
}

func (e *entry) checkSources() {
	for t, s := range e.Sources {
		at := "sources." + t
		if !slices.Contains(sourceTasks, t) || e.ProviderModels[t] == "" {
			e.bad(at, "is not one of its tasks that work on a video; these are %s", strings.Join(sourceTasks, " and "))
			continue
		}
		if s.Seconds < 0 || s.Seconds > maxSeconds {
			e.bad(at+".seconds", "must be 0 to %d", maxSeconds)
			continue
		}
		switch {
		case s.SameLength && s.Seconds == 0:
			e.bad(at+".same_length", "needs seconds, the longest source")
		case s.SameLength && s.Durations != nil:
			e.bad(at+".durations", "cannot be there with same_length")
		case s.SameLength && t == Extend:
			e.bad(at+".same_length", "is nothing that extend can make")
		}
		if s.Durations != nil {
			e.checkDurations(at+".durations", s.Durations, nil)
		}
		if s.Prices != nil || len(e.Prices) > 0 && !e.unread["prices"] {
			e.checkSourcePrices(at, t, s)
		}
	}
	for _, t := range sourceTasks {
		if e.ProviderModels[t] != "" && e.Sources[t].Durations == nil && !e.Sources[t].SameLength && len(e.Prices) > 0 && len(e.Durations) == 0 {
			e.bad("sources."+t, "needs durations, or the model does")
		}
	}
}

// checkSourcePrices proves that whatever a task makes has a price: its own, or
// the model's.
func (e *entry) checkSourcePrices(at, task string, s Source) {
	prices := s.Prices
	if prices == nil {
		prices = e.Prices
	}
	for _, r := range slices.Sorted(maps.Keys(s.Prices)) {
		if !slices.Contains(e.resolutions(task), r) {
			e.bad(at+".prices."+r, "is not one of its resolutions for %s", task)
		}
	}
	for _, r := range e.resolutions(task) {
		for _, d := range e.sourceDurations(task, r) {
			if unit, _, _ := prices[r].of(d, false); unit <= 0 || unit > maxAmount {
				e.bad(at, "has no price for %d seconds at %s; a price is 1 to %d millionths", d, r, maxAmount)
				break
			}
		}
	}
}

// priceOf is what a task costs at a resolution.
func (m Model) priceOf(task, resolution string) (Price, bool) {
	if own := m.Sources[task].Prices; own != nil {
		p, ok := own[resolution]
		return p, ok
	}
	p, ok := m.Prices[resolution]
	return p, ok
}

// source settles what the video is made of.
func (m Model) source(r *videov1.VideoRequest, made *Made, p *videov1.VideoParams, wrong func(field, format string, a ...any)) {
	task := Task(r)
	s := m.Sources[task]
	switch {
	case r.GetVideoUrl() == "" && made == nil:
		wrong("video", "is required: the id of a completed video that is to go on, or video_url in its place")
	case r.GetVideoUrl() != "" && made != nil:
		wrong("video_url", "contradicts video; send one of them")
	case r.GetImageUrl() != "":
		wrong("image_url", "cannot be sent with a source video")
	case r.GetEndImageUrl() != "":
		wrong("end_image_url", "cannot be sent with a source video")
	case m.ProviderModels[task] == "" && made != nil:
		wrong("video", "%s offers no %s; it offers %s", m.ID, task, strings.Join(m.tasks(), ", "))
	case m.ProviderModels[task] == "":
		wrong("video_url", "%s offers no %s; it offers %s", m.ID, task, strings.Join(m.tasks(), ", "))
	case s.Own && made == nil:
		wrong("video_url", "%s works only on videos that it made for you; send the id of one as video", m.ID)
	case s.Own && (made.Model != m.ID || made.TaskID == ""):
		wrong("video", "was made by %s; %s works only on videos that it made itself", made.Model, m.ID)
	case made != nil && s.Seconds > 0 && made.Seconds > s.Seconds:
		wrong("video", "has %d seconds; %s takes at most %d", made.Seconds, m.ID, s.Seconds)
	}
	p.VideoUrl, p.Extend = r.GetVideoUrl(), r.GetExtend()
	if made == nil {
		return
	}
	p.SourceVideo = made.ID
	if p.VideoUrl = made.URL; s.Own {
		p.VideoUrl, p.SourceTask = "", made.TaskID
	}
	// What the request leaves open is as in the source, where the model can.
	if r.GetSize() == "" && r.GetPlatform() == "" && r.GetAspectRatio() == "" && slices.Contains(m.Ratios, made.Ratio) {
		r.AspectRatio = made.Ratio
	}
	if r.GetSize() == "" && r.GetResolution() == "" && slices.Contains(m.resolutions(task), made.Resolution) {
		r.Resolution = made.Resolution
	}
}

// keeps sees to it that what the provider makes in the shape of its source is
// priced as such.
func (m Model) keeps(made *Made, p *videov1.VideoParams, wrong func(field, format string, a ...any)) {
	if p.GetAspectRatio() != made.Ratio || p.GetResolution() != made.Resolution {
		wrong("video", "is %s at %s, and %s keeps that; %s at %s cannot be made of it", made.Ratio, made.Resolution, m.ID, p.GetAspectRatio(), p.GetResolution())
	}
}

// length is how long the result is.
func (m Model) length(r *videov1.VideoRequest, made *Made, resolution string, wrong func(field, format string, a ...any)) int32 {
	task, asked := Task(r), r.GetDurationSeconds()
	if s := m.Sources[task]; s.SameLength {
		switch {
		case made != nil && (asked == 0 || asked == made.Seconds):
			return made.Seconds
		case made == nil && asked == 0:
			return s.Seconds
		}
		wrong("duration", "%s makes what is as long as its source; leave it out", m.ID)
		return asked
	}
	all, ds := m.durations(task, ""), m.durations(task, resolution)
	switch {
	case asked == 0 && slices.Contains(ds, 5):
		return 5
	case asked == 0 && len(ds) > 0:
		return ds[0]
	case asked > 0 && !slices.Contains(all, asked):
		wrong("duration", "%s makes %s seconds, not %d", m.ID, list(all), asked)
	case asked > 0 && !slices.Contains(ds, asked):
		wrong("duration", "%s makes %s seconds at %s, not %d", m.ID, list(ds), resolution, asked)
	}
	return asked
}
