// Package veo speaks the Gemini API's long-running video calls and both kinds
// of its webhooks. Source: ai.google.dev (video, webhooks) and @google/genai
// 2.32.0, read 2026-11.
//
// It is a small client on provider.Call, which tells whether a request was begun
// to be sent: Gemini knows no key that would tell a repeated create from a new one.
//
// A webhook is always a hint. The token of a per-request one binds no body, and
// an event is a thin pointer; no event tells of a failure.
//
// A video goes on only when Veo made it within the last two days: its operation
// is read for the address of the file. The result holds the source as well.
//
// Unconfirmed: the audience of those tokens, which is checked only when
// Config.Audience is set; and the words by which an error by policy is told,
// beside the documented filter counts. An image is sent in the SDK's shape,
// which holds its bytes: they are fetched by Config.Images first.
package veo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/webhooksig"
)

// Name is the provider's name in jobs, subjects and URLs.
const Name = "veo"

// Getter makes one request; *safehttp.Client is one.
type Getter interface {
	Do(r *http.Request) (*http.Response, error)
}

// Config is one account at the Gemini API.
type Config struct {
	provider.Account // BaseURL "https://generativelanguage.googleapis.com"
	// Images fetches callers' images; a guarded client, or nil to refuse them.
	Images Getter
	// WebhookKeys are the decoded secrets of static webhooks, two during a
	// rotation.
	WebhookKeys [][]byte
	// Audience of the tokens of per-request webhooks; empty for any.
	Audience string
}

// Adapter is safe for concurrent use.
type Adapter struct {
	account provider.Account
	cfg     Config
	jwks    *webhooksig.JWKS
}

var (
	_ provider.Adapter       = (*Adapter)(nil)
	_ provider.Downloader    = (*Adapter)(nil)
	_ provider.WebhookParser = (*Adapter)(nil)
)

// New returns an adapter.
func New(cfg Config) *Adapter {
	return &Adapter{cfg.At("/v1beta"), cfg, &webhooksig.JWKS{URL: cfg.At("/.well-known/jwks.json").BaseURL, Client: cfg.Client}}
}

// errorTable classes HTTP statuses of a create.
var errorTable = provider.Rules{
	400: {Code: fault.InvalidRequest, Meaning: "Veo refused a parameter"},
	401: {Code: fault.ProviderUnavailable, Cause: provider.BadKey, Meaning: "Gemini refused our key"},
	403: {Code: fault.ProviderUnavailable, Cause: provider.NoAccess, Meaning: "our account at Gemini may not do this"},
	404: {Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "Gemini does not offer this model to our account"},
	413: {Code: fault.PayloadTooLarge, Meaning: "the request is too large for Gemini"},
	429: {Code: fault.RateLimited, Retry: true, Meaning: "Gemini asks us to slow down"},
}

// badKeys are the reasons by which a 400 tells of a key: Gemini has no 401 for
// one that it does not know.
var badKeys = map[string]bool{"API_KEY_INVALID": true, "API_KEY_EXPIRED": true}

var (
	precondition = provider.Rule{Code: fault.ProviderUnavailable, Cause: provider.NoAccess, Meaning: "our account's billing or region does not allow this at Gemini"}
	policyRule   = provider.Rule{Code: fault.ContentPolicy, Meaning: "Veo's safety filters withheld the video, and nothing was charged; revise the prompt or image"}
	invalidRule  = provider.Rule{Code: fault.InvalidRequest, Meaning: "Veo refused a parameter"}
	failRule     = provider.Rule{Code: fault.ProviderRejected, Meaning: "the render failed at Gemini"}
	badImage     = provider.Rule{Code: fault.InvalidRequest, Meaning: "the image cannot be used"}
	// awayImage is nobody's fault but the image's host's, and counts against nobody
	// else: the circuit stays as it is.
	awayImage = provider.Rule{Code: fault.Unavailable, Retry: true, Meaning: "the image cannot be read now"}
)

// policyMarks are the words by which errors by policy are told.
var policyMarks = []string{"usage guidelines", "responsible ai", "safety", "violat"}

// operation is a task's name: a path, and no other path may pass for one.
var operation = regexp.MustCompile(`^models/[A-Za-z0-9._-]+/operations/[A-Za-z0-9_-]+$`)

type apiError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Status  string `json:"status"`
	Details []struct {
		Reason     string `json:"reason"`     // of an ErrorInfo
		RetryDelay string `json:"retryDelay"` // of a RetryInfo: "37s"
	} `json:"details"`
}

// reason is Google's own code of an error, beyond its status.
func (e apiError) reason() string {
	for _, d := range e.Details {
		if d.Reason != "" {
			return d.Reason
		}
	}
	return ""
}

// retryDelay is the wait that an error asks for in its details; 0 for none.
func (e apiError) retryDelay() time.Duration {
	for _, d := range e.Details {
		if wait, err := time.ParseDuration(d.RetryDelay); err == nil && wait > 0 {
			return min(wait, time.Hour)
		}
	}
	return 0
}

// Submit implements provider.Adapter.
func (a *Adapter) Submit(ctx context.Context, t provider.Task) (string, error) {
	instance := map[string]any{"prompt": t.Prompt}
	if t.OfVideo() {
		if !t.Extend || t.SourceTask == "" {
			return "", provider.CannotUse(Name)
		}
		uri, err := a.source(ctx, t.SourceTask)
		if err != nil {
			return "", provider.LostSource(Name, err)
		}
		instance["video"] = map[string]any{"uri": uri}
	}
	for field, u := range map[string]string{"image": t.ImageURL, "lastFrame": t.EndImageURL} {
		if u == "" {
			continue
		}
		img, err := a.image(ctx, u)
		switch {
		case errors.Is(err, errAway):
			return "", awayImage.Refuse(Name, "image", err.Error(), 0)
		case err != nil:
			return "", badImage.Refuse(Name, "image", err.Error(), 0)
		}
		instance[field] = img
	}
	parameters := map[string]any{"sampleCount": 1, "durationSeconds": t.Duration, "aspectRatio": t.AspectRatio, "resolution": t.Resolution}
	if t.Extend { // length and ratio follow
		parameters = map[string]any{"sampleCount": 1, "resolution": t.Resolution}
	}
	if t.NegativePrompt != "" {
		parameters["negativePrompt"] = t.NegativePrompt
	}
	body := map[string]any{"instances": []any{instance}, "parameters": parameters}
	if t.CallbackURL != "" {
		body["webhookConfig"] = map[string]any{"uris": []string{t.CallbackURL}, "userMetadata": map[string]any{"job": t.JobID, "attempt": t.AttemptID}}
	}
	ans, err := a.account.JSON(ctx, http.MethodPost, "/models/"+url.PathEscape(t.Model)+":predictLongRunning", a.key(), body)
	if err != nil {
		return "", provider.Refused(Name, err)
	}
	if ans.Status/100 != 2 {
		var e struct{ Error apiError }
		_ = json.Unmarshal(ans.Body, &e) // the status says enough
		switch {
		case ans.Status == http.StatusBadRequest && badKeys[e.Error.reason()]:
			return "", errorTable[401].Refuse(Name, e.Error.reason(), e.Error.Message, 0)
		case ans.Status == http.StatusTooManyRequests && e.Error.retryDelay() > 0:
			return "", errorTable[429].Refuse(Name, e.Error.Status, e.Error.Message, max(e.Error.retryDelay(), ans.RetryAfter(a.account.Now())))
		case ans.Status == http.StatusBadRequest && e.Error.Status == "FAILED_PRECONDITION":
			return "", precondition.Refuse(Name, e.Error.Status, e.Error.Message, 0)
		case ans.Status == http.StatusBadRequest && provider.Policy(e.Error.Message, policyMarks...):
			return "", policyRule.Refuse(Name, e.Error.Status, e.Error.Message, 0)
		}
		return "", errorTable.Submit(Name, ans, e.Error.Status, e.Error.Message, a.account.Now())
	}
	var reply struct{ Name string }
	if err := json.Unmarshal(ans.Body, &reply); err != nil || !operation.MatchString(reply.Name) {
		return "", errors.New("answer to submit has no operation")
	}
	return reply.Name, nil
}

// result is an operation.
type result struct {
	Name     string
	Done     bool
	Error    *apiError
	Response struct {
		GenerateVideoResponse struct {
			GeneratedSamples []struct{ Video struct{ URI string } }
			FilteredCount    int      `json:"raiMediaFilteredCount"`
			FilteredReasons  []string `json:"raiMediaFilteredReasons"`
		}
	}
}

// source is the address of the file that an operation made, which Gemini keeps
// for two days.
func (a *Adapter) source(ctx context.Context, name string) (string, error) {
	if !operation.MatchString(name) {
		return "", provider.ErrNoTask
	}
	var op result
	if err := a.account.Read(ctx, "/"+name, a.key(), &op); err != nil {
		return "", err
	}
	samples := op.Response.GenerateVideoResponse.GeneratedSamples
	if op.Name != name || !op.Done || len(samples) == 0 || samples[0].Video.URI == "" {
		return "", fmt.Errorf("read source: %w", provider.ErrNoTask)
	}
	return samples[0].Video.URI, nil
}

// Poll implements provider.Adapter.
//
// A webhook names the last part of an operation only; its model is the task's.
func (a *Adapter) Poll(ctx context.Context, taskID string, t provider.Task) (provider.Report, error) {
	if !strings.Contains(taskID, "/") {
		taskID = "models/" + t.Model + "/operations/" + taskID
	}
	if !operation.MatchString(taskID) {
		return provider.Report{}, errors.New("the task id is no operation")
	}
	var op result
	if err := a.account.Read(ctx, "/"+taskID, a.key(), &op); err != nil {
		return provider.Report{}, err
	}
	out := op.Response.GenerateVideoResponse
	switch {
	case op.Name != taskID:
		return provider.Report{}, errors.New("answer is about another task")
	case !op.Done:
		return provider.Report{TaskID: taskID, State: provider.Running, Progress: -1}, nil
	case op.Error != nil:
		return failed(taskID, *op.Error), nil
	case len(out.GeneratedSamples) > 0 && out.GeneratedSamples[0].Video.URI != "":
		return provider.Done(Name, taskID, out.GeneratedSamples[0].Video.URI), nil
	case out.FilteredCount > 0 || len(out.FilteredReasons) > 0:
		return policyRule.Fail(Name, taskID, "rai_media_filtered", strings.Join(out.FilteredReasons, "; ")), nil
	}
	return provider.Done(Name, taskID, ""), nil
}

// failed classes an operation's error by its google.rpc code.
func failed(taskID string, e apiError) provider.Report {
	code := fmt.Sprint(e.Code)
	switch {
	case provider.Policy(e.Message, policyMarks...):
		return policyRule.Fail(Name, taskID, code, e.Message)
	case e.Code == 3: // INVALID_ARGUMENT
		return invalidRule.Fail(Name, taskID, code, e.Message)
	}
	return failRule.Fail(Name, taskID, code, e.Message)
}

// ResultHeader implements provider.Downloader: results are fetched with the
// key, from the API's own origin; what it redirects to needs none.
func (a *Adapter) ResultHeader(rawURL string) http.Header {
	if !provider.SameOrigin(a.account.BaseURL, rawURL) {
		return nil
	}
	return a.key()
}

func (a *Adapter) key() http.Header { return http.Header{"X-Goog-Api-Key": {a.account.APIKey}} }
