// Package kling speaks Kling's official API of the /v1/videos generation, with
// a JWT made of access and secret key. Source: klingai.com document-api (task
// calls, callbacks, error table), read 2026-11.
//
// Unconfirmed: whether callbacks of this generation are signed. They are
// verified when a webhook secret is configured, and hints otherwise.
package kling

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

	"github.com/golang-jwt/jwt/v5"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/webhooksig"
)

// Name is the provider's name in jobs, subjects and URLs.
const Name = "kling"

// Config is one account at Kling.
type Config struct {
	BaseURL              string // "https://api-singapore.klingai.com"
	AccessKey, SecretKey string
	// WebhookKeys are the decoded webhook secrets, two during a rotation;
	// without any a callback is only a hint.
	WebhookKeys [][]byte
	Client      *http.Client
	Now         func() time.Time
}

// Adapter is safe for concurrent use.
type Adapter struct{ cfg Config }

var (
	_ provider.Adapter       = (*Adapter)(nil)
	_ provider.Finder        = (*Adapter)(nil)
	_ provider.WebhookParser = (*Adapter)(nil)
)

// New returns an adapter; Client and Now have to be set.
func New(cfg Config) *Adapter {
	cfg.BaseURL = strings.TrimRight(cfg.BaseURL, "/")
	return &Adapter{cfg: cfg}
}

type envelope struct {
	Code    *int            `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

type task struct {
	TaskID    string `json:"task_id"`
	Status    string `json:"task_status"`
	StatusMsg string `json:"task_status_msg"`
	Result    struct {
		Videos []struct {
			URL string `json:"url"`
		} `json:"videos"`
	} `json:"task_result"`
}

type row struct {
	code  fault.Code
	retry bool
}

// errorTable is Kling's error codes. A code that is not here is unknown.
// Source: klingai.com document-api, general information.
var errorTable = map[int]row{
	1000: {fault.ProviderUnavailable, false}, 1001: {fault.ProviderUnavailable, false}, 1002: {fault.ProviderUnavailable, false},
	1003: {fault.ProviderUnavailable, true}, 1004: {fault.ProviderUnavailable, true},
	1100: {fault.ProviderUnavailable, false}, 1101: {fault.ProviderUnavailable, false}, 1102: {fault.ProviderUnavailable, false},
	1103: {fault.ProviderRejected, false},
	1200: {fault.InvalidRequest, false}, 1201: {fault.InvalidRequest, false}, 1202: {fault.ProviderRejected, false}, 1203: {fault.ProviderRejected, false},
	1300: {fault.ContentPolicy, false}, 1301: {fault.ContentPolicy, false},
	1302: {fault.RateLimited, true}, 1303: {fault.RateLimited, true}, 1304: {fault.ProviderUnavailable, false},
}

func kind(t provider.Task) string {
	if t.ImageURL != "" {
		return "image2video"
	}
	return "text2video"
}

// Submit implements provider.Adapter.
func (a *Adapter) Submit(ctx context.Context, t provider.Task) (string, error) {
	mode := "std"
	if t.Resolution == "1080p" {
		mode = "pro"
	}
	body := map[string]any{"model_name": t.Model, "prompt": t.Prompt, "mode": mode, "duration": strconv.Itoa(t.Duration), "external_task_id": t.AttemptID}
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
	raw, err := json.Marshal(body)
	if err != nil {
		return "", provider.Refused(Name, &provider.NotSentError{Err: err})
	}
	ans, env, err := a.call(ctx, http.MethodPost, "/v1/videos/"+kind(t), raw)
	if err != nil {
		return "", provider.Refused(Name, err)
	}
	if *env.Code == 0 && ans.Status/100 == 2 {
		var d task
		if err := json.Unmarshal(env.Data, &d); err != nil || d.TaskID == "" {
			return "", errors.New("answer to submit has no task id")
		}
		return d.TaskID, nil
	}
	r, known := errorTable[*env.Code]
	if !known {
		return "", fmt.Errorf("submit answered %d with code %d", ans.Status, *env.Code)
	}
	f := fault.New(r.code, "Kling refused the task: %s", env.Message)
	f.Provider, f.ProviderCode, f.Retryable = Name, strconv.Itoa(*env.Code), r.retry
	if f.RetryAfter = ans.RetryAfter(a.cfg.Now()); r.code == fault.RateLimited {
		f.RetryAfter = max(f.RetryAfter, time.Second)
	}
	return "", &provider.RefusedError{Fault: f}
}

// Poll implements provider.Adapter.
func (a *Adapter) Poll(ctx context.Context, taskID string, t provider.Task) (provider.Report, error) {
	r, found, err := a.get(ctx, taskID, t)
	if err == nil && !found {
		err = errors.New("kling does not know the task")
	}
	return r, err
}

// Find implements provider.Finder by the external task id, which is the
// attempt's id and unique in the account.
func (a *Adapter) Find(ctx context.Context, t provider.Task) (provider.Report, bool, error) {
	return a.get(ctx, t.AttemptID, t)
}

func (a *Adapter) get(ctx context.Context, id string, t provider.Task) (provider.Report, bool, error) {
	ans, env, err := a.call(ctx, http.MethodGet, "/v1/videos/"+kind(t)+"/"+url.PathEscape(id), nil)
	if err != nil {
		return provider.Report{}, false, fmt.Errorf("read task: %w", err)
	}
	if *env.Code == 1203 {
		return provider.Report{}, false, nil
	}
	if *env.Code != 0 || ans.Status != http.StatusOK {
		return provider.Report{}, false, fmt.Errorf("read task answered %d with code %d", ans.Status, *env.Code)
	}
	var d task
	if err := json.Unmarshal(env.Data, &d); err != nil || d.TaskID == "" {
		return provider.Report{}, false, errors.New("answer has no task")
	}
	return report(d), true, nil
}

// ParseWebhook implements provider.WebhookParser.
func (a *Adapter) ParseWebhook(_ context.Context, h http.Header, body []byte, now time.Time) (provider.Report, error) {
	signed := len(a.cfg.WebhookKeys) > 0
	if signed && webhooksig.Standard(a.cfg.WebhookKeys, h, body, now) != nil {
		return provider.Report{}, provider.ErrBadSignature
	}
	var d task
	if err := json.Unmarshal(body, &d); err != nil {
		return provider.Report{}, fmt.Errorf("%w: %w", provider.ErrBadBody, err)
	}
	if d.TaskID == "" || d.Status == "" {
		return provider.Report{}, fmt.Errorf("%w: no task id or status", provider.ErrBadBody)
	}
	r := report(d)
	r.Hint = !signed
	return r, nil
}

func report(d task) provider.Report {
	r := provider.Report{TaskID: d.TaskID, Progress: -1}
	switch d.Status {
	case "submitted":
		r.State = provider.Queued
	case "processing":
		r.State = provider.Running
	case "succeed", "succeeded":
		if len(d.Result.Videos) == 0 || d.Result.Videos[0].URL == "" {
			r.State = provider.Failed
			r.Err = fault.New(fault.ProviderRejected, "Kling reported success without a video")
			r.Err.Provider, r.Err.ProviderCode = Name, "empty_result"
			return r
		}
		r.State, r.ResultURL, r.Progress = provider.Succeeded, d.Result.Videos[0].URL, 100
	case "failed":
		code, text := fault.ProviderRejected, "the render failed at Kling: "
		if m := strings.ToLower(d.StatusMsg); strings.Contains(m, "risk control") || strings.Contains(m, "sensitive") {
			code, text = fault.ContentPolicy, "Kling's content policy refused it; revise the prompt or image: "
		}
		r.State = provider.Failed
		r.Err = fault.New(code, "%s%s", text, d.StatusMsg)
		r.Err.Provider = Name
	default:
		r.State, r.UnknownWord = provider.Running, d.Status
	}
	return r
}

func (a *Adapter) call(ctx context.Context, method, path string, body []byte) (*provider.Answer, *envelope, error) {
	now := a.cfg.Now()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"iss": a.cfg.AccessKey, "exp": now.Add(30 * time.Minute).Unix(), "nbf": now.Add(-5 * time.Second).Unix(),
	}).SignedString([]byte(a.cfg.SecretKey))
	if err != nil {
		return nil, nil, &provider.NotSentError{Err: err}
	}
	h := http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}
	ans, err := provider.Call(ctx, a.cfg.Client, method, a.cfg.BaseURL+path, h, body)
	if err != nil {
		return nil, nil, err
	}
	var env envelope
	if err := json.Unmarshal(ans.Body, &env); err != nil || env.Code == nil {
		return nil, nil, fmt.Errorf("answer of status %d is not Kling's", ans.Status)
	}
	return ans, &env, nil
}
