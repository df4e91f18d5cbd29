package videojson

import (
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/openapi"
)

// states are the words of state, statuses OpenAI's.
var (
	states = []string{string(job.Queued), string(job.Submitting), string(job.Running), string(job.Storing), string(job.Succeeded),
		string(job.Failed), string(job.Canceled), string(job.Expired), string(job.NeedsReview)}
	statuses = []string{"queued", "in_progress", "completed", "failed"}
)

// OpenAPI implements openapi.Described.
func (Video) OpenAPI() openapi.Schema {
	return openapi.Schema{Text: "A video and the job that makes it: OpenAI's object, with finer fields beside its own.", Fields: map[string]openapi.Note{
		"object":                  {Enum: []string{"video"}},
		"status":                  {Text: "OpenAI's word.", Enum: statuses},
		"state":                   {Text: "Reelway's finer word.", Enum: states},
		"progress":                {Text: "Percent. It never goes back while one attempt is rendered."},
		"progress_estimated":      {Text: "The provider tells no percentage: it is estimated from what the model took for its last videos."},
		"created_at":              {Text: "Unix seconds, as every time of this object."},
		"expires_at":              {Text: "When the file is removed; null when it is kept."},
		"seconds":                 {Text: "`duration` as OpenAI writes it."},
		"duration":                {Text: "Seconds of video."},
		"size":                    {Text: "Width and height, such as `1280x720`."},
		"remixed_from_video_id":   {Text: "OpenAI's field; the video that this one was made of."},
		"queue_position":          {Text: "Jobs ahead of it, while it waits."},
		"estimated_completion_at": {Text: "When it may be done."},
		"provider":                {Text: "Who makes it."},
		"attempts":                {Text: "Each submission to a provider."},
		"late_result":             {Text: "The result came after the job had been given up; nothing was charged for it."},
		"route":                   {Text: "The alias that was asked for."},
		"dropped":                 {Text: "Optional parameters that the model lacks."},
		"cancel_requested":        {Text: "The provider was asked to cancel; its word decides."},
		"cancel_refused":          {Text: "Why a cancel has no effect.", Enum: []string{"unsupported", "too_late"}},
		"url":                     {Text: "A signed link to the file, until `url_expires_at`."},
		"artifact":                {Text: "What was stored."},
	}}
}

// OpenAPI implements openapi.Described.
func (Error) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "VideoError", Text: "Why there is no video.", Fields: map[string]openapi.Note{
		"retryable": {Text: "Whether the same request may succeed."}, "provider_code": {Text: "The provider's own code."}}}
}

// OpenAPI implements openapi.Described.
func (Cost) OpenAPI() openapi.Schema {
	return openapi.Schema{Text: "Decimal credits, and the same exactly in micro-credits.", Fields: map[string]openapi.Note{
		"quote": {Text: "The price that was agreed to."}, "held": {Text: "Set aside while the video is made."}, "captured": {Text: "Charged."},
		"refunded": {Text: "Given back after it was charged."}}}
}

// OpenAPI implements openapi.Described.
func (Attempt) OpenAPI() openapi.Schema {
	return openapi.Schema{Fields: map[string]openapi.Note{"price": {Text: "When this attempt makes the video."}, "cost": {Text: "What was charged for it."}}}
}

// OpenAPI implements openapi.Described.
func (Artifact) OpenAPI() openapi.Schema {
	return openapi.Schema{Fields: map[string]openapi.Note{
		"thumbnail":        {Text: "Null when there is none; `variants_missing` says why."},
		"variants_missing": {Enum: []string{"off", "no_ffmpeg", "failed"}},
	}}
}

// OpenAPI implements openapi.Described.
func (Fault) OpenAPI() openapi.Schema {
	var codes []string
	for _, c := range fault.Codes() {
		codes = append(codes, string(c))
	}
	return openapi.Schema{Text: "OpenAI's error object, and more.", Fields: map[string]openapi.Note{
		"message":     {Text: "For people."},
		"code":        {Text: "For programs.", Enum: codes},
		"param":       {Text: "The first wrong field."},
		"fields":      {Text: "Every wrong field."},
		"retryable":   {Text: "Whether the same request may succeed later."},
		"retry_after": {Text: "Seconds to wait before."},
		"provider":    {Text: "The provider that said so, if one did."},
	}}
}

// OpenAPI implements openapi.Described.
func (Envelope) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "Error", Text: "The body of every answer that refuses."}
}
