package route

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/fault"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// on is the catalogue of some providers.
func on(providers ...string) *catalog.Catalog {
	return catalog.Builtin().Only(func(name string) bool { return slices.Contains(providers, name) })
}

func table(t *testing.T, own string) *Table {
	t.Helper()
	x, err := Parse([]byte(own), catalog.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func ids(p *Plan) (out []string) {
	for _, c := range p.Routes {
		out = append(out, c.Model.ID)
	}
	return out
}

const own = `
- alias: mine
  routes:
    - {model: kling-v2-6, when: {tiers: [production]}}
    - {model: seedance-2.0, when: {regions: [eu], needs: [seed]}}
    - {model: wan-2.6, when: {max_price: 0.5, resolutions: [720p]}}
    - {model: gen-4.5, when: {max_latency: 90s}}
- alias: kling-3
  routes: [{model: kling-v2-6}]
- alias: few
  pick: price
  max_routes: 2
  when: {needs: [audio]}
`

func TestResolve(t *testing.T) {
	t.Parallel()
	x := table(t, own)
	all := []string{"kling", "atlascloud", "runway", "fal", "byteplus", "veo"}
	seed := int64(7)
	slow := func(string) time.Duration { return 2 * time.Minute }
	for name, c := range map[string]struct {
		ask   Ask
		on    []string
		want  []string // the plan's models
		fault string   // or a part of the refusal
	}{
		"a model as ever":                {ask: Ask{Request: &videov1.VideoRequest{Model: "kling-v2-6"}}, want: []string{"kling-v2-6"}},
		"an alias in model":              {ask: Ask{Request: &videov1.VideoRequest{Model: "seedance-2"}}, want: []string{"seedance-2.0", "byteplus-seedance-2.0"}},
		"an alias in route":              {ask: Ask{Request: &videov1.VideoRequest{Route: "seedance-2"}}, want: []string{"seedance-2.0", "byteplus-seedance-2.0"}},
		"a model in route":               {ask: Ask{Request: &videov1.VideoRequest{Route: "kling-v2-6"}}, fault: `route: "kling-v2-6" is no alias`},
		"both":                           {ask: Ask{Request: &videov1.VideoRequest{Route: "seedance-2", Model: "kling-v2-6"}}, fault: `route: "seedance-2" contradicts model, which says "kling-v2-6"`},
		"neither":                        {ask: Ask{Request: &videov1.VideoRequest{Model: "kling-9"}}, fault: `model: "kling-9" is not known`},
		"an operator's alias goes first": {ask: Ask{Request: &videov1.VideoRequest{Model: "kling-3"}}, want: []string{"kling-v2-6"}},
		"only what is on offer":          {ask: Ask{Request: &videov1.VideoRequest{Model: "seedance-2"}}, on: []string{"byteplus"}, want: []string{"byteplus-seedance-2.0"}},
		"nothing is on offer": {ask: Ask{Request: &videov1.VideoRequest{Model: "seedance-2"}}, on: []string{"kling"},
			fault: "model: no route of seedance-2 fits: seedance-2.0 (is not on offer here); byteplus-seedance-2.0 (is not on offer here)"},
		"by tier and region": {ask: Ask{Request: &videov1.VideoRequest{Model: "mine"}, Tier: "production", Region: "eu"}, want: []string{"kling-v2-6", "seedance-2.0", "wan-2.6", "gen-4.5"}},
		"by price":           {ask: Ask{Request: &videov1.VideoRequest{Model: "mine", DurationSeconds: 10}}, want: []string{"gen-4.5"}},
		"by latency":         {ask: Ask{Request: &videov1.VideoRequest{Model: "mine"}, Latency: slow}, want: []string{"wan-2.6"}},
		"by resolution, and each says why": {ask: Ask{Request: &videov1.VideoRequest{Route: "mine", Resolution: "1080p"}},
			fault: "route: no route of mine fits: kling-v2-6 (is for accounts of tier production); seedance-2.0 (is for region eu); wan-2.6 (is for 720p, not 1080p, costs 0.600000 credits, and is for at most 0.500000); gen-4.5 (resolution: "},
		"a duration that only some make": {ask: Ask{Request: &videov1.VideoRequest{Model: "best-720p", DurationSeconds: 7}}, want: []string{"kling-3.0"}, on: []string{"kling", "atlascloud"}},
		"a seed that only some take":     {ask: Ask{Request: &videov1.VideoRequest{Model: "best-720p", Seed: &seed}}, want: []string{"seedance-2.0"}, on: []string{"kling", "atlascloud"}},
		"an optional seed": {ask: Ask{Request: &videov1.VideoRequest{Model: "best-720p", Seed: &seed, Optional: []string{"seed"}}},
			want: []string{"kling-3.0", "seedance-2.0", "kling-v2-6"}, on: []string{"kling", "atlascloud"}},
		"an optional prompt":     {ask: Ask{Request: &videov1.VideoRequest{Model: "best-720p", Optional: []string{"prompt"}}}, fault: `optional: "prompt" cannot be left out; use some of aspect_ratio, audio`},
		"what its name means":    {ask: Ask{Request: &videov1.VideoRequest{Model: "cheapest-5s", DurationSeconds: 10}}, fault: "duration: 10 contradicts cheapest-5s, which means 5"},
		"above the account's":    {ask: Ask{Request: &videov1.VideoRequest{Model: "best-1080p"}, Cap: "720p"}, fault: "resolution: 1080p is above 720p, the most that this account may ask for"},
		"the request's own":      {ask: Ask{Request: &videov1.VideoRequest{Model: "cheapest-5s", Platform: "cinema"}}, fault: `platform: "cinema" is not known`},
		"the cheapest that fit":  {ask: Ask{Request: &videov1.VideoRequest{Model: "few"}}, want: []string{"kling-v2-6", "kling-3.0"}, on: []string{"kling", "atlascloud"}},
		"the most it may cost":   {ask: Ask{Request: &videov1.VideoRequest{Model: "best-720p", MaxCostMicros: 300_000}}, want: []string{"kling-v2-6"}, on: []string{"kling", "atlascloud"}},
		"nothing is that cheap":  {ask: Ask{Request: &videov1.VideoRequest{Model: "seedance-2", MaxCostMicros: 1}}, fault: "seedance-2.0 (max_cost: it costs 0.650000 credits, more than the 0.000001 allowed)"},
		"a fault of one model":   {ask: Ask{Request: &videov1.VideoRequest{Model: "kling-v2-6", Seed: &seed}}, fault: "seed: kling-v2-6 takes none"},
		"a model, optional seed": {ask: Ask{Request: &videov1.VideoRequest{Model: "kling-v2-6", Seed: &seed, Optional: []string{"seed"}}}, want: []string{"kling-v2-6"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.on == nil {
				c.on = all
			}
			c.ask.Models, c.ask.Request.Prompt = on(c.on...), "a boat"
			p, bad := x.Resolve(c.ask)
			if c.fault != "" {
				if got := fault.Invalid(bad...).Error(); p != nil || !strings.Contains(got, c.fault) {
					t.Errorf("resolved to %v, %q; want %q", p, got, c.fault)
				}
				return
			}
			if p == nil || !slices.Equal(ids(p), c.want) {
				t.Fatalf("resolved to %v, %v; want %v", p, bad, c.want)
			}
			for _, r := range p.Routes {
				if r.Params.GetModel() != r.Model.ID || r.Price <= 0 || r.Price > p.Dearest().Price {
					t.Errorf("%s: %v for %d", r.Model.ID, r.Params, r.Price)
				}
			}
		})
	}
}

// What is dropped is dropped for the model that lacks it alone.
func TestOptionalIsKeptWhereItCanBe(t *testing.T) {
	t.Parallel()
	seed := int64(7)
	r := &videov1.VideoRequest{Model: "best-720p", Prompt: "p", Seed: &seed, NegativePrompt: "n", Optional: []string{"seed", "negative_prompt"}}
	p, bad := table(t, "").Resolve(Ask{Request: r, Models: on("kling", "atlascloud")})
	if len(bad) > 0 {
		t.Fatal(bad)
	}
	got := map[string][]string{}
	for _, c := range p.Routes {
		got[c.Model.ID] = c.Dropped
		if kept := c.Params.Seed != nil; kept == slices.Contains(c.Dropped, "seed") {
			t.Errorf("%s: seed kept %v, dropped %v", c.Model.ID, kept, c.Dropped)
		}
	}
	for model, want := range map[string][]string{"kling-3.0": {"negative_prompt", "seed"}, "seedance-2.0": {"negative_prompt"}, "kling-v2-6": {"seed"}} {
		if !slices.Equal(slices.Sorted(slices.Values(got[model])), want) {
			t.Errorf("%s drops %v; want %v", model, got[model], want)
		}
	}
	if r.Seed == nil || r.GetNegativePrompt() == "" {
		t.Error("the caller's request was changed")
	}
}

func TestDrawFollowsWeights(t *testing.T) {
	t.Parallel()
	first := map[string]int{}
	for x := range 10 { // every value that the first draw may have
		cs := []Candidate{{Model: catalog.Model{ID: "a"}, weight: 1}, {Model: catalog.Model{ID: "b"}, weight: 7}, {Model: catalog.Model{ID: "c"}, weight: 2}}
		draw(cs, func(n int) int { return min(x, n-1) })
		first[cs[0].Model.ID]++
		if got := ids(&Plan{Routes: cs}); !slices.Equal(slices.Sorted(slices.Values(got)), []string{"a", "b", "c"}) {
			t.Errorf("drawn %v", got)
		}
	}
	if first["a"] != 1 || first["b"] != 7 || first["c"] != 2 {
		t.Errorf("first of ten: %v", first)
	}
}

// Every fault of a file is named, with its alias and its place.
func TestParseNamesEveryFault(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"- alias: a\n  rutes: []\n":                                                                               {"line 2: field rutes not found"},
		"- alias: [":                                                                                              {"parse routes: "},
		"- alias: A!\n  routes: [{model: nope}]\n":                                                                {`alias "A!": alias must be`, `alias "A!": routes[0].model is "nope", which is no model of the catalogue`},
		"- alias: kling-v2-6\n  routes: [{model: kling-v2-6}]\n":                                                  {"alias is the name of a model"},
		"- alias: a\n":                                                                                            {"routes is empty, which stands for every model and needs pick: price"},
		"- alias: a\n  pick: luck\n  routes: [{model: wan-2.6}]\n":                                                {`pick is "luck"; use order, weight or price`},
		"- alias: a\n  routes: [{model: wan-2.6, weight: 3}]\n":                                                   {"routes[0].weight has no meaning with pick: order"},
		"- alias: a\n  routes: [{model: wan-2.6}, {model: wan-2.6}]\n":                                            {"routes[1].model is \"wan-2.6\", which is there twice"},
		"- alias: a\n  pick: weight\n  routes: [{model: wan-2.6, weight: 0}]\n":                                   {`line 3: weight is "0"; use 1 to 1000000, or leave the route out`},
		"- alias: a\n  pick: weight\n  routes: [{model: wan-2.6, weight: 1e9}]\n":                                 {`line 3: weight is "1e9"`},
		"- alias: a\n  routes: [{model: wan-2.6}]\n---\n- alias: b\n  routes: [{model: wan-2.6}]\n":               {"another document begins, after a line of three dashes"},
		"- alias: a\n  max_routes: 17\n  routes: [{model: wan-2.6}]\n":                                            {"max_routes is 17"},
		"- alias: a\n  routes: [{model: wan-2.6, when: {tiers: [gold]}}]\n":                                       {`routes[0].when.tiers holds "gold"; use development, staging, production`},
		"- alias: a\n  when: {needs: [magic], resolutions: [big]}\n  routes: [{model: wan-2.6}]\n":                {`when.needs holds "magic"; use audio, extend, image`, `when.resolutions holds "big"`},
		"- alias: a\n  routes: [{model: wan-2.6, when: {max_price: -1}}]\n":                                       {`line 2: "-1" is not credits above 0`},
		"- alias: a\n  routes: [{model: wan-2.6}]\n- alias: a\n  routes: [{model: wan-2.6}]\n":                    {`alias "a": is there twice`},
		"- alias: a\n  means: {duration: -5, resolution: hd, aspect_ratio: wide}\n  routes: [{model: wan-2.6}]\n": {"means.duration is -5", `means.resolution is "hd"`, `means.aspect_ratio is "wide"`},
	} {
		_, err := Parse([]byte(text), catalog.Builtin())
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %v; want %q", text, err, w)
			}
		}
	}
}

// A file whose aliases are all commented out has none.
func TestFileOfCommentsIsEmpty(t *testing.T) {
	t.Parallel()
	x, err := Parse([]byte("# - alias: a\n"), catalog.Builtin())
	if err != nil || len(x.Aliases()) == 0 {
		t.Errorf("%v", err)
	}
}

// A changed file is taken over while the process runs; a faulty one is not.
func TestFileIsReadAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "routes.yaml")
	write := func(text string) {
		t.Helper()
		// As an editor does: the file is never half there.
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("- alias: mine\n  routes: [{model: nope}]\n")
	cfg := Config{File: file, Every: time.Millisecond}
	if _, err := Open(cfg, catalog.Builtin(), slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), `REELWAY_ROUTES_FILE: alias "mine": routes[0].model`) {
		t.Fatalf("a faulty file is opened with %v", err)
	}
	write("- alias: mine\n  routes: [{model: wan-2.6}]\n")
	r, err := Open(cfg, catalog.Builtin(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	has := func(model string) bool {
		a, ok := r.Table().Alias("mine")
		return ok && a.Routes[0].Model == model
	}
	if _, ok := r.Table().Alias("veo-3"); !has("wan-2.6") || !ok {
		t.Fatal("the file does not lie on top of the aliases that ship")
	}
	write("- alias: mine\n  routes: [{model: nope}]\n")
	if r.reload(t.Context()); !has("wan-2.6") {
		t.Error("a faulty file was taken over")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if r.reload(t.Context()); !has("wan-2.6") {
		t.Error("a file that is gone was taken over")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Components()[0].Run(ctx) }()
	write("- alias: mine\n  routes: [{model: kling-v2-6}]\n")
	deadline, tick := time.After(30*time.Second), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !has("kling-v2-6") {
		select {
		case <-deadline:
			t.Fatal("the changed file was not read in time")
		case <-tick.C:
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Files of models and of aliases change together, and the aliases may be looked
// at first: they are taken over when their models are there.
func TestAliasesThatCameBeforeTheirModels(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "routes.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	models := catalog.Builtin().Models()
	offered := &offer{models: models}
	r, err := Open(Config{File: file, Every: time.Hour}, offered, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	write("- alias: mine\n  routes: [{model: our-own}]\n")
	r.reload(t.Context())
	if _, ok := r.Table().Alias("mine"); ok {
		t.Fatal("an alias of a model that is not there was taken over")
	}
	own := models[0]
	own.ID = "our-own"
	offered.models = append(slices.Clone(models), own)
	if r.reload(t.Context()); !slices.ContainsFunc(r.Table().Aliases(), func(a Alias) bool { return a.Name == "mine" }) {
		t.Error("the alias is not there, though its model is")
	}
}

// A model of the operator's goes before an alias of ours: whoever names it so must
// be able to start again.
func TestAModelNamedAsAnAliasThatShips(t *testing.T) {
	t.Parallel()
	own := catalog.Builtin().Models()[0]
	own.ID = "veo-3"
	x, err := Parse(nil, &offer{append(catalog.Builtin().Models(), own)})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := x.Alias("veo-3"); ok || len(x.Aliases()) == 0 {
		t.Errorf("%v", x.Aliases())
	}
}

// offer is a catalogue that changes.
type offer struct{ models []catalog.Model }

func (o *offer) Models() []catalog.Model { return o.models }

func (o *offer) Model(id string) (catalog.Model, bool) {
	i := slices.IndexFunc(o.models, func(m catalog.Model) bool { return m.ID == id })
	if i < 0 {
		return catalog.Model{}, false
	}
	return o.models[i], true
}

// Of an alias only the models that can work on a video are tried, each with the
// source as it takes it: its own task, or an address.
func TestEachRouteGetsTheSourceAsItTakesIt(t *testing.T) {
	t.Parallel()
	made := &catalog.Made{ID: "video_1", Model: "veo-3.1", TaskID: "models/v/operations/o", URL: "bucket:v.mp4", Seconds: 8, Ratio: "9:16", Resolution: "720p"}
	ask := Ask{Request: &videov1.VideoRequest{Route: "veo-3", Prompt: "p", SourceVideo: "video_1", Extend: true}, Models: on("veo", "fal", "replicate", "runway"), Made: made}
	p, bad := table(t, "").Resolve(ask)
	if len(bad) > 0 || !slices.Equal(ids(p), []string{"veo-3.1", "fal-veo-3.1"}) {
		t.Fatalf("%v %v", p, bad)
	}
	own, other := p.Routes[0].Params, p.Routes[1].Params
	if own.GetSourceTask() != made.TaskID || own.GetVideoUrl() != "" || other.GetSourceTask() != "" || other.GetVideoUrl() != made.URL {
		t.Errorf("%v\n%v", own, other)
	}
	for _, x := range []*videov1.VideoParams{own, other} {
		if x.GetSourceVideo() != "video_1" || !x.GetExtend() || x.GetDurationSeconds() != 7 || x.GetAspectRatio() != "9:16" {
			t.Errorf("%v", x)
		}
	}
	// Made by another, it is only for those who take any video.
	made.Model = "fal-veo-3.1"
	if p, bad = table(t, "").Resolve(ask); len(bad) > 0 || !slices.Equal(ids(p), []string{"fal-veo-3.1"}) {
		t.Errorf("%v %v", p, bad)
	}
	made.Seconds = 9
	if p, bad = table(t, "").Resolve(ask); p != nil || !strings.Contains(fault.Invalid(bad...).Error(), "fal-veo-3.1 (video: has 9 seconds; fal-veo-3.1 takes at most 8)") {
		t.Errorf("%v %v", p, bad)
	}
}
