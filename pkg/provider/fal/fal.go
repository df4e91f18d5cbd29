// Package fal speaks fal's queue API and its Ed25519-signed webhooks. Source:
// docs.fal.ai (queue, webhooks, errors) and the @fal-ai/client 1.10.1, read
// 2026-11.
//
// It is a small client on provider.Call: the SDKs repeat a submit by
// themselves, and fal knows no key that would tell the two apart. A task's URLs
// are made from its model and id, as fal makes them; the URLs of a reply are
// never followed, so that the key goes to the configured origin only.
//
// Unconfirmed: the input of a model is its own; the names that families of
// models use are in the table below, and fal is taken to ignore a field that a
// model does not know. A source video is video_url, as in all of its references
// that were read. A 403 is taken for an empty balance by its words. A
// model below workflows/ has other URLs and is refused.
package fal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/webhooksig"
)

// Name is the provider's name in jobs, subjects and URLs.
const Name = "fal"

// Config is one account at fal.
type Config struct {
	provider.Account // BaseURL "https://queue.fal.run"
	// KeysURL is the webhooks' key set, KeysFallback its older address.
	KeysURL, KeysFallback string
}

// Adapter is safe for concurrent use.
type Adapter struct {
	account provider.Account
	jwks    *webhooksig.JWKS
}

var (
	_ provider.Adapter       = (*Adapter)(nil)
	_ provider.Canceler      = (*Adapter)(nil)
	_ provider.WebhookParser = (*Adapter)(nil)
)

// New returns an adapter.
func New(cfg Config) *Adapter {
	return &Adapter{cfg.At(""), &webhooksig.JWKS{URL: cfg.KeysURL, Fallback: cfg.KeysFallback, Client: cfg.Client}}
}

// families are the names that models give their inputs, by the head of the
// model's name; the last row is for all others.
var families = []struct{ model, first, last, durationUnit string }{
	{"fal-ai/veo", "image_url", "last_frame_url", "s"},
	{"fal-ai/kling-video", "image_url", "tail_image_url", ""},
	{"", "image_url", "end_image_url", ""},
}

func input(t provider.Task) map[string]any {
	// Where sound is on by default it costs more: what was not asked for is
	// refused aloud.
	in := map[string]any{"prompt": t.Prompt, "aspect_ratio": t.AspectRatio, "resolution": t.Resolution, "generate_audio": t.Audio}
	for _, f := range families {
		if !strings.HasPrefix(t.Model, f.model) {
			continue
		}
		in["duration"] = strconv.Itoa(t.Duration) + f.durationUnit
		if t.ImageURL != "" {
			in[f.first] = t.ImageURL
		}
		if t.EndImageURL != "" {
			in[f.last] = t.EndImageURL
		}
		break
	}
	if t.VideoURL != "" {
		in["video_url"] = t.VideoURL
	}
	if t.NegativePrompt != "" {
		in["negative_prompt"] = t.NegativePrompt
	}
	if t.Seed != nil {
		in["seed"] = *t.Seed
	}
	return in
}

// Submit implements provider.Adapter. A model is "owner/app" or
// "owner/app/path".
func (a *Adapter) Submit(ctx context.Context, t provider.Task) (string, error) {
	if _, err := requests(t.Model, "x"); err != nil {
		return "", errorTable[http.StatusNotFound].Refuse(Name, "", err.Error(), 0)
	}
	if t.SourceTask != "" {
		return "", provider.CannotUse(Name)
	}
	path := "/" + t.Model
	if t.CallbackURL != "" {
		path += "?fal_webhook=" + url.QueryEscape(t.CallbackURL)
	}
	ans, err := a.account.JSON(ctx, http.MethodPost, path, a.key(), input(t))
	if err != nil {
		return "", provider.Refused(Name, err)
	}
	if ans.Status/100 != 2 {
		code, detail := explain(ans.Header, ans.Body)
		switch {
		case ans.Status == http.StatusUnprocessableEntity && code == policyType:
			return "", policyRule.Refuse(Name, code, detail, 0)
		case ans.Status == http.StatusForbidden && provider.Policy(detail, lockMarks...):
			return "", lockedRule.Refuse(Name, "403", detail, 0)
		}
		return "", errorTable.Submit(Name, ans, code, detail, a.account.Now())
	}
	var reply struct {
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal(ans.Body, &reply); err != nil || reply.RequestID == "" {
		return "", errors.New("answer to submit has no task id")
	}
	return reply.RequestID, nil
}

// requests is the path of a task; sub-paths of a model are not a part of it.
func requests(model, taskID string) (string, error) {
	parts := strings.Split(model, "/")
	if len(parts) < 2 || parts[0] == "" || parts[1] == "" || parts[0] == "workflows" || strings.ContainsAny(model, "?#%") {
		return "", fmt.Errorf("%q is no owner/app of fal", model)
	}
	return "/" + parts[0] + "/" + parts[1] + "/requests/" + url.PathEscape(taskID), nil
}

// Poll implements provider.Adapter. COMPLETED says only that the work is over:
// the result, a second call, tells how it went.
func (a *Adapter) Poll(ctx context.Context, taskID string, t provider.Task) (provider.Report, error) {
	path, err := requests(t.Model, taskID)
	if err != nil {
		return provider.Report{}, err
	}
	ans, err := a.account.JSON(ctx, http.MethodGet, path+"/status", a.key(), nil)
	if err != nil {
		return provider.Report{}, fmt.Errorf("read task: %w", err)
	}
	var s struct{ Status string }
	if ans.Status != http.StatusOK && ans.Status != http.StatusAccepted {
		return provider.Report{}, &provider.StatusError{Doing: "read task", Status: ans.Status}
	}
	if err := json.Unmarshal(ans.Body, &s); err != nil || s.Status == "" {
		return provider.Report{}, errors.New("answer has no status")
	}
	if s.Status != "COMPLETED" {
		return provider.Unfinished(taskID, s.Status, stateWords), nil
	}
	if ans, err = a.account.JSON(ctx, http.MethodGet, path, a.key(), nil); err != nil {
		return provider.Report{}, fmt.Errorf("read result: %w", err)
	}
	if ans.Status == http.StatusOK {
		return provider.Done(Name, taskID, video(ans.Body)), nil
	}
	code, detail := explain(ans.Header, ans.Body)
	if !verdict(ans.Status, code) {
		return provider.Report{}, fmt.Errorf("read result: status %d", ans.Status)
	}
	return failed(taskID, code, detail), nil
}

// Cancel implements provider.Canceler. Work that runs may still finish.
func (a *Adapter) Cancel(ctx context.Context, taskID string, t provider.Task) error {
	path, err := requests(t.Model, taskID)
	if err != nil {
		return err
	}
	ans, err := a.account.JSON(ctx, http.MethodPut, path+"/cancel", a.key(), nil)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	var s struct{ Status string }
	_ = json.Unmarshal(ans.Body, &s) // without the word it is only a status
	switch {
	case ans.Status/100 == 2:
		return nil
	case ans.Status == http.StatusBadRequest && s.Status == "ALREADY_COMPLETED":
		return provider.ErrTooLate
	}
	return fmt.Errorf("cancel answered %d", ans.Status)
}

func (a *Adapter) key() http.Header { return http.Header{"Authorization": {"Key " + a.account.APIKey}} }

// errorTable classes HTTP statuses of a submit.
var errorTable = provider.Rules{
	400: {Code: fault.InvalidRequest, Meaning: "fal refused a parameter"},
	401: {Code: fault.ProviderUnavailable, Cause: provider.BadKey, Meaning: "fal refused our key"},
	403: {Code: fault.ProviderUnavailable, Cause: provider.NoAccess, Meaning: "our account at fal may not do this"},
	404: {Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "fal does not offer this model"},
	413: {Code: fault.PayloadTooLarge, Meaning: "the request is too large for fal"},
	422: {Code: fault.InvalidRequest, Meaning: "fal refused a parameter"},
	429: {Code: fault.RateLimited, Retry: true, Meaning: "fal asks us to slow down"},
}

// lockMarks are the words by which a 403 tells of an empty balance.
var lockMarks = []string{"balance", "locked"}

var lockedRule = provider.Rule{Code: fault.ProviderUnavailable, Cause: provider.NoBalance, Meaning: "our account at fal is locked for its balance"}
