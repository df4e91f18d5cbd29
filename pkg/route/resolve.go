package route

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/money"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Ask is a request and what is known of its caller.
type Ask struct {
	Request *videov1.VideoRequest
	Models  Models
	Cap     string // the highest resolution that the caller may ask for; empty: any
	Tier    string // of the account
	Region  string // where this deployment runs; empty: not said
	// Made is the video of the caller's own that the request names as its source;
	// nil when it names none.
	Made *catalog.Made
	// Latency is how long 95 of 100 videos of a model took, 0 when that is not
	// known; nil knows of none.
	Latency func(model string) time.Duration
}

// Candidate is one concrete way of making the video.
type Candidate struct {
	Model   catalog.Model
	Params  *videov1.VideoParams // what is sent, and priced
	Lines   []*videov1.PriceLine
	Price   int64    // micro-credits
	Dropped []string // optional parameters that the model lacks
	weight  int
}

// Plan is every fitting way, in the order in which they are to be tried. It has
// at least one.
type Plan struct {
	Alias            string // empty for a model
	FallbackOnPolicy bool
	Routes           []Candidate
}

// Dearest is the way that costs most: its price is what has to be held.
func (p *Plan) Dearest() Candidate {
	return slices.MaxFunc(p.Routes, comparePrices)
}

func comparePrices(a, b Candidate) int { return cmp.Compare(a.Price, b.Price) }

// can is what a condition may need of a model.
var can = map[string]func(catalog.Model) bool{
	"audio":           func(m catalog.Model) bool { return m.Audio },
	"seed":            func(m catalog.Model) bool { return m.Seed },
	"negative_prompt": func(m catalog.Model) bool { return m.NegativePrompt },
	"watermark":       func(m catalog.Model) bool { return m.Watermark },
	"video":           func(m catalog.Model) bool { return m.ProviderModels[catalog.VideoToVideo] != "" },
	"extend":          func(m catalog.Model) bool { return m.ProviderModels[catalog.Extend] != "" },
	"image":           func(m catalog.Model) bool { return m.ProviderModels[catalog.ImageToVideo] != "" },
}

func abilities() []string { return slices.Sorted(maps.Keys(can)) }

// droppable is every parameter that a caller may call optional, and how it is
// left out. Prompt and first frame are what a video is made of.
var droppable = map[string]func(*videov1.VideoRequest){
	"negative_prompt": func(r *videov1.VideoRequest) { r.NegativePrompt = "" },
	"seed":            func(r *videov1.VideoRequest) { r.Seed = nil },
	"audio":           func(r *videov1.VideoRequest) { r.Audio = nil },
	"watermark":       func(r *videov1.VideoRequest) { r.Watermark = nil },
	"end_image_url":   func(r *videov1.VideoRequest) { r.EndImageUrl = "" },
	"duration":        func(r *videov1.VideoRequest) { r.DurationSeconds = 0 },
	"resolution":      func(r *videov1.VideoRequest) { r.Resolution = "" },
	"aspect_ratio":    func(r *videov1.VideoRequest) { r.AspectRatio = "" },
	"size":            func(r *videov1.VideoRequest) { r.Size = "" },
	"platform":        func(r *videov1.VideoRequest) { r.Platform = "" },
}

// Resolve turns a request into its plan: of the alias that route or model names,
// or of the one model. The faults say what is wrong with the request; of an
// alias none of whose routes fits, what each of them lacks.
func (t *Table) Resolve(a Ask) (*Plan, []fault.Field) {
	var bad []fault.Field
	for _, name := range a.Request.GetOptional() {
		if droppable[name] == nil {
			bad = append(bad, fault.Field{Name: "optional", Message: fmt.Sprintf("%q cannot be left out; use some of %s", name, strings.Join(slices.Sorted(maps.Keys(droppable)), ", "))})
		}
	}
	name, field := a.Request.GetRoute(), "route"
	if name == "" {
		name, field = a.Request.GetModel(), "model"
	} else if m := a.Request.GetModel(); m != "" && m != name {
		bad = append(bad, fault.Field{Name: "route", Message: fmt.Sprintf("%q contradicts model, which says %q; send one of them", name, m)})
		return nil, bad
	}
	if m, ok := a.Models.Model(name); ok && a.Request.GetRoute() == "" {
		c, worse := a.candidate(m, a.Request)
		if bad = append(bad, worse...); len(bad) > 0 {
			return nil, bad
		}
		return &Plan{Routes: []Candidate{c}}, nil
	}
	alias, ok := t.Alias(name)
	if !ok {
		what := "is not known; GET /v1/models lists the models and aliases"
		if field == "route" {
			what = "is no alias; GET /v1/models lists them"
		}
		return nil, append(bad, fault.Field{Name: field, Message: fmt.Sprintf("%q %s", name, what)})
	}
	p, worse := a.plan(alias, field)
	if bad = append(bad, worse...); len(bad) > 0 {
		return nil, bad
	}
	return p, nil
}

// lack is why a model of an alias does not fit.
type lack struct {
	model  string
	absent bool // not on offer: nothing was asked of it
	bad    []fault.Field
}

func (a Ask) plan(alias Alias, field string) (*Plan, []fault.Field) {
	r, bad := alias.Means.apply(alias.Name, a.Request)
	if len(bad) > 0 {
		return nil, bad
	}
	routes := alias.Routes
	if len(routes) == 0 {
		for _, m := range a.Models.Models() {
			routes = append(routes, Route{Model: m.ID, Weight: 1})
		}
	}
	p := &Plan{Alias: alias.Name, FallbackOnPolicy: alias.FallbackOnPolicy}
	var lacks []lack
	for _, x := range routes {
		m, ok := a.Models.Model(x.Model)
		if !ok {
			lacks = append(lacks, lack{x.Model, true, []fault.Field{{Message: "is not on offer here"}}})
			continue
		}
		c, bad := a.candidate(m, r)
		if len(bad) == 0 {
			bad = append(a.judge(alias.When, c), a.judge(x.When, c)...)
		}
		if limit := r.GetMaxCostMicros(); len(bad) == 0 && limit > 0 && c.Price > limit {
			bad = append(bad, fault.Field{Name: "max_cost", Message: fmt.Sprintf("it costs %s credits, more than the %s allowed", money.Format(c.Price), money.Format(limit))})
		}
		if len(bad) > 0 {
			lacks = append(lacks, lack{model: m.ID, bad: bad})
			continue
		}
		c.weight = int(x.Weight)
		p.Routes = append(p.Routes, c)
	}
	if len(p.Routes) == 0 {
		return nil, refuse(alias.Name, field, lacks)
	}
	switch alias.Pick {
	case byPrice:
		slices.SortStableFunc(p.Routes, comparePrices)
	case byWeight:
		draw(p.Routes, rand.IntN)
	}
	p.Routes = p.Routes[:min(len(p.Routes), alias.MaxRoutes)]
	return p, nil
}

// draw puts candidates in an order drawn by their weights: the first by all
// weights, the next by those that are left. n draws from 0 to below its argument.
func draw(cs []Candidate, n func(int) int) {
	for i := range cs {
		sum := 0
		for _, c := range cs[i:] {
			sum += c.weight
		}
		x, k := n(sum), i
		for x >= cs[k].weight {
			x -= cs[k].weight
			k++
		}
		c := cs[k]
		copy(cs[i+1:k+1], cs[i:k])
		cs[i] = c
	}
}

// apply puts what an alias's name says into a request that does not say it.
func (m Means) apply(alias string, from *videov1.VideoRequest) (*videov1.VideoRequest, []fault.Field) {
	r := proto.CloneOf(from)
	var bad []fault.Field
	wrong := func(field string, is, means any) {
		bad = append(bad, fault.Field{Name: field, Message: fmt.Sprintf("%v contradicts %s, which means %v", is, alias, means)})
	}
	switch {
	case m.Duration == 0:
	case r.GetDurationSeconds() == 0:
		r.DurationSeconds = m.Duration
	case r.GetDurationSeconds() != m.Duration:
		wrong("duration", r.GetDurationSeconds(), m.Duration)
	}
	switch {
	case m.Resolution == "":
	case r.GetResolution() == "":
		r.Resolution = m.Resolution
	case !strings.EqualFold(r.GetResolution(), m.Resolution):
		wrong("resolution", r.GetResolution(), m.Resolution)
	}
	switch {
	case m.AspectRatio == "" || r.GetAspectRatio() == m.AspectRatio:
	case r.GetAspectRatio() == "":
		r.AspectRatio = m.AspectRatio
	default:
		wrong("aspect_ratio", r.GetAspectRatio(), m.AspectRatio)
	}
	return r, bad
}

// candidate resolves a request for one model, and leaves out what the caller
// called optional and the model cannot do.
func (a Ask) candidate(m catalog.Model, from *videov1.VideoRequest) (Candidate, []fault.Field) {
	c, r := Candidate{Model: m}, proto.CloneOf(from)
	for {
		params, bad := m.Resolve(r, a.Cap, a.Made)
		if len(bad) == 0 {
			c.Params = params
			break
		}
		left := len(c.Dropped)
		for _, f := range bad {
			if drop := droppable[f.Name]; drop != nil && slices.Contains(from.GetOptional(), f.Name) && !slices.Contains(c.Dropped, f.Name) {
				drop(r)
				c.Dropped = append(c.Dropped, f.Name)
			}
		}
		if left == len(c.Dropped) {
			return c, bad
		}
	}
	lines, price, err := m.Quote(c.Params)
	if err != nil {
		return c, []fault.Field{{Name: "model", Message: err.Error()}}
	}
	c.Lines, c.Price = lines, price
	return c, nil
}

// judge says which conditions a candidate does not meet.
func (a Ask) judge(w Condition, c Candidate) (bad []fault.Field) {
	wrong := func(format string, args ...any) {
		bad = append(bad, fault.Field{Message: fmt.Sprintf(format, args...)})
	}
	if len(w.Tiers) > 0 && !slices.Contains(w.Tiers, a.Tier) {
		wrong("is for accounts of tier %s", strings.Join(w.Tiers, ", "))
	}
	if len(w.Resolutions) > 0 && !slices.Contains(w.Resolutions, c.Params.GetResolution()) {
		wrong("is for %s, not %s", strings.Join(w.Resolutions, ", "), c.Params.GetResolution())
	}
	if len(w.Regions) > 0 && !slices.Contains(w.Regions, a.Region) {
		wrong("is for region %s", strings.Join(w.Regions, ", "))
	}
	if limit := int64(w.MaxPrice); limit > 0 && c.Price > limit {
		wrong("costs %s credits, and is for at most %s", money.Format(c.Price), money.Format(limit))
	}
	if w.MaxLatency > 0 && a.Latency != nil {
		if took := a.Latency(c.Model.ID); took > w.MaxLatency {
			wrong("takes %s at present, and is for at most %s", took.Round(100*time.Millisecond), w.MaxLatency)
		}
	}
	for _, x := range w.Needs {
		if !can[x](c.Model) {
			wrong("has no %s", x)
		}
	}
	return bad
}

// shown bounds how many models a refusal names.
const shown = 12

// refuse says why no route of an alias fits: what is wrong for every model in
// the same words is the request's own fault, the rest is what each model lacks.
func refuse(alias, field string, lacks []lack) []fault.Field {
	if own := shared(slices.DeleteFunc(slices.Clone(lacks), func(l lack) bool { return l.absent })); len(own) > 0 {
		return own
	}
	var each []string
	for i, l := range lacks {
		if i == shown {
			each = append(each, fmt.Sprintf("and %d more", len(lacks)-shown))
			break
		}
		var why []string
		for _, f := range l.bad {
			why = append(why, strings.TrimPrefix(f.Name+": "+f.Message, ": "))
		}
		each = append(each, l.model+" ("+strings.Join(why, ", ")+")")
	}
	return []fault.Field{{Name: field, Message: fmt.Sprintf("no route of %s fits: %s", alias, strings.Join(each, "; "))}}
}

// shared is what is wrong for every model in the same words, which name none.
func shared(lacks []lack) (own []fault.Field) {
	if len(lacks) == 0 {
		return nil
	}
	for _, f := range lacks[0].bad {
		if f.Name != "" && !strings.Contains(f.Message, lacks[0].model) &&
			!slices.ContainsFunc(lacks, func(l lack) bool { return !slices.Contains(l.bad, f) }) {
			own = append(own, f)
		}
	}
	return own
}
