package run_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"reelway.dev/pkg/run"
)

// served is a service with telemetry and one door that was knocked at once.
func served(t *testing.T, host string, processors ...sdktrace.SpanProcessor) http.Handler {
	t.Helper()
	metrics, flush, err := run.Telemetry(t.Context(), "test", processors...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := flush(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /things/{id}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	req := httptest.NewRequest(http.MethodGet, "/things/7", nil)
	req.Host = host
	run.Traced(mux).ServeHTTP(httptest.NewRecorder(), req)
	return metrics
}

func scrape(h http.Handler, accept string) string {
	req := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	req.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w.Body.String()
}

//nolint:paralleltest // the telemetry is the process's
func TestExemplarsLeadToTraces(t *testing.T) {
	rec := tracetest.NewSpanRecorder()
	h := served(t, "a-stranger.example", rec)
	ended := rec.Ended()
	if len(ended) != 1 || ended[0].Name() != "GET /things/{id}" {
		t.Fatalf("%v", ended)
	}
	text := scrape(h, "application/openmetrics-text; version=1.0.0")
	if want := `trace_id="` + ended[0].SpanContext().TraceID().String() + `"`; !strings.Contains(text, " # {") || !strings.Contains(text, want) {
		t.Errorf("no exemplar %s in\n%s", want, text)
	}
	if plain := scrape(h, "text/plain"); strings.Contains(plain, " # {") || !strings.Contains(plain, "http_server_request_duration_seconds_count") {
		t.Error("a reader that knows no exemplars is given some, or no metrics")
	}
	if !strings.Contains(text, `http_route="/things/{id}"`) || strings.Contains(text, "a-stranger.example") || strings.Contains(text, "body_size") {
		t.Errorf("labels are not bounded:\n%s", text)
	}
}

//nolint:paralleltest // the telemetry is the process's
func TestSamplerIsTheOperators(t *testing.T) {
	t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
	t.Setenv("OTEL_TRACES_SAMPLER_ARG", "0")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=1.2.3,k8s.namespace.name=reelway")
	rec := tracetest.NewSpanRecorder()
	h := served(t, "here", rec)
	for _, s := range rec.Ended() {
		if s.SpanContext().IsSampled() {
			t.Errorf("%s was sampled against the setting", s.Name())
		}
	}
	text := scrape(h, "application/openmetrics-text; version=1.0.0")
	if strings.Contains(text, " # {") {
		t.Error("an exemplar leads to a trace that is not kept")
	}
	if !strings.Contains(text, `k8s_namespace_name="reelway"`) || !strings.Contains(text, `service_version="1.2.3"`) || !strings.Contains(text, `service_name="test"`) {
		t.Errorf("the resource is not what the environment says:\n%s", text)
	}
}

//nolint:paralleltest // the telemetry is the process's
func TestTracesAreSent(t *testing.T) {
	got := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case got <- r.Method + " " + r.URL.Path + " " + r.Header.Get("Authorization"):
		default:
		}
	}))
	defer srv.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", srv.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer x")
	_, flush, err := run.Telemetry(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	run.Traced(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	if err := flush(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	select {
	case what := <-got:
		if what != "POST /v1/traces Bearer x" {
			t.Error(what)
		}
	default:
		t.Error("no trace was sent before the end")
	}
}
