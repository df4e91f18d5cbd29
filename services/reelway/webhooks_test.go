package reelway_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/natstest"
	"reelway.dev/pkg/rpc"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
	"reelway.dev/services/reelway"
)

// startOn runs a stack on a NATS server that the test reaches too.
func startOn(t *testing.T, nats string, processors ...sdktrace.SpanProcessor) (*reelway.Stack, func()) {
	t.Helper()
	return launch(t, []string{"REELWAY_NATS_URL=" + nats, "REELWAY_DATA_DIR=" + dataDir(t), "REELWAY_SIMULATOR_RENDER=400ms", "REELWAY_WEBHOOK_SCHEDULE=100ms,1h"},
		slog.New(slog.DiscardHandler), processors...)
}

// inbox takes webhooks and answers as it is told.
type inbox struct {
	mu     sync.Mutex
	status int
	types  []string
}

func (x *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var m struct{ Type string }
	data, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(data, &m)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.types = append(x.types, m.Type)
	w.WriteHeader(x.status)
}

func (x *inbox) answer(status int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.status = status
}

func (x *inbox) count(event string) (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, t := range x.types {
		if t == event {
			n++
		}
	}
	return n
}

// The verbs of webhooks and of dead letters, and a delivery in the trace of its
// video's request.
//
//nolint:paralleltest // the telemetry is the process's
func TestWebhookCommands(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	nats := natstest.NewServer(t)
	st, stop := startOn(t, nats.URL(), spans)
	defer stop()
	x := &inbox{status: http.StatusOK}
	srv := httptest.NewServer(x)
	defer srv.Close()
	sh := shell{t, []string{"--server", st.GRPCAddr, "--key", st.AdminKey}}
	of := []string{"--account", st.AccountID}
	with := func(args ...string) []string { return append(args, of...) }

	var made struct {
		Endpoint struct {
			ID          string   `json:"id"`
			HeaderNames []string `json:"header_names"`
			Enabled     bool     `json:"enabled"`
		} `json:"endpoint"`
		Secret string `json:"secret"`
	}
	sh.json(&made, with("webhooks", "create", srv.URL, "--event", "video.completed", "--event", "video.failed", "--header", "x-team: film, tv", "--description", "of a test")...)
	id := made.Endpoint.ID
	if !strings.HasPrefix(made.Secret, "whsec_") || !strings.HasPrefix(id, "whe_") || len(made.Endpoint.HeaderNames) != 1 || made.Endpoint.HeaderNames[0] != "X-Team" {
		t.Errorf("%+v", made)
	}
	sh.fails(1, "--header", with("webhooks", "create", srv.URL, "--header", "nothing")...)
	sh.fails(1, "url: address is not allowed", with("webhooks", "create", "gopher://x")...)
	sh.fails(2, "--endpoint and --from", with("webhooks", "replay")...)
	sh.table(with("webhooks", "list"), id, srv.URL, "enabled", "video.completed,video.failed")
	sh.table(with("webhooks", "test", id), "webhook.test", "delivered", "attempt 1", "200")

	const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	video := post(t, st, http.Header{"Traceparent": {"00-" + traceID + "-00f067aa0ba902b7-01"}})
	soon(t, "the end is told", func() bool { return x.count("video.completed") == 1 })
	soon(t, "the delivery is a span of the request's trace", func() bool {
		for _, s := range spans.Ended() {
			if s.Name() == "deliver webhook" && s.SpanContext().TraceID().String() == traceID {
				return true
			}
		}
		return false
	})
	soon(t, "the log says so", func() bool {
		_, out, _ := sh.run(with("webhooks", "deliveries", "--endpoint", id, "--video", video, "--state", "delivered")...)
		return strings.Contains(out, "video.completed")
	})
	var log struct {
		Deliveries []struct {
			ID string `json:"id"`
		} `json:"deliveries"`
	}
	sh.json(&log, with("webhooks", "deliveries", "--video", video)...)
	if len(log.Deliveries) != 1 {
		t.Fatalf("%+v", log)
	}
	sh.table(with("webhooks", "replay", log.Deliveries[0].ID), "replayed", log.Deliveries[0].ID)
	sh.table(with("webhooks", "replay", "--endpoint", id, "--from", "2020-01-01T00:00:00Z", "--to", "2020-01-02T00:00:00Z"), "replayed", "0")
	soon(t, "it came again", func() bool { return x.count("video.completed") == 2 })
	soon(t, "the log says that too", func() bool {
		_, out, _ := sh.run(with("webhooks", "deliveries", log.Deliveries[0].ID)...)
		return strings.Contains(out, "attempt 2") && strings.Contains(out, "delivered")
	})
	// Who looks at the video sees them too.
	p := newPerson(t, "REELWAY_URL="+st.HTTPURL, "REELWAY_API_KEY="+st.APIKey)
	if out, want := p.must("show", video), "video.completed to "+id+": delivered, 2 attempts"; !strings.Contains(out, want) {
		t.Errorf("%q is not in\n%s", want, out)
	}
	var shown struct {
		Webhooks []struct{ ID, State string } `json:"webhook_deliveries"`
	}
	if err := json.Unmarshal([]byte(p.must("show", video, "--json")), &shown); err != nil || len(shown.Webhooks) != 1 || shown.Webhooks[0].ID != log.Deliveries[0].ID || shown.Webhooks[0].State != "delivered" {
		t.Errorf("%+v %v", shown, err)
	}
	old := made.Secret
	sh.json(&made, with("webhooks", "rotate", id, "--overlap", "1h")...)
	if made.Secret == old {
		t.Error("the secret stayed")
	}
	sh.table(with("webhooks", "update", id, "--disable", "--remove-headers"), "disabled: owner", "none")
	sh.table(with("webhooks", "update", id, "--enable", "--event", "video.failed"), "enabled", "video.failed")
	x.answer(http.StatusGone)
	sh.table(with("webhooks", "test", id), "failed", "410")
	sh.table(with("webhooks", "update", "default"), "signs callback_url")
	sh.table(with("webhooks", "delete", id), "deleted", id)
	sh.fails(1, "no such webhook endpoint", with("webhooks", "test", id)...)
	sh.table([]string{"audit", "--account", st.AccountID}, "webhook_endpoint.create", "webhook_endpoint.rotate", "webhook_endpoint.delete")

	// Over gRPC an ordinary key reaches its own account alone.
	conn, err := rpc.Dial(st.GRPCAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	hooks, ctx := webhookv1.NewWebhookServiceClient(conn), as(t, st.APIKey)
	if r, err := hooks.CreateEndpoint(ctx, &webhookv1.CreateEndpointRequest{Url: srv.URL}); err != nil || r.GetEndpoint().GetAccountId() != st.AccountID || len(r.GetEndpoint().GetEvents()) != 5 {
		t.Errorf("%v %v", r, err)
	}
	if _, err := hooks.ListEndpoints(ctx, &webhookv1.ListEndpointsRequest{AccountId: "acct_operator"}); code(err) != fault.NotFound {
		t.Error(err)
	}
	if _, err := hooks.ListEndpoints(t.Context(), &webhookv1.ListEndpointsRequest{}); code(err) != fault.Unauthenticated {
		t.Error(err)
	}
	var k struct {
		Key string `json:"api_key"`
	}
	sh.json(&k, "keys", "create", "--account", st.AccountID, "--scopes", "videos:read")
	reader := as(t, k.Key)
	if _, err := hooks.ListEndpoints(reader, &webhookv1.ListEndpointsRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := hooks.CreateEndpoint(reader, &webhookv1.CreateEndpointRequest{Url: srv.URL}); code(err) != fault.PermissionDenied {
		t.Error(err)
	}

	// An observation of no job dies; it may be shown, tried again, and dropped.
	b := nats.Bus()
	if err := b.PublishObservation(t.Context(), &eventv1.Observation{Id: "x", JobId: "video_unknown", AttemptId: "att_1", Provider: "kling", Source: "test",
		Fact: &eventv1.Observation_Rendered{Rendered: &eventv1.Rendered{Url: "https://cdn.example/x.mp4?signature=secret"}}}); err != nil {
		t.Fatal(err)
	}
	soon(t, "it is dead", func() bool {
		_, out, _ := sh.run("dead-letters", "list")
		return strings.Contains(out, "observation of an unknown job")
	})
	if out := sh.table([]string{"dead-letters", "show", "1"}, "ledger", "observed.kling.video_unknown", `"job_id":"video_unknown"`); strings.Contains(out, "secret") {
		t.Errorf("a result's address is shown: %s", out)
	}
	sh.table([]string{"dead-letters", "replay", "1"}, "replayed")
	sh.fails(1, "no such dead letter", "dead-letters", "replay", "1")
	soon(t, "it died again", func() bool {
		_, out, _ := sh.run("dead-letters", "list", "--consumer", bus.ObservationConsumer.Name, "--json")
		return strings.Contains(out, `"id":"2"`)
	})
	// The same over REST.
	rest := func(method, path string) (status int, body string) {
		req, err := http.NewRequestWithContext(t.Context(), method, st.HTTPURL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+st.AdminKey)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(raw)
	}
	if status, body := rest(http.MethodGet, "/v1/dead_letters?after=1&limit=1"); status != http.StatusOK || !strings.Contains(body, `"id":"2"`) || !strings.Contains(body, "observation of an unknown job") || strings.Contains(body, "signature") {
		t.Errorf("%d %s", status, body)
	}
	if status, body := rest(http.MethodPost, "/v1/dead_letters/2/replay"); status != http.StatusOK || !strings.Contains(body, `"replayed":true`) {
		t.Errorf("%d %s", status, body)
	}
	soon(t, "it died once more", func() bool {
		_, body := rest(http.MethodGet, "/v1/dead_letters")
		return strings.Contains(body, `"id":"3"`) && !strings.Contains(body, `"id":"2"`)
	})
	sh.table([]string{"dead-letters", "drop", "3"}, "dropped")
	sh.fails(1, "no such dead letter", "dead-letters", "show", "3")
	if _, err := hooks.ListEndpoints(as(t, "no-such-key"), &webhookv1.ListEndpointsRequest{}); code(err) != fault.Unauthenticated {
		t.Error(err)
	}
	operator := shell{t, []string{"--server", st.GRPCAddr, "--key", st.APIKey}}
	operator.fails(1, "lacks the scope admin", "dead-letters", "list")
}
