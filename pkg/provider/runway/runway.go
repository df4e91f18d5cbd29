// Package runway speaks Runway's developer API, version 2024-11-06. It has no
// webhooks: tasks are polled. Source: docs.dev.runwayml.com (tasks, failures)
// and the @runwayml/sdk 4.20.1, read 2026-11.
//
// It is a small client on provider.Call: the SDK repeats a create on 408, 409,
// 429 and 5xx by itself, and Runway knows no key that would tell the two apart.
//
// Tasks on videos (video_to_video): what Aleph and the models that are not known
// here make follows the source; Seedance has a length and a shape of its own.
//
// Unconfirmed: the scale of progress (0 to 1 in the SDK's comment); a value
// above 1 is taken for percent; the status of a refusal for want of credits, which
// is known by its words, as is that of a daily limit beside any other 429; whether
// that one names a time. Which failures are refunded is disputed; only
// the class is kept here.
package runway

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
)

// Name is the provider's name in jobs, subjects and URLs.
const Name = "runway"

// version is the API's, which every call names.
const version = "2024-11-06"

// Config is one account at Runway.
type Config struct {
	provider.Account // BaseURL "https://api.dev.runwayml.com"
}

// Adapter is safe for concurrent use.
type Adapter struct{ account provider.Account }

var (
	_ provider.Adapter  = (*Adapter)(nil)
	_ provider.Canceler = (*Adapter)(nil)
)

// New returns an adapter.
func New(cfg Config) *Adapter { return &Adapter{cfg.At("/v1")} }

// errorTable classes HTTP statuses of a create.
var errorTable = provider.Rules{
	400: {Code: fault.InvalidRequest, Meaning: "Runway refused a parameter"},
	401: {Code: fault.ProviderUnavailable, Cause: provider.BadKey, Meaning: "Runway refused our key"},
	403: {Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "our account at Runway may not do this"},
	404: {Code: fault.ProviderRejected, Meaning: "Runway does not offer this"},
	405: {Code: fault.ProviderRejected, Meaning: "Runway does not offer this"},
	413: {Code: fault.PayloadTooLarge, Meaning: "the request is too large for Runway"},
	422: {Code: fault.InvalidRequest, Meaning: "Runway refused a parameter"},
	429: {Code: fault.RateLimited, Retry: true, Meaning: "Runway asks us to slow down"},
}

// failures classes failureCode by its head; the first that fits counts, so
// SAFETY stands before the families that contain it.
var failures = []struct {
	head string
	rule provider.Rule
}{
	{"SAFETY.INPUT", policyRule},
	{"SAFETY", provider.Rule{Code: fault.ContentPolicy, Meaning: "Runway's content policy withheld the video; revise the prompt or image"}},
	{"INPUT_PREPROCESSING.SAFETY", policyRule},
	{"INPUT_PREPROCESSING.THIRD_PARTY", policyRule},
	{"ASSET.INVALID", provider.Rule{Code: fault.InvalidRequest, Meaning: "Runway could not use an image"}},
	{"THIRD_PARTY.INPUT_VALIDATION", provider.Rule{Code: fault.InvalidRequest, Meaning: "the model refused a parameter"}},
	{"INTERNAL.BAD_OUTPUT", provider.Rule{Code: fault.ProviderRejected, Meaning: "the model made no usable video; change the input"}},
	{"", provider.Rule{Code: fault.ProviderRejected, Meaning: "the render failed at Runway"}},
}

// dailyMarks are the words by which a 429 tells that a model's tasks of the last
// 24 hours are used up, which no short wait mends. Source: runwayml/sdk-python,
// issue 23; docs.dev.runwayml.com, usage tiers.
var dailyMarks = []string{"daily"}

// creditMarks are the words by which a refusal tells of an empty balance.
// Source: runwayml/sdk-node, issue 28.
var creditMarks = []string{"enough credits"}

var (
	creditRule = provider.Rule{Code: fault.ProviderUnavailable, Cause: provider.NoBalance, Meaning: "our credits at Runway are used up"}
	dailyRule  = provider.Rule{Code: fault.ProviderUnavailable, Cause: provider.NoQuota, Meaning: "our daily limit of this model at Runway is reached"}
	policyRule = provider.Rule{Code: fault.ContentPolicy, Meaning: "Runway's content policy refused it; revise the prompt or image"}
	stateWords = map[string]provider.State{"PENDING": provider.Queued, "THROTTLED": provider.Queued, "RUNNING": provider.Running}
)

type task struct {
	ID          string   `json:"id"`
	Status      string   `json:"status"`
	Progress    float64  `json:"progress"`
	Output      []string `json:"output"`
	Failure     string   `json:"failure"`
	FailureCode string   `json:"failureCode"`
}

// Submit implements provider.Adapter.
func (a *Adapter) Submit(ctx context.Context, t provider.Task) (string, error) {
	if t.SourceTask != "" {
		return "", provider.CannotUse(Name)
	}
	body := map[string]any{"model": t.Model, "promptText": t.Prompt, "ratio": fmt.Sprintf("%d:%d", t.Width, t.Height), "duration": t.Duration}
	path := "/text_to_video"
	switch {
	case t.OfVideo():
		path, body = "/video_to_video", ofVideo(t)
	case t.ImageURL != "":
		path = "/image_to_video"
		images := []any{map[string]any{"uri": t.ImageURL, "position": "first"}}
		if t.EndImageURL != "" {
			images = append(images, map[string]any{"uri": t.EndImageURL, "position": "last"})
		}
		body["promptImage"] = images
	}
	if t.Seed != nil {
		body["seed"] = *t.Seed
	}
	if strings.HasPrefix(t.Model, "veo") {
		body["audio"] = t.Audio // twice the price, and on by default
	}
	ans, err := a.account.JSON(ctx, http.MethodPost, path, a.header(), body)
	if err != nil {
		return "", provider.Refused(Name, err)
	}
	if ans.Status/100 != 2 {
		var e struct{ Error string }
		_ = json.Unmarshal(ans.Body, &e) // the status says enough
		if ans.Status/100 == 4 && provider.Policy(e.Error, creditMarks...) {
			return "", creditRule.Refuse(Name, strconv.Itoa(ans.Status), e.Error, 0)
		}
		if ans.Status == http.StatusTooManyRequests && provider.Policy(e.Error, dailyMarks...) {
			return "", dailyRule.Refuse(Name, "429", e.Error, ans.RetryAfter(a.account.Now()))
		}
		return "", errorTable.Submit(Name, ans, "", e.Error, a.account.Now())
	}
	var reply task
	if err := json.Unmarshal(ans.Body, &reply); err != nil || reply.ID == "" {
		return "", errors.New("answer to submit has no task id")
	}
	return reply.ID, nil
}

// ofVideo is the body of a task on a video. Seedance makes a video of its own
// length and shape; the others follow their source.
func ofVideo(t provider.Task) map[string]any {
	body := map[string]any{"model": t.Model, "promptText": t.Prompt}
	if strings.HasPrefix(t.Model, "seedance") {
		body["promptVideo"], body["duration"], body["audio"] = t.VideoURL, t.Duration, t.Audio
		body["ratio"] = fmt.Sprintf("%d:%d", t.Width, t.Height)
	} else {
		body["videoUri"] = t.VideoURL
	}
	if t.Extend { // which keeps the shape of its source
		body["mode"], body["duration"] = "extend", t.Duration
		delete(body, "ratio")
	}
	return body
}

// Poll implements provider.Adapter. Runway asks for 5 s between two polls.
func (a *Adapter) Poll(ctx context.Context, taskID string, _ provider.Task) (provider.Report, error) {
	var d task
	if err := a.account.Read(ctx, "/tasks/"+url.PathEscape(taskID), a.header(), &d); err != nil {
		return provider.Report{}, err
	}
	if d.ID != taskID {
		return provider.Report{}, errors.New("answer is about another task")
	}
	return report(d), nil
}

// Cancel implements provider.Canceler. Runway's DELETE cancels a task that
// waits or runs and deletes one that has ended, so the state is asked for
// first. A task that ends in between loses its result: that is why Cancel is
// for jobs whose result nobody wants.
func (a *Adapter) Cancel(ctx context.Context, taskID string, t provider.Task) error {
	r, err := a.Poll(ctx, taskID, t)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	if r.State == provider.Succeeded || r.State == provider.Failed {
		return provider.ErrTooLate
	}
	ans, err := a.account.JSON(ctx, http.MethodDelete, "/tasks/"+url.PathEscape(taskID), a.header(), nil)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	if ans.Status/100 != 2 {
		return fmt.Errorf("cancel answered %d", ans.Status)
	}
	return nil
}

// report normalises a task.
func report(d task) provider.Report {
	switch d.Status {
	case "SUCCEEDED":
		url := ""
		if len(d.Output) > 0 {
			url = d.Output[0]
		}
		return provider.Done(Name, d.ID, url)
	case "FAILED":
		for _, f := range failures {
			if strings.HasPrefix(d.FailureCode, f.head) {
				return f.rule.Fail(Name, d.ID, d.FailureCode, d.Failure)
			}
		}
	case "CANCELLED", "CANCELED":
		return provider.Rule{Code: fault.ProviderRejected, Meaning: "the task was canceled at Runway"}.Fail(Name, d.ID, "canceled", "")
	case "RUNNING":
		r := provider.Unfinished(d.ID, d.Status, stateWords)
		r.Progress = percent(d.Progress)
		return r
	}
	return provider.Unfinished(d.ID, d.Status, stateWords)
}

// percent is a progress of 0 to 1, or of 0 to 100, below the end.
func percent(p float64) int {
	if p <= 1 {
		p *= 100
	}
	return int(min(max(p, 0), 99))
}

func (a *Adapter) header() http.Header {
	h := provider.Bearer(a.account.APIKey)
	h.Set("X-Runway-Version", version)
	return h
}
