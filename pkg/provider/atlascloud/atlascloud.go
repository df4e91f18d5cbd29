// Package atlascloud speaks Atlas Cloud's media API: generateVideo, prediction
// and its Ed25519-signed webhooks. Source: atlascloud.ai/docs (predictions,
// webhooks, errors), read 2026-11.
//
// Unconfirmed: whether a 500 or 503 with a complete error envelope can follow an
// accepted task. The envelope carries no task id and the amount held is
// released, so it counts as a refusal unless Config.ServerErrorUnknown is set. A
// 504 says that somebody behind it was not waited for: its outcome is unknown.
package atlascloud

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
	"reelway.dev/pkg/webhooksig"
)

// Name is the provider's name in jobs, subjects and URLs.
const Name = "atlascloud"

// Config is one account at Atlas Cloud.
type Config struct {
	BaseURL            string // "https://api.atlascloud.ai", without a path
	APIKey             string
	Client             *http.Client
	Now                func() time.Time
	ServerErrorUnknown bool
	// HMACSecret, when set, accepts the generic x-ai-signature as well.
	HMACSecret []byte
}

// Adapter is safe for concurrent use.
type Adapter struct {
	cfg  Config
	jwks *webhooksig.JWKS
}

var (
	_ provider.Adapter       = (*Adapter)(nil)
	_ provider.WebhookParser = (*Adapter)(nil)
)

// New returns an adapter; Client and Now have to be set.
func New(cfg Config) *Adapter {
	cfg.BaseURL = strings.TrimRight(cfg.BaseURL, "/") + "/api/v1"
	return &Adapter{cfg: cfg, jwks: &webhooksig.JWKS{URL: cfg.BaseURL + "/webhooks/jwks.json", Client: cfg.Client}}
}

type envelope struct {
	Code      int             `json:"code"`
	Msg       string          `json:"msg"`
	Message   string          `json:"message"`
	RequestID string          `json:"request_id"`
	Data      json.RawMessage `json:"data"`
}

type prediction struct {
	ID        string          `json:"id"`
	TaskID    string          `json:"task_id"`
	Status    string          `json:"status"`
	Word      string          `json:"task_status"`
	Outputs   []string        `json:"outputs"`
	Output    json.RawMessage `json:"output"`
	Error     loose           `json:"error"`
	ErrorCode loose           `json:"error_code"`
}

// loose is a text, or whatever else stands in its place as it is written: what a
// failure says in another shape must not hide that it is one.
type loose string

// UnmarshalJSON implements json.Unmarshaler.
func (l *loose) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) != nil {
		s = string(b)
	}
	*l = loose(s)
	return nil
}

// errorTable classes HTTP statuses of a submit. Source: atlascloud.ai/docs errors.
var errorTable = provider.Rules{
	400: {Code: fault.InvalidRequest, Meaning: "Atlas Cloud refused a parameter"},
	401: {Code: fault.ProviderUnavailable, Cause: provider.BadKey, Meaning: "Atlas Cloud refused our key"},
	402: {Code: fault.ProviderUnavailable, Cause: provider.NoBalance, Meaning: "our balance at Atlas Cloud is used up"},
	403: {Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "our account at Atlas Cloud may not do this"},
	404: {Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "Atlas Cloud does not offer this model to our account"},
	413: {Code: fault.PayloadTooLarge, Meaning: "the request is too large for Atlas Cloud"},
	422: {Code: fault.InvalidRequest, Meaning: "Atlas Cloud refused a parameter"},
	429: {Code: fault.RateLimited, Retry: true, Meaning: "Atlas Cloud asks us to slow down"},
	451: {Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "Atlas Cloud does not serve this region"},
}

// balanceMarks are the words by which a 403 tells of an empty balance, as older
// answers do.
var balanceMarks = []string{"balance", "allowance"}

// failureCodes is the error_code of a failed task; any other is the render's.
var failureCodes = map[string]provider.Rule{
	"1039": {Code: fault.ContentPolicy, Meaning: "Atlas Cloud's moderation refused the input; revise the prompt or image"},
}

var (
	away     = provider.Rule{Code: fault.ProviderUnavailable, Retry: true, Meaning: "Atlas Cloud is unavailable"}
	failRule = provider.Rule{Code: fault.ProviderRejected, Meaning: "the render failed at Atlas Cloud"}
)

// Submit implements provider.Adapter.
func (a *Adapter) Submit(ctx context.Context, t provider.Task) (string, error) {
	if t.OfVideo() {
		return "", provider.CannotUse(Name)
	}
	body := map[string]any{"model": t.Model, "prompt": t.Prompt, "duration": t.Duration, "resolution": t.Resolution, "aspect_ratio": t.AspectRatio}
	set := func(k string, v any, ok bool) {
		if ok {
			body[k] = v
		}
	}
	set("negative_prompt", t.NegativePrompt, t.NegativePrompt != "")
	set("image", t.ImageURL, t.ImageURL != "")
	set("last_image", t.EndImageURL, t.EndImageURL != "")
	set("seed", t.Seed, t.Seed != nil)
	set("generate_audio", true, t.Audio)
	set("webhook_url", t.CallbackURL, t.CallbackURL != "")
	raw, err := json.Marshal(body)
	if err != nil {
		return "", provider.Refused(Name, &provider.NotSentError{Err: err})
	}
	ans, err := provider.Call(ctx, a.cfg.Client, http.MethodPost, a.cfg.BaseURL+"/model/generateVideo", a.header(), raw)
	if err != nil {
		return "", provider.Refused(Name, err)
	}
	var env envelope
	perr := json.Unmarshal(ans.Body, &env)
	if ans.Status/100 == 2 {
		var p prediction
		if perr == nil {
			perr = json.Unmarshal(env.Data, &p)
		}
		if p.ID == "" {
			p.ID = p.TaskID
		}
		if perr != nil || p.ID == "" {
			return "", errors.New("answer to submit has no task id")
		}
		return p.ID, nil
	}
	detail, after := first(env.Msg, env.Message), ans.RetryAfter(a.cfg.Now())
	rule, known := errorTable[ans.Status]
	switch {
	case known && ans.Status == http.StatusForbidden && provider.Policy(detail, balanceMarks...):
		rule = errorTable[http.StatusPaymentRequired]
	case !known:
		definite := (ans.Status == http.StatusInternalServerError || ans.Status == http.StatusServiceUnavailable) && perr == nil && env.Code == ans.Status && (len(env.Data) == 0 || string(env.Data) == "null")
		if !definite || a.cfg.ServerErrorUnknown {
			return "", fmt.Errorf("submit answered %d", ans.Status)
		}
		rule = away
	}
	return "", rule.Refuse(Name, strconv.Itoa(ans.Status), detail, after)
}

// Poll implements provider.Adapter.
func (a *Adapter) Poll(ctx context.Context, taskID string, _ provider.Task) (provider.Report, error) {
	ans, err := provider.Call(ctx, a.cfg.Client, http.MethodGet, a.cfg.BaseURL+"/model/prediction/"+url.PathEscape(taskID), a.header(), nil)
	if err != nil {
		return provider.Report{}, fmt.Errorf("poll: %w", err)
	}
	if ans.Status != http.StatusOK {
		return provider.Report{}, &provider.StatusError{Doing: "poll", Status: ans.Status}
	}
	var env envelope
	var p prediction
	if err := errors.Join(json.Unmarshal(ans.Body, &env), json.Unmarshal(env.Data, &p)); err != nil {
		return provider.Report{}, fmt.Errorf("parse poll: %w", err)
	}
	if id := first(p.ID, p.TaskID, taskID); id != taskID {
		return provider.Report{}, errors.New("answer is about another task")
	}
	p.ID = taskID
	return report(p), nil
}

// ParseWebhook implements provider.WebhookParser.
func (a *Adapter) ParseWebhook(ctx context.Context, h http.Header, body []byte, now time.Time) (provider.Report, error) {
	if sig := h.Get("x-ai-signature"); sig != "" && len(a.cfg.HMACSecret) > 0 {
		if err := webhooksig.HMACHex(a.cfg.HMACSecret, sig, body); err != nil {
			return provider.Report{}, provider.ErrBadSignature
		}
	} else if err := a.verify(ctx, h, body, now); err != nil {
		return provider.Report{}, err
	}
	var w struct {
		SessionID string     `json:"session_id"`
		TaskID    string     `json:"task_id"`
		TaskWord  string     `json:"task_status"`
		Status    string     `json:"status"`
		Payload   prediction `json:"payload"`
		Error     any        `json:"error"`
		Result    struct {
			Videos []struct{ URL string } `json:"videos"`
		} `json:"task_result"`
	}
	if err := json.Unmarshal(body, &w); err != nil {
		return provider.Report{}, fmt.Errorf("%w: %w", provider.ErrBadBody, err)
	}
	p := w.Payload
	p.ID = first(w.SessionID, w.TaskID)
	if w.TaskWord != "" { // Kling's words behind Atlas Cloud
		p.Status = w.TaskWord
		for _, v := range w.Result.Videos {
			p.Outputs = append(p.Outputs, v.URL)
		}
	}
	if p.ID == "" || first(p.Status, w.Status) == "" {
		return provider.Report{}, fmt.Errorf("%w: no task id or status", provider.ErrBadBody)
	}
	if w.Status == "ERROR" {
		if r := report(p); r.State == provider.Failed {
			p.Status = first(p.Status, "failed")
		} else {
			p.Status = "failed"
		}
		if s, ok := w.Error.(string); ok && p.Error == "" {
			p.Error = loose(s)
		}
	}
	return report(p), nil
}

func (a *Adapter) verify(ctx context.Context, h http.Header, body []byte, now time.Time) error {
	const prefix = "X-Atlascloud-Webhook-"
	kid, sig := h.Get(prefix+"Key-Id"), first(h.Get(prefix+"Signature-Ed25519"), h.Get(prefix+"Signature"))
	if kid == "" || sig == "" {
		return provider.ErrBadSignature
	}
	key, err := a.jwks.Key(ctx, kid, now)
	if errors.Is(err, webhooksig.ErrKeysUnavailable) {
		return fmt.Errorf("%w: %w", provider.ErrKeysUnavailable, err)
	}
	if err != nil || webhooksig.Ed25519(key, sig, h.Get(prefix+"Timestamp"), body, now) != nil {
		return provider.ErrBadSignature
	}
	return nil
}

var stateWords = map[string]provider.State{
	"starting": provider.Queued, "created": provider.Queued, "queued": provider.Queued, "submitted": provider.Queued,
	"processing": provider.Running, "running": provider.Running,
}

// report normalises a prediction.
func report(p prediction) provider.Report {
	if len(p.Outputs) == 0 && len(p.Output) > 0 {
		var s string
		if json.Unmarshal(p.Output, &s) == nil && s != "" {
			p.Outputs = []string{s}
		} else {
			_ = json.Unmarshal(p.Output, &p.Outputs) // any other shape is no output
		}
	}
	switch word := first(p.Status, p.Word); word {
	case "completed", "succeeded", "succeed":
		return provider.Done(Name, p.ID, first(p.Outputs...))
	case "failed", "timeout", "cancelled", "canceled":
		code := first(strings.TrimPrefix(string(p.ErrorCode), "0"), word) // 0 is none
		rule, known := failureCodes[code]
		if !known {
			rule = failRule
		}
		return rule.Fail(Name, p.ID, code, string(p.Error))
	default:
		return provider.Unfinished(p.ID, word, stateWords)
	}
}

func (a *Adapter) header() http.Header {
	return http.Header{"Authorization": {"Bearer " + a.cfg.APIKey}, "Content-Type": {"application/json"}, "Accept": {"application/json"}}
}

func first(ss ...string) string {
	for _, s := range ss {
		if s != "" {
			return s
		}
	}
	return ""
}
