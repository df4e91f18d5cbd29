package provider_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
)

func TestSameOrigin(t *testing.T) {
	t.Parallel()
	const base = "https://api.example:8443/v1"
	for raw, want := range map[string]bool{
		"https://api.example:8443/v1/files/f": true, "https://API.example:8443/": true,
		"http://api.example:8443/": false, "https://api.example/": false, "https://api.example:8443.evil.example/": false,
		"https://user@api.example:8443/": false, "https://api.example:8443@evil.example/": false, "//api.example:8443/": false, "": false, ":": false,
	} {
		if got := provider.SameOrigin(base, raw); got != want {
			t.Errorf("%s: %v", raw, got)
		}
	}
	if provider.SameOrigin("", "/v1") {
		t.Error("two paths have no origin to share")
	}
}

// What a provider says is repeated, but bounded, and stays text.
func TestFaultRepeatsLittle(t *testing.T) {
	t.Parallel()
	r := provider.Rule{Code: fault.InvalidRequest, Meaning: "refused"}
	for detail, want := range map[string]string{"": "refused", "  ": "refused", "why": "refused: why", "a\xffb": "refused: ab"} {
		if f := r.Fault("p", "c", detail); f.Message != want || f.Provider != "p" || f.ProviderCode != "c" || f.Retryable {
			t.Errorf("%q: %+v", detail, f)
		}
	}
	if f := r.Fault("p", "c", strings.Repeat("é", 10_000)); len(f.Message) > 600 || !utf8.ValidString(f.Message) {
		t.Errorf("%d bytes", len(f.Message))
	}
}

// A verdict is final whatever the rule says of a submit.
func TestFailIsFinal(t *testing.T) {
	t.Parallel()
	r := provider.Rule{Code: fault.RateLimited, Retry: true, Meaning: "busy"}.Fail("p", "t1", "c", "")
	if r.State != provider.Failed || r.Err.Retryable || r.TaskID != "t1" {
		t.Errorf("%+v", r)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"7": 7 * time.Second, "": 0, "soon": 0, "-5": 0, "999999": time.Hour,
		"10000000000": time.Hour, "9223372036854775807": time.Hour, "99999999999999999999": time.Hour, "-99999999999999999999": 0, "-10000000000": 0,
		"Wed, 25 Nov 2026 12:00:30 GMT": 30 * time.Second, "Wed, 25 Nov 2026 11:00:00 GMT": 0, "Fri, 27 Nov 2026 12:00:00 GMT": time.Hour,
	} {
		a := provider.Answer{Header: http.Header{"Retry-After": {value}}}
		if got := a.RetryAfter(now); got != want {
			t.Errorf("%q: %v", value, got)
		}
	}
}

// The body that cannot be sent was not sent, and a header of the adapter wins.
func TestAccountJSON(t *testing.T) {
	t.Parallel()
	var seen http.Header
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header }))
	defer srv.Close()
	a := provider.Account{BaseURL: srv.URL + "/", Client: srv.Client()}.At("/v1")
	if a.BaseURL != srv.URL+"/v1" {
		t.Error(a.BaseURL)
	}
	if _, err := a.JSON(context.Background(), http.MethodPost, "/x", http.Header{"Accept": {"x/y"}}, map[string]int{}); err != nil || seen.Get("Accept") != "x/y" ||
		seen.Get("Content-Type") != "application/json" || seen.Get("Idempotency-Key") != "" {
		t.Error(err, seen)
	}
	var notSent *provider.NotSentError
	if _, err := a.JSON(context.Background(), http.MethodPost, "/x", nil, make(chan int)); !errors.As(err, &notSent) {
		t.Error(err)
	}
}
