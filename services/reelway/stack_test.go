package reelway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/reelway"
)

// start runs a stack in this process on ports of its own.
func start(t *testing.T, dir string, processors ...sdktrace.SpanProcessor) (*reelway.Stack, func()) {
	t.Helper()
	return startWith(t, dir, nil, slog.New(slog.DiscardHandler), processors...)
}

// startWith is start with further settings and a log.
func startWith(t *testing.T, dir string, env []string, log *slog.Logger, processors ...sdktrace.SpanProcessor) (*reelway.Stack, func()) {
	t.Helper()
	return launch(t, append(env, "REELWAY_DATA_DIR="+dir, "REELWAY_SIMULATOR_RENDER=400ms", "REELWAY_PROGRESS_EVERY=50ms", "REELWAY_TYPICAL_RENDER=400ms"), log, processors...)
}

// launch runs a stack on ports of its own, without variants, until the function
// that it returns is called.
func launch(t *testing.T, env []string, log *slog.Logger, processors ...sdktrace.SpanProcessor) (*reelway.Stack, func()) {
	t.Helper()
	set, err := reelway.Load(append([]string{"REELWAY_HTTP_ADDR=127.0.0.1:0", "REELWAY_GRPC_ADDR=127.0.0.1:0", "REELWAY_OPS_ADDR=127.0.0.1:0",
		"REELWAY_SIMULATOR_ADDR=127.0.0.1:0", "REELWAY_VARIANTS=off"}, env...))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan *reelway.Stack, 1), make(chan error, 1)
	go func() {
		done <- reelway.Run(ctx, set, log, func(s *reelway.Stack) { ready <- s }, processors...)
	}()
	select {
	case s := <-ready:
		return s, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	case err := <-done:
		cancel()
		t.Fatal(err)
	}
	return nil, nil
}

// running runs a stack in a directory of its own, for as long as the test.
func running(t *testing.T, env ...string) *reelway.Stack {
	t.Helper()
	s, stop := launch(t, append([]string{"REELWAY_DATA_DIR=" + dataDir(t)}, env...), slog.New(slog.DiscardHandler))
	t.Cleanup(stop)
	return s
}

// dataDir is one that the postgres user may enter.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "reelway-stack-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func post(t *testing.T, s *reelway.Stack, header http.Header) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.HTTPURL+"/v1/videos", strings.NewReader(`{"model":"kling-v2-6","prompt":"p","duration":5}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header.Clone()
	req.Header.Set("Authorization", "Bearer "+s.APIKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	var v struct{ ID string }
	if err != nil || resp.StatusCode != http.StatusOK || json.Unmarshal(data, &v) != nil {
		t.Fatalf("%d %s %v", resp.StatusCode, data, err)
	}
	return v.ID
}

// watch follows a job over gRPC to its end.
func watch(t *testing.T, s *reelway.Stack, id string) *videov1.Video {
	t.Helper()
	conn, err := rpc.Dial(s.GRPCAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+s.APIKey)
	stream, err := videov1.NewWatchServiceClient(conn).WatchVideo(ctx, &videov1.WatchVideoRequest{Id: id})
	if err != nil {
		t.Fatal(err)
	}
	var last *videov1.Video
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return last
		}
		if err != nil {
			t.Fatal(err)
		}
		if last != nil && (m.GetVideo().GetVersion() < last.GetVersion() || m.GetVideo().GetProgress() < last.GetProgress()) {
			t.Errorf("went back from v%d %d %% to v%d %d %%", last.GetVersion(), last.GetProgress(), m.GetVideo().GetVersion(), m.GetVideo().GetProgress())
		}
		last = m.GetVideo()
	}
}

//nolint:paralleltest // the span recorder is the process's
func TestOneTraceAJobAndSameDataAfterRestart(t *testing.T) {
	dir := dataDir(t)
	rec := tracetest.NewSpanRecorder()
	s, stop := start(t, dir, rec)
	caller := trace.TraceID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	ctx := trace.ContextWithSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: caller, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled}))
	h := http.Header{}
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(h))
	id := post(t, s, h)
	if v := watch(t, s, id); v.GetState() != videov1.VideoState_VIDEO_STATE_SUCCEEDED {
		t.Fatalf("%v", v)
	}
	key := s.APIKey
	stop()
	got := map[string]sdktrace.ReadOnlySpan{}
	for _, span := range rec.Ended() {
		if span.SpanContext().TraceID() == caller {
			got[span.Name()] = span
		}
	}
	for _, want := range []string{"POST /v1/videos", "reelway.ledger.v1.JobService/OpenJob", "publish jobs.submit", "process jobs.submit", "reelway.ledger.v1.JobService/BeginAttempt",
		"HTTP POST", "POST /v1/callbacks/{provider}/{job}", "INSERT", "COMMIT", "publish observed", "process observed", "publish job", "process job", "copy result", "push event"} {
		if got[want] == nil {
			t.Errorf("the job's trace lacks %q; it has %v", want, slices.Sorted(maps.Keys(got)))
		}
	}
	for name, wants := range map[string]map[attribute.Key]string{
		"POST /v1/videos":                      {"http.route": "/v1/videos", "http.request.method": "POST"},
		"reelway.ledger.v1.JobService/OpenJob": {"rpc.method": "reelway.ledger.v1.JobService/OpenJob"},
		"INSERT":                               {"db.system.name": "postgresql"},
		"publish jobs.submit":                  {"messaging.system": "nats", "messaging.destination.name": "jobs.submit", "messaging.operation.type": "send"},
		"process jobs.submit":                  {"messaging.system": "nats", "messaging.operation.type": "process", "messaging.consumer.group.name": "submit-kling"},
		"push event":                           {"reelway.push.transport": "grpc", "reelway.job.id": id},
	} {
		for k, want := range wants {
			set := attribute.NewSet()
			if got[name] != nil {
				set = attribute.NewSet(got[name].Attributes()...)
			}
			if v, _ := set.Value(k); v.AsString() != want {
				t.Errorf("%q has %v, not %s=%s", name, set.ToSlice(), k, want)
			}
		}
	}
	// The same data: the same key, job and money.
	s, stop = start(t, dir)
	defer stop()
	if s.APIKey != key {
		t.Error("the development key changed")
	}
	if v := watch(t, s, id); v.GetState() != videov1.VideoState_VIDEO_STATE_SUCCEEDED || v.GetCapturedMicros() != 210_000 {
		t.Errorf("%v", v)
	}
	post(t, s, http.Header{})
	resp, err := http.Get(s.OpsURL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Contains(data, []byte("go_goroutines")) || !bytes.Contains(data, []byte("http_server_request_duration_seconds")) || !bytes.Contains(data, []byte("reelway_ledger_outbox_age_seconds")) {
		t.Errorf("metrics: %v %.200s", err, data)
	}
}

//nolint:paralleltest // the telemetry is the process's
func TestGRPC(t *testing.T) {
	s, stop := start(t, dataDir(t))
	defer stop()
	conn, err := rpc.Dial(s.GRPCAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	c := videov1.NewVideoServiceClient(conn)
	anon, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	ctx := metadata.AppendToOutgoingContext(anon, "authorization", "Bearer "+s.APIKey)

	if _, err := c.ListModels(anon, &videov1.ListModelsRequest{}); fault.FromStatus(err).Code != fault.Unauthenticated {
		t.Error(err)
	}
	if r, err := c.ListModels(ctx, &videov1.ListModelsRequest{}); err != nil || len(r.GetModels()) < 5 {
		t.Error(r, err)
	}
	_, err = c.CreateVideo(ctx, &videov1.CreateVideoRequest{Video: &videov1.VideoRequest{Model: "kling-v2-6", DurationSeconds: 7, AspectRatio: "2:1"}})
	if f := fault.FromStatus(err); f.Code != fault.InvalidRequest || len(f.Fields) != 3 {
		t.Errorf("%+v", f)
	}
	_, err = c.GetVideo(ctx, &videov1.GetVideoRequest{Id: "a.b"})
	if f := fault.FromStatus(err); f.Code != fault.InvalidRequest || f.Fields[0].Name != "id" {
		t.Errorf("%+v", f)
	}
	q, err := c.QuoteVideo(ctx, &videov1.QuoteVideoRequest{Video: &videov1.VideoRequest{Model: "kling-v2-6", Prompt: "p", Platform: "TikTok"}})
	if err != nil || q.GetTotalMicros() != 210_000 || q.GetParams().GetHeight() != 1280 {
		t.Error(q, err)
	}
	r, err := c.CreateVideo(ctx, &videov1.CreateVideoRequest{IdempotencyKey: "k", Video: &videov1.VideoRequest{Model: "kling-v2-6", Prompt: "p", Platform: "TikTok"}})
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.CreateVideo(ctx, &videov1.CreateVideoRequest{IdempotencyKey: "k", Video: &videov1.VideoRequest{Model: "kling-v2-6", Prompt: "p", Platform: "TikTok"}})
	if err != nil || again.GetVideo().GetId() != r.GetVideo().GetId() {
		t.Error(again, err)
	}
	v := watch(t, s, r.GetVideo().GetId())
	if v.GetArtifact().GetWidth() != 720 || v.GetArtifact().GetHeight() != 1280 {
		t.Errorf("%v", v)
	}
	if _, err := c.CancelVideo(ctx, &videov1.CancelVideoRequest{Id: v.GetId()}); fault.FromStatus(err).Code != fault.Conflict {
		t.Error(err)
	}
	if l, err := c.ListVideos(ctx, &videov1.ListVideosRequest{}); err != nil || len(l.GetVideos()) != 1 {
		t.Error(l, err)
	}
	if _, err := c.DeleteVideo(ctx, &videov1.DeleteVideoRequest{Id: v.GetId()}); err != nil {
		t.Error(err)
	}
	if _, err := c.GetVideo(ctx, &videov1.GetVideoRequest{Id: v.GetId()}); fault.FromStatus(err).Code != fault.NotFound {
		t.Error(err)
	}
}

// A stack that is stopped while its providers render goes on when it is started
// again on the same data.
//
//nolint:paralleltest // the telemetry is the process's
func TestRestartDuringARender(t *testing.T) {
	dir := dataDir(t)
	s, stop := start(t, dir)
	id := post(t, s, http.Header{})
	stop()
	s, stop = start(t, dir)
	defer stop()
	if v := watch(t, s, id); v.GetState() != videov1.VideoState_VIDEO_STATE_SUCCEEDED || len(v.GetAttempts()) > 2 {
		t.Errorf("%v", v)
	}
}

func TestBadSettingsAreNamed(t *testing.T) {
	t.Parallel()
	_, err := reelway.Load([]string{"REELWAY_CAP_STAGING=banana", "REELWAY_SWEEP_INTERVAL=0s", "REELWAY_DEV_CREDITS=-3", "REELWAY_PUBLIC_URL=nonsense"})
	for _, want := range []string{"REELWAY_CAP_STAGING: \"banana\" is not one of 480p", "REELWAY_SWEEP_INTERVAL: 0s is below", "REELWAY_DEV_CREDITS: -3 is below 0", "REELWAY_PUBLIC_URL: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	_, err = reelway.Load([]string{"REELWAY_HTP_ADDR=x", "REELWAY_MAX_ATTEMPTS=many", "REELWAY_DEV_API_KEY_FILE=/nowhere/at/all"})
	if err == nil {
		t.Fatal("all were taken")
	}
	for _, want := range []string{"REELWAY_HTP_ADDR: no such setting", "REELWAY_MAX_ATTEMPTS: ", "REELWAY_DEV_API_KEY_FILE"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
}

func TestPortInUseIsNamed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	var stderr bytes.Buffer
	code := reelway.Main([]string{"up", "--http-addr", l.Addr().String(), "--data-dir", t.TempDir()}, io.Discard, &stderr)
	if code != 1 || !strings.Contains(stderr.String(), l.Addr().String()) || !strings.Contains(stderr.String(), "REELWAY_HTTP_ADDR") {
		t.Errorf("%d %s", code, stderr.String())
	}
}
