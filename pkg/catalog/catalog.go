// Package catalog is the list of models: what each can do and what it costs,
// as data. It resolves a caller's request once; what it resolves is what is
// priced and what is sent.
//
// The list that ships with the binary is models.yaml; an operator's files of
// the same schema override it and are read again while the process runs.
package catalog

import (
	"cmp"
	_ "embed"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

//go:embed models.yaml
var builtin []byte

// Model is one entry. docs/models.md describes the fields.
type Model struct {
	ID              string              `yaml:"id"`
	Provider        string              `yaml:"provider"`
	Name            string              `yaml:"name"`
	ProviderModels  map[string]string   `yaml:"provider_models"`  // task → the provider's name
	Durations       []int32             `yaml:"durations"`        // seconds, the first is the default
	DurationsAt     map[string][]int32  `yaml:"durations_at"`     // by resolution, where one takes fewer
	Resolutions     []string            `yaml:"resolutions"`      // 720p is the default, else the first
	TaskResolutions map[string][]string `yaml:"task_resolutions"` // by task, where one takes fewer
	Ratios          []string            `yaml:"ratios"`           // the first is the default

	Audio          bool              `yaml:"audio"`           // can be asked for
	AudioAlways    bool              `yaml:"audio_always"`    // cannot be left out
	Seed           bool              `yaml:"seed"`            // takes one
	NegativePrompt bool              `yaml:"negative_prompt"` // takes one
	Watermark      bool              `yaml:"watermark"`       // a visible mark can be asked for
	Provenance     map[string]string `yaml:"provenance"`      // synthid, c2pa, visible → always, optional, removable

	PromptCharacters         int `yaml:"prompt_characters"` // 0: only the door's limit
	NegativePromptCharacters int `yaml:"negative_prompt_characters"`

	Sources map[string]Source `yaml:"sources"` // by task, of those that work on a video

	Prices map[string]Price `yaml:"prices"` // micro-credits by resolution; none: listed, and refused
	Costs  map[string]Price `yaml:"costs"`  // micro-USD by resolution, what the provider asks; where absent, the price stands for it

	TypicalTime       time.Duration `yaml:"typical_time"` // to generate; 0: not known
	MaxTime           time.Duration `yaml:"max_time"`     // 0: not known
	RequestsPerMinute int           `yaml:"requests_per_minute"`
	ConcurrentTasks   int           `yaml:"concurrent_tasks"`
	Regions           []string      `yaml:"regions"`
	ResultLife        time.Duration `yaml:"result_life"` // of the provider's URL of a result
	OnUncertain       string        `yaml:"on_uncertain"`

	Source     string `yaml:"source"`
	SourceURL  string `yaml:"source_url"`
	SourceDate string `yaml:"source_date"` // YYYY-MM or YYYY-MM-DD
	Disabled   bool   `yaml:"disabled"`    // of an operator's entry: the model is not offered
}

// The tasks of a model: those whose inputs a request has.
const (
	TextToVideo   = "text-to-video"
	ImageToVideo  = "image-to-video"
	FramesToVideo = "start-end-frame-to-video"
	VideoToVideo  = "video-to-video" // a video is made anew: edited, remixed, referred to
	Extend        = "extend"         // a video goes on
)

// Tasks lists every task.
func Tasks() []string {
	return []string{TextToVideo, ImageToVideo, FramesToVideo, VideoToVideo, Extend}
}

// What to do with a submission whose outcome stays unknown.
const (
	Wait     = "wait"     // never submit again by guess; the default
	Resubmit = "resubmit" // the operator accepts that one video may be paid for twice
)

// Catalog is a set of models. Its files may replace the set at any time; every
// call sees one whole set. It is safe for concurrent use.
type Catalog struct {
	set   atomic.Pointer[set]
	files *files // nil without an operator's files
}

type set struct {
	models []Model
	byID   map[string]Model
}

func newSet(models []Model) *set {
	s := &set{models: models, byID: make(map[string]Model, len(models))}
	for _, m := range models {
		s.byID[m.ID] = m
	}
	return s
}

func newCatalog(models []Model) *Catalog {
	c := &Catalog{}
	c.set.Store(newSet(models))
	return c
}

var shipped = sync.OnceValue(func() []Model {
	models, err := parse("models.yaml", builtin)
	if err != nil {
		panic(err) // a test proves that it parses
	}
	return models
})

// Builtin is the catalogue that ships with the binary.
func Builtin() *Catalog { return newCatalog(shipped()) }

// Parse reads a YAML list of models and proves that it is consistent; every
// fault is named, with its line, entry and field.
func Parse(data []byte) (*Catalog, error) {
	models, err := parse("catalogue", data)
	if err != nil {
		return nil, err
	}
	return newCatalog(models), nil
}

// Only is the models of the providers that are on, as they are now: a job for
// another one would wait for ever.
func (c *Catalog) Only(on func(provider string) bool) *Catalog {
	return newCatalog(only(c.Models(), on))
}

func only(models []Model, on func(provider string) bool) []Model {
	return slices.DeleteFunc(models, func(m Model) bool { return !on(m.Provider) })
}

// Models lists every model in the order of the files.
func (c *Catalog) Models() []Model { return slices.Clone(c.set.Load().models) }

// Model finds one by id; an empty id is the first of the files that has a price.
func (c *Catalog) Model(id string) (Model, bool) {
	s := c.set.Load()
	if id == "" {
		if i := slices.IndexFunc(s.models, Model.Priced); i >= 0 {
			return s.models[i], true
		}
	}
	m, ok := s.byID[id]
	return m, ok
}

// OnUncertain is what becomes of a model's submissions whose outcome stays
// unknown: Wait, also for a model that is not in the catalogue, or Resubmit.
func (c *Catalog) OnUncertain(model string) string {
	return cmp.Or(c.set.Load().byID[model].OnUncertain, Wait)
}

// MaxRuntime is the longest time that a render of a model is waited for: half as long
// again as its max_time, at most 7 days; 0 where that is not known.
func (c *Catalog) MaxRuntime(model string) time.Duration {
	return min(c.set.Load().byID[model].MaxTime, 7*24*time.Hour*2/3) * 3 / 2
}

// ProviderModel is the provider's own name for what params ask of a model. It
// was settled at acceptance, so that a job outlives its entry; the catalogue is
// asked for those that an older version accepted.
func (c *Catalog) ProviderModel(p *videov1.VideoParams) (string, error) {
	if p.GetProviderModel() != "" {
		return p.GetProviderModel(), nil
	}
	m, ok := c.Model(p.GetModel())
	if name := m.ProviderModels[Task(p)]; ok && name != "" {
		return name, nil
	}
	return "", fmt.Errorf("model %q is not in the catalogue", p.GetModel())
}

// Inputs are what decides the task of a request, or of params.
type Inputs interface {
	GetImageUrl() string
	GetEndImageUrl() string
	GetVideoUrl() string
	GetSourceVideo() string
	GetExtend() bool
}

// Task is what a request asks for.
func Task(r Inputs) string {
	switch {
	case r.GetExtend():
		return Extend
	case r.GetVideoUrl() != "" || r.GetSourceVideo() != "":
		return VideoToVideo
	case r.GetImageUrl() == "":
		return TextToVideo
	case r.GetEndImageUrl() == "":
		return ImageToVideo
	}
	return FramesToVideo
}

// resolutions are those of a task.
func (m Model) resolutions(task string) []string {
	if rs := m.TaskResolutions[task]; rs != nil {
		return rs
	}
	return m.Resolutions
}

// durations are those of a task at a resolution.
func (m Model) durations(task, resolution string) []int32 {
	if ds := m.Sources[task].Durations; ds != nil {
		return ds
	}
	if ds := m.DurationsAt[resolution]; ds != nil {
		return ds
	}
	return m.Durations
}

// tasks are those that the model offers, in the order of Tasks.
func (m Model) tasks() []string {
	return slices.DeleteFunc(Tasks(), func(t string) bool { return m.ProviderModels[t] == "" })
}
