// Package providertest is the one suite that every adapter passes against the
// simulator, which speaks the provider's true wire and counts every task that
// it accepts. It proves the contract of pkg/provider: how each outcome is
// classed, that nothing is ever submitted twice, and that no callback is
// believed that the provider did not sign.
//
// Run runs it in a test, Certify anywhere. It imports no simulator: that is
// reached by its doors.
package providertest

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/provider"
)

// Webhooks is what a provider's callbacks are worth.
type Webhooks int

// The kinds of callbacks.
const (
	None        Webhooks = iota // it sends none
	Hints                       // unsigned: a reason to poll
	TokenHints                  // with a signed token that binds no body
	SignedHints                 // signed, but too thin to act on
	Signed                      // signed and complete
)

// Simulator is the simulated provider's back door. Prompts name tasks: each
// test has its own.
type Simulator interface {
	// Tasks lists what was accepted with a prompt.
	Tasks(t T, prompt string) []Accepted
	// Move takes a task to a state and sends its webhook.
	Move(t T, taskID, state string)
}

// Accepted is a task that the simulator has accepted.
type Accepted struct {
	ID, State string
	Source    string // what it works on: the id of a task, or an address
}

// Harness is one adapter and its simulated provider.
type Harness struct {
	// Name is the provider's name in faults.
	Name string
	// New opens the adapter on an account at baseURL, with a client of its own.
	New func(baseURL string) provider.Adapter
	// BaseURL is the provider's API in the simulator.
	BaseURL   string
	Simulator Simulator
	// Task is one that the provider takes; the suite adds ids, prompt and
	// callback.
	Task     provider.Task
	Webhooks Webhooks
	// Sign, when set, signs callbacks in the simulator's place, which does not
	// know the scheme: the headers that prove body at a time, and no others.
	Sign func(body []byte, at time.Time) http.Header
	// SignatureHeader holds the signature, where its name does not say so.
	SignatureHeader string
	// Undated says that signatures bind no time: old ones verify for ever.
	Undated bool
	// Sources are the ways in which it works on videos.
	Sources []Source
	// SilentFailure says that a failure has no webhook.
	SilentFailure bool
	// NoCancel says that an adapter that can cancel cannot cancel this task.
	NoCancel bool
	// ResultUnseen says that a poll cannot tell whether there is a result.
	ResultUnseen bool
	// NoWords says that the provider has no status words: a task is done or not.
	NoWords bool
	// DefiniteServerError says that the provider documents a 5xx as a refusal.
	DefiniteServerError bool
	// PauseAtLeast is the wait after a 429 that names none.
	PauseAtLeast time.Duration
}

// check is one promise of the contract.
type check struct {
	name string
	run  func(T, *bundle)
	// alone says that it needs no simulator's back door.
	alone bool
}

var suite = []check{
	{"submit and watch to success", success, false},
	{"failure", failure, false},
	{"policy refusal is final", policy, false},
	{"rate limit", rateLimit, false},
	{"server error", serverError, false},
	{"nobody listens", refusedConnection, true},
	{"lost answers are unknown", lostAnswers, false},
	{"a caller that gives up", givesUp, false},
	{"failing polls say nothing", failingPolls, false},
	{"unknown word ends nothing", unknownWord, false},
	{"success without a result", emptyResult, false},
	{"find by external id", find, false},
	{"cancel", cancel, false},
	{"webhooks", webhooks, false},
	{"webhook of a failure", failureWebhook, false},
	{"forged and garbled webhooks", forgedWebhooks, false},
	{"works on videos", sources, false},
	{"refuses other sources", foreignSources, false},
	{"result key stays at its origin", resultKey, true},
}

// T is what a check tells of itself; *testing.T is one. Fatal, Fatalf and Skip
// do not return.
type T interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Skip(args ...any)
	Cleanup(fn func())
}

// bundle is one test's adapter and task.
type bundle struct {
	Harness
	adapter provider.Adapter
	task    provider.Task
	ctx     context.Context
}

func setup(t T, h Harness) *bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	b := &bundle{Harness: h, adapter: h.New(h.BaseURL), ctx: ctx}
	b.task = b.fresh("")
	return b
}

// fresh is a task that is no other's, with fault words in its prompt.
func (b *bundle) fresh(faults string) provider.Task {
	t := b.Task
	t.JobID, t.AttemptID = id.New(id.Video), id.New(id.Attempt)
	t.Prompt = strings.TrimSpace("a lighthouse for " + t.JobID + " " + faults)
	return t
}

// submit submits b.task, which must be taken exactly once.
func (b *bundle) submit(t T) (taskID string, sim Accepted) {
	t.Helper()
	taskID, err := b.adapter.Submit(b.ctx, b.task)
	if err != nil {
		t.Fatalf("submit: %v", err)
	}
	sim = b.accepted(t, b.task)
	// A task id may be a path that ends in the provider's own.
	if !strings.HasSuffix(taskID, sim.ID) {
		t.Fatalf("the task is called %q, the provider calls it %q", taskID, sim.ID)
	}
	return taskID, sim
}

// accepted is the one task that the simulator took.
func (b *bundle) accepted(t T, task provider.Task) Accepted {
	t.Helper()
	all := b.Simulator.Tasks(t, task.Prompt)
	if len(all) != 1 {
		t.Fatalf("the provider accepted %d tasks", len(all))
	}
	return all[0]
}

func (b *bundle) poll(t T, taskID string) provider.Report {
	t.Helper()
	r, err := b.adapter.Poll(b.ctx, taskID, b.task)
	if err != nil {
		t.Fatalf("poll: %v", err)
	}
	if r.TaskID != taskID {
		t.Errorf("poll of %q is about %q", taskID, r.TaskID)
	}
	return r
}

// failed checks a final failure.
func (b *bundle) failed(t T, r provider.Report, code fault.Code) {
	t.Helper()
	if r.State != provider.Failed || r.Err == nil || r.Err.Code != code || r.Err.Provider != b.Name || r.Err.Retryable || r.ResultURL != "" {
		t.Errorf("report is %+v with %v, want a final %s", r, r.Err, code)
	}
}

// refused returns the refusal in err, or fails.
func (b *bundle) refused(t T, err error) *fault.Error {
	t.Helper()
	var refused *provider.RefusedError
	if !errors.As(err, &refused) || refused.Fault.Provider != b.Name || refused.Fault.Message == "" {
		t.Fatalf("%v is no refusal by %s", err, b.Name)
	}
	return refused.Fault
}
