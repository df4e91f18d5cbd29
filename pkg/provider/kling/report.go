package kling

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/webhooksig"
)

// errorTable is Kling's error codes. A code that is not here leaves the outcome
// unknown. Source: klingai.com document-api, general information.
var errorTable = map[int]provider.Rule{
	1000: auth, 1001: auth, 1002: auth,
	1003: reSign, 1004: reSign,
	1100: balance, 1101: balance, 1102: balance, // 429, and no reason to retry
	1103: {Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "our account at Kling may not do this"},
	1200: invalid, 1201: invalid,
	1202: {Code: fault.ProviderRejected, Meaning: "Kling does not offer this"},
	1203: {Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "Kling does not offer this model to our account"},
	1300: refused, 1301: refused,
	1302: busy, 1303: busy,
	1304: {Code: fault.ProviderUnavailable, Cause: provider.NoAccess, Meaning: "our address is not on Kling's list"},
}

var (
	auth    = provider.Rule{Code: fault.ProviderUnavailable, Cause: provider.BadKey, Meaning: "Kling refused our key"}
	reSign  = provider.Rule{Code: fault.ProviderUnavailable, Retry: true, Cause: provider.BadKey, Meaning: "Kling's clock and ours differ"}
	balance = provider.Rule{Code: fault.ProviderUnavailable, Cause: provider.NoBalance, Meaning: "our balance at Kling is used up"}
	invalid = provider.Rule{Code: fault.InvalidRequest, Meaning: "Kling refused a parameter"}
	refused = provider.Rule{Code: fault.ContentPolicy, Meaning: "Kling's content policy refused it; revise the prompt or image"}
	busy    = provider.Rule{Code: fault.RateLimited, Retry: true, Meaning: "Kling asks us to slow down"}
	broken  = provider.Rule{Code: fault.ProviderRejected, Meaning: "the render failed at Kling"}
)

// policyMarks are the words by which failures by policy are told.
var policyMarks = []string{"risk control", "sensitive"}

var stateWords = map[string]provider.State{"submitted": provider.Queued, "processing": provider.Running}

// task is a task of either generation: the old one's fields first.
type task struct {
	TaskID    string `json:"task_id"`
	Status    string `json:"task_status"`
	StatusMsg string `json:"task_status_msg"`
	Result    struct {
		Videos []video `json:"videos"`
	} `json:"task_result"`

	Info struct {
		External string `json:"external_task_id"`
	} `json:"task_info"`

	NewID      string  `json:"id"`
	External   string  `json:"external_id"`
	NewStatus  string  `json:"status"`
	NewMessage string  `json:"message"`
	Outputs    []video `json:"outputs"`
}

type video struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	URL  string `json:"url"`
}

func (d task) id() string {
	if d.TaskID != "" {
		return d.TaskID
	}
	return d.NewID
}

func (d task) word() string {
	if d.Status != "" {
		return d.Status
	}
	return d.NewStatus
}

func (d task) url() string {
	for _, v := range append(d.Result.Videos, d.Outputs...) {
		if v.URL != "" && (v.Type == "" || v.Type == "video") {
			return v.URL
		}
	}
	return ""
}

// decode reads a task, or a list of one.
func decode(data []byte) (task, bool) {
	var d task
	if err := json.Unmarshal(data, &d); err != nil {
		var list []task
		if json.Unmarshal(data, &list) != nil || len(list) != 1 {
			return task{}, false
		}
		d = list[0]
	}
	return d, d.id() != ""
}

// ParseWebhook implements provider.WebhookParser. A callback is a bare task, in
// the shape of its generation.
func (a *Adapter) ParseWebhook(_ context.Context, h http.Header, body []byte, now time.Time) (provider.Report, error) {
	signed := len(a.cfg.WebhookKeys) > 0
	if signed && webhooksig.Standard(a.cfg.WebhookKeys, h, body, now) != nil {
		return provider.Report{}, provider.ErrBadSignature
	}
	var d task
	if err := json.Unmarshal(body, &d); err != nil {
		return provider.Report{}, fmt.Errorf("%w: %w", provider.ErrBadBody, err)
	}
	if d.id() == "" || d.word() == "" {
		return provider.Report{}, fmt.Errorf("%w: no task id or status", provider.ErrBadBody)
	}
	r := report(d)
	r.Hint = !signed
	return r, nil
}

func report(d task) provider.Report {
	switch d.word() {
	case "succeed", "succeeded":
		return provider.Done(Name, d.id(), d.url())
	case "failed":
		detail := d.StatusMsg + d.NewMessage // one of the two
		if provider.Policy(detail, policyMarks...) {
			return refused.Fail(Name, d.id(), "failed", detail)
		}
		return broken.Fail(Name, d.id(), "failed", detail)
	}
	return provider.Unfinished(d.id(), d.word(), stateWords)
}
