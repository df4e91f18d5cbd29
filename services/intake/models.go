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
	data, aliases, all := []map[string]any{}, []map[string]any{}, s.models()
	for _, m := range all.GetModels() {
		data = append(data, modelJSON(m))
	}
	for _, a := range all.GetAliases() {
		aliases = append(aliases, aliasJSON(a))
	}
	videojson.Write(w, http.StatusOK, map[string]any{"object": "list", "data": data, "aliases": aliases})
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

func aliasJSON(a *videov1.Alias) map[string]any {
	return map[string]any{"id": a.GetId(), "object": "alias", "description": a.GetDescription(), "pick": a.GetPick(), "models": append([]string{}, a.GetModels()...)}
}

// modelJSON is a model as REST shows it. What is not known is null.
func modelJSON(m *videov1.Model) map[string]any {
	durationsAt, taskResolutions := map[string]any{}, map[string]any{}
	for _, l := range m.GetLimits() {
		if l.GetResolution() != "" {
			durationsAt[l.GetResolution()] = l.GetDurationsSeconds()
		} else {
			taskResolutions[l.GetTask()] = l.GetResolutions()
		}
	}
	var from any
	if m.GetPriced() {
		from = money.Format(m.GetPricePerSecondMicros())
	}
	provenance, regions := m.GetProvenance(), m.GetRegions()
	if provenance == nil {
		provenance = map[string]string{}
	}
	if regions == nil {
		regions = []string{}
	}
	return map[string]any{
		"id": m.GetId(), "object": "model", "created": 0, "owned_by": m.GetProvider(), "name": m.GetDisplayName(), "provider": m.GetProvider(), "tasks": m.GetTasks(),
		"durations": m.GetDurationsSeconds(), "durations_at": durationsAt, "resolutions": m.GetResolutions(), "task_resolutions": taskResolutions,
		"aspect_ratios": m.GetAspectRatios(), "audio": m.GetAudio(), "audio_always": m.GetAudioAlways(), "seed": m.GetSeed(),
		"negative_prompt": m.GetNegativePrompt(), "watermark": m.GetWatermark(), "provenance": provenance,
		"sources": sources(m),
		"priced":  m.GetPriced(), "price_per_second_from": from, "prices": prices(m.GetPrices()),
		"typical_seconds": orNull(m.GetTypicalSeconds()), "max_seconds": orNull(m.GetMaxSeconds()),
		"limits": map[string]any{
			"prompt_characters": orNull(int64(m.GetMaxPromptCharacters())), "negative_prompt_characters": orNull(int64(m.GetMaxNegativePromptCharacters())),
			"requests_per_minute": orNull(int64(m.GetRequestsPerMinute())), "concurrent_tasks": orNull(int64(m.GetConcurrentTasks())),
		},
		"regions": regions, "result_life_seconds": orNull(m.GetResultLifeSeconds()),
		"source": map[string]any{"note": m.GetSource(), "url": m.GetSourceUrl(), "date": m.GetSourceDate()},
	}
}

// sources are the tasks that work on a video, by name.
func sources(m *videov1.Model) map[string]any {
	out := map[string]any{}
	for _, s := range m.GetSources() {
		one := map[string]any{"own": s.GetOwn(), "max_seconds": orNull(int64(s.GetMaxSeconds())), "same_length": s.GetSameLength()}
		if len(s.GetDurationsSeconds()) > 0 {
			one["durations"] = s.GetDurationsSeconds()
		}
		if len(s.GetPrices()) > 0 {
			one["prices"] = prices(s.GetPrices())
		}
		out[s.GetTask()] = one
	}
	return out
}

func prices(ps []*videov1.ModelPrice) []map[string]any {
	out := []map[string]any{}
	for _, p := range ps {
		price := map[string]any{"resolution": p.GetResolution(), "audio": p.GetAudio()}
		if p.GetClipSeconds() > 0 {
			price["duration"], price["per_clip"] = p.GetClipSeconds(), money.Format(p.GetAmountMicros())
		} else {
			price["per_second"] = money.Format(p.GetAmountMicros())
		}
		out = append(out, price)
	}
	return out
}

// orNull is n, or nothing where 0 means not known.
func orNull(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}
