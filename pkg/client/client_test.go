package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/client"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// door is a Reelway that answers by a script.
type door struct {
	videov1.UnimplementedVideoServiceServer
	videov1.UnimplementedWatchServiceServer

	mu     sync.Mutex
	create func(n int) error // of the n-th try, from 1
	remove func(n int) error
	get    func(n int) (*videov1.Video, error)
	watch  func(n int, r *videov1.WatchVideoRequest, tell func(*videov1.WatchVideoResponse)) error
	many   func(n int, r *videov1.WatchVideosRequest, tell func(*videov1.WatchVideosResponse)) error
	keys   []string // idempotency keys that came
	auth   []string
	calls  map[string]int
}

func (d *door) count(what string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls[what]++
	return d.calls[what]
}

func (d *door) CreateVideo(ctx context.Context, r *videov1.CreateVideoRequest) (*videov1.CreateVideoResponse, error) {
	n := d.count("create")
	d.mu.Lock()
	d.keys = append(d.keys, r.GetIdempotencyKey())
	d.auth = append(d.auth, metadata.ValueFromIncomingContext(ctx, "authorization")...)
	d.mu.Unlock()
	if err := d.create(n); err != nil {
		return nil, err
	}
	return &videov1.CreateVideoResponse{Video: at(1, 0)}, nil
}

func (d *door) DeleteVideo(_ context.Context, r *videov1.DeleteVideoRequest) (*videov1.DeleteVideoResponse, error) {
	return &videov1.DeleteVideoResponse{Id: r.GetId()}, d.remove(d.count("delete"))
}

func (d *door) GetVideo(context.Context, *videov1.GetVideoRequest) (*videov1.GetVideoResponse, error) {
	v, err := d.get(d.count("get"))
	return &videov1.GetVideoResponse{Video: v}, err
}

func (d *door) GetVideoContent(context.Context, *videov1.GetVideoContentRequest) (*videov1.GetVideoContentResponse, error) {
	return &videov1.GetVideoContentResponse{Url: "https://files"}, nil
}

func (d *door) WatchVideo(r *videov1.WatchVideoRequest, stream grpc.ServerStreamingServer[videov1.WatchVideoResponse]) error {
	return d.watch(d.count("watch"), r, func(m *videov1.WatchVideoResponse) { _ = stream.Send(m) })
}

func (d *door) WatchVideos(r *videov1.WatchVideosRequest, stream grpc.ServerStreamingServer[videov1.WatchVideosResponse]) error {
	return d.many(d.count("many"), r, func(m *videov1.WatchVideosResponse) { _ = stream.Send(m) })
}

// open serves d and returns a client of it, which has patience.
func (d *door) open(t *testing.T, watches bool) *client.Client {
	t.Helper()
	d.calls = map[string]int{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := rpc.NewServer()
	videov1.RegisterVideoServiceServer(srv, d)
	if watches {
		videov1.RegisterWatchServiceServer(srv, d)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	c, err := client.Open(client.Config{Addr: l.Addr().String(), Key: "rw_key"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		srv.Stop()
		<-done
	})
	return c
}

const videoID = "video_1"

// at is the video at a version; the fifth is its last.
func at(version int64, progress int32) *videov1.Video {
	v := &videov1.Video{Id: videoID, Version: version, Progress: progress, State: videov1.VideoState_VIDEO_STATE_RUNNING}
	if version == 5 {
		v.State, v.Progress = videov1.VideoState_VIDEO_STATE_SUCCEEDED, 100
	}
	return v
}

func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func soon(code fault.Code) *fault.Error {
	f := fault.New(code, "not now")
	f.RetryAfter = time.Millisecond
	return f
}

// What may pass is tried again, under one key; what is refused for good is not.
func TestRetries(t *testing.T) {
	t.Parallel()
	d := &door{create: func(n int) error {
		switch n {
		case 1:
			return soon(fault.Unavailable)
		case 2:
			return soon(fault.RateLimited)
		case 3:
			return errors.New("a fault of ours")
		case 5:
			return fault.Invalid(fault.Field{Name: "prompt", Message: "is missing"}, fault.Field{Name: "model", Message: "is unknown"})
		}
		return nil
	}}
	c, ctx := d.open(t, true), limit(t)
	asked := &videov1.CreateVideoRequest{Video: &videov1.VideoRequest{Prompt: "x"}}
	before := proto.CloneOf(asked)
	if v, err := c.Create(ctx, asked); err != nil || v.GetId() != videoID {
		t.Fatal(v, err)
	}
	if !proto.Equal(asked, before) {
		t.Error("the caller's own request was changed")
	}
	if len(d.keys) != 4 || d.keys[0] == "" || len(slices.Compact(slices.Clone(d.keys))) != 1 || d.auth[0] != "Bearer rw_key" {
		t.Errorf("keys %q with %q", d.keys, d.auth)
	}
	asked.IdempotencyKey = "mine"
	v, err := c.Create(ctx, asked)
	var f *fault.Error
	if v != nil || !errors.As(err, &f) || !client.Is(err, fault.InvalidRequest) || client.Retryable(err) || len(f.Fields) != 2 || f.Fields[1].Name != "model" {
		t.Errorf("%v %v", v, err)
	}
	if rid := client.RequestID(err); !strings.HasPrefix(rid, "req_") || !strings.Contains(err.Error(), rid) || strings.Contains(err.Error(), "rpc error") {
		t.Errorf("request %q in %v", rid, err)
	}
	if n := d.count("create") - 1; n != 5 || d.keys[4] != "mine" {
		t.Errorf("%d tries, the last of %q", n, d.keys[4])
	}
}

// A wait that a deadline does not leave time for is not begun, and a context that
// ends is said to have ended.
func TestDeadlineIsHonoured(t *testing.T) {
	t.Parallel()
	d := &door{create: func(int) error {
		f := soon(fault.RateLimited)
		f.RetryAfter = time.Hour
		return f
	}}
	c, ctx := d.open(t, true), limit(t)
	_, err := c.Create(ctx, &videov1.CreateVideoRequest{Video: &videov1.VideoRequest{}})
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != fault.RateLimited || f.RetryAfter != time.Hour || !client.Retryable(err) || ctx.Err() != nil {
		t.Error(err)
	}
	if n := d.count("create") - 1; n != 1 {
		t.Errorf("%d tries", n)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.Create(gone, &videov1.CreateVideoRequest{Video: &videov1.VideoRequest{}}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A deletion whose answer was lost is one; what was never there is not.
func TestDeletionIsFoundDone(t *testing.T) {
	t.Parallel()
	d := &door{remove: func(n int) error {
		if n == 1 {
			return soon(fault.Unavailable)
		}
		return fault.New(fault.NotFound, "no such video")
	}}
	c, ctx := d.open(t, true), limit(t)
	if err := c.Delete(ctx, videoID); err != nil {
		t.Error(err)
	}
	if err := c.Delete(ctx, videoID); !client.Is(err, fault.NotFound) {
		t.Error(err)
	}
}

// collect is what a watch told, in short, and its error.
func collect(ctx context.Context, c *client.Client) (told []string, err error) {
	for m, e := range c.Watch(ctx, &videov1.WatchVideoRequest{Id: videoID}) {
		if e != nil {
			return told, e
		}
		told = append(told, fmt.Sprint(m.GetVideo().GetVersion(), "/", m.GetVideo().GetProgress()))
	}
	return told, nil
}

// A watch that breaks goes on from its cursor, tells what intake knew meanwhile,
// and repeats nothing.
func TestWatchGoesOn(t *testing.T) {
	t.Parallel()
	var cursors []string
	d := &door{
		watch: func(n int, r *videov1.WatchVideoRequest, tell func(*videov1.WatchVideoResponse)) error {
			cursors = append(cursors, r.GetAfter())
			switch n {
			case 1:
				tell(&videov1.WatchVideoResponse{Cursor: "a", Video: at(2, 0)})
				tell(&videov1.WatchVideoResponse{Cursor: "b", Video: at(2, 30)})
				return soon(fault.Unavailable)
			case 2:
				return soon(fault.RateLimited)
			}
			tell(&videov1.WatchVideoResponse{Cursor: "c", Video: at(3, 30)}) // intake told this, and more
			tell(&videov1.WatchVideoResponse{Cursor: "d", Video: at(4, 60)})
			tell(&videov1.WatchVideoResponse{Cursor: "e", Video: at(5, 100)})
			return nil
		},
		get: func(n int) (*videov1.Video, error) {
			if n == 1 {
				return nil, soon(fault.Unavailable)
			}
			return at(3, 40), nil
		},
	}
	told, err := collect(limit(t), d.open(t, true))
	if got := strings.Join(told, " "); err != nil || got != "2/0 2/30 3/40 4/60 5/100" {
		t.Errorf("%s %v", got, err)
	}
	if got := strings.Join(cursors, ","); got != ",b,b" {
		t.Errorf("it resumed by %q", got)
	}
}

// Where nobody watches, intake is asked until the end.
func TestWatchWithoutNotifier(t *testing.T) {
	t.Parallel()
	d := &door{create: func(int) error { return nil }, get: func(n int) (*videov1.Video, error) { return at(int64(n+3), 0), nil }}
	c, ctx := d.open(t, false), limit(t)
	told, err := collect(ctx, c)
	if got := strings.Join(told, " "); err != nil || got != "4/0 5/100" {
		t.Errorf("%s %v", got, err)
	}
	d.get = func(int) (*videov1.Video, error) {
		v := at(4, 0)
		v.State, v.Error = videov1.VideoState_VIDEO_STATE_FAILED, &videov1.VideoError{Code: "content_policy", Message: "no"}
		return v, nil
	}
	seen := 0
	v, err := c.CreateAndWait(ctx, &videov1.CreateVideoRequest{Video: &videov1.VideoRequest{}}, func(*videov1.Video) { seen++ })
	var ended *client.EndedError
	if v.GetId() != videoID || !errors.As(err, &ended) || !client.Is(err, fault.ContentPolicy) || seen != 1 {
		t.Errorf("%v %v, %d", v, err, seen)
	}
}

// What is refused for good ends a watch, and so does the context.
func TestWatchEnds(t *testing.T) {
	t.Parallel()
	d := &door{watch: func(int, *videov1.WatchVideoRequest, func(*videov1.WatchVideoResponse)) error {
		return fault.New(fault.NotFound, "no such video")
	}}
	c := d.open(t, true)
	if _, err := collect(limit(t), c); !client.Is(err, fault.NotFound) || client.RequestID(err) == "" {
		t.Error(err)
	}
	d.watch = func(int, *videov1.WatchVideoRequest, func(*videov1.WatchVideoResponse)) error {
		return soon(fault.Unavailable)
	}
	d.get = func(int) (*videov1.Video, error) { return nil, soon(fault.Unavailable) }
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := collect(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// A watch of many that is cut amid its snapshot begins anew and repeats nothing;
// one that is cut later goes on from its cursor.
func TestWatchManyGoesOn(t *testing.T) {
	t.Parallel()
	kinds := map[string]videov1.WatchKind{"snapshot": videov1.WatchKind_WATCH_KIND_SNAPSHOT, "event": videov1.WatchKind_WATCH_KIND_EVENT,
		"subscribed": videov1.WatchKind_WATCH_KIND_SUBSCRIBED, "reset": videov1.WatchKind_WATCH_KIND_RESET}
	var cursors []string
	d := &door{many: func(n int, r *videov1.WatchVideosRequest, tell func(*videov1.WatchVideosResponse)) error {
		cursors = append(cursors, r.GetAfter())
		say := func(kind, cursor, id string, version int64) {
			m := &videov1.WatchVideosResponse{Kind: kinds[kind], Cursor: cursor}
			if id != "" {
				m.Video, m.Sequence = at(version, 0), version
				m.Video.Id = id
			}
			tell(m)
		}
		switch n {
		case 1:
			say("snapshot", "", "video_1", 2)
			return soon(fault.Unavailable)
		case 2:
			say("snapshot", "", "video_1", 2)
			say("snapshot", "", "video_2", 3)
			say("subscribed", "s", "", 0)
			say("event", "t", "video_2", 3)
			say("event", "u", "video_1", 5)
			return soon(fault.RateLimited)
		case 3:
			say("reset", "", "", 0)
			say("snapshot", "", "video_2", 3)
			say("subscribed", "v", "", 0)
			say("event", "w", "video_2", 4)
		}
		return fault.New(fault.Unauthenticated, "the key was revoked")
	}}
	var told []string
	for m, err := range d.open(t, true).WatchMany(limit(t), &videov1.WatchVideosRequest{}) {
		if err != nil {
			if !client.Is(err, fault.Unauthenticated) {
				t.Error(err)
			}
			break
		}
		s := m.GetKind().String()[len("WATCH_KIND_"):]
		if m.GetVideo() != nil {
			s += fmt.Sprint(" ", m.GetVideo().GetId(), " ", m.GetSequence())
		}
		told = append(told, strings.ToLower(s))
	}
	want := "snapshot video_1 2, snapshot video_2 3, subscribed, event video_1 5, reset, snapshot video_2 3, subscribed, event video_2 4"
	if got := strings.Join(told, ", "); got != want {
		t.Errorf("told\n%s, not\n%s", got, want)
	}
	if got := strings.Join(cursors, ","); got != ",,u" {
		t.Errorf("it resumed by %q", got)
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for _, bad := range []client.Config{{Addr: "a:1"}, {Addr: "a:1", Key: "k", Token: "t"}, {Key: "k"}, {Addr: "http://a:1", Key: "k"}, {Addr: "a:1", NotifierAddr: "grpc://b:1", Key: "k"}} {
		if c, err := client.Open(bad); err == nil {
			_ = c.Close()
			t.Errorf("%+v is taken", bad)
		}
	}
}
