package intake

import (
	"net/http"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/money"
	"reelway.dev/pkg/route"
	"reelway.dev/pkg/videojson"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

func (s *Service) models() *videov1.ListModelsResponse {
	resp := &videov1.ListModelsResponse{}
	for _, m := range s.d.Catalog.Models() {
		resp.Models = append(resp.Models, m.Proto())
	}
	for _, a := range s.d.Routes.Table().Aliases() {
		if x := s.alias(a); len(x.GetModels()) > 0 || len(a.Routes) == 0 {
			resp.Aliases = append(resp.Aliases, x)
		}
	}
	return resp
}

// alias shows an alias with those of its models that are on offer.
func (s *Service) alias(a route.Alias) *videov1.Alias {
	x := &videov1.Alias{Id: a.Name, Description: a.Description, Pick: a.Pick}
	for _, r := range a.Routes {
		if _, ok := s.d.Catalog.Model(r.Model); ok {
			x.Models = append(x.Models, r.Model)
		}
	}
	return x
}

func (s *Service) listModels(w http.ResponseWriter, _ *http.Request, _ auth.Principal) error {
	out, all := modelsObject{Object: "list", Data: []modelObject{}, Aliases: []aliasObject{}}, s.models()
	for _, m := range all.GetModels() {
		out.Data = append(out.Data, modelJSON(m))
	}
	for _, a := range all.GetAliases() {
		out.Aliases = append(out.Aliases, aliasJSON(a))
	}
	videojson.Write(w, http.StatusOK, out)
	return nil
}

// getModel shows one model, or alias. Its id may hold slashes.
func (s *Service) getModel(w http.ResponseWriter, r *http.Request, _ auth.Principal) error {
	id := r.PathValue("id")
	if a, ok := s.d.Routes.Table().Alias(id); ok {
		videojson.Write(w, http.StatusOK, aliasJSON(s.alias(a)))
		return nil
	}
	m, ok := s.d.Catalog.Model(id)
	if !ok || id == "" {
		return fault.New(fault.NotFound, "no such model; GET /v1/models lists the models")
	}
	videojson.Write(w, http.StatusOK, modelJSON(m.Proto()))
	return nil
}

func aliasJSON(a *videov1.Alias) aliasObject {
	return aliasObject{ID: a.GetId(), Object: "alias", Description: a.GetDescription(), Pick: a.GetPick(), Models: append([]string{}, a.GetModels()...)}
}

// modelJSON is a model as REST shows it. What is not known is null, but for lists,
// which are empty: a model that makes what is as long as its source has no durations.
func modelJSON(m *videov1.Model) modelObject {
	o := modelObject{
		ID: m.GetId(), Object: "model", OwnedBy: m.GetProvider(), Name: m.GetDisplayName(), Provider: m.GetProvider(), Tasks: append([]string{}, m.GetTasks()...),
		Durations: append([]int32{}, m.GetDurationsSeconds()...), DurationsAt: map[string][]int32{}, Resolutions: append([]string{}, m.GetResolutions()...), TaskResolutions: map[string][]string{},
		AspectRatios: append([]string{}, m.GetAspectRatios()...), Audio: m.GetAudio(), AudioAlways: m.GetAudioAlways(), Seed: m.GetSeed(),
		NegativePrompt: m.GetNegativePrompt(), Watermark: m.GetWatermark(), Provenance: m.GetProvenance(), Priced: m.GetPriced(), Prices: prices(m.GetPrices()), Sources: sources(m),
		TypicalSeconds: orNull(m.GetTypicalSeconds()), MaxSeconds: orNull(m.GetMaxSeconds()),
		Limits: modelLimitsObject{
			PromptCharacters: orNull(int64(m.GetMaxPromptCharacters())), NegativePromptCharacters: orNull(int64(m.GetMaxNegativePromptCharacters())),
			RequestsPerMinute: orNull(int64(m.GetRequestsPerMinute())), ConcurrentTasks: orNull(int64(m.GetConcurrentTasks())),
		},
		Regions: append([]string{}, m.GetRegions()...), ResultLifeSeconds: orNull(m.GetResultLifeSeconds()),
		Source: modelSourceObject{Note: m.GetSource(), URL: m.GetSourceUrl(), Date: m.GetSourceDate()},
	}
	for _, l := range m.GetLimits() {
		if l.GetResolution() != "" {
			o.DurationsAt[l.GetResolution()] = l.GetDurationsSeconds()
		} else {
			o.TaskResolutions[l.GetTask()] = l.GetResolutions()
		}
	}
	if m.GetPriced() {
		from := money.Format(m.GetPricePerSecondMicros())
		o.PricePerSecondFrom = &from
	}
	if o.Provenance == nil {
		o.Provenance = map[string]string{}
	}
	return o
}

// sources are the tasks that work on a video, by name.
func sources(m *videov1.Model) map[string]modelTaskObject {
	out := map[string]modelTaskObject{}
	for _, x := range m.GetSources() {
		one := modelTaskObject{Own: x.GetOwn(), MaxSeconds: orNull(int64(x.GetMaxSeconds())), SameLength: x.GetSameLength(), Durations: x.GetDurationsSeconds()}
		if len(x.GetPrices()) > 0 {
			one.Prices = prices(x.GetPrices())
		}
		out[x.GetTask()] = one
	}
	return out
}

func prices(ps []*videov1.ModelPrice) []modelPriceObject {
	out := []modelPriceObject{}
	for _, p := range ps {
		price := modelPriceObject{Resolution: p.GetResolution(), Audio: p.GetAudio()}
		if p.GetClipSeconds() > 0 {
			price.Duration, price.PerClip = p.GetClipSeconds(), money.Format(p.GetAmountMicros())
		} else {
			price.PerSecond = money.Format(p.GetAmountMicros())
		}
		out = append(out, price)
	}
	return out
}

// orNull is n, or nothing where 0 means not known.
func orNull(n int64) *int64 {
	if n == 0 {
		return nil
	}
	return &n
}
