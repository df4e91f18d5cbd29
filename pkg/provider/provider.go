// Package provider is the small contract between Reelway and one provider of
// video models. An adapter translates; it keeps no state, repeats no task that may
// exist and moves no money. Each adapter lives in a folder of its own.
package provider

import (
	"context"
	"errors"
	"net/http"
	"time"

	"reelway.dev/pkg/fault"
)

// Task is one submission to a provider: the attempt's own record.
type Task struct {
	// JobID and AttemptID are Reelway's; AttemptID is sent as the external id
	// where a provider takes one.
	JobID, AttemptID string
	// Model is the provider's own name of the model.
	Model          string
	Prompt         string
	NegativePrompt string
	Duration       int    // seconds
	Resolution     string // "720p"
	AspectRatio    string // "16:9"
	Width, Height  int    // pixels
	ImageURL       string // first frame, https
	EndImageURL    string // last frame, https
	// VideoURL (https) or SourceTask, the provider's id of the task that made it,
	// is a video that is to be made anew or, with Extend, to go on.
	VideoURL, SourceTask string
	Extend               bool
	Seed                 *int64
	Audio                bool
	Watermark            bool
	// CallbackURL carries job, attempt and token; empty when callbacks are off.
	CallbackURL string
}

// OfVideo reports whether the task works on a video.
func (t Task) OfVideo() bool { return t.VideoURL != "" || t.SourceTask != "" }

// State is a provider's status word, normalised.
type State string

// The normal states. A word that an adapter does not know is Running.
const (
	Queued    State = "queued"
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
)

// Report is what a provider says of a task, by poll or by webhook.
type Report struct {
	TaskID    string
	State     State
	Progress  int    // 0–100, or -1 when the provider gives none
	ResultURL string // set with Succeeded
	Err       *fault.Error
	// Cause is set, with Failed, when it is for an operator to act.
	Cause Cause
	// Canceled says that a task that Failed was canceled, by whomever.
	Canceled bool
	// UnknownWord is a status word that the adapter does not know.
	UnknownWord string
	// Hint is true when the report is not proof (an unsigned callback): the
	// caller polls before acting on it.
	Hint bool
}

// Adapter talks to one provider.
//
// Submit sends the task once and returns the provider's task id; one that was
// surely refused for its callback address alone may go once more without. Its
// errors are classed at this edge: a *RefusedError was surely not accepted; every
// other error means that the outcome is unknown. Poll asks for the state of a task;
// its errors never say anything about the task. Both honour ctx.
type Adapter interface {
	Submit(ctx context.Context, t Task) (taskID string, err error)
	Poll(ctx context.Context, taskID string, t Task) (Report, error)
}

// Finder is an Adapter that can look for a task whose submission's outcome is
// unknown. found=false with a nil error is proof that it does not exist now.
type Finder interface {
	Find(ctx context.Context, t Task) (r Report, found bool, err error)
}

// WebhookParser verifies and parses a provider's callback. body is the raw
// bytes. It returns ErrBadSignature or ErrBadBody (wrapped) when it must be
// refused, and ErrKeysUnavailable when it should be sent again. It may be
// called concurrently.
type WebhookParser interface {
	ParseWebhook(ctx context.Context, h http.Header, body []byte, now time.Time) (Report, error)
}

// Errors of WebhookParser.
var (
	ErrBadSignature    = errors.New("signature does not verify")
	ErrBadBody         = errors.New("body is not a callback of this provider")
	ErrKeysUnavailable = errors.New("verification keys cannot be fetched now")
)

// Cause is why a provider refuses us and not the task: something that an
// operator has to mend, for neither another try nor another task will.
type Cause string

// The causes. A refusal of the task itself, a rate limit and an overload have
// none.
const (
	// BadKey is a key that is wrong or revoked: no call with it succeeds.
	BadKey Cause = "bad_key"
	// NoBalance is a balance or a quota that is used up: no submit of the
	// account succeeds until it is filled.
	NoBalance Cause = "no_balance"
	// NoAccess is a model, a region or an address that is not open to the
	// account; other models may go on.
	NoAccess Cause = "no_access"
	// NoQuota is a quota of one model that is used up, such as a day's: other
	// models may go on, and this one again in time, or by a larger quota.
	NoQuota Cause = "no_quota"
)

// OfModel reports whether a cause is of one model, and not of the whole account.
func (c Cause) OfModel() bool { return c == NoAccess || c == NoQuota }

// RefusedError says that a submission was surely not accepted. Fault tells why;
// Fault.Retryable tells whether another attempt may be made, after
// Fault.RetryAfter. Cause is set when it is for an operator to act.
type RefusedError struct {
	Fault *fault.Error
	Cause Cause
}

// Error implements error.
func (e *RefusedError) Error() string { return "refused: " + e.Fault.Error() }

// Unwrap returns the fault.
func (e *RefusedError) Unwrap() error { return e.Fault }
