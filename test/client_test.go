package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"reelway.dev/pkg/client"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

// client opens the Go client on the stack's gRPC door.
func (s *stack) client() *client.Client {
	s.t.Helper()
	c, err := client.Open(client.Config{Addr: s.grpc, Key: key})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return c
}

func wanted(model, prompt, user string) *videov1.VideoRequest {
	return &videov1.VideoRequest{Model: model, Prompt: prompt, DurationSeconds: 5, Resolution: "720p", AspectRatio: "16:9", User: user}
}

// CreateAndWait outlives the process that it asks, killed twice: no job is made
// twice, and each caller is told its end.
func TestClientOutlivesTheProcess(t *testing.T) {
	t.Parallel()
	s := setup(t, "REELWAY_MAX_RUNTIME=25s", "REELWAY_SUBMIT_TIMEOUT=2s")
	c := s.client()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	const n = 6
	var begun, done, made atomic.Int32
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var last *videov1.Video
			v, err := c.CreateAndWait(ctx, &videov1.CreateVideoRequest{Video: wanted([]string{"seedance-2.0", "kling-v2-6"}[i%2], "x", ""), IdempotencyKey: fmt.Sprint("order ", i)},
				func(v *videov1.Video) {
					begun.Add(1)
					if last != nil && (v.GetVersion() < last.GetVersion() || v.GetVersion() == last.GetVersion() && v.GetProgress() <= last.GetProgress()) {
						t.Errorf("%s: told %v after %v", v.GetId(), v, last)
					}
					last = v
				})
			done.Add(1)
			tasks := len(s.tasks(v.GetId()))
			var ended *client.EndedError
			switch {
			case last.GetState() != v.GetState() || tasks > 1:
				t.Errorf("%d: %v after %v, %d tasks", i, v, last, tasks)
			case err == nil && tasks == 1 && v.GetState() == videov1.VideoState_VIDEO_STATE_SUCCEEDED:
				made.Add(1)
			case !errors.As(err, &ended) || v.GetState() != videov1.VideoState_VIDEO_STATE_NEEDS_REVIEW: // a submission that the kill cut off
				t.Errorf("%d: %v %v", i, v, err)
			}
		})
	}
	s.eventually(time.Minute, "a job is watched", func() bool { return begun.Load() > 0 })
	s.stop(syscall.SIGKILL)
	if done.Load() == n {
		t.Error("nothing was left to outlive it")
	}
	s.start()
	s.stop(syscall.SIGKILL)
	s.start()
	wg.Wait()
	if tasks := len(s.tasks("")); tasks > n || made.Load() == 0 {
		t.Errorf("%d tasks of %d jobs, %d videos", tasks, n, made.Load())
	}
	s.books(-1)
}

// Every method of the client, against the stack.
func TestClient(t *testing.T) {
	t.Parallel()
	s := setup(t)
	c := s.client()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	models, err := c.Models(ctx)
	if err != nil || len(models.GetModels()) == 0 {
		t.Fatal(models, err)
	}
	q, err := c.Quote(ctx, wanted("seedance-2.0", "x", ""))
	if err != nil || q.GetTotalMicros() != atlas {
		t.Errorf("%v %v", q, err)
	}
	before, err := c.Balance(ctx)
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.CreateAndWait(ctx, &videov1.CreateVideoRequest{Video: wanted("seedance-2.0", "x", "ann")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	after, err := c.Balance(ctx)
	if err != nil || before.GetAvailableMicros()-after.GetAvailableMicros() != atlas || after.GetHeldMicros() != 0 {
		t.Errorf("%v, then %v, %v", before, after, err)
	}
	file, err := c.Content(ctx, &videov1.GetVideoContentRequest{Id: v.GetId(), Download: true})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(file.GetUrl())
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if err != nil || bytes != v.GetArtifact().GetSizeBytes() || !strings.HasPrefix(resp.Header.Get("Content-Disposition"), "attachment") || file.GetExpiresAt() == nil {
		t.Errorf("%d bytes, %v, %v", bytes, resp.Header, err)
	}
	if _, err := c.Content(ctx, &videov1.GetVideoContentRequest{Id: v.GetId(), Variant: videov1.ContentVariant_CONTENT_VARIANT_THUMBNAIL}); !client.Is(err, fault.NotFound) {
		t.Errorf("a thumbnail that was not made: %v", err)
	}

	// A job that the provider refuses ends without a video.
	failed, err := c.CreateAndWait(ctx, &videov1.CreateVideoRequest{Video: wanted("seedance-2.0", "x [fault:policy]", "bob")}, nil)
	var ended *client.EndedError
	if !errors.As(err, &ended) || !client.Is(err, fault.ContentPolicy) || failed.GetState() != videov1.VideoState_VIDEO_STATE_FAILED {
		t.Errorf("%v %v", failed, err)
	}
	if _, err := c.Cancel(ctx, v.GetId()); !client.Is(err, fault.Conflict) {
		t.Errorf("a finished video is canceled: %v", err)
	}
	var all, anns []string
	for v, err := range c.List(ctx, &videov1.ListVideosRequest{Limit: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, v.GetId())
	}
	for v, err := range c.List(ctx, &videov1.ListVideosRequest{User: "ann"}) {
		if err != nil {
			t.Fatal(err)
		}
		anns = append(anns, v.GetId())
	}
	if fmt.Sprint(all) != fmt.Sprint([]string{failed.GetId(), v.GetId()}) || fmt.Sprint(anns) != fmt.Sprint([]string{v.GetId()}) {
		t.Errorf("lists are %v and %v", all, anns)
	}
	var spent int64
	today := time.Now().UTC()
	for row, err := range c.Usage(ctx, &videov1.QueryUsageRequest{From: today.AddDate(0, 0, -1).Format(time.DateOnly), To: today.Format(time.DateOnly), Limit: 1,
		GroupBy: []videov1.UsageGroup{videov1.UsageGroup_USAGE_GROUP_USER}}) {
		if err != nil {
			t.Fatal(err)
		}
		spent += row.GetSpendMicros()
	}
	change, closing := int64(0), int64(0)
	for page, err := range c.Statement(ctx, v.GetCompletedAt().AsTime().Format("2006-01")) {
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.GetMovements() {
			change += m.GetAvailableChangeMicros()
		}
		closing = page.GetClosingAvailableMicros() - page.GetOpeningAvailableMicros()
	}
	if spent != atlas || change != closing || change == 0 {
		t.Errorf("spent %d, moved %d of %d", spent, change, closing)
	}
	if err := c.Delete(ctx, v.GetId()); err != nil {
		t.Error(err)
	}
	if _, err := c.Get(ctx, v.GetId()); !client.Is(err, fault.NotFound) || client.RequestID(err) == "" {
		t.Errorf("a deleted video: %v", err)
	}

	// The same key and another request is a conflict, not another job.
	once := &videov1.CreateVideoRequest{Video: wanted("seedance-2.0", "x", "eve"), IdempotencyKey: "once"}
	first, err := c.Create(ctx, once)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Create(ctx, once); err != nil || again.GetId() != first.GetId() {
		t.Errorf("%v %v", again, err)
	}
	once.Video.Prompt = "y"
	if _, err := c.Create(ctx, once); !client.Is(err, fault.Conflict) || client.Retryable(err) {
		t.Errorf("another request by the same key: %v", err)
	}

	if up, err := c.Uploads().CreateUpload(ctx, &videov1.CreateUploadRequest{}); !client.Is(err, fault.InvalidRequest) {
		t.Errorf("an upload of nothing: %v %v", up, err)
	}
	if _, err := c.Webhooks().GetEndpoint(ctx, &webhookv1.GetEndpointRequest{Id: "whe_none"}); !client.Is(err, fault.NotFound) {
		t.Errorf("an endpoint that there is not: %v", err)
	}
	// A token watches what it was made for.
	token, err := c.Tokens().CreateRealtimeToken(ctx, &videov1.CreateRealtimeTokenRequest{User: "eve"})
	if err != nil {
		t.Fatal(err)
	}
	page, err := client.Open(client.Config{Addr: s.grpc, Token: token.GetToken()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = page.Close() }()
	var last *videov1.WatchVideoResponse
	for m, err := range page.Watch(ctx, &videov1.WatchVideoRequest{Id: first.GetId()}) {
		if err != nil {
			t.Fatal(err)
		}
		last = m
	}
	if last.GetVideo().GetState() != videov1.VideoState_VIDEO_STATE_SUCCEEDED || last.GetVideo().GetQuoteMicros() != 0 || last.GetUrl() == "" {
		t.Errorf("a token is told %v", last)
	}
	// A watch that comes again after the end has nothing to tell, and is counted.
	for m, err := range page.Watch(ctx, &videov1.WatchVideoRequest{Id: first.GetId(), After: last.GetCursor()}) {
		t.Errorf("told again: %v %v", m, err)
	}
	ops, err := http.Get(s.ops + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := io.ReadAll(ops.Body)
	_ = ops.Body.Close()
	if counted := regexp.MustCompile(`(?m)^reelway_realtime_resumptions_total\{.*outcome="resumed"\} [1-9]`); err != nil || !counted.Match(metrics) {
		t.Errorf("not counted: %v", err)
	}
	if _, err := page.Get(ctx, first.GetId()); !client.Is(err, fault.Unauthenticated) {
		t.Errorf("a token reads: %v", err)
	}

	// A key that is wrong ends everything at once.
	wrong, err := client.Open(client.Config{Addr: s.grpc, Key: "rw_wrong"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = wrong.Close() }()
	if v, err := wrong.CreateAndWait(ctx, once, nil); v != nil || !client.Is(err, fault.Unauthenticated) {
		t.Errorf("%v %v", v, err)
	}
}

// The public gRPC door says that it lives and what it serves.
func TestGRPCDoorTellsOfItself(t *testing.T) {
	t.Parallel()
	s := setup(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := rpc.Dial(s.grpc)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for name, want := range map[string]codes.Code{"": codes.OK, "reelway.video.v1.VideoService": codes.OK, "reelway.video.v1.WatchService": codes.OK, "reelway.ledger.v1.JobService": codes.NotFound} {
		if _, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: name}); status.Code(err) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err == nil {
		err = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
	}
	if err != nil {
		t.Fatal(err)
	}
	a, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"VideoService", "WatchService", "BillingService", "UsageService", "RealtimeService"} {
		if !strings.Contains(a.String(), "reelway.video.v1."+want) {
			t.Errorf("%s is not served: %v", want, a)
		}
	}
}

// The examples of the client's package do what they say.
func TestClientExamples(t *testing.T) {
	t.Parallel()
	s := setup(t)
	cmd := exec.Command("go", "test", "-count=1", "-v", "-timeout", "4m", "-run", "^Example", "./client")
	cmd.Dir = "../pkg"
	cmd.Env = append(os.Environ(), "REELWAY_SERVER="+s.grpc, "REELWAY_API_KEY="+key)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "--- PASS: Example") < 5 {
		t.Errorf("%v\n%s", err, out)
	}
}
