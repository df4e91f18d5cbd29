// Package minimax speaks MiniMax's video API in both versions: v1 for the
// Hailuo 2 models, v2 for H3. The model's name says which. Source:
// platform.minimax.io (video generation, error codes) and its v2 pages, read
// 2026-11; statuses of v2 and some codes from integrations.
//
// It is a small client on provider.Call: no official Go SDK exists, and MiniMax
// knows no key that would tell a repeated create from a new one.
//
// MiniMax tests a callback URL during the submit, by a challenge that Challenge
// answers; callbacks themselves are unsigned and so only hints.
//
// Unconfirmed: what a failed challenge does. Some saw the create refused with
// 2013: it is sent again without the address, and the task is polled; with
// Config.NoCallbacks no address is sent at all. Others saw the task taken and no
// callback come, which the watchdog makes good. How v2 lists tasks is not known
// well enough to look for a lost one.
package minimax

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"reelway.dev/pkg/provider"
)

// Name is the provider's name in jobs, subjects and URLs.
const Name = "minimax"

// Config is one account at MiniMax.
type Config struct {
	provider.Account // BaseURL "https://api.minimax.io"
	// NoCallbacks keeps callback URLs to ourselves.
	NoCallbacks bool
	// Logger is told of an address that MiniMax cannot reach; the process's own
	// when nil.
	Logger *slog.Logger
}

// Adapter is safe for concurrent use.
type Adapter struct {
	account     provider.Account
	noCallbacks bool
	log         *slog.Logger
	seldom      rate.Sometimes
}

var (
	_ provider.Adapter       = (*Adapter)(nil)
	_ provider.Canceler      = (*Adapter)(nil)
	_ provider.Challenger    = (*Adapter)(nil)
	_ provider.WebhookParser = (*Adapter)(nil)
)

// New returns an adapter.
func New(cfg Config) *Adapter {
	return &Adapter{account: cfg.At(""), noCallbacks: cfg.NoCallbacks, log: cmp.Or(cfg.Logger, slog.Default()), seldom: rate.Sometimes{Interval: 10 * time.Minute}}
}

// v2 tells whether a model is of the second API.
func v2(model string) bool { return strings.HasPrefix(model, "MiniMax-H3") }

// resolution is MiniMax's spelling of one.
func resolution(r string) string {
	if r == "1440p" {
		return "2K"
	}
	return strings.ToUpper(r)
}

// Submit implements provider.Adapter. A create that MiniMax refused because it
// could not test the callback address made nothing: it is sent once more without.
func (a *Adapter) Submit(ctx context.Context, t provider.Task) (string, error) {
	if t.OfVideo() {
		return "", provider.CannotUse(Name)
	}
	if a.noCallbacks {
		t.CallbackURL = ""
	}
	id, err := a.create(ctx, t)
	if t.CallbackURL == "" || !ofDoor(err) {
		return id, err
	}
	a.seldom.Do(func() {
		a.log.WarnContext(ctx, "minimax cannot reach our callback address, its tasks are polled; see to it that REELWAY_CALLBACK_URL answers from the internet within 3 s, or set REELWAY_MINIMAX_NO_CALLBACKS", "provider", Name)
	})
	t.CallbackURL = ""
	return a.create(ctx, t)
}

// create sends a task once.
func (a *Adapter) create(ctx context.Context, t provider.Task) (string, error) {
	body := map[string]any{"model": t.Model, "duration": t.Duration, "resolution": resolution(t.Resolution), "aigc_watermark": t.Watermark}
	if t.CallbackURL != "" {
		body["callback_url"] = t.CallbackURL
	}
	path := "/v1/video_generation"
	if v2(t.Model) {
		path = "/v2/video_generation"
		bodyV2(body, t)
	} else {
		bodyV1(body, t)
	}
	ans, err := a.account.JSON(ctx, http.MethodPost, path, provider.Bearer(a.account.APIKey), body)
	if err != nil {
		return "", provider.Refused(Name, err)
	}
	var reply struct {
		TaskID   string    `json:"task_id"`
		BaseResp *baseResp `json:"base_resp"`
		Error    *apiError `json:"error"`
	}
	perr := json.Unmarshal(ans.Body, &reply)
	switch {
	case perr != nil:
		return "", fmt.Errorf("answer of status %d is not MiniMax's", ans.Status)
	case reply.TaskID != "" && (reply.Error != nil || reply.BaseResp != nil && reply.BaseResp.Code != 0): // it may have been taken
		return "", fmt.Errorf("submit answered %d with an error and a task", ans.Status)
	case reply.BaseResp != nil && reply.BaseResp.Code != 0: // v1, with any status
		return "", refuseV1(ans, *reply.BaseResp, a.account.Now())
	case ans.Status/100 != 2 && reply.Error != nil:
		return "", refuseV2(ans, *reply.Error, a.account.Now())
	case ans.Status/100 != 2:
		return "", fmt.Errorf("submit answered %d", ans.Status)
	case reply.TaskID == "":
		return "", errors.New("answer to submit has no task id")
	}
	return reply.TaskID, nil
}

func bodyV1(body map[string]any, t provider.Task) {
	body["prompt"] = t.Prompt
	if t.ImageURL != "" {
		body["first_frame_image"] = t.ImageURL
	}
	if t.EndImageURL != "" {
		body["last_frame_image"] = t.EndImageURL
	}
}

func bodyV2(body map[string]any, t provider.Task) {
	body["ratio"] = t.AspectRatio
	content := []any{map[string]any{"type": "text", "text": t.Prompt}}
	image := func(role, u string) {
		if u != "" {
			content = append(content, map[string]any{"type": "image_url", "image_url": map[string]any{"url": u}, "role": role})
		}
	}
	image("first_frame", t.ImageURL)
	image("last_frame", t.EndImageURL)
	body["content"] = content
}

// Poll implements provider.Adapter. A finished task of v1 names a file, whose
// URL takes a second call; it is good for nine hours.
func (a *Adapter) Poll(ctx context.Context, taskID string, t provider.Task) (provider.Report, error) {
	key := provider.Bearer(a.account.APIKey)
	if v2(t.Model) {
		var out struct {
			Task taskV2 `json:"task"`
		}
		if err := a.account.Read(ctx, "/v2/query/video_generation/"+url.PathEscape(taskID), key, &out); err != nil {
			return provider.Report{}, err
		}
		if out.Task.ID != taskID {
			return provider.Report{}, errors.New("answer is about another task")
		}
		return reportV2(out.Task), nil
	}
	var d taskV1
	if err := a.account.Read(ctx, "/v1/query/video_generation?task_id="+url.QueryEscape(taskID), key, &d); err != nil {
		return provider.Report{}, err
	}
	if d.TaskID != taskID || !d.aboutTask() {
		return provider.Report{}, fmt.Errorf("query answered with code %d", d.BaseResp.Code)
	}
	r, file := reportV1(d)
	if file == "" {
		return r, nil
	}
	var f struct {
		File struct {
			DownloadURL string `json:"download_url"`
		} `json:"file"`
		BaseResp baseResp `json:"base_resp"`
	}
	if err := a.account.Read(ctx, "/v1/files/retrieve?file_id="+url.QueryEscape(file), key, &f); err != nil {
		return provider.Report{}, err
	}
	if f.BaseResp.Code != 0 {
		return provider.Report{}, fmt.Errorf("file answered with code %d", f.BaseResp.Code)
	}
	return provider.Done(Name, taskID, f.File.DownloadURL), nil
}

// Cancel implements provider.Canceler for v2; v1 cancels nothing. What v2's
// DELETE does to a finished task is not documented, so the state is asked for
// first.
func (a *Adapter) Cancel(ctx context.Context, taskID string, t provider.Task) error {
	r, err := a.Poll(ctx, taskID, t)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	if !v2(t.Model) || r.State == provider.Succeeded || r.State == provider.Failed {
		return provider.ErrTooLate
	}
	ans, err := a.account.JSON(ctx, http.MethodDelete, "/v2/video_generation/"+url.PathEscape(taskID), provider.Bearer(a.account.APIKey), nil)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	if ans.Status/100 != 2 {
		return fmt.Errorf("cancel answered %d", ans.Status)
	}
	return nil
}

// maxChallenge bounds what is echoed, in bytes.
const maxChallenge = 256

// Challenge implements provider.Challenger: MiniMax wants its short string back
// within 3 s, as JSON.
func (a *Adapter) Challenge(body []byte) (answer []byte, ok bool) {
	var c struct {
		Challenge string `json:"challenge"`
		TaskID    string `json:"task_id"`
	}
	if json.Unmarshal(body, &c) != nil || c.Challenge == "" || len(c.Challenge) > maxChallenge || c.TaskID != "" {
		return nil, false
	}
	answer, err := json.Marshal(map[string]string{"challenge": c.Challenge})
	return answer, err == nil
}

// ParseWebhook implements provider.WebhookParser. Nothing is signed, and a file
// is not yet a URL: a callback is a hint.
func (a *Adapter) ParseWebhook(_ context.Context, _ http.Header, body []byte, _ time.Time) (provider.Report, error) {
	var w struct {
		taskV1
		Task taskV2 `json:"task"`
	}
	if err := json.Unmarshal(body, &w); err != nil {
		return provider.Report{}, fmt.Errorf("%w: %w", provider.ErrBadBody, err)
	}
	r := reportV2(w.Task)
	if w.TaskID != "" {
		r, _ = reportV1(w.taskV1)
	}
	if r.TaskID == "" || w.Status+w.Task.Status == "" {
		return provider.Report{}, fmt.Errorf("%w: no task id or status", provider.ErrBadBody)
	}
	r.Hint, r.ResultURL = true, "" // v1's is the name of a file
	return r, nil
}
