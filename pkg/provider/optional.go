package provider

import (
	"context"
	"errors"
	"net/http"
)

// What only some providers can do. An adapter implements these beside Adapter.

// ErrTooLate is in the chain of Cancel's error when the task has ended, or has
// gone too far to be stopped: it takes its course.
var ErrTooLate = errors.New("the task can no longer be canceled")

// ErrNoTask is in the chain of a poll's error when the provider says that it
// does not know the task. It proves nothing by itself; after a cancel that was
// asked for it does, at those that forget what they canceled.
var ErrNoTask = errors.New("the provider does not know the task")

// Verifier is a WebhookParser of a provider that can call one address for all
// tasks, which no token of ours protects. VerifiesWebhooks reports whether
// ParseWebhook refuses whatever the provider did not sign.
type Verifier interface {
	VerifiesWebhooks() bool
}

// Canceler is an Adapter that can ask for the end of a task.
//
// A nil error says that the provider took the request, and no more: the verdict
// and the charge still come by poll or webhook, and a task may finish all the
// same; some providers no longer know a task that they canceled. ErrTooLate
// says that it surely goes on or has ended. Any other error says nothing of the
// task; Cancel may then be called again, for it is idempotent. It never deletes
// a finished task.
type Canceler interface {
	Cancel(ctx context.Context, taskID string, t Task) error
}

// Challenger is a WebhookParser whose provider tests a callback URL before it
// uses it, while the submit is under way: no task exists then. When ok, the
// answer is to be sent with status 200 as application/json and nothing else
// done. body is the raw bytes of a request to a URL that is proven to be ours.
type Challenger interface {
	Challenge(body []byte) (answer []byte, ok bool)
}

// Downloader is an Adapter whose results are fetched with its key. Header is
// what to send with a GET of rawURL: nil for a URL that is not the provider's
// own, so that a key never leaves for another origin.
type Downloader interface {
	ResultHeader(rawURL string) http.Header
}
