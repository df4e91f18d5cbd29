package intake

import (
	"fmt"
	"net/http"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/openapi"
	"reelway.dev/pkg/videojson"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

type handler = func(http.ResponseWriter, *http.Request, auth.Principal) error

// row is a request that is served, and what is told of it.
type row struct {
	openapi.Operation

	serve func(*Service) handler
}

// Operations are intake's part of the API.
func Operations() (out []openapi.Operation) {
	for _, r := range routes() {
		out = append(out, r.Operation)
	}
	return out
}

// by is a row's serve for a method that needs nothing else.
func by(h func(*Service, http.ResponseWriter, *http.Request, auth.Principal) error) func(*Service) handler {
	return func(s *Service) handler {
		return func(w http.ResponseWriter, r *http.Request, p auth.Principal) error { return h(s, w, r, p) }
	}
}

// routes are all requests of REST. A new one is a new row: it is served, and
// told of in docs/openapi.json and docs/postman.json (make generate).
func routes() []row {
	rows := videoRoutes()
	rows = append(rows, accountRoutes()...)
	rows = append(rows, webhookRoutes()...)
	rows = append(rows, uploadRoutes()...)
	rows = append(rows, deadLetterRoutes()...)
	return append(rows, tokenRoutes()...)
}

const (
	get, post, del   = http.MethodGet, http.MethodPost, http.MethodDelete
	write, read, pay = auth.VideosWrite, auth.VideosRead, auth.BillingRead
)

// inPath is the one placeholder that paths have.
func inPath(text, example string) openapi.Param {
	return openapi.Param{In: "path", Name: "id", Text: text, Example: example}
}

// inQuery is a parameter of the query.
func inQuery(name, text, schema string, example any) openapi.Param {
	return openapi.Param{In: "query", Name: name, Text: text, Schema: schema, Example: example}
}

// enum is the schema of a word.
func enum(words ...string) string {
	out := ""
	for _, w := range words {
		out += fmt.Sprintf(",%q", w)
	}
	return `{"type":"string","enum":[` + out[1:] + `]}`
}

const upTo100 = `{"type":"integer","minimum":1,"maximum":100}`

func ok(text string, body any, or ...any) []openapi.Answer {
	return []openapi.Answer{{Status: http.StatusOK, Text: text, Body: body, Or: or}}
}

func videoRoutes() []row {
	id := inPath("The id of a video.", exampleVideo.ID)
	state := enum("queued", "submitting", "running", "storing", "succeeded", "failed", "canceled", "expired", "needs_review")
	requests := []openapi.Example{
		{Name: "text", Text: "A video of a text", JSON: `{"model":"kling-v2-6","prompt":"A paper boat in the rain","duration":5,"aspect_ratio":"9:16"}`},
		{Name: "openai", Text: "As an OpenAI SDK writes it", JSON: `{"model":"seedance-2.0","prompt":"A paper boat in the rain","seconds":"8","size":"720x1280"}`},
		{Name: "platform", Text: "For a platform, with a limit of cost and names of your own",
			JSON: `{"model":"kling-v2-6","prompt":"A paper boat in the rain","duration":5,"platform":"tiktok","user":"alice","metadata":{"order":"1001"},"max_cost":"2.5","priority":"normal"}`},
	}
	key := openapi.Param{In: "header", Name: "Idempotency-Key", Text: "The same key and body give the same video for ever. Send one, and retry freely.",
		Schema: `{"type":"string","maxLength":255}`, Example: "order-1001"}
	ofVideo := []fault.Code{fault.InvalidRequest, fault.InsufficientCredits, fault.NotFound, fault.Conflict, fault.PayloadTooLarge}
	return []row{
		{openapi.Operation{Method: post, Path: "/v1/videos", ID: "createVideo", Tag: "videos", Summary: "Submit a video",
			Text: "Answers at once with the job; watch it, ask for it, or be told by a webhook.", Scope: write, Params: []openapi.Param{key},
			Body: body{}, Files: []string{"input_reference", "image", "end_image", "video"}, Examples: requests, Answers: ok("The video as it stands: new, or the one that this `Idempotency-Key` made.", exampleVideo),
			Faults: []fault.Code{fault.InvalidRequest, fault.InsufficientCredits, fault.Conflict, fault.PayloadTooLarge}}, by((*Service).postVideo)},
		{openapi.Operation{Method: post, Path: "/v1/videos/{id}/remix", ID: "remixVideo", Tag: "videos", Summary: "Make a video anew",
			Text: "By the model of the video, unless another is named that can.", Scope: write, Params: []openapi.Param{id, key},
			Body: body{}, Files: []string{"input_reference", "image", "end_image"}, Examples: []openapi.Example{{Name: "remix", Text: "In the rain", JSON: `{"prompt":"In the rain"}`}},
			Answers: ok("The new video.", exampleVideo), Faults: ofVideo}, func(s *Service) handler { return s.postOfVideo(false) }},
		{openapi.Operation{Method: post, Path: "/v1/videos/edits", ID: "editVideo", Tag: "videos", Summary: "Edit a video, of yours or another's", Scope: write, Params: []openapi.Param{key},
			Body: body{}, Files: []string{"video", "input_reference", "image", "end_image"}, Examples: []openapi.Example{{Name: "own", Text: "One of yours", JSON: `{"video":{"id":"` + exampleVideo.ID + `"},"prompt":"At night"}`}},
			Answers: ok("The new video.", exampleVideo), Faults: ofVideo}, func(s *Service) handler { return s.postOfVideo(false) }},
		{openapi.Operation{Method: post, Path: "/v1/videos/extensions", ID: "extendVideo", Tag: "videos", Summary: "Have a video go on", Scope: write, Params: []openapi.Param{key},
			Body: body{}, Files: []string{"video", "input_reference", "image", "end_image"}, Examples: []openapi.Example{{Name: "own", Text: "One of yours", JSON: `{"video":{"id":"` + exampleVideo.ID + `"},"prompt":"It sails on"}`}},
			Answers: ok("The new video.", exampleVideo), Faults: ofVideo}, func(s *Service) handler { return s.postOfVideo(true) }},
		{openapi.Operation{Method: get, Path: "/v1/videos", ID: "listVideos", Tag: "videos", Summary: "List videos, the newest first", Scope: read,
			Params: []openapi.Param{inQuery("limit", "How many; 20 when left out.", upTo100, 2), inQuery("after", "The id of the last video of the page before.", "", nil),
				inQuery("order", "By age; `desc`, the newest first, when left out.", enum("asc", "desc"), "desc"),
				inQuery("user", "Only this end user's.", "", nil), inQuery("state", "Only those in this state.", state, nil)},
			Answers: ok("A page.", videosObject{Object: "list", Data: []videojson.Video{exampleVideo}, FirstID: &exampleVideo.ID, LastID: &exampleVideo.ID}),
			Faults:  []fault.Code{fault.InvalidRequest}}, by((*Service).listVideos)},
		{openapi.Operation{Method: get, Path: "/v1/videos/{id}", ID: "getVideo", Tag: "videos", Summary: "Read a video", Scope: read, Params: []openapi.Param{id},
			Answers: ok("The video as it stands.", exampleVideo), Faults: []fault.Code{fault.NotFound}}, by((*Service).getVideo)},
		{openapi.Operation{Method: del, Path: "/v1/videos/{id}", ID: "deleteVideo", Tag: "videos", Summary: "Delete a finished video and its file", Scope: write,
			Params: []openapi.Param{id}, Answers: ok("It is deleted.", deletedObject{ID: exampleVideo.ID, Object: "video.deleted", Deleted: true}),
			Faults: []fault.Code{fault.NotFound, fault.Conflict}}, by((*Service).deleteVideo)},
		{openapi.Operation{Method: post, Path: "/v1/videos/{id}/cancel", ID: "cancelVideo", Tag: "videos", Summary: "Cancel a video",
			Text: "At once while no provider has begun it, else at the provider, where that can.", Scope: write, Params: []openapi.Param{id},
			Answers: ok("The video; `cancel_requested` when the provider has to be asked.", exampleVideo), Faults: []fault.Code{fault.NotFound, fault.Conflict}}, by((*Service).cancelVideo)},
		{openapi.Operation{Method: get, Path: "/v1/videos/{id}/content", ID: "downloadVideo", Tag: "videos", Summary: "Get a video's file, or an image of it", Scope: read,
			Params: []openapi.Param{id, inQuery("variant", "`video` when left out.", enum("video", "thumbnail", "spritesheet"), "video"),
				inQuery("download", "Whether a browser saves the file.", `{"type":"boolean"}`, true)},
			Answers: []openapi.Answer{{Status: http.StatusFound, Text: "Where the file is.", Headers: map[string]string{"Location": "A fresh signed URL."}}},
			Faults:  []fault.Code{fault.InvalidRequest, fault.NotFound, fault.Conflict}}, by((*Service).content)},
		{openapi.Operation{Method: post, Path: "/v1/videos:quote", ID: "quoteVideo", Tag: "videos", Summary: "Price a request, without any side effect", Scope: read,
			Body: body{}, Form: true, Examples: requests, Answers: ok("The highest price, line by line and for each route.", exampleQuote),
			Faults: []fault.Code{fault.InvalidRequest, fault.PayloadTooLarge}}, by((*Service).quoteVideo)},
		{openapi.Operation{Method: get, Path: "/v1/models", ID: "listModels", Tag: "models", Summary: "List models and aliases", Scope: read,
			Answers: ok("All of them.", modelsObject{Object: "list", Data: []modelObject{exampleModel}, Aliases: []aliasObject{exampleAlias}})}, by((*Service).listModels)},
		{openapi.Operation{Method: get, Path: "/v1/models/{id...}", ID: "getModel", Tag: "models", Summary: "Read a model, or an alias", Scope: read,
			Params:  []openapi.Param{inPath("Its id, which may hold slashes.", exampleModel.ID)},
			Answers: ok("The model, or the alias.", exampleModel, exampleAlias), Faults: []fault.Code{fault.NotFound}}, by((*Service).getModel)},
	}
}

func accountRoutes() []row {
	day := `{"type":"string","format":"date"}`
	return []row{
		{openapi.Operation{Method: get, Path: "/v1/balance", ID: "getBalance", Tag: "account", Summary: "Read the credits of the account", Scope: pay,
			Answers: ok("Decimal credits and micro-credits.", balanceObject{Object: "balance", Available: "94.350000", AvailableMicros: 94_350_000, Held: "0.350000", HeldMicros: 350_000, Granted: "0.000000"})}, by((*Service).getBalance)},
		{openapi.Operation{Method: get, Path: "/v1/usage", ID: "getUsage", Tag: "account", Summary: "Sum up what jobs came to", Scope: pay,
			Params: []openapi.Param{inQuery("from", "The first UTC day; 29 days before `to` when left out.", day, nil), inQuery("to", "The last UTC day; today when left out.", day, nil),
				inQuery("group_by", "`none`, or a list of day, model, provider, api_key, user; `day` when left out.", "", "day,model"),
				inQuery("model", "Only this model.", "", nil), inQuery("provider", "Only this provider.", "", nil), inQuery("api_key", "Only this key's id.", "", nil),
				inQuery("user", "Only this end user; empty: only jobs that name none.", "", nil),
				inQuery("limit", "Rows of an answer; 1000 when left out.", `{"type":"integer","minimum":1,"maximum":5000}`, 100), inQuery("after", "The `next` of the page before.", "", nil)},
			Answers: ok("Rows by what was grouped by.", usageObject{Object: "list", From: "2026-11-01", To: "2026-11-30", Data: []usageRow{{Object: "usage", Day: "2026-11-25", Model: "kling-v2-6",
				Jobs: 12, Succeeded: 11, Failed: 1, Seconds: 55, Spend: "3.850000", SpendMicros: 3_850_000, SuccessRate: 0.9167, Latency: usageLatency{P50: 61_000, P90: 88_000, P99: 120_000}}}}),
			Faults: []fault.Code{fault.InvalidRequest}}, by((*Service).getUsage)},
		{openapi.Operation{Method: get, Path: "/v1/statement", ID: "getStatement", Tag: "account", Summary: "Read every movement of a month", Scope: pay,
			Params: []openapi.Param{{In: "query", Name: "month", Text: "The month.", Schema: `{"type":"string","pattern":"^[0-9]{4}-(0[1-9]|1[0-2])$"}`, Example: "2026-11", Needed: true},
				inQuery("format", "`json` when left out.", enum("json", "csv"), "json")},
			Answers: []openapi.Answer{
				{Status: http.StatusOK, Text: "The statement.", Body: statementObject{
					statementHead: statementHead{Object: "statement", Month: "2026-11", TimeZone: "UTC", StartsAt: "2026-11-01T00:00:00Z", EndsAt: "2026-12-01T00:00:00Z",
						Opening: statementBooks{"100.000000", "0.000000"}, Closing: statementBooks{"99.650000", "0.350000"}},
					Movements: []statementMovement{{ID: 41, At: "2026-11-25T09:00:00.123456Z", Kind: "hold", VideoID: exampleVideo.ID, Available: "99.650000", AvailableChange: "-0.350000", Held: "0.350000", HeldChange: "0.350000"}}}},
				{Status: http.StatusOK, Text: "The statement.", Type: "text/csv", Body: "id,at,kind,video_id,reason,available_change,held_change,available,held\n"}},
			Faults: []fault.Code{fault.InvalidRequest}}, by((*Service).getStatement)},
		{openapi.Operation{Method: get, Path: "/v1/health", ID: "getHealth", Tag: "service", Summary: "Ask whether the service works",
			Answers: []openapi.Answer{{Status: http.StatusOK, Text: "It does.", Body: healthObject{"ok"}}, {Status: http.StatusServiceUnavailable, Text: "It does not.", Body: healthObject{"unavailable"}}}}, by((*Service).health)},
		{openapi.Operation{Method: get, Path: "/v1/openapi.json", ID: "getOpenAPI", Tag: "service", Summary: "Read this document",
			Answers: []openapi.Answer{{Status: http.StatusOK, Text: "OpenAPI 3.1.", Body: document{}, Headers: map[string]string{"ETag": "Of this version."}},
				{Status: http.StatusNotModified, Text: "You have it: its `ETag` is your `If-None-Match`."}}}, by((*Service).openapi)},
	}
}

func uploadRoutes() []row {
	id := inPath("The id of an upload.", exampleUpload.ID)
	return []row{
		{openapi.Operation{Method: post, Path: "/v1/uploads", ID: "createUpload", Tag: "uploads", Summary: "Upload a file, or begin to",
			Text:  "The file is the body, or the part `file` of a form. A JSON body begins an upload that goes straight to the bucket: send the file to `upload_url`, then complete the upload.",
			Scope: write, Body: uploadBody{}, Files: []string{"file"}, Raw: []string{"image/*", "video/*"},
			Examples: []openapi.Example{{Name: "large", Text: "A file for the bucket", JSON: `{"bytes":482113,"content_type":"image/png","purpose":"input_reference"}`}},
			Answers:  ok("The upload.", exampleUpload), Faults: []fault.Code{fault.InvalidRequest, fault.PayloadTooLarge}}, by((*Service).postUpload)},
		{openapi.Operation{Method: get, Path: "/v1/uploads", ID: "listUploads", Tag: "uploads", Summary: "List uploads, the newest first", Scope: read,
			Params:  []openapi.Param{inQuery("limit", "How many; 20 when left out.", upTo100, 10), inQuery("after", "The id of the last upload of the page before.", "", nil)},
			Answers: ok("A page.", uploadsObject{Object: "list", Data: []uploadObject{exampleUpload}}), Faults: []fault.Code{fault.InvalidRequest}}, by((*Service).listUploads)},
		{openapi.Operation{Method: get, Path: "/v1/uploads/{id}", ID: "getUpload", Tag: "uploads", Summary: "Read an upload", Scope: read, Params: []openapi.Param{id},
			Answers: ok("The upload.", exampleUpload), Faults: []fault.Code{fault.NotFound}}, by((*Service).getUpload)},
		{openapi.Operation{Method: post, Path: "/v1/uploads/{id}/complete", ID: "completeUpload", Tag: "uploads", Summary: "Say that a file was sent to the bucket", Text: "It is looked at. Asking twice is once.",
			Scope: write, Params: []openapi.Param{id}, Answers: ok("The upload, which may be named now.", exampleUpload), Faults: []fault.Code{fault.NotFound, fault.Conflict}}, by((*Service).postComplete)},
		{openapi.Operation{Method: del, Path: "/v1/uploads/{id}", ID: "deleteUpload", Tag: "uploads", Summary: "Delete an upload", Text: "Its id is gone at once, its file once no video needs it.",
			Scope: write, Params: []openapi.Param{id}, Answers: ok("It is deleted.", deletedObject{ID: exampleUpload.ID, Object: "upload.deleted", Deleted: true}), Faults: []fault.Code{fault.NotFound}}, by((*Service).dropUpload)},
	}
}

func deadLetterRoutes() []row {
	replayed := exampleDeadLetter
	replayed.Replayed = true
	return []row{
		{openapi.Operation{Method: get, Path: "/v1/dead_letters", ID: "listDeadLetters", Tag: "operators", Summary: "List what consumers gave up on, of all accounts", Scope: auth.Admin,
			Params:  []openapi.Param{inQuery("limit", "How many; 20 when left out.", upTo100, 10), inQuery("after", "The `last_id` of the page before.", "", nil), inQuery("consumer", "Only this one's.", "", nil)},
			Answers: ok("A page.", deadLettersObject{Object: "list", Data: []deadLetterObject{exampleDeadLetter}, LastID: &exampleDeadLetter.ID}), Faults: []fault.Code{fault.InvalidRequest}}, by((*Service).listDeadLetters)},
		{openapi.Operation{Method: post, Path: "/v1/dead_letters/{id}/replay", ID: "replayDeadLetter", Tag: "operators", Summary: "Give one to its consumer again", Scope: auth.Admin,
			Params: []openapi.Param{inPath("The id of a dead letter.", exampleDeadLetter.ID)}, Answers: ok("The dead letter, which is none any more.", replayed), Faults: []fault.Code{fault.NotFound}}, by((*Service).replayDeadLetter)},
	}
}

func webhookRoutes() []row {
	id := inPath("The id of an endpoint, or `default`.", exampleEndpoint.ID)
	delivery := inPath("The id of a delivery.", exampleDelivery.ID)
	after := inQuery("after", "The id of the last one of the page before.", "", nil)
	limit := inQuery("limit", "How many; 20 when left out.", upTo100, 10)
	made, absent := []fault.Code{fault.InvalidRequest, fault.Conflict, fault.PayloadTooLarge}, []fault.Code{fault.NotFound}
	changed := []fault.Code{fault.InvalidRequest, fault.NotFound, fault.PayloadTooLarge}
	withSecret := exampleEndpoint
	withSecret.Secret = "whsec_…"
	return []row{
		{openapi.Operation{Method: post, Path: "/v1/webhook_endpoints", ID: "createWebhookEndpoint", Tag: "webhooks", Summary: "Make an endpoint", Scope: write, Body: endpointBody{},
			Examples: []openapi.Example{{Name: "ends", Text: "Told of what has ended", JSON: `{"url":"https://example.com/webhooks","events":["video.completed","video.failed"]}`}},
			Answers:  ok("The endpoint, with its secret, which is shown this once.", withSecret), Faults: made}, func(s *Service) handler {
			return answer(s, write, s.d.Webhooks.CreateEndpoint, createEndpoint, func(a *webhookv1.CreateEndpointResponse) any { return endpointJSON(a.GetEndpoint(), a.GetSecret()) })
		}},
		{openapi.Operation{Method: get, Path: "/v1/webhook_endpoints", ID: "listWebhookEndpoints", Tag: "webhooks", Summary: "List endpoints", Scope: read, Params: []openapi.Param{limit, after},
			Answers: ok("A page.", endpointsObject{Object: "list", Data: []endpointObject{exampleEndpoint}}), Faults: []fault.Code{fault.InvalidRequest}}, func(s *Service) handler {
			return answer(s, read, s.d.Webhooks.ListEndpoints, listEndpoints, func(a *webhookv1.ListEndpointsResponse) any {
				out := endpointsObject{Object: "list", Data: []endpointObject{}, HasMore: a.GetHasMore()}
				for _, e := range a.GetEndpoints() {
					out.Data = append(out.Data, endpointJSON(e, ""))
				}
				return out
			})
		}},
		{openapi.Operation{Method: get, Path: "/v1/webhook_endpoints/{id}", ID: "getWebhookEndpoint", Tag: "webhooks", Summary: "Read an endpoint", Scope: read, Params: []openapi.Param{id},
			Answers: ok("The endpoint.", exampleEndpoint), Faults: absent}, func(s *Service) handler {
			return answer(s, read, s.d.Webhooks.GetEndpoint, func(r *http.Request) (*webhookv1.GetEndpointRequest, error) {
				return &webhookv1.GetEndpointRequest{Id: r.PathValue("id")}, nil
			}, func(a *webhookv1.GetEndpointResponse) any { return endpointJSON(a.GetEndpoint(), "") })
		}},
		{openapi.Operation{Method: post, Path: "/v1/webhook_endpoints/{id}", ID: "updateWebhookEndpoint", Tag: "webhooks", Summary: "Change an endpoint", Scope: write, Params: []openapi.Param{id},
			Body: endpointChanges{}, Examples: []openapi.Example{{Name: "enable", Text: "Let what waits come", JSON: `{"enabled":true,"description":"films"}`}},
			Answers: ok("The endpoint.", exampleEndpoint), Faults: changed}, func(s *Service) handler {
			return answer(s, write, s.d.Webhooks.UpdateEndpoint, updateEndpoint, func(a *webhookv1.UpdateEndpointResponse) any { return endpointJSON(a.GetEndpoint(), "") })
		}},
		{openapi.Operation{Method: del, Path: "/v1/webhook_endpoints/{id}", ID: "deleteWebhookEndpoint", Tag: "webhooks", Summary: "End an endpoint, and what waits for it", Scope: write, Params: []openapi.Param{id},
			Answers: ok("It is deleted.", deletedObject{ID: exampleEndpoint.ID, Object: "webhook_endpoint.deleted", Deleted: true}), Faults: []fault.Code{fault.NotFound, fault.Conflict}}, func(s *Service) handler {
			return answer(s, write, s.d.Webhooks.DeleteEndpoint, func(r *http.Request) (*webhookv1.DeleteEndpointRequest, error) {
				return &webhookv1.DeleteEndpointRequest{Id: r.PathValue("id")}, nil
			}, func(a *webhookv1.DeleteEndpointResponse) any {
				return deletedObject{ID: a.GetEndpoint().GetId(), Object: "webhook_endpoint.deleted", Deleted: true}
			})
		}},
		{openapi.Operation{Method: post, Path: "/v1/webhook_endpoints/{id}/rotate_secret", ID: "rotateWebhookSecret", Tag: "webhooks", Summary: "Make a new secret", Scope: write, Params: []openapi.Param{id},
			Body: rotateBody{}, Examples: []openapi.Example{{Name: "hour", Text: "The old one works for an hour more", JSON: `{"overlap_seconds":3600}`}},
			Answers: ok("The endpoint, with its new secret, which is shown this once.", withSecret), Faults: changed}, func(s *Service) handler {
			return answer(s, write, s.d.Webhooks.RotateSecret, rotateSecret, func(a *webhookv1.RotateSecretResponse) any { return endpointJSON(a.GetEndpoint(), a.GetSecret()) })
		}},
		{openapi.Operation{Method: post, Path: "/v1/webhook_endpoints/{id}/test", ID: "testWebhookEndpoint", Tag: "webhooks", Summary: "Send a test", Scope: write, Params: []openapi.Param{id},
			Answers: ok("The delivery.", exampleDelivery), Faults: absent}, func(s *Service) handler {
			return answer(s, write, s.d.Webhooks.TestEndpoint, func(r *http.Request) (*webhookv1.TestEndpointRequest, error) {
				return &webhookv1.TestEndpointRequest{Id: r.PathValue("id")}, nil
			}, func(a *webhookv1.TestEndpointResponse) any { return deliveryJSON(a.GetDelivery(), nil) })
		}},
		{openapi.Operation{Method: post, Path: "/v1/webhook_endpoints/{id}/replay", ID: "replayWebhookEndpoint", Tag: "webhooks", Summary: "Send again what occurred in a time", Scope: write, Params: []openapi.Param{id},
			Body: replayBody{}, Examples: []openapi.Example{{Name: "failed", Text: "What failed since a moment", JSON: `{"from":"2026-11-25T09:00:00Z","only_failed":true}`}},
			Answers: ok("How many deliveries are sent again.", replayObject{Object: "webhook_replay", Deliveries: 3}), Faults: changed}, func(s *Service) handler {
			return answer(s, write, s.d.Webhooks.ReplayEndpoint, replayEndpoint, func(a *webhookv1.ReplayEndpointResponse) any {
				return replayObject{Object: "webhook_replay", Deliveries: a.GetDeliveries()}
			})
		}},
		{openapi.Operation{Method: get, Path: "/v1/webhook_deliveries", ID: "listWebhookDeliveries", Tag: "webhooks", Summary: "List deliveries, the newest first", Scope: read,
			Params: []openapi.Param{limit, after, inQuery("endpoint", "Only this endpoint's.", "", nil), inQuery("video", "Only this video's.", "", nil),
				inQuery("state", "Only those in this state.", enum("pending", "delivered", "failed"), nil)},
			Answers: ok("A page.", deliveriesObject{Object: "list", Data: []deliveryObject{exampleDelivery}}), Faults: []fault.Code{fault.InvalidRequest}}, func(s *Service) handler {
			return answer(s, read, s.d.Webhooks.ListDeliveries, listDeliveries, func(a *webhookv1.ListDeliveriesResponse) any {
				out := deliveriesObject{Object: "list", Data: []deliveryObject{}, HasMore: a.GetHasMore()}
				for _, d := range a.GetDeliveries() {
					out.Data = append(out.Data, deliveryJSON(d, nil))
				}
				return out
			})
		}},
		{openapi.Operation{Method: get, Path: "/v1/webhook_deliveries/{id}", ID: "getWebhookDelivery", Tag: "webhooks", Summary: "Read a delivery and its attempts", Scope: read, Params: []openapi.Param{delivery},
			Answers: ok("The delivery.", exampleDelivery), Faults: absent}, func(s *Service) handler {
			return answer(s, read, s.d.Webhooks.GetDelivery, func(r *http.Request) (*webhookv1.GetDeliveryRequest, error) {
				return &webhookv1.GetDeliveryRequest{Id: r.PathValue("id")}, nil
			}, func(a *webhookv1.GetDeliveryResponse) any { return deliveryJSON(a.GetDelivery(), a.GetAttempts()) })
		}},
		{openapi.Operation{Method: post, Path: "/v1/webhook_deliveries/{id}/replay", ID: "replayWebhookDelivery", Tag: "webhooks", Summary: "Send a delivery again", Scope: write, Params: []openapi.Param{delivery},
			Answers: ok("The delivery.", exampleDelivery), Faults: []fault.Code{fault.NotFound, fault.Conflict}}, func(s *Service) handler {
			return answer(s, write, s.d.Webhooks.ReplayDelivery, func(r *http.Request) (*webhookv1.ReplayDeliveryRequest, error) {
				return &webhookv1.ReplayDeliveryRequest{Id: r.PathValue("id")}, nil
			}, func(a *webhookv1.ReplayDeliveryResponse) any { return deliveryJSON(a.GetDelivery(), nil) })
		}},
	}
}

func tokenRoutes() []row {
	const id = "rtok_0199d5c2-8a51-7d0e-b3a4-5f0d3c1e9a77"
	return []row{
		{openapi.Operation{Method: post, Path: "/v1/realtime/tokens", ID: "createRealtimeToken", Tag: "live", Summary: "Make a token for a browser to watch with", Scope: read,
			Body: tokenBody{}, Examples: []openapi.Example{{Name: "user", Text: "For all videos of an end user", JSON: `{"user":"alice","expires_in":900}`}},
			Answers: ok("The token.", tokenObject{Object: "realtime.token", ID: id, Token: "eyJ…", ExpiresAt: 1_795_598_100}), Faults: []fault.Code{fault.InvalidRequest}}, by((*Service).postToken)},
		{openapi.Operation{Method: del, Path: "/v1/realtime/tokens/{id}", ID: "revokeRealtimeToken", Tag: "live", Summary: "Revoke a token, and end its streams", Scope: read,
			Params:  []openapi.Param{inPath("The id of the token.", id)},
			Answers: ok("It is revoked.", revokedObject{ID: id, Object: "realtime.token.revoked", Revoked: true}), Faults: []fault.Code{fault.NotFound}}, by((*Service).deleteToken)},
	}
}
