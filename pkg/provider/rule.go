package provider

import (
	"net/url"
	"strings"
	"time"

	"reelway.dev/pkg/fault"
)

// Rule is one row of an adapter's error table: what a provider's code means.
type Rule struct {
	Code fault.Code
	// Retry says that the same task may be submitted again later.
	Retry bool
	// Cause is set where an operator has to act.
	Cause Cause
	// Meaning is a sentence for people; the provider's own words follow it.
	Meaning string
}

// maxDetail bounds what is repeated of a provider's words, in bytes.
const maxDetail = 500

// Fault is a fault of this rule. code is the provider's own, detail its words;
// either may be empty.
func (r Rule) Fault(provider, code, detail string) *fault.Error {
	text := r.Meaning
	if detail = strings.TrimSpace(strings.ToValidUTF8(detail, "")); detail != "" {
		if len(detail) > maxDetail {
			detail = strings.ToValidUTF8(detail[:maxDetail], "") + "…"
		}
		text += ": " + detail
	}
	f := fault.New(r.Code, "%s", text)
	f.Provider, f.ProviderCode, f.Retryable = provider, code, r.Retry
	return f
}

// Refuse is the refusal of a submit by this rule; after is the wait that the
// provider asks for, 0 for none.
func (r Rule) Refuse(provider, code, detail string, after time.Duration) *RefusedError {
	f := r.Fault(provider, code, detail)
	f.RetryAfter = after
	return &RefusedError{Fault: f, Cause: r.Cause}
}

// Fail is the report of a task that failed for the reason of this rule.
func (r Rule) Fail(provider, taskID, code, detail string) Report {
	f := r.Fault(provider, code, detail)
	f.Retryable = false // a verdict is final; another try is another task
	return Report{TaskID: taskID, State: Failed, Progress: -1, Err: f, Cause: r.Cause, Canceled: canceledCodes[strings.ToLower(code)]}
}

// canceledCodes are the codes of tasks that ended by a cancel, as providers
// spell them.
var canceledCodes = map[string]bool{"canceled": true, "cancelled": true, "request_cancelled": true}

// Done is the report of a finished task. One without a video has failed: a
// success that cannot be shown must not be charged.
func Done(provider, taskID, resultURL string) Report {
	if resultURL == "" {
		return Rule{Code: fault.ProviderRejected, Meaning: provider + " reported success without a video"}.Fail(provider, taskID, "empty_result", "")
	}
	return Report{TaskID: taskID, State: Succeeded, Progress: 100, ResultURL: resultURL}
}

// Unfinished is the report of a status word that ends nothing. words are the
// adapter's words for Queued and Running; any other is Running and told as
// unknown.
func Unfinished(taskID, word string, words map[string]State) Report {
	r := Report{TaskID: taskID, State: words[word], Progress: -1}
	if r.State == "" {
		r.State, r.UnknownWord = Running, word
	}
	return r
}

// Policy reports whether any of the marks is in a provider's free text, for
// those that tell a policy refusal by words alone.
func Policy(text string, marks ...string) bool {
	text = strings.ToLower(text)
	for _, m := range marks {
		if strings.Contains(text, m) {
			return true
		}
	}
	return false
}

// SameOrigin reports whether rawURL has base's scheme, host and port: a key
// goes nowhere else.
func SameOrigin(base, rawURL string) bool {
	a, err := url.Parse(base)
	b, berr := url.Parse(rawURL)
	return err == nil && berr == nil && a.Host != "" && a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host) && b.User == nil
}
