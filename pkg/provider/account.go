package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Account is one account at a provider, as an adapter is opened with. Client
// and Now have to be set. The client must neither repeat nor redirect by
// itself; Call sees to the rest.
type Account struct {
	BaseURL string // scheme and host; the adapter adds the API's paths
	APIKey  string
	Client  *http.Client
	Now     func() time.Time
}

// At is the account with path behind its base URL.
func (a Account) At(path string) Account {
	a.BaseURL = strings.TrimRight(a.BaseURL, "/") + path
	return a
}

// JSON makes one call with a JSON body, or with none when body is nil. h holds
// the provider's own headers and wins. Its errors are Call's.
func (a Account) JSON(ctx context.Context, method, path string, h http.Header, body any) (*Answer, error) {
	var raw []byte
	head := http.Header{"Accept": {"application/json"}}
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return nil, &NotSentError{Err: err}
		}
		head.Set("Content-Type", "application/json")
	}
	for k, v := range h {
		head[http.CanonicalHeaderKey(k)] = v
	}
	return Call(ctx, a.Client, method, a.BaseURL+path, head, raw)
}

// Bearer is an Authorization header.
func Bearer(key string) http.Header { return http.Header{"Authorization": {"Bearer " + key}} }

// Read makes one GET and decodes its 200 into v. Every other answer is an
// error, which says nothing of the task that was asked for. A 404 in the
// provider's JSON, which no proxy on the way wrote, has ErrNoTask in its chain.
func (a Account) Read(ctx context.Context, path string, h http.Header, v any) error {
	ans, err := a.JSON(ctx, http.MethodGet, path, h, nil)
	if err != nil {
		return fmt.Errorf("read task: %w", err)
	}
	if ans.Status == http.StatusNotFound && json.Valid(ans.Body) && len(ans.Body) > 0 {
		return fmt.Errorf("read task: %w", ErrNoTask)
	}
	if ans.Status != http.StatusOK {
		return fmt.Errorf("read task: status %d", ans.Status)
	}
	if err := json.Unmarshal(ans.Body, v); err != nil {
		return fmt.Errorf("parse task: %w", err)
	}
	return nil
}

// Rules is an error table by HTTP status. A status that is not there leaves the
// outcome of a submit unknown.
type Rules map[int]Rule

// Submit is the error of a submit that was answered with no success. code and
// detail are the provider's own; without a code the status stands for it.
func (rs Rules) Submit(provider string, ans *Answer, code, detail string, now time.Time) error {
	rule, ok := rs[ans.Status]
	if !ok {
		return fmt.Errorf("submit answered %d", ans.Status)
	}
	if code == "" {
		code = strconv.Itoa(ans.Status)
	}
	return rule.Refuse(provider, code, detail, ans.RetryAfter(now))
}
