package kling

import (
	"net/url"
	"strconv"

	"reelway.dev/pkg/provider"
)

// The two generations differ in paths and bodies only.

func kind(t provider.Task) string {
	if t.Extend {
		return "video-extend"
	}
	if t.ImageURL != "" {
		return "image2video"
	}
	return "text2video"
}

// extendSubmit is the call that has a video of the old generation go on. Model,
// mode and shape are the source's, and there is no external id.
func extendSubmit(t provider.Task, video string) (path string, body map[string]any) {
	body = map[string]any{"video_id": video, "prompt": t.Prompt}
	if t.NegativePrompt != "" {
		body["negative_prompt"] = t.NegativePrompt
	}
	if t.CallbackURL != "" {
		body["callback_url"] = t.CallbackURL
	}
	return "/v1/videos/" + kind(t), body
}

// oldSubmit is the call that submits to the old generation.
func oldSubmit(t provider.Task) (path string, body map[string]any) {
	mode := "std"
	if t.Resolution == "1080p" {
		mode = "pro"
	}
	body = map[string]any{"model_name": t.Model, "prompt": t.Prompt, "mode": mode, "duration": strconv.Itoa(t.Duration), "external_task_id": t.AttemptID}
	set := func(k, v string) {
		if v != "" {
			body[k] = v
		}
	}
	set("negative_prompt", t.NegativePrompt)
	set("callback_url", t.CallbackURL)
	set("image", t.ImageURL)
	set("image_tail", t.EndImageURL)
	if t.ImageURL == "" {
		set("aspect_ratio", t.AspectRatio)
	}
	if t.Audio {
		body["sound"] = "on"
	}
	if t.Watermark {
		body["watermark_info"] = map[string]any{"enabled": true}
	}
	return "/v1/videos/" + kind(t), body
}

// oldTask is the path of a task of the old generation, by its own id or by the
// external one, which is taken in the same place.
func oldTask(t provider.Task, id string) string {
	return kindTask(kind(t), id)
}

func kindTask(kind, id string) string {
	return "/v1/videos/" + kind + "/" + url.PathEscape(id)
}

// newSubmit is the call that submits to the new generation.
func newSubmit(t provider.Task) (path string, body map[string]any) {
	settings := map[string]any{"resolution": t.Resolution, "duration": t.Duration, "audio": t.Audio}
	options := map[string]any{"external_task_id": t.AttemptID, "watermark_info": map[string]any{"enabled": t.Watermark}}
	if t.CallbackURL != "" {
		options["callback_url"] = t.CallbackURL
	}
	body = map[string]any{"settings": settings, "options": options}
	if t.ImageURL == "" {
		body["prompt"] = t.Prompt
		settings["aspect_ratio"] = t.AspectRatio
		return "/text-to-video/" + url.PathEscape(t.Model), body
	}
	contents := []any{map[string]any{"type": "prompt", "text": t.Prompt}, map[string]any{"type": "first_frame", "url": t.ImageURL}}
	if t.EndImageURL != "" {
		contents = append(contents, map[string]any{"type": "last_frame", "url": t.EndImageURL})
	}
	body["contents"] = contents
	return "/image-to-video/" + url.PathEscape(t.Model), body
}

// newTask is the path of a task of the new generation; by is task_ids or
// external_task_ids.
func newTask(by, id string) string { return "/tasks?" + by + "=" + url.QueryEscape(id) }
