package rpc_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// asked answers with what it knows of a call.
type asked struct {
	videov1.UnimplementedVideoServiceServer
	videov1.UnimplementedWatchServiceServer
}

func (asked) GetVideo(ctx context.Context, r *videov1.GetVideoRequest) (*videov1.GetVideoResponse, error) {
	if r.GetId() == "video_slow" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	end, _ := ctx.Deadline()
	return &videov1.GetVideoResponse{Video: &videov1.Video{Id: rpc.RequestID(ctx), Version: int64(time.Until(end).Round(time.Second).Seconds())}}, nil
}

func (asked) DeleteVideo(_ context.Context, r *videov1.DeleteVideoRequest) (*videov1.DeleteVideoResponse, error) {
	return nil, fault.New(fault.Code(strings.ReplaceAll(strings.TrimPrefix(r.GetId(), "video_"), "-", "_")), "no")
}

func (asked) WatchVideo(_ *videov1.WatchVideoRequest, stream grpc.ServerStreamingServer[videov1.WatchVideoResponse]) error {
	_, bounded := stream.Context().Deadline()
	return stream.Send(&videov1.WatchVideoResponse{Video: &videov1.Video{Id: rpc.RequestID(stream.Context()), CancelRequested: bounded}})
}

func door(t *testing.T) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := rpc.NewServer()
	videov1.RegisterVideoServiceServer(srv, asked{})
	videov1.RegisterWatchServiceServer(srv, asked{})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rpc.Component("grpc", srv, l).Run(ctx) }()
	conn, err := rpc.Dial(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func patience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// A call is named by its caller or here, also where it fails and where it streams.
func TestCallsAreNamed(t *testing.T) {
	t.Parallel()
	conn, ctx := door(t), patience(t)
	c, w := videov1.NewVideoServiceClient(conn), videov1.NewWatchServiceClient(conn)
	for given, want := range map[string]string{"": "req_", "mine": "mine", "no id at all!": "req_"} {
		named := ctx
		if given != "" {
			named = metadata.AppendToOutgoingContext(ctx, rpc.RequestHeader, given)
		}
		var header metadata.MD
		a, err := c.GetVideo(named, &videov1.GetVideoRequest{Id: "video_1"}, grpc.Header(&header))
		if err != nil || !strings.HasPrefix(a.GetVideo().GetId(), want) || len(header.Get(rpc.RequestHeader)) != 1 || header.Get(rpc.RequestHeader)[0] != a.GetVideo().GetId() {
			t.Errorf("%q: %v %v %v", given, a, header, err)
		}
		if _, err := c.GetVideo(named, &videov1.GetVideoRequest{Id: "no id"}, grpc.Header(&header)); err == nil || len(header.Get(rpc.RequestHeader)) != 1 || !strings.HasPrefix(header.Get(rpc.RequestHeader)[0], want) {
			t.Errorf("%q, refused: %v %v", given, header, err)
		}
		stream, err := w.WatchVideo(named, &videov1.WatchVideoRequest{Id: "video_1"})
		if err != nil {
			t.Fatal(err)
		}
		m, err := stream.Recv()
		if header, _ = stream.Header(); err != nil || !strings.HasPrefix(m.GetVideo().GetId(), want) || header.Get(rpc.RequestHeader)[0] != m.GetVideo().GetId() {
			t.Errorf("%q, streamed: %v %v %v", given, m, header, err)
		}
	}
}

// A call has its caller's deadline, or ours; a stream none but its caller's.
func TestCallsAreBounded(t *testing.T) {
	t.Parallel()
	conn := door(t)
	c, w := videov1.NewVideoServiceClient(conn), videov1.NewWatchServiceClient(conn)
	forever := context.WithoutCancel(t.Context())
	a, err := c.GetVideo(forever, &videov1.GetVideoRequest{Id: "video_1"})
	if left := a.GetVideo().GetVersion(); err != nil || left <= 0 || left > int64(rpc.Bound.Seconds()) {
		t.Errorf("%d s left, %v", left, err)
	}
	long, cancel := context.WithTimeout(forever, time.Hour)
	defer cancel()
	a, err = c.GetVideo(long, &videov1.GetVideoRequest{Id: "video_1"})
	if left := a.GetVideo().GetVersion(); err != nil || left <= int64(rpc.Bound.Seconds()) {
		t.Errorf("%d s left of an hour, %v", left, err)
	}
	short, cancel := context.WithTimeout(forever, 200*time.Millisecond)
	defer cancel()
	if _, err := c.GetVideo(short, &videov1.GetVideoRequest{Id: "video_slow"}); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	stream, err := w.WatchVideo(forever, &videov1.WatchVideoRequest{Id: "video_1"})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetVideo().GetCancelRequested() {
		t.Errorf("%v %v", m, err)
	}
}

// What may succeed later says when to try again, and nothing else does.
func TestRetryInfo(t *testing.T) {
	t.Parallel()
	c, ctx := videov1.NewVideoServiceClient(door(t)), patience(t)
	for code, again := range map[fault.Code]bool{
		fault.Unavailable: true, fault.RateLimited: true, fault.Internal: true, fault.Timeout: true, fault.ProviderUnavailable: true,
		fault.InvalidRequest: false, fault.NotFound: false, fault.Conflict: false, fault.InsufficientCredits: false, fault.PermissionDenied: false,
	} {
		_, err := c.DeleteVideo(ctx, &videov1.DeleteVideoRequest{Id: "video_" + strings.ReplaceAll(string(code), "_", "-")})
		told := false
		for _, d := range status.Convert(err).Details() {
			if info, ok := d.(*errdetails.RetryInfo); ok {
				told = info.GetRetryDelay().AsDuration() > 0
			}
		}
		if f := fault.FromStatus(err); f.Code != code || f.Retryable != again || told != again {
			t.Errorf("%s: %+v, told %v", code, f, told)
		}
	}
}

// A door tells how it stands, as a whole and by service, and what it serves.
func TestHealthAndReflection(t *testing.T) {
	t.Parallel()
	conn, ctx := door(t), patience(t)
	for name, want := range map[string]codes.Code{"": codes.OK, "reelway.video.v1.VideoService": codes.OK, "reelway.video.v1.WatchService": codes.OK, "nobody": codes.NotFound} {
		a, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: name})
		if status.Code(err) != want || err == nil && a.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v %v", name, a, err)
		}
	}
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err == nil {
		err = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "reelway.video.v1.WatchService"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	if a, err := stream.Recv(); err != nil || len(a.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("%v %v", a, err)
	}
}
