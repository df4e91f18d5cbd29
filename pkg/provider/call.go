package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"

	"reelway.dev/pkg/fault"
)

// MaxBody bounds every answer of a provider, in bytes.
const MaxBody = 1 << 20

// Answer is a provider's complete answer.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// NotSentError says that a call failed before its head was written: the
// provider surely has not seen it.
type NotSentError struct{ Err error }

// Error implements error.
func (e *NotSentError) Error() string { return "not sent: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *NotSentError) Unwrap() error { return e.Err }

// Call makes one HTTP call and reads its whole answer. It repeats nothing and
// follows no redirect. It never sets Idempotency-Key: net/http resends a POST
// that carries one. A failure before the head was written is a *NotSentError;
// after any other the provider may have acted.
func Call(ctx context.Context, c *http.Client, method, url string, h http.Header, body []byte) (*Answer, error) {
	var wrote atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaderField: func(string, []string) { wrote.Store(true) }, WroteHeaders: func() { wrote.Store(true) }})
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, &NotSentError{err}
	}
	for k, v := range h {
		req.Header[k] = v
	}
	// A body that cannot be rewound is a body that net/http cannot resend.
	req.GetBody = nil
	client := *c
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		if !wrote.Load() {
			return nil, &NotSentError{err}
		}
		return nil, fmt.Errorf("call provider: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if len(data) > MaxBody {
		return nil, errors.New("read answer: larger than 1 MiB")
	}
	return &Answer{Status: resp.StatusCode, Header: resp.Header, Body: data}, nil
}

// RetryAfter is the wait that an answer asks for: seconds or an HTTP date
// (RFC 9110 §10.2.3); 0 when it asks for none. It is at most an hour.
func (a *Answer) RetryAfter(now time.Time) time.Duration {
	v := a.Header.Get("Retry-After")
	var d time.Duration
	if n, err := strconv.ParseInt(v, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		d = time.Duration(min(max(n, 0), int64(time.Hour/time.Second))) * time.Second // bounded first: a product wraps
	} else if t, err := http.ParseTime(v); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), time.Hour)
}

// Refused classes a definite refusal; a NotSentError becomes one that may be
// repeated. Any other error passes unchanged: its outcome is unknown.
func Refused(provider string, err error) error {
	var notSent *NotSentError
	if errors.As(err, &notSent) {
		f := fault.Wrap(err, fault.ProviderUnavailable, "%s could not be reached", provider)
		f.Provider = provider
		return &RefusedError{Fault: f}
	}
	return err
}
