// Package byteplus speaks BytePlus ModelArk's content generation tasks, the
// home of Seedance. Source: the paths and statuses of @ai-sdk/bytedance 1.0.29
// and BytePlus's own SDK, read 2026-11.
//
// It is a small client on provider.Call: the SDK repeats a create by itself,
// and ModelArk knows no key that would tell the two apart. Callbacks are
// unsigned and so only hints.
//
// A source video is a reference_video, by its address; what Seedance makes of it
// has a length of its own.
//
// Unconfirmed: the spelling of error codes beyond their heads, which is all
// that is compared; and that resolution, ratio and duration are fields for
// every model: the first Seedance models read them from the prompt's text,
// which Config.FlagsInText brings back.
package byteplus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"reelway.dev/pkg/provider"
)

// Name is the provider's name in jobs, subjects and URLs.
const Name = "byteplus"

const tasks = "/contents/generations/tasks"

// Config is one account at BytePlus ModelArk.
type Config struct {
	provider.Account // BaseURL "https://ark.ap-southeast.bytepluses.com"
	// FlagsInText writes --ratio, --dur and --resolution into the prompt
	// instead of sending them as fields.
	FlagsInText bool
}

// Adapter is safe for concurrent use.
type Adapter struct {
	account provider.Account
	flags   bool
}

var (
	_ provider.Adapter       = (*Adapter)(nil)
	_ provider.Canceler      = (*Adapter)(nil)
	_ provider.WebhookParser = (*Adapter)(nil)
)

// New returns an adapter.
func New(cfg Config) *Adapter { return &Adapter{cfg.At("/api/v3"), cfg.FlagsInText} }

type arkError struct{ Code, Message string }

type task struct {
	ID      string `json:"id"`
	Status  string `json:"status"`
	Content struct {
		VideoURL string `json:"video_url"`
	} `json:"content"`
	Error *arkError `json:"error"`
}

// Submit implements provider.Adapter.
func (a *Adapter) Submit(ctx context.Context, t provider.Task) (string, error) {
	if t.SourceTask != "" || t.Extend {
		return "", provider.CannotUse(Name)
	}
	text := t.Prompt
	body := map[string]any{"model": t.Model, "watermark": t.Watermark}
	if a.flags {
		text += fmt.Sprintf(" --ratio %s --dur %d --resolution %s", t.AspectRatio, t.Duration, t.Resolution)
	} else {
		body["resolution"], body["ratio"], body["duration"] = t.Resolution, t.AspectRatio, t.Duration
	}
	if !strings.Contains(t.Model, "seedance-1-0") { // which makes no sound and takes no such field
		body["generate_audio"] = t.Audio // on by default, at twice the price
	}
	content := []any{map[string]any{"type": "text", "text": text}}
	image := func(role, u string) {
		if u != "" {
			content = append(content, map[string]any{"type": "image_url", "image_url": map[string]any{"url": u}, "role": role})
		}
	}
	image("first_frame", t.ImageURL)
	image("last_frame", t.EndImageURL)
	if t.VideoURL != "" {
		content = append(content, map[string]any{"type": "video_url", "video_url": map[string]any{"url": t.VideoURL}, "role": "reference_video"})
	}
	body["content"] = content
	if t.Seed != nil {
		body["seed"] = *t.Seed
	}
	if t.CallbackURL != "" {
		body["callback_url"] = t.CallbackURL
	}
	ans, err := a.account.JSON(ctx, http.MethodPost, tasks, provider.Bearer(a.account.APIKey), body)
	if err != nil {
		return "", provider.Refused(Name, err)
	}
	var reply struct {
		ID    string    `json:"id"`
		Error *arkError `json:"error"`
	}
	perr := json.Unmarshal(ans.Body, &reply)
	if ans.Status/100 == 2 {
		if perr != nil || reply.ID == "" {
			return "", errors.New("answer to submit has no task id")
		}
		return reply.ID, nil
	}
	if reply.Error == nil {
		reply.Error = &arkError{}
	}
	if r, ok := rule(reply.Error.Code); ok && ans.Status < 500 {
		return "", r.Refuse(Name, reply.Error.Code, reply.Error.Message, ans.RetryAfter(a.account.Now()))
	}
	return "", errorTable.Submit(Name, ans, reply.Error.Code, reply.Error.Message, a.account.Now())
}

// Poll implements provider.Adapter.
func (a *Adapter) Poll(ctx context.Context, taskID string, _ provider.Task) (provider.Report, error) {
	var d task
	if err := a.account.Read(ctx, tasks+"/"+url.PathEscape(taskID), provider.Bearer(a.account.APIKey), &d); err != nil {
		return provider.Report{}, err
	}
	if d.ID != taskID {
		return provider.Report{}, errors.New("answer is about another task")
	}
	return report(d), nil
}

// Cancel implements provider.Canceler. ModelArk cancels only a task that waits;
// its DELETE would destroy the record of one that has ended.
func (a *Adapter) Cancel(ctx context.Context, taskID string, t provider.Task) error {
	r, err := a.Poll(ctx, taskID, t)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	if r.State != provider.Queued {
		return provider.ErrTooLate
	}
	ans, err := a.account.JSON(ctx, http.MethodDelete, tasks+"/"+url.PathEscape(taskID), provider.Bearer(a.account.APIKey), nil)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	if ans.Status/100 != 2 {
		return fmt.Errorf("cancel answered %d", ans.Status)
	}
	return nil
}

// ParseWebhook implements provider.WebhookParser. Nothing is signed: a callback
// is a hint.
func (a *Adapter) ParseWebhook(_ context.Context, _ http.Header, body []byte, _ time.Time) (provider.Report, error) {
	var d task
	if err := json.Unmarshal(body, &d); err != nil {
		return provider.Report{}, fmt.Errorf("%w: %w", provider.ErrBadBody, err)
	}
	if d.ID == "" || d.Status == "" {
		return provider.Report{}, fmt.Errorf("%w: no id or status", provider.ErrBadBody)
	}
	r := report(d)
	r.Hint = true
	return r, nil
}
