// Package declared is an adapter for any provider of the plain kind: submit a
// JSON body, poll a task by its id, take a webhook. An operator describes it in
// YAML, and the suite of pkg/provider/providertest certifies the description
// like any other adapter.
//
// It has no notion of two calls for one result, of keys that are fetched to verify
// signatures, or of more than one API of a provider: those take an adapter of
// their own. Nothing in a description can make it submit twice or believe an
// unsigned callback.
package declared

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
)

// Spec is one provider as data.
type Spec struct {
	// Name is its name in jobs, subjects and URLs.
	Name    string `yaml:"name"`
	BaseURL string `yaml:"base_url"`
	// KeyFile holds the API key; {key} stands for it in Headers.
	KeyFile string            `yaml:"key_file"`
	Headers map[string]string `yaml:"headers"`
	Submit  Submit            `yaml:"submit"`
	Poll    Call              `yaml:"poll"`
	Cancel  *Call             `yaml:"cancel"` // left out when it cancels nothing
	Task    Task              `yaml:"task"`   // how polls and webhooks show a task
	Errors  Errors            `yaml:"errors"`
	Webhook *Webhook          `yaml:"webhook"` // left out when it sends none
}

// Call is one HTTP call; {model} and {task_id} stand for themselves, escaped.
type Call struct {
	Method string `yaml:"method"` // GET, and POST for a submit and a cancel, when left out
	Path   string `yaml:"path"`
}

// Submit is the call that creates a task.
type Submit struct {
	Call `yaml:",inline"`
	// Image is the path when there is a first frame; Path when left out.
	Image string `yaml:"image_path"`
	// Video and Extend are the paths of a source video that is made anew, or goes
	// on: {video_url} in Body, or {source_task} there or in the path, is where it
	// goes. A source that has no such place is refused.
	Video  string `yaml:"video_path"`
	Extend string `yaml:"extend_path"`
	// Body is a tree whose strings may be fields in braces, such as {prompt}. A
	// field alone keeps its type, and one that is empty takes its key along.
	Body map[string]any `yaml:"body"`
	// TaskID is where the answer has the task's id: names and positions with
	// dots between.
	TaskID string `yaml:"task_id"`
}

// Task is where a task's parts are, and what its words mean.
type Task struct {
	ID     string   `yaml:"id"`
	Status string   `yaml:"status"`
	Result []string `yaml:"result"` // the first place that holds text
	// Error and Code are where a failure has its text and code.
	Error string `yaml:"error"`
	Code  string `yaml:"code"`
	// States are the provider's words for queued, running, succeeded and
	// failed. Any other word ends nothing.
	States map[provider.State][]string `yaml:"states"`
	// Policy are marks, in lower case, of a refusal by content policy in a
	// failure's text or code.
	Policy []string `yaml:"policy"`
}

// Errors classes the answers to a submit. What is in neither table leaves the
// outcome unknown.
type Errors struct {
	Message string          `yaml:"message"` // where the text is
	Code    string          `yaml:"code"`    // where the provider's code is
	Codes   map[string]Rule `yaml:"codes"`   // looked at first, below 500
	Status  map[int]Rule    `yaml:"status"`
}

// Rule is a row of an error table.
type Rule struct {
	Code  fault.Code `yaml:"code"`
	Retry bool       `yaml:"retry"`
	// Cause is bad_key, no_balance, no_access or no_quota where an operator has to act.
	Cause   provider.Cause `yaml:"cause"`
	Meaning string         `yaml:"meaning"`
}

func (r Rule) rule() provider.Rule {
	return provider.Rule{Code: r.Code, Retry: r.Retry, Cause: r.Cause, Meaning: r.Meaning}
}

var (
	nameForm = regexp.MustCompile(`^[a-z][a-z0-9-]{1,30}$`)
	codes    = []fault.Code{fault.InvalidRequest, fault.ContentPolicy, fault.RateLimited, fault.PayloadTooLarge, fault.ProviderRejected, fault.ProviderUnavailable}
	causes   = []provider.Cause{"", provider.BadKey, provider.NoBalance, provider.NoAccess, provider.NoQuota}
	states   = []provider.State{provider.Queued, provider.Running, provider.Succeeded, provider.Failed}
)

// Parse reads a YAML list of descriptions. Every fault of every one is named,
// and a word that is not known is one.
func Parse(data []byte) ([]Spec, error) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	var specs []Spec
	if err := dec.Decode(&specs); err != nil {
		return nil, fmt.Errorf("parse providers: %w", err)
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("parse providers: another document begins, after a line of three dashes; a file is one list")
	}
	var errs []error
	seen := map[string]bool{}
	for i := range specs {
		s := &specs[i]
		if seen[s.Name] {
			errs = append(errs, fmt.Errorf("provider %q: is described twice", s.Name))
		}
		seen[s.Name] = true
		errs = append(errs, s.check()...)
		s.fill()
	}
	return specs, errors.Join(errs...)
}

// fill sets what may be left out.
func (s *Spec) fill() {
	method := func(c *Call, m string) {
		if c.Method == "" {
			c.Method = m
		}
	}
	method(&s.Submit.Call, http.MethodPost)
	method(&s.Poll, http.MethodGet)
	if s.Cancel != nil {
		method(s.Cancel, http.MethodPost)
	}
}

func (s *Spec) check() (errs []error) {
	bad := func(format string, a ...any) {
		errs = append(errs, fmt.Errorf("provider %q: "+format, append([]any{s.Name}, a...)...))
	}
	if !nameForm.MatchString(s.Name) {
		bad("name must be of a-z, 0-9 and -")
	}
	if !strings.HasPrefix(s.BaseURL, "https://") && !strings.HasPrefix(s.BaseURL, "http://") {
		bad("base_url must be a URL")
	}
	for field, v := range map[string]string{"submit.path": s.Submit.Path, "poll.path": s.Poll.Path} {
		if !strings.HasPrefix(v, "/") {
			bad("%s must begin with /", field)
		}
	}
	if !strings.Contains(s.Poll.Path, "{task_id}") || s.Cancel != nil && !strings.Contains(s.Cancel.Path, "{task_id}") {
		bad("the paths of poll and cancel must name {task_id}")
	}
	if s.Submit.TaskID == "" || s.Task.ID == "" || s.Task.Status == "" || len(s.Task.Result) == 0 || len(s.Submit.Body) == 0 {
		bad("submit.body, submit.task_id, task.id, task.status and task.result are needed")
	}
	for state := range s.Task.States {
		if !slices.Contains(states, state) {
			bad("task.states has no %q: use queued, running, succeeded, failed", state)
		}
	}
	if len(s.Task.States[provider.Succeeded]) == 0 || len(s.Task.States[provider.Failed]) == 0 {
		bad("task.states needs words for succeeded and failed")
	}
	check := func(row any, r Rule) {
		if !slices.Contains(codes, r.Code) || r.Meaning == "" {
			bad("errors: %v needs a meaning and one of the codes %v", row, codes)
		}
		if !slices.Contains(causes, r.Cause) || r.Cause != "" && r.Code == fault.RateLimited {
			bad("errors: %v has cause %q: use bad_key, no_balance, no_access or no_quota, and none with rate_limited", row, r.Cause)
		}
	}
	for status, r := range s.Errors.Status {
		check(status, r)
		if status < 400 || status >= 500 {
			bad("errors: status %d: only a 4xx is a refusal; after anything else a task may exist", status)
		}
	}
	for code, r := range s.Errors.Codes {
		check(code, r)
	}
	for name := range fields(s.Submit.Body) {
		if _, ok := values(provider.Task{})[name]; !ok {
			bad("submit.body: {%s} is no field of a task", name)
		}
	}
	if s.Webhook != nil {
		for _, err := range s.Webhook.check() {
			if err != nil {
				bad("%w", err)
			}
		}
	}
	return errs
}
