package providertest

import (
	"time"

	"reelway.dev/pkg/provider"
)

// Builtin is what is to be expected of a built-in adapter with all its secrets;
// false for any other name. The caller adds New, BaseURL and Simulator.
func Builtin(name string) (Harness, bool) {
	h := Harness{Name: name, Task: provider.Task{Duration: 5, Resolution: "720p", AspectRatio: "16:9", Width: 1280, Height: 720}}
	switch name {
	case "atlascloud":
		h.Task.Model, h.Webhooks, h.DefiniteServerError = "bytedance/seedance-2.0/text-to-video", Signed, true
	case "kling":
		h.Task.Model, h.Webhooks, h.PauseAtLeast = "kling-v2-6", Signed, time.Second
		h.Sources = []Source{{Model: "kling-v1-6", Own: true, Extend: true}}
	case "replicate":
		h.Task.Model, h.Webhooks = "bytedance/seedance-1-pro", Signed
		h.Sources = []Source{{Model: "runwayml/gen4-aleph"}}
	case "fal":
		h.Task.Model, h.Task.Duration, h.Webhooks = "fal-ai/veo3.1/fast", 8, Signed
		h.Sources = []Source{{Model: "fal-ai/kling-video/o1/video-to-video/edit"}, {Model: "fal-ai/veo3.1/extend-video", Extend: true}}
	case "runway":
		h.Task.Model = "gen4.5"
		h.Sources = []Source{{Model: "aleph2"}, {Model: "seedance2"}, {Model: "seedance2_5", Extend: true}}
	case "luma":
		h.Task.Model, h.Webhooks = "ray-3.2", Hints
		h.Sources = []Source{{Model: "ray-2", Own: true, Extend: true}, {Model: "ray-2"}}
	case "byteplus":
		h.Task.Model, h.Webhooks = "seedance-1-5-pro-251215", Hints
		h.Sources = []Source{{Model: "dreamina-seedance-2-0-260128"}}
	case "minimax":
		h.Task.Model, h.Task.Duration, h.Task.Resolution, h.Webhooks = "MiniMax-H3", 6, "768p", Hints
	case "veo":
		h.Task.Model, h.Task.Duration = "veo-3.1-generate-preview", 8
		h.Webhooks, h.SilentFailure, h.NoWords = TokenHints, true, true
		h.Sources = []Source{{Own: true, Extend: true}}
	case "openai":
		h.Task.Model, h.Task.Duration, h.Webhooks, h.ResultUnseen = "sora-2", 8, SignedHints, true
		h.Sources = []Source{{Own: true}, {Own: true, Extend: true}}
	default:
		return h, false
	}
	return h, true
}
