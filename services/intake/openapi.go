package intake

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"time"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/openapi"
	"reelway.dev/pkg/videojson"
)

// contract is the OpenAPI document of all services, which services/reelway/apidoc
// makes of their routes. Intake serves it: it is the door that callers know.
//
//go:embed openapi.json
var contract []byte

// contractTag is its ETag.
var contractTag = func() string {
	sum := sha256.Sum256(contract)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}()

func (s *Service) openapi(w http.ResponseWriter, r *http.Request, _ auth.Principal) error {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("Access-Control-Allow-Origin", "*") // readers of such documents are pages
	h.Set("ETag", contractTag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(contract))
	return nil
}

// document stands for the document in its own table.
type document struct{}

// OpenAPI implements openapi.Described.
func (document) OpenAPI() openapi.Schema {
	return openapi.Schema{JSON: `{"type":"object","description":"An OpenAPI 3.1 document.","required":["openapi","info","paths"],"additionalProperties":true}`}
}

// OpenAPI implements openapi.Described.
func (number) OpenAPI() openapi.Schema {
	return openapi.Schema{JSON: `{"type":["number","string"],"pattern":"^[0-9]+(\\.[0-9]+)?$"}`}
}

// OpenAPI implements openapi.Described.
func (body) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "VideoRequest", Text: "What to make. A field that is not listed is refused, by name.", Fields: map[string]openapi.Note{
		"model":           {Text: "A model or an alias of `GET /v1/models`; the first model with a price when left out, which with `video_url` has to take any video."},
		"route":           {Text: "An alias, in the place of `model`."},
		"optional":        {Text: "Names of parameters that may be left out for a model that lacks them."},
		"prompt":          {Text: "At most 10000 characters; a model may take fewer."},
		"negative_prompt": {Text: "What must not be seen."},
		"seconds":         {Text: "Whole seconds, as OpenAI names them."},
		"duration":        {Text: "Whole seconds that the model makes."},
		"size":            {Text: "Width and height, such as `1280x720`."},
		"aspect_ratio":    {Text: "Such as `16:9`."},
		"resolution":      {Text: "Such as `720p`."},
		"platform":        {Text: "Such as `tiktok`: the ratio that is native there."},
		"input_reference": {Text: "OpenAI's way to give the first frame."},
		"image_url":       {Text: "The first frame: an https URL, or the id of an upload."},
		"end_image_url":   {Text: "The last frame: an https URL, or the id of an upload."},
		"video":           {Text: "A finished video of yours to work on."},
		"video_url":       {Text: "A video to work on: an https URL, or the id of an upload."},
		"extend":          {Text: "Whether the video is to go on; it is made anew otherwise."},
		"seed":            {Text: "The same seed makes similar videos, where the model takes one."},
		"audio":           {Text: "Whether it has sound, where the model lets you choose."},
		"watermark":       {Text: "Whether the provider marks it, where the model lets you choose."},
		"user":            {Text: "Your own name of an end user, at most 128 characters."},
		"notify_email":    {Text: "Who is written to when it is done or has failed."},
		"metadata":        {Text: "At most 16 pairs of your own."},
		"max_cost":        {Text: "Credits; a dearer video is refused, and a dearer route of an alias left out."},
		"priority":        {Text: "Where jobs wait.", Enum: []string{"low", "normal", "high"}},
		"callback_url":    {Text: "An https URL that is told of this video's end."},
	}}
}

// OpenAPI implements openapi.Described.
func (reference) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "InputReference", Fields: map[string]openapi.Note{"image_url": {Text: "An https URL."}, "file_id": {Text: "The id of an upload."}}}
}

// OpenAPI implements openapi.Described.
func (videoReference) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "VideoReference", Needed: []string{"id"}, Fields: map[string]openapi.Note{"id": {Text: "The id of a completed video."}}}
}

// OpenAPI implements openapi.Described.
func (uploadBody) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "UploadRequest", Text: "A file that is sent straight to the bucket afterwards.", Needed: []string{"bytes", "content_type"}, Fields: map[string]openapi.Note{
		"bytes": {Text: "Its exact size."}, "content_type": {Text: "What it is.", Enum: []string{"image/jpeg", "image/png", "image/webp", "video/mp4", "video/quicktime", "video/webm"}},
		"purpose": {Text: "`input_reference`, or left out."}}}
}

// OpenAPI implements openapi.Described.
func (uploadObject) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "Upload", Fields: map[string]openapi.Note{
		"status": {Enum: []string{"pending", "ready"}}, "sha256": {Text: "Lower-case hexadecimal, once it is ready."}, "width": {Text: "Of an image, in pixels."}, "height": {Text: "Of an image, in pixels."},
		"expires_at": {Text: "Until when it may be named; Unix seconds."}, "upload_url": {Text: "Where the file is sent to; only where the upload begins."}, "method": {Text: "`PUT`."},
		"headers": {Text: "To be sent with the file, as they are."}, "upload_expires_at": {Text: "Until when the file may be sent."}}}
}

// OpenAPI implements openapi.Described.
func (deadLetterObject) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "DeadLetter", Fields: map[string]openapi.Note{
		"reason": {Text: "Why it was given up."}, "died_at": {Text: "RFC 3339."}, "replayed": {Text: "Only where it was sent again."}}}
}

// events are what an endpoint may ask for.
var events = []string{"video.completed", "video.failed", "video.canceled", "video.expired", "video.needs_review", "video.progressed"}

// OpenAPI implements openapi.Described.
func (endpointBody) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "WebhookEndpointRequest", Needed: []string{"url"}, Fields: map[string]openapi.Note{
		"url":         {Text: "Where events are sent to: https, on port 443."},
		"description": {Text: "For people."},
		"events":      {Text: "What it is told of; every final event when left out.", Enum: events},
		"headers":     {Text: "Sent with each request, such as an `Authorization` that your receiver wants; at most 20."},
	}}
}

// OpenAPI implements openapi.Described.
func (endpointChanges) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "WebhookEndpointChanges", Text: "What is left out stays.", Fields: map[string]openapi.Note{
		"url": {Text: "Where events are sent to."}, "description": {Text: "For people."}, "events": {Text: "What it is told of.", Enum: events},
		"headers": {Text: "In the place of those before; `{}` removes them."}, "enabled": {Text: "Whether events are sent."},
	}}
}

// OpenAPI implements openapi.Described.
func (rotateBody) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "WebhookSecretRequest", Fields: map[string]openapi.Note{
		"overlap_seconds": {Text: "For how long the old secret signs as well, 0 to 604800; a day when left out."}}}
}

// OpenAPI implements openapi.Described.
func (replayBody) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "WebhookReplayRequest", Needed: []string{"from"}, Fields: map[string]openapi.Note{
		"from": {Text: "RFC 3339."}, "to": {Text: "RFC 3339; now when left out."}, "only_failed": {Text: "Only what was given up."}}}
}

// OpenAPI implements openapi.Described.
func (tokenBody) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "RealtimeTokenRequest", Text: "Names videos, a user, or both.", Fields: map[string]openapi.Note{
		"videos":     {Text: "Up to 20 ids that it may watch."},
		"user":       {Text: "An end user: all of that user's videos, now and later."},
		"expires_in": {Text: "Seconds, 10 to 86400; 900 when left out."}}}
}

// OpenAPI implements openapi.Described.
func (endpointObject) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "WebhookEndpoint", Fields: map[string]openapi.Note{
		"url": {Text: "Null for the default endpoint, which tells the callback URLs of videos."}, "headers": {Text: "The names alone."},
		"pending": {Text: "Deliveries that wait."}, "secret": {Text: "Only where it is new."}, "disabled_reason": {Enum: []string{"gone", "failing", "owner"}}}}
}

// OpenAPI implements openapi.Described.
func (deliveryObject) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "WebhookDelivery", Fields: map[string]openapi.Note{
		"state": {Enum: []string{"pending", "delivered", "failed"}}, "attempts": {Text: "How many there were."}, "log": {Text: "The attempts, where one delivery is read."}}}
}

// OpenAPI implements openapi.Described.
func (attemptObject) OpenAPI() openapi.Schema {
	return openapi.Schema{Name: "WebhookAttempt", Fields: map[string]openapi.Note{"response": {Text: "Null when nothing answered."}}}
}

// OpenAPI implements openapi.Described.
func (requestObject) OpenAPI() openapi.Schema { return openapi.Schema{Name: "WebhookRequest"} }

// OpenAPI implements openapi.Described.
func (responseObject) OpenAPI() openapi.Schema { return openapi.Schema{Name: "WebhookResponse"} }

// What examples of answers show.
var (
	exampleVideo = videojson.Video{ID: "video_0199d5c2-8a51-7d0e-b3a4-5f0d3c1e9a77", Object: "video", Model: "kling-v2-6", Status: "queued", CreatedAt: 1_795_597_200,
		Prompt: "A paper boat in the rain", Seconds: "5", Size: "720x1280", State: "queued", Duration: 5, AspectRatio: "9:16", Resolution: "720p", Provider: "kling",
		Cost: videojson.Cost{Quote: "0.350000", Held: "0.350000", Captured: "0.000000", QuoteMicros: 350_000, HeldMicros: 350_000}}
	exampleLine  = lineObject{Description: "kling-v2-6, 720p, 5 s", Unit: "0.070000", Quantity: 5, Amount: "0.350000", AmountMicros: 350_000}
	exampleQuote = quoteObject{Object: "quote", Model: "kling-v2-6", Duration: 5, Resolution: "720p", AspectRatio: "9:16", Width: 720, Height: 1280, Lines: []lineObject{exampleLine},
		Total: "0.350000", TotalMicros: 350_000, Routes: []quoteRouteObject{{Model: "kling-v2-6", Provider: "kling", Duration: 5, Resolution: "720p", AspectRatio: "9:16", Width: 720, Height: 1280,
			Lines: []lineObject{exampleLine}, Price: "0.350000", PriceMicros: 350_000, Dropped: []string{}}}}
	exampleModel = modelObject{ID: "kling-v2-6", Object: "model", Name: "Kling 2.6", OwnedBy: "kling", Provider: "kling", Tasks: []string{"text_to_video"}, Durations: []int32{5, 10},
		DurationsAt: map[string][]int32{}, Resolutions: []string{"720p", "1080p"}, TaskResolutions: map[string][]string{}, AspectRatios: []string{"16:9", "9:16", "1:1"},
		Prices: []modelPriceObject{{Resolution: "720p", PerSecond: "0.070000"}}, Provenance: map[string]string{}, Regions: []string{}, Sources: map[string]modelTaskObject{}}
	exampleAlias    = aliasObject{ID: "fast", Object: "alias", Description: "The cheapest that is up", Pick: "price", Models: []string{"kling-v2-6"}}
	exampleURL      = "https://example.com/webhooks"
	exampleEndpoint = endpointObject{ID: "whe_0199d5c2-8a51-7d0e-b3a4-5f0d3c1e9a77", Object: "webhook_endpoint", URL: &exampleURL, Events: []string{"video.completed", "video.failed"},
		Headers: []string{}, Enabled: true, CreatedAt: 1_795_597_200}
	exampleUpload = uploadObject{ID: "upload_0199d5c2-8a51-7d0e-b3a4-5f0d3c1e9a77", Object: "upload", Status: "ready", Bytes: 482_113, ContentType: "image/png",
		SHA256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", Width: 1280, Height: 720, CreatedAt: 1_795_597_200, ExpiresAt: 1_795_770_000}
	exampleDeadLetter = deadLetterObject{ID: "7", Object: "dead_letter", Stream: "JOBS", Subject: "jobs.submit.kling.kling-v2-6", Consumer: "submit-kling", Reason: "delivered too often",
		Deliveries: 20, Type: "reelway.event.v1.SubmitJob", DiedAt: "2026-11-25T09:00:00Z", SizeBytes: 312}
	exampleDelivery = deliveryObject{ID: "whd_0199d5c2-8a51-7d0e-b3a4-5f0d3c1e9a77", Object: "webhook_delivery", Endpoint: exampleEndpoint.ID, Video: exampleVideo.ID,
		Type: "video.completed", State: "delivered", Attempts: 1, OccurredAt: 1_795_597_260}
)
