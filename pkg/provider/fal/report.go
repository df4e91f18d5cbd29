package fal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/webhooksig"
)

// policyType is the type of a detail that a content policy wrote.
const policyType = "content_policy_violation"

var (
	stateWords  = map[string]provider.State{"IN_QUEUE": provider.Queued, "IN_PROGRESS": provider.Running}
	policyRule  = provider.Rule{Code: fault.ContentPolicy, Meaning: "the model's content policy refused it; revise the prompt or image"}
	invalidRule = provider.Rule{Code: fault.InvalidRequest, Meaning: "the model refused a parameter"}
	failRule    = provider.Rule{Code: fault.ProviderRejected, Meaning: "the render failed at fal"}
)

// validation are types of details that blame the input. Source: docs.fal.ai,
// request errors.
var validation = map[string]bool{
	"missing": true, "value_error": true, "one_of": true, "file_download_error": true, "image_load_error": true, "image_too_large": true,
	"image_too_small": true, "unsupported_image_format": true, "less_than_equal": true, "greater_than_equal": true, "literal_error": true,
}

// explain reads both shapes of fal's errors: a list of details with types, and
// one detail with an error_type.
func explain(h http.Header, body []byte) (code, detail string) {
	var e struct {
		Detail    json.RawMessage
		ErrorType string `json:"error_type"`
	}
	_ = json.Unmarshal(body, &e) // what is no JSON explains nothing
	code = e.ErrorType
	if code == "" {
		code = h.Get("X-Fal-Error-Type")
	}
	var list []struct{ Msg, Type string }
	if json.Unmarshal(e.Detail, &list) == nil && len(list) > 0 {
		return list[0].Type, list[0].Msg
	}
	_ = json.Unmarshal(e.Detail, &detail)
	return code, detail
}

// verdict tells whether a result's error status is about the task. A gateway's
// 5xx, a refused key, a rate limit or "still in progress" is not; fal's own
// errors carry a type.
func verdict(status int, code string) bool {
	switch status {
	case http.StatusUnprocessableEntity:
		return true
	case http.StatusBadRequest, http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return code != ""
	}
	return false
}

func failed(taskID, code, detail string) provider.Report {
	switch {
	case code == policyType:
		return policyRule.Fail(Name, taskID, code, detail)
	case validation[code]:
		return invalidRule.Fail(Name, taskID, code, detail)
	}
	return failRule.Fail(Name, taskID, code, detail)
}

// video is the first video of a result.
func video(body []byte) string {
	type file struct{ URL string }
	var out struct {
		Video  file
		Videos []file
	}
	if json.Unmarshal(body, &out) != nil {
		return ""
	}
	if out.Video.URL == "" && len(out.Videos) > 0 {
		return out.Videos[0].URL
	}
	return out.Video.URL
}

// ParseWebhook implements provider.WebhookParser.
func (a *Adapter) ParseWebhook(ctx context.Context, h http.Header, body []byte, now time.Time) (provider.Report, error) {
	switch err := webhooksig.Fal(ctx, a.jwks, h, body, now); {
	case errors.Is(err, webhooksig.ErrKeysUnavailable):
		return provider.Report{}, fmt.Errorf("%w: %w", provider.ErrKeysUnavailable, err)
	case err != nil:
		return provider.Report{}, provider.ErrBadSignature
	}
	return parse(body)
}

func parse(body []byte) (provider.Report, error) {
	var w struct {
		RequestID    string `json:"request_id"`
		Status       string
		Payload      json.RawMessage
		PayloadError string `json:"payload_error"`
		Error        string
	}
	if err := json.Unmarshal(body, &w); err != nil {
		return provider.Report{}, fmt.Errorf("%w: %w", provider.ErrBadBody, err)
	}
	switch {
	case w.RequestID == "" || w.Status == "":
		return provider.Report{}, fmt.Errorf("%w: no request id or status", provider.ErrBadBody)
	case w.Status == "OK" && w.PayloadError != "": // the result was too much for a webhook
		return provider.Report{TaskID: w.RequestID, State: provider.Running, Progress: -1, Hint: true}, nil
	case w.Status == "OK":
		return provider.Done(Name, w.RequestID, video(w.Payload)), nil
	case w.Status == "ERROR":
		code, detail := explain(nil, w.Payload)
		if detail == "" {
			detail = w.Error
		}
		return failed(w.RequestID, code, detail), nil
	}
	return provider.Unfinished(w.RequestID, w.Status, stateWords), nil
}
