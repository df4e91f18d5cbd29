// Package replicate speaks Replicate's predictions API and its Standard
// Webhooks. Source: replicate.com/docs (predictions, webhooks, lifecycle, rate
// limits) and the replicate 1.4.0 client, read 2026-11.
//
// It is a small client on provider.Call: the SDKs repeat a create by
// themselves, and Replicate knows no key that would tell the two apart.
//
// Unconfirmed: the error envelope beyond its detail field; policy refusals are
// told by words in the free text of a failure. The input of a model is its
// own: the names of its frames are in the table below by the model's owner, and a
// source video is called video, as by gen4-aleph, the one that was read.
package replicate

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
const Name = "replicate"

// Config is one account at Replicate.
type Config struct {
	provider.Account // BaseURL "https://api.replicate.com"
	// WebhookKeys are the decoded signing secrets, two during a rotation;
	// without any a callback is only a hint.
	WebhookKeys [][]byte
}

// Adapter is safe for concurrent use.
type Adapter struct {
	account provider.Account
	keys    [][]byte
}

var (
	_ provider.Adapter       = (*Adapter)(nil)
	_ provider.Canceler      = (*Adapter)(nil)
	_ provider.WebhookParser = (*Adapter)(nil)
)

// New returns an adapter.
func New(cfg Config) *Adapter { return &Adapter{cfg.At("/v1"), cfg.WebhookKeys} }

// errorTable classes HTTP statuses of a create.
var errorTable = provider.Rules{
	400: {Code: fault.InvalidRequest, Meaning: "Replicate refused a parameter"},
	401: {Code: fault.ProviderUnavailable, Cause: provider.BadKey, Meaning: "Replicate refused our key"},
	402: {Code: fault.ProviderUnavailable, Cause: provider.NoBalance, Meaning: "our credit at Replicate is used up"},
	403: {Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "our account at Replicate may not do this"},
	404: {Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "Replicate does not offer this model to our account"},
	413: {Code: fault.PayloadTooLarge, Meaning: "the request is too large for Replicate"},
	422: {Code: fault.InvalidRequest, Meaning: "Replicate refused a parameter"},
	429: {Code: fault.RateLimited, Retry: true, Meaning: "Replicate asks us to slow down"},
}

var (
	stateWords = map[string]provider.State{"starting": provider.Queued, "processing": provider.Running}
	policyRule = provider.Rule{Code: fault.ContentPolicy, Meaning: "the model's content policy refused it; revise the prompt or image"}
	failRule   = provider.Rule{Code: fault.ProviderRejected, Meaning: "the render failed at Replicate"}
)

// policyMarks are the words by which failures by policy are told.
var policyMarks = []string{"nsfw", "sensitive", "flagged", "(e005)"}

// bracketed is Replicate's own code of a failure, in its text: "… (E005)".
var bracketed = regexp.MustCompile(`\((E\d{3,4})\)`)

// owners are the input names of the first and the last frame by model owner,
// and whether sound is on by default there; the last row is for all others.
var owners = []struct {
	head, first, last string
	sound             bool
}{
	{"kwaivgi/", "start_image", "end_image", false},
	{"minimax/", "first_frame_image", "last_frame_image", false},
	{"google/", "image", "last_frame", true},
	{"", "image", "last_frame_image", false},
}

// prediction is Replicate's task, in replies and in webhooks.
type prediction struct {
	ID     string          `json:"id"`
	Status string          `json:"status"`
	Output json.RawMessage `json:"output"`
	Error  any             `json:"error"`
}

// Submit implements provider.Adapter. A model is "owner/name", or
// "owner/name:version" for one that is not official.
func (a *Adapter) Submit(ctx context.Context, t provider.Task) (string, error) {
	if t.SourceTask != "" || t.Extend {
		return "", provider.CannotUse(Name)
	}
	name, version, _ := strings.Cut(t.Model, ":")
	body := map[string]any{"input": input(t)}
	path := "/models/" + name + "/predictions"
	if version != "" {
		path, body["version"] = "/predictions", version
	}
	if t.CallbackURL != "" {
		body["webhook"], body["webhook_events_filter"] = t.CallbackURL, []string{"start", "completed"}
	}
	ans, err := a.account.JSON(ctx, http.MethodPost, path, provider.Bearer(a.account.APIKey), body)
	if err != nil {
		return "", provider.Refused(Name, err)
	}
	if ans.Status/100 != 2 {
		var e struct{ Detail, Title string }
		_ = json.Unmarshal(ans.Body, &e) // the status says enough
		return "", errorTable.Submit(Name, ans, "", e.Detail, a.account.Now())
	}
	var p prediction
	if err := json.Unmarshal(ans.Body, &p); err != nil || p.ID == "" {
		return "", errors.New("answer to submit has no task id")
	}
	return p.ID, nil
}

func input(t provider.Task) map[string]any {
	in := map[string]any{"prompt": t.Prompt, "duration": t.Duration, "resolution": t.Resolution, "aspect_ratio": t.AspectRatio}
	if t.VideoURL != "" { // as gen4-aleph takes it, whose length is its own
		in = map[string]any{"prompt": t.Prompt, "video": t.VideoURL, "aspect_ratio": t.AspectRatio}
		if t.Seed != nil {
			in["seed"] = *t.Seed
		}
		return in
	}
	for _, o := range owners {
		if !strings.HasPrefix(t.Model, o.head) {
			continue
		}
		if t.ImageURL != "" {
			in[o.first] = t.ImageURL
		}
		if t.EndImageURL != "" {
			in[o.last] = t.EndImageURL
		}
		if t.Audio || o.sound { // at twice the price: what was not asked for is refused aloud
			in["generate_audio"] = t.Audio
		}
		break
	}
	if t.NegativePrompt != "" {
		in["negative_prompt"] = t.NegativePrompt
	}
	if t.Seed != nil {
		in["seed"] = *t.Seed
	}
	return in
}

// Poll implements provider.Adapter.
func (a *Adapter) Poll(ctx context.Context, taskID string, _ provider.Task) (provider.Report, error) {
	var p prediction
	if err := a.account.Read(ctx, "/predictions/"+url.PathEscape(taskID), provider.Bearer(a.account.APIKey), &p); err != nil {
		return provider.Report{}, err
	}
	if p.ID != taskID {
		return provider.Report{}, errors.New("answer is about another task")
	}
	return report(p), nil
}

// Cancel implements provider.Canceler. Replicate answers with the prediction,
// whose state tells whether there was anything left to cancel.
func (a *Adapter) Cancel(ctx context.Context, taskID string, _ provider.Task) error {
	ans, err := a.account.JSON(ctx, http.MethodPost, "/predictions/"+url.PathEscape(taskID)+"/cancel", provider.Bearer(a.account.APIKey), nil)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	var p prediction
	if err := json.Unmarshal(ans.Body, &p); err != nil || ans.Status/100 != 2 || p.ID != taskID {
		return fmt.Errorf("cancel answered %d", ans.Status)
	}
	if p.Status == "succeeded" || p.Status == "failed" {
		return provider.ErrTooLate
	}
	return nil
}

// ParseWebhook implements provider.WebhookParser.
func (a *Adapter) ParseWebhook(_ context.Context, h http.Header, body []byte, now time.Time) (provider.Report, error) {
	if len(a.keys) > 0 && webhooksig.Standard(a.keys, h, body, now) != nil {
		return provider.Report{}, provider.ErrBadSignature
	}
	var p prediction
	if err := json.Unmarshal(body, &p); err != nil {
		return provider.Report{}, fmt.Errorf("%w: %w", provider.ErrBadBody, err)
	}
	if p.ID == "" || p.Status == "" {
		return provider.Report{}, fmt.Errorf("%w: no id or status", provider.ErrBadBody)
	}
	r := report(p)
	r.Hint = len(a.keys) == 0
	return r, nil
}

// report normalises a prediction.
func report(p prediction) provider.Report {
	detail, _ := p.Error.(string)
	switch p.Status {
	case "succeeded":
		return provider.Done(Name, p.ID, output(p.Output))
	case "failed":
		code := "failed"
		if m := bracketed.FindStringSubmatch(detail); m != nil {
			code = m[1]
		}
		if provider.Policy(detail, policyMarks...) {
			return policyRule.Fail(Name, p.ID, code, detail)
		}
		return failRule.Fail(Name, p.ID, code, detail)
	case "canceled", "aborted": // aborted: its deadline passed before it began
		return failRule.Fail(Name, p.ID, p.Status, p.Status)
	}
	return provider.Unfinished(p.ID, p.Status, stateWords)
}

// output is the first URL of an output, which is a string or a list.
func output(raw json.RawMessage) string {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return one
	}
	var many []string
	if json.Unmarshal(raw, &many) == nil && len(many) > 0 {
		return many[0]
	}
	return ""
}
