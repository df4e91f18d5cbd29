// Package luma speaks Luma's two APIs: Dream Machine (Ray 2, legacy) and the
// Agents API (Ray 3 and later). The model's name says which. Source: the lumaai
// 1.19.1 SDK and docs.lumalabs.ai (errors) for Dream Machine; integrations of
// 2026 and docs.agents.lumalabs.ai (error handling) for the Agents API.
//
// It is a small client on provider.Call: the SDK repeats a create by itself,
// and Luma knows no key that would tell the two apart. Callbacks are unsigned
// and so only hints. Luma deletes generations but cancels none.
//
// Tasks on videos are Dream Machine's: a generation goes on when its id is the
// first keyframe, and any video is modified by its address.
//
// Unconfirmed: the Agents API's callback_url, which is sent only with
// Config.AgentsCallbacks; its word for a running task; and the words by which
// policy refusals are told in Dream Machine's failure_reason.
package luma

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
)

// Name is the provider's name in jobs, subjects and URLs.
const Name = "luma"

// Config is one account at Luma.
type Config struct {
	provider.Account // BaseURL "https://api.lumalabs.ai", of Dream Machine
	// AgentsURL is "https://agents.lumalabs.ai"; AgentsKey its key, APIKey when
	// empty.
	AgentsURL, AgentsKey string
	// AgentsCallbacks sends callback_url to the Agents API as well.
	AgentsCallbacks bool
}

// Adapter is safe for concurrent use.
type Adapter struct {
	dream, agents provider.Account
	callbacks     bool
}

var (
	_ provider.Adapter       = (*Adapter)(nil)
	_ provider.WebhookParser = (*Adapter)(nil)
)

// New returns an adapter.
func New(cfg Config) *Adapter {
	agents := cfg.Account
	agents.BaseURL = cfg.AgentsURL
	if cfg.AgentsKey != "" {
		agents.APIKey = cfg.AgentsKey
	}
	return &Adapter{cfg.At("/dream-machine/v1"), agents.At("/v1"), cfg.AgentsCallbacks}
}

// errorTable classes HTTP statuses of a create, the same in both APIs.
var errorTable = provider.Rules{
	400: {Code: fault.InvalidRequest, Meaning: "Luma refused a parameter"},
	401: {Code: fault.ProviderUnavailable, Cause: provider.BadKey, Meaning: "Luma refused our key"},
	402: {Code: fault.ProviderUnavailable, Cause: provider.NoBalance, Meaning: "our credit at Luma is used up"},
	403: {Code: fault.ProviderUnavailable, Cause: provider.NoAccess, Meaning: "our account at Luma may not do this"},
	404: {Code: fault.ProviderRejected, Meaning: "Luma does not offer this"},
	413: {Code: fault.PayloadTooLarge, Meaning: "the request is too large for Luma"},
	422: {Code: fault.InvalidRequest, Meaning: "Luma refused a parameter"},
	429: {Code: fault.RateLimited, Retry: true, Meaning: "Luma asks us to slow down"},
}

var (
	stateWords = map[string]provider.State{"queued": provider.Queued, "dreaming": provider.Running, "processing": provider.Running}
	policyRule = provider.Rule{Code: fault.ContentPolicy, Meaning: "Luma's content policy refused it; revise the prompt or image"}
	failRule   = provider.Rule{Code: fault.ProviderRejected, Meaning: "the render failed at Luma"}
)

// policyMarks are the words of a refusal in Dream Machine's failure_reason, and
// in the detail of a create.
var policyMarks = []string{"moderation", "content policy", "blacklisted"}

// failureCodes is the Agents API's failure_code. Source: docs.agents.lumalabs.ai,
// error handling.
var failureCodes = map[string]provider.Rule{
	"content_moderated": policyRule,
	"image_too_large":   {Code: fault.InvalidRequest, Meaning: "an image is too large for Luma"},
	"budget_exhausted":  {Code: fault.ProviderRejected, Cause: provider.NoBalance, Meaning: "our credit at Luma ran out during the render"},
	"generation_failed": failRule,
	"output_not_found":  {Code: fault.ProviderRejected, Meaning: "Luma lost the video"},
}

// generation is Luma's task in either API.
type generation struct {
	ID     string `json:"id"`
	State  string `json:"state"`
	Assets struct {
		Video string `json:"video"`
	} `json:"assets"` // Dream Machine
	Output []struct {
		Type, URL string
	} `json:"output"` // Agents
	FailureReason string `json:"failure_reason"`
	FailureCode   string `json:"failure_code"`
}

// legacy tells whether a model is Dream Machine's.
func legacy(model string) bool {
	return model == "ray-2" || model == "ray-flash-2" || strings.HasPrefix(model, "ray-1")
}

func (a *Adapter) account(model string) provider.Account {
	if legacy(model) {
		return a.dream
	}
	return a.agents
}

// Submit implements provider.Adapter.
func (a *Adapter) Submit(ctx context.Context, t provider.Task) (string, error) {
	api, path, body := a.agents, "/generations", a.agentsBody(t)
	switch {
	case t.OfVideo() && (!legacy(t.Model) || t.Extend != (t.SourceTask != "")):
		return "", provider.CannotUse(Name)
	case t.VideoURL != "":
		api, path, body = a.dream, "/generations/video/modify", modifyBody(t)
	case legacy(t.Model):
		api, path, body = a.dream, "/generations/video", dreamBody(t)
	}
	ans, err := api.JSON(ctx, http.MethodPost, path, provider.Bearer(api.APIKey), body)
	if err != nil {
		return "", provider.Refused(Name, err)
	}
	if ans.Status/100 != 2 {
		var e struct{ Detail any }
		_ = json.Unmarshal(ans.Body, &e) // the status says enough
		detail, _ := e.Detail.(string)
		if ans.Status == http.StatusBadRequest && provider.Policy(detail, policyMarks...) {
			return "", policyRule.Refuse(Name, "400", detail, 0)
		}
		return "", errorTable.Submit(Name, ans, "", detail, api.Now())
	}
	var g generation
	if err := json.Unmarshal(ans.Body, &g); err != nil || g.ID == "" {
		return "", errors.New("answer to submit has no task id")
	}
	return g.ID, nil
}

func dreamBody(t provider.Task) map[string]any {
	body := map[string]any{"model": t.Model, "prompt": t.Prompt, "aspect_ratio": t.AspectRatio, "resolution": t.Resolution, "duration": strconv.Itoa(t.Duration) + "s"}
	frames := map[string]any{}
	for name, u := range map[string]string{"frame0": t.ImageURL, "frame1": t.EndImageURL} {
		if u != "" {
			frames[name] = map[string]any{"type": "image", "url": u}
		}
	}
	if t.SourceTask != "" { // it goes on where that generation ends
		frames["frame0"] = map[string]any{"type": "generation", "id": t.SourceTask}
	}
	if len(frames) > 0 {
		body["keyframes"] = frames
	}
	if t.CallbackURL != "" {
		body["callback_url"] = t.CallbackURL
	}
	return body
}

// modifyBody makes a video anew, in its own length and shape. The mode is the
// middle one of Luma's nine, between adhering to the source and reimagining it.
func modifyBody(t provider.Task) map[string]any {
	body := map[string]any{"generation_type": "modify_video", "model": t.Model, "prompt": t.Prompt, "media": map[string]any{"url": t.VideoURL}, "mode": "flex_2"}
	if t.CallbackURL != "" {
		body["callback_url"] = t.CallbackURL
	}
	return body
}

func (a *Adapter) agentsBody(t provider.Task) map[string]any {
	video := map[string]any{"resolution": t.Resolution, "duration": strconv.Itoa(t.Duration) + "s"}
	for name, u := range map[string]string{"start_frame": t.ImageURL, "end_frame": t.EndImageURL} {
		if u != "" {
			video[name] = map[string]any{"url": u}
		}
	}
	body := map[string]any{"model": t.Model, "type": "video", "prompt": t.Prompt, "aspect_ratio": t.AspectRatio, "video": video}
	if t.CallbackURL != "" && a.callbacks {
		body["callback_url"] = t.CallbackURL
	}
	return body
}

// Poll implements provider.Adapter.
func (a *Adapter) Poll(ctx context.Context, taskID string, t provider.Task) (provider.Report, error) {
	api := a.account(t.Model)
	var g generation
	if err := api.Read(ctx, "/generations/"+url.PathEscape(taskID), provider.Bearer(api.APIKey), &g); err != nil {
		return provider.Report{}, err
	}
	if g.ID != taskID {
		return provider.Report{}, errors.New("answer is about another task")
	}
	return report(g), nil
}

// ParseWebhook implements provider.WebhookParser. Nothing is signed: a callback
// is a hint.
func (a *Adapter) ParseWebhook(_ context.Context, _ http.Header, body []byte, _ time.Time) (provider.Report, error) {
	var g generation
	if err := json.Unmarshal(body, &g); err != nil {
		return provider.Report{}, fmt.Errorf("%w: %w", provider.ErrBadBody, err)
	}
	if g.ID == "" || g.State == "" {
		return provider.Report{}, fmt.Errorf("%w: no id or state", provider.ErrBadBody)
	}
	r := report(g)
	r.Hint = true
	return r, nil
}

// report normalises a generation.
func report(g generation) provider.Report {
	switch g.State {
	case "completed":
		result := g.Assets.Video
		for _, o := range g.Output {
			if result == "" && (o.Type == "video" || o.Type == "") {
				result = o.URL
			}
		}
		return provider.Done(Name, g.ID, result)
	case "failed":
		code := g.FailureCode
		if code == "" {
			code = "failed"
		}
		if rule, ok := failureCodes[code]; ok {
			return rule.Fail(Name, g.ID, code, g.FailureReason)
		}
		if provider.Policy(g.FailureReason, policyMarks...) {
			return policyRule.Fail(Name, g.ID, code, g.FailureReason)
		}
		return failRule.Fail(Name, g.ID, code, g.FailureReason)
	}
	return provider.Unfinished(g.ID, g.State, stateWords)
}
