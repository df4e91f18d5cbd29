// Package openai speaks the OpenAI Videos dialect to any server that does: a
// gateway, a reseller, a self-hosted model. OpenAI's own service closed on
// 2026-09-24. Source: openai-go 3.96 and openai 6.49, read 2026-11.
//
// It is a small client on provider.Call: the SDKs repeat a create on 408, 409,
// 429 and 5xx by themselves, and the dialect knows no key that would tell the
// two apart.
//
// A webhook holds an id only and is a hint. In the dialect it is set up for a
// whole project, at an address that names no job; servers that take an address
// per request are told ours in the field Config.CallbackField.
//
// A video is remixed or extended by its id, with its model, size and, for a remix,
// its length. An extension's result holds its source.
//
// Unconfirmed: a create with an image by address, which is sent as JSON; and
// the codes of policy refusals beyond moderation_blocked.
package openai

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime/multipart"
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
const Name = "openai"

// Config is one account at a server of the dialect.
type Config struct {
	provider.Account // BaseURL with its version: "https://host/v1"
	// WebhookKeys are the decoded signing secrets; without any a callback's
	// signature is not looked at.
	WebhookKeys [][]byte
	// CallbackField names the field that takes a callback URL; empty when the
	// server knows none.
	CallbackField string
}

// Adapter is safe for concurrent use.
type Adapter struct {
	account  provider.Account
	keys     [][]byte
	callback string
}

var (
	_ provider.Adapter       = (*Adapter)(nil)
	_ provider.Downloader    = (*Adapter)(nil)
	_ provider.WebhookParser = (*Adapter)(nil)
)

// New returns an adapter.
func New(cfg Config) *Adapter { return &Adapter{cfg.At(""), cfg.WebhookKeys, cfg.CallbackField} }

// errorTable classes HTTP statuses of a create.
var errorTable = provider.Rules{
	400: {Code: fault.InvalidRequest, Meaning: "the provider refused a parameter"},
	401: {Code: fault.ProviderUnavailable, Cause: provider.BadKey, Meaning: "the provider refused our key"},
	402: {Code: fault.ProviderUnavailable, Cause: provider.NoBalance, Meaning: "our balance at the provider is used up"},
	403: {Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "our account at the provider may not do this"},
	404: {Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "the provider does not offer this model to our account"},
	413: {Code: fault.PayloadTooLarge, Meaning: "the request is too large for the provider"},
	422: {Code: fault.InvalidRequest, Meaning: "the provider refused a parameter"},
	429: {Code: fault.RateLimited, Retry: true, Meaning: "the provider asks us to slow down"},
}

// codes are error codes that say more than the status.
var codes = map[string]provider.Rule{
	"moderation_blocked":         policyRule,
	"content_policy_violation":   policyRule,
	"content_policy":             policyRule,
	"insufficient_quota":         errorTable[402], // a 429 that no wait heals
	"billing_hard_limit_reached": errorTable[402],
}

var (
	policyRule = provider.Rule{Code: fault.ContentPolicy, Meaning: "the provider's content policy refused it; revise the prompt or image"}
	failRule   = provider.Rule{Code: fault.ProviderRejected, Meaning: "the render failed at the provider"}
	stateWords = map[string]provider.State{"queued": provider.Queued, "in_progress": provider.Running}
)

type apiError struct{ Message, Type, Code string }

// UnmarshalJSON implements json.Unmarshaler. Servers of the dialect write a code as
// a number, too, and an error as a text: neither may hide that a task has failed.
func (e *apiError) UnmarshalJSON(b []byte) error {
	var o struct {
		Message, Type string
		Code          json.RawMessage
	}
	if json.Unmarshal(b, &e.Message) == nil {
		return nil
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	*e = apiError{o.Message, o.Type, ""}
	if code := string(o.Code); code != "null" {
		e.Code = strings.Trim(code, `"`)
	}
	return nil
}

type video struct {
	ID       string    `json:"id"`
	Status   string    `json:"status"`
	Progress float64   `json:"progress"`
	Error    *apiError `json:"error"`
}

// Submit implements provider.Adapter.
func (a *Adapter) Submit(ctx context.Context, t provider.Task) (string, error) {
	path, fields := "/videos", [][2]string{{"model", t.Model}, {"prompt", t.Prompt}, {"seconds", strconv.Itoa(t.Duration)}, {"size", fmt.Sprintf("%dx%d", t.Width, t.Height)}}
	switch {
	case t.OfVideo() && t.SourceTask == "":
		return "", provider.CannotUse(Name)
	case t.Extend:
		path, fields = "/videos/extensions", [][2]string{{"prompt", t.Prompt}, {"seconds", strconv.Itoa(t.Duration)}, {"video[id]", t.SourceTask}}
	case t.OfVideo():
		path, fields = "/videos/"+url.PathEscape(t.SourceTask)+"/remix", [][2]string{{"prompt", t.Prompt}}
	}
	if t.CallbackURL != "" && a.callback != "" {
		fields = append(fields, [2]string{a.callback, t.CallbackURL})
	}
	contentType, raw, err := encode(fields, t)
	if err != nil {
		return "", provider.Refused(Name, &provider.NotSentError{Err: err})
	}
	h := provider.Bearer(a.account.APIKey)
	h.Set("Content-Type", contentType)
	ans, err := provider.Call(ctx, a.account.Client, http.MethodPost, a.account.BaseURL+path, h, raw)
	if err != nil {
		return "", provider.Refused(Name, err)
	}
	if ans.Status/100 != 2 {
		return "", a.refuse(ans)
	}
	var v video
	if err := json.Unmarshal(ans.Body, &v); err != nil || v.ID == "" {
		return "", errors.New("answer to submit has no task id")
	}
	return v.ID, nil
}

// encode is a multipart form, as the SDKs send it, or JSON for a remix and when
// there is an image by address.
func encode(fields [][2]string, t provider.Task) (contentType string, body []byte, err error) {
	if t.ImageURL != "" || t.OfVideo() && !t.Extend {
		m := map[string]any{}
		if t.ImageURL != "" {
			m["input_reference"] = map[string]any{"image_url": t.ImageURL}
		}
		for _, f := range fields {
			m[f[0]] = f[1]
		}
		body, err = json.Marshal(m)
		return "application/json", body, err
	}
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	for _, f := range fields {
		if err := w.WriteField(f[0], f[1]); err != nil {
			return "", nil, err
		}
	}
	err = w.Close()
	return w.FormDataContentType(), buf.Bytes(), err
}

func (a *Adapter) refuse(ans *provider.Answer) error {
	var e struct{ Error apiError }
	_ = json.Unmarshal(ans.Body, &e) // the status says enough
	after := ans.RetryAfter(a.account.Now())
	if ms, err := strconv.ParseFloat(ans.Header.Get("Retry-After-Ms"), 64); err == nil && ms > 0 && ms < 3_600_000 {
		after = time.Duration(ms * float64(time.Millisecond))
	}
	rule, known := codes[e.Error.Code]
	if !known || ans.Status >= 500 {
		if rule, known = errorTable[ans.Status]; !known {
			return fmt.Errorf("submit answered %d", ans.Status)
		}
	}
	code := e.Error.Code
	if code == "" {
		code = strconv.Itoa(ans.Status)
	}
	return rule.Refuse(Name, code, e.Error.Message, after)
}

// Poll implements provider.Adapter.
func (a *Adapter) Poll(ctx context.Context, taskID string, _ provider.Task) (provider.Report, error) {
	var v video
	if err := a.account.Read(ctx, "/videos/"+url.PathEscape(taskID), provider.Bearer(a.account.APIKey), &v); err != nil {
		return provider.Report{}, err
	}
	if v.ID != taskID {
		return provider.Report{}, errors.New("answer is about another task")
	}
	switch v.Status {
	case "completed":
		return provider.Done(Name, v.ID, a.account.BaseURL+"/videos/"+url.PathEscape(v.ID)+"/content"), nil
	case "failed":
		return failed(v), nil
	}
	r := provider.Unfinished(v.ID, v.Status, stateWords)
	if v.Progress > 0 {
		r.Progress = int(min(v.Progress, 99))
	}
	return r, nil
}

func failed(v video) provider.Report {
	e := apiError{Code: "failed"}
	if v.Error != nil {
		e = *v.Error
		e.Code = cmp.Or(e.Code, "failed")
	}
	if rule := codes[e.Code]; rule.Code == fault.ContentPolicy {
		return rule.Fail(Name, v.ID, e.Code, e.Message)
	}
	return failRule.Fail(Name, v.ID, e.Code, e.Message)
}

// ParseWebhook implements provider.WebhookParser.
func (a *Adapter) ParseWebhook(_ context.Context, h http.Header, body []byte, now time.Time) (provider.Report, error) {
	if len(a.keys) > 0 && webhooksig.Standard(a.keys, h, body, now) != nil {
		return provider.Report{}, provider.ErrBadSignature
	}
	var e struct {
		Type string
		Data struct{ ID string }
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return provider.Report{}, fmt.Errorf("%w: %w", provider.ErrBadBody, err)
	}
	if e.Type == "" || e.Data.ID == "" {
		return provider.Report{}, fmt.Errorf("%w: no type or id", provider.ErrBadBody)
	}
	return provider.Report{TaskID: e.Data.ID, State: provider.Running, Progress: -1, Hint: true}, nil
}

// VerifiesWebhooks implements provider.Verifier: with a secret, everything.
func (a *Adapter) VerifiesWebhooks() bool { return len(a.keys) > 0 }

// ResultHeader implements provider.Downloader: content is fetched with the key.
func (a *Adapter) ResultHeader(rawURL string) http.Header {
	if !provider.SameOrigin(a.account.BaseURL, rawURL) {
		return nil
	}
	return provider.Bearer(a.account.APIKey)
}
