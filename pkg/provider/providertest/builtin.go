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
	case "replicate":
		h.Task.Model, h.Webhooks = "bytedance/seedance-1-pro", Signed
	case "fal":
		h.Task.Model, h.Task.Duration, h.Webhooks = "fal-ai/veo3.1/fast", 8, Signed
	case "runway":
		h.Task.Model = "gen4.5"
	case "luma":
		h.Task.Model, h.Webhooks = "ray-3.2", Hints
	case "byteplus":
		h.Task.Model, h.Webhooks = "seedance-1-5-pro-251215", Hints
	case "minimax":
		h.Task.Model, h.Task.Duration, h.Task.Resolution, h.Webhooks = "MiniMax-H3", 6, "768p", Hints
	case "veo":
		h.Task.Model, h.Task.Duration = "veo-3.1-generate-preview", 8
		h.Webhooks, h.SilentFailure, h.NoWords = TokenHints, true, true
	case "openai":
		h.Task.Model, h.Task.Duration, h.Webhooks, h.ResultUnseen = "sora-2", 8, SignedHints, true
	default:
		return h, false
	}
	return h, true
}
