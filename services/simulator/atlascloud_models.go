package simulator

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Atlas Cloud's list of models, GET /api/v1/models, which takes no key, and the
// OpenAPI schema of each model's input, which the list points to. The shapes are
// those of its MCP client and skill files; the values are invented.

// family is a line of models: versions × variants × tasks.
type family struct {
	org, name, title   string
	versions, variants []string
	durations          []int // of the schema: a choice, or first and last when span
	span               bool
	resolutions        []string
	price              float64 // of the first, a second
	audio              string  // "", "default" or "choice"
}

var atlasFamilies = []family{
	{"bytedance", "seedance", "Seedance", []string{"1.0", "1.5", "2.0", "2.5"}, []string{"lite", "pro", "fast", "mini"}, []int{4, 15}, true, []string{"480p", "720p", "1080p"}, 0.018, "default"},
	{"kwaivgi", "kling", "Kling", []string{"v1.6", "v2.1", "v2.5-turbo", "v2.6", "v3.0"}, []string{"std", "pro", "master"}, []int{5, 10}, false, []string{"720p", "1080p"}, 0.042, ""},
	{"alibaba", "wan", "Wan", []string{"2.2", "2.5", "2.6", "2.7", "3.0"}, []string{"base", "turbo", "prime"}, []int{5, 10, 15}, false, []string{"480p", "720p", "1080p"}, 0.03, ""},
	{"minimax", "hailuo", "Hailuo", []string{"02", "2.3", "3"}, []string{"standard", "fast", "pro"}, []int{6, 10}, false, []string{"768p", "1080p"}, 0.04, ""},
	{"google", "veo", "Veo", []string{"2", "3", "3.1"}, []string{"base", "fast", "lite"}, []int{8, 6, 4}, false, []string{"720p", "1080p"}, 0.05, "choice"},
	{"vidu", "vidu", "Vidu", []string{"q1", "q2", "q3"}, []string{"standard", "turbo", "pro"}, []int{4, 8}, true, []string{"540p", "720p", "1080p"}, 0.03, ""},
	{"pixverse", "pixverse", "PixVerse", []string{"v4.5", "v5", "v5.6", "v6"}, []string{"base", "fast"}, []int{5, 8}, false, []string{"540p", "720p", "1080p"}, 0.03, ""},
	{"luma", "ray", "Ray", []string{"2", "3", "3.2"}, []string{"base", "flash"}, []int{5, 9}, false, []string{"540p", "720p", "1080p"}, 0.028, ""},
	{"lightricks", "ltx", "LTX", []string{"2", "2.3", "2.5"}, []string{"fast", "pro"}, []int{6, 8, 10}, false, []string{"720p", "1080p", "1440p"}, 0.04, "default"},
	{"tencent", "hunyuan-video", "Hunyuan Video", []string{"1.0", "1.5"}, []string{"base", "distilled"}, []int{5}, false, []string{"480p", "720p"}, 0.02, ""},
	{"x-ai", "grok-imagine-video", "Grok Imagine Video", []string{"1.0", "1.5"}, []string{"base", "fast"}, []int{1, 15}, true, []string{"480p", "720p"}, 0.05, "default"},
	{"skywork", "skyreels", "SkyReels", []string{"v2", "v3"}, []string{"base", "pro"}, []int{5, 10}, false, []string{"540p", "720p"}, 0.02, ""},
	{"sand-ai", "magi", "MAGI", []string{"1", "1.1"}, []string{"base", "distill"}, []int{4, 8}, false, []string{"480p", "720p"}, 0.02, ""},
}

// atlasEntry is one model of the list, with the schema of its input.
type atlasEntry struct {
	listed map[string]any
	input  map[string]any // nil for none
}

// atlasSlug is a model's name in the addresses of its schema.
func atlasSlug(model string) string { return strings.ReplaceAll(model, "/", "-") }

// atlasList is the whole list, by the host that serves the schemas.
func atlasList(host string) (out []atlasEntry) {
	add := func(model, kind, org, title, price string, input map[string]any) map[string]any {
		listed := map[string]any{
			"uuid": fmt.Sprintf("00000000-0000-4000-8000-%012d", len(out)+1), "model": model, "type": kind, "displayName": title, "profile": title,
			"avatar": "", "readme": "", "tags": []string{strings.ToLower(kind)}, "categories": []string{model[strings.LastIndex(model, "/")+1:]},
			"organization": org, "display_console": true,
			"price": map[string]any{"discount": "100", "actual": map[string]any{"base_price": price}, "origin": map[string]any{"base_price": price}},
		}
		if input != nil {
			listed["schema"] = host + "/atlascloud/model/schema/" + atlasSlug(model) + ".json"
		}
		out = append(out, atlasEntry{listed, input})
		return listed
	}
	for i, f := range atlasFamilies {
		for v, version := range f.versions {
			for w, variant := range f.variants {
				base := fmt.Sprintf("%s/%s-%s-%s", f.org, f.name, version, variant)
				title := fmt.Sprintf("%s %s %s", f.title, version, variant)
				price := strconv.FormatFloat(f.price*(1+0.25*float64(v))*(1+0.1*float64(w)), 'f', 4, 64)
				for _, task := range []string{"text-to-video", "image-to-video", "reference-to-video"} {
					add(base+"/"+task, "Video", f.org, title, price, f.input(task, (i+v+w)%2 == 0))
				}
			}
		}
	}
	// What an importer has to leave out or take with care.
	hidden := add("internal/preview-1/text-to-video", "Video", "internal", "Preview", "0.0100", atlasFamilies[0].input("text-to-video", false))
	hidden["display_console"] = false
	add("bytedance/no-schema-1/text-to-video", "Video", "bytedance", "No schema", "0.0100", nil)
	free := add("alibaba/unpriced-1/text-to-video", "Video", "alibaba", "Unpriced", "", atlasFamilies[2].input("text-to-video", false))
	delete(free, "price")
	add("black-forest-labs/flux-1.1-pro/text-to-image", "Image", "black-forest-labs", "FLUX 1.1 Pro", "0.0400", nil)
	add("bytedance/seedream-v5.0-lite", "Image", "bytedance", "Seedream 5 Lite", "0.0300", nil)
	add("deepseek-ai/deepseek-v3.2", "Text", "deepseek-ai", "DeepSeek 3.2", "", nil)
	return out
}

// input is the schema of a model's input. An end frame is taken where frames.
func (f family) input(task string, frames bool) map[string]any {
	duration := map[string]any{"type": "integer", "default": f.durations[0]}
	if f.span {
		duration["minimum"], duration["maximum"] = f.durations[0], f.durations[1]
	} else {
		duration["enum"] = f.durations
	}
	p := map[string]any{
		"model": map[string]any{"type": "string"}, "prompt": map[string]any{"type": "string", "maxLength": 2500},
		"duration": duration, "resolution": map[string]any{"type": "string", "enum": append([]string{}, f.resolutions...), "default": f.resolutions[0]},
		"seed": map[string]any{"type": "integer"},
	}
	required := []string{"model", "prompt"}
	switch task {
	case "text-to-video":
		p["aspect_ratio"] = map[string]any{"type": "string", "enum": []string{"16:9", "9:16", "1:1", "adaptive"}, "default": "16:9"}
		p["negative_prompt"] = map[string]any{"type": "string"}
	case "image-to-video":
		p["image"] = map[string]any{"type": "string"}
		required = append(required, "image")
		if frames {
			p["last_image"] = map[string]any{"type": "string"}
		}
	default:
		p["reference_images"] = map[string]any{"type": "array", "items": map[string]any{"type": "string"}}
		required = append(required, "reference_images")
	}
	switch f.audio {
	case "default":
		p["generate_audio"] = map[string]any{"type": "boolean", "default": true}
	case "choice":
		p["generate_audio"] = map[string]any{"type": "boolean", "default": false}
	}
	return map[string]any{"type": "object", "required": required, "properties": p}
}

func atlasModels(*Service, *dialect) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		data := []any{}
		for _, e := range atlasList(host(r)) {
			data = append(data, e.listed)
		}
		answer(w, http.StatusOK, map[string]any{"code": "200", "data": data})
	}
}

func atlasSchema(_ *Service, d *dialect) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, e := range atlasList(host(r)) {
			if name, _ := e.listed["model"].(string); e.input != nil && atlasSlug(name)+".json" == r.PathValue("file") {
				answer(w, http.StatusOK, map[string]any{"openapi": "3.0.0", "info": map[string]any{"title": name, "version": "1"},
					"components": map[string]any{"schemas": map[string]any{"Input": e.input}}})
				return
			}
		}
		d.deny(w, notFound, "no such schema")
	}
}
