package notifier_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/client"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/livetoken"
	"reelway.dev/pkg/rpc"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/notifier"
)

// door opens the gRPC door of x's present notifier; shut closes it, and breaks what
// is under way.
func (x *bundle) door(addr string) (at string, shut func()) {
	x.t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		x.t.Fatal(err)
	}
	srv := rpc.NewServer()
	x.s.Register(srv)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	return l.Addr().String(), func() {
		srv.Stop()
		if err := <-done; err != nil {
			x.t.Error(err)
		}
	}
}

// grpc is a client of the gRPC door of x's present notifier. It buffers no more
// than HTTP/2 lets it at first.
func (x *bundle) grpc() videov1.WatchServiceClient {
	x.t.Helper()
	addr, shut := x.door("127.0.0.1:0")
	conn, err := rpc.Dial(addr, grpc.WithInitialWindowSize(1<<16-1))
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { _ = conn.Close(); shut() })
	return videov1.NewWatchServiceClient(conn)
}

func withKey(ctx context.Context, key string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "reelway-token", token)
}

// line is one answer in a few words.
func line(m *videov1.WatchVideosResponse) string {
	s := strings.ToLower(strings.TrimPrefix(m.GetKind().String(), "WATCH_KIND_"))
	if v := m.GetVideo(); v != nil {
		s += fmt.Sprint(" ", v.GetId(), " ", v.GetVersion())
	}
	return s
}

// many opens a watch of many, which must open.
func many(ctx context.Context, t *testing.T, c videov1.WatchServiceClient, user, after string) grpc.ServerStreamingClient[videov1.WatchVideosResponse] {
	t.Helper()
	stream, err := c.WatchVideos(ctx, &videov1.WatchVideosRequest{User: user, After: after})
	if err == nil {
		_, err = stream.Header()
	}
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func next[M any](t *testing.T, stream grpc.ServerStreamingClient[M]) *M {
	t.Helper()
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// expect reads a stream's next answers, but for the end of video_0, of which the
// hub may be behind, and returns the last.
func expect(t *testing.T, stream grpc.ServerStreamingClient[videov1.WatchVideosResponse], want ...string) (m *videov1.WatchVideosResponse) {
	t.Helper()
	for _, w := range want {
		for m = next(t, stream); m.GetVideo().GetId() == "video_0"; {
			m = next(t, stream)
		}
		if got := line(m); got != w {
			t.Fatalf("%s instead of %s", got, w)
		}
	}
	return m
}

// Over gRPC too a watch of an end user or an account begins with what is
// unfinished, goes on with each change, and outlasts the notifier without a gap or
// a repetition.
func TestGRPCWatchOfMany(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := withKey(limit(t, 2*time.Minute), "k")
	x.moveOf("alice", "video_0", last)
	x.moveOf("alice", "video_1", 2)
	x.moveOf("bob", "video_2", 2)
	c := x.grpc()
	user, all := many(ctx, t, c, "alice", ""), many(ctx, t, c, "", "")
	if m := expect(t, user, "snapshot video_1 2"); m.GetCursor() != "" || m.GetSequence() == 0 {
		t.Errorf("%v", m)
	}
	if m := expect(t, user, "subscribed"); m.GetCursor() == "" || m.GetMore() {
		t.Errorf("%v", m)
	}
	expect(t, all, "snapshot video_1 2", "snapshot video_2 2", "subscribed")
	x.moveOf("bob", "video_2", 3)
	x.moveOf("alice", "video_1", 3)
	ofUser, ofAll := expect(t, user, "event video_1 3").GetCursor(), expect(t, all, "event video_2 3", "event video_1 3").GetCursor()
	x.halt() // the notifier dies, time passes, another one lives
	x.moveOf("alice", "video_1", 4)
	x.moveOf("bob", "video_2", 4)
	x.serve()
	again := x.grpc()
	user, all = many(ctx, t, again, "alice", ofUser), many(ctx, t, again, "", ofAll)
	x.moveOf("alice", "video_1", last)
	if m := expect(t, user, "event video_1 4", "event video_1 6"); m.GetUrl() != "http://files/video_1.mp4" || m.GetUrlExpiresAt() == nil || m.GetVideo().GetArtifact().GetKey() == "" {
		t.Errorf("%v", m)
	}
	expect(t, all, "event video_1 4", "event video_2 4", "event video_1 6")
	expect(t, many(ctx, t, again, "", "1-1"), "reset", "snapshot video_2 4", "subscribed")
	one, err := again.WatchVideo(ctx, &videov1.WatchVideoRequest{Id: "video_1"})
	if err != nil {
		t.Fatal(err)
	}
	if m := next(t, one); m.GetUrl() == "" || m.GetSequence() == 0 || m.GetVideo().GetVersion() != last {
		t.Errorf("%v", m)
	}
}

// An account's watch tells of its money where the key may know of it.
func TestGRPCNotices(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, time.Minute)
	c := x.grpc()
	rich, poor := many(withKey(ctx, richKey), t, c, "", ""), many(withKey(ctx, "k"), t, c, "", "")
	expect(t, rich, "subscribed")
	expect(t, poor, "subscribed")
	usual := int64(7)
	for i, n := range []*eventv1.AccountNotice{
		{About: &eventv1.AccountNotice_Budget{Budget: &eventv1.BudgetReached{BudgetId: "budget_1", Percent: 80, LimitMicros: 9, Hard: true}}},
		{About: &eventv1.AccountNotice_Paused{Paused: &eventv1.SpendingPaused{HourMicros: 8, UsualMicros: &usual}}},
		{About: &eventv1.AccountNotice_Webhook{Webhook: &eventv1.WebhookDisabled{EndpointId: "whe_1", Reason: "gone"}}},
	} {
		n.AccountId, n.Text = account, fmt.Sprint("notice ", i)
		m, err := bus.NewMessage(bus.NoticeSubject(account), n.GetText(), n)
		if err == nil {
			err = x.bus.Publish(ctx, m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, ok := range []func(*videov1.Notice) bool{
		func(n *videov1.Notice) bool {
			b := n.GetBudget()
			return n.GetText() == "notice 0" && b.GetBudgetId() == "budget_1" && b.GetPercent() == 80 && b.GetLimitMicros() == 9 && b.GetHard()
		},
		func(n *videov1.Notice) bool {
			return n.GetPaused().GetHourMicros() == 8 && n.GetPaused().GetUsualMicros() == 7
		},
		func(n *videov1.Notice) bool {
			return n.GetWebhook().GetEndpointId() == "whe_1" && n.GetWebhook().GetReason() == "gone"
		},
	} {
		if m := expect(t, rich, "notice"); !ok(m.GetNotice()) || m.GetCursor() == "" {
			t.Errorf("%v", m)
		}
	}
	x.move("video_1", 1)
	expect(t, poor, "event video_1 1")
}

// A token watches what it names, without cost, until it is revoked.
func TestGRPCToken(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, 2*time.Minute)
	v := video("video_1", 1)
	v.User, v.QuoteMicros, v.HeldMicros, v.Attempts = "alice", 5, 5, []*videov1.Attempt{{Id: "att_1"}}
	v.Artifact = &videov1.Artifact{Key: "k", Thumbnail: &videov1.Variant{Key: "t", Width: 3}}
	x.commit(v)
	x.moveOf("bob", "video_2", 1)
	x.moveOf("bob", "video_3", 1)
	c := x.grpc()
	token := withToken(ctx, x.token(livetoken.Grant{ID: "rtok_1", Videos: []string{"video_2"}, User: "alice"}))
	alice := many(token, t, c, "alice", "")
	shown := expect(t, alice, "snapshot video_1 1").GetVideo()
	if shown.GetQuoteMicros() != 0 || shown.GetHeldMicros() != 0 || len(shown.GetAttempts()) != 0 || shown.GetAccountId() != "" || shown.GetArtifact().GetKey() != "" ||
		shown.GetArtifact().GetThumbnail().GetKey() != "" || shown.GetArtifact().GetThumbnail().GetWidth() != 3 {
		t.Errorf("a token shows %v", shown)
	}
	expect(t, alice, "subscribed")
	if m := expect(t, many(withKey(ctx, "k"), t, c, "alice", ""), "snapshot video_1 1"); m.GetVideo().GetQuoteMicros() != 5 || len(m.GetVideo().GetAttempts()) != 1 {
		t.Errorf("a key shows %v", m)
	}
	one := func(ctx context.Context, id string) codes.Code {
		stream, err := c.WatchVideo(ctx, &videov1.WatchVideoRequest{Id: id})
		if err == nil {
			_, err = stream.Recv()
		}
		return status.Code(err)
	}
	group := func(ctx context.Context, user string) codes.Code {
		stream, err := c.WatchVideos(ctx, &videov1.WatchVideosRequest{User: user})
		if err == nil {
			_, err = stream.Recv()
		}
		return status.Code(err)
	}
	for what, is := range map[string][2]codes.Code{
		"a video that it names":      {one(token, "video_2"), codes.OK},
		"a video of its user":        {one(token, "video_1"), codes.OK},
		"a video of another user":    {one(token, "video_3"), codes.NotFound},
		"another user":               {group(token, "bob"), codes.PermissionDenied},
		"the account":                {group(token, ""), codes.PermissionDenied},
		"a word that is no token":    {group(withToken(ctx, "nonsense"), "alice"), codes.Unauthenticated},
		"a key in the token's place": {group(withToken(ctx, "k"), "alice"), codes.Unauthenticated},
		"neither key nor token":      {group(ctx, "alice"), codes.Unauthenticated},
		"a name that is no id":       {one(token, "../x"), codes.InvalidArgument},
	} {
		if is[0] != is[1] {
			t.Errorf("%s: %s, want %s", what, is[0], is[1])
		}
	}
	x.books.mu.Lock()
	x.books.revoked["rtok_1"] = true
	x.books.mu.Unlock()
	if err := x.bus.Broadcast(ctx, bus.AccessChangedSubject, &eventv1.AccessChanged{AccountId: account, TokenId: "rtok_1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.Recv(); status.Code(err) != codes.Unauthenticated || fault.FromStatus(err).Retryable {
		t.Errorf("after it was revoked: %v", err)
	}
}

// tooSlow judges the end of a stream that was not read.
func tooSlow(t *testing.T, err error) {
	t.Helper()
	f := fault.FromStatus(err)
	if status.Code(err) != codes.ResourceExhausted || !f.Retryable || f.RetryAfter == 0 || !strings.Contains(f.Message, "resume") {
		t.Errorf("a slow reader is told %v", err)
	}
}

// A reader that does not keep up is cut off while others are told, and resumes
// without a gap.
func TestGRPCSlowReader(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := withKey(limit(t, 2*time.Minute), "k")
	c := x.grpc()
	slow, fast := many(ctx, t, c, "", ""), many(ctx, t, x.grpc(), "", "")
	expect(t, slow, "subscribed")
	expect(t, fast, "subscribed")
	const n = 600
	ballast := strings.Repeat("x", 8<<10)
	publish := make(chan error, 1)
	go func() {
		for i := range int64(n) {
			v := video("video_1", 100+i)
			v.Params = &videov1.VideoParams{Prompt: ballast}
			if err := x.publish(v); err != nil {
				publish <- err
				return
			}
		}
		publish <- nil
	}()
	for i := range n {
		expect(t, fast, fmt.Sprint("event video_1 ", 100+i))
	}
	if err := <-publish; err != nil {
		t.Fatal(err)
	}
	seen, cursor := 0, ""
	read := func(stream grpc.ServerStreamingClient[videov1.WatchVideosResponse]) error {
		for seen < n {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			if got := m.GetVideo().GetVersion(); got != int64(100+seen) {
				t.Fatalf("the slow one is told %d, not %d", got, 100+seen)
			}
			seen, cursor = seen+1, m.GetCursor()
		}
		return nil
	}
	err := read(slow)
	tooSlow(t, err)
	if seen == 0 || err == nil {
		t.Fatal("it read nothing, or all")
	}
	x.commit(video("video_1", 100+n))
	if err := read(many(ctx, t, c, "", cursor)); err != nil {
		t.Error(err)
	}
}

// A reader that takes nothing at all does not hold its place for ever.
func TestGRPCStuckReader(t *testing.T) {
	t.Parallel()
	x := setup(t, func(c *notifier.Config) { c.PerKey = 1 })
	ctx := withKey(limit(t, 2*time.Minute), "k")
	c := x.grpc()
	stuck := many(ctx, t, c, "", "")
	expect(t, stuck, "subscribed")
	for i := range int64(50) { // more than windows and buffers hold, fewer than the hub keeps
		v := video("video_1", 100+i)
		v.Params = &videov1.VideoParams{Prompt: strings.Repeat("x", 8<<10)}
		if err := x.publish(v); err != nil {
			t.Fatal(err)
		}
	}
	other := x.grpc()
	eventually(t, "its place is free", func() bool {
		stream, err := other.WatchVideos(ctx, &videov1.WatchVideosRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if err != nil && status.Code(err) != codes.ResourceExhausted {
			t.Fatal(err)
		}
		return err == nil
	})
	seen := 0
	var err error
	for ; err == nil; seen++ {
		_, err = stuck.Recv()
	}
	tooSlow(t, err)
	if seen > 50 {
		t.Error("it was told all")
	}
}

// The Go client's watches outlive the notifier, again and again, while intake is
// not there to be asked: each version is told once, in order.
func TestClientOutlivesTheNotifier(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, 3*time.Minute)
	x.moveOf("alice", "video_1", 1)
	// Not of the range that the system hands out: it has to be free again.
	free, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 10000+rand.IntN(20000)))
	for err != nil && ctx.Err() == nil {
		free, err = net.Listen("tcp", fmt.Sprint("127.0.0.1:", 10000+rand.IntN(20000)))
	}
	if err != nil {
		t.Fatal(err)
	}
	_ = free.Close()
	addr, shut := x.door(free.Addr().String())
	t.Cleanup(func() { shut() })
	c, err := client.Open(client.Config{Addr: "127.0.0.1:1", NotifierAddr: addr, Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	one, ofUser := make(chan int64, 100), make(chan int64, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		for m, err := range c.Watch(ctx, &videov1.WatchVideoRequest{Id: "video_1"}) {
			if err != nil {
				t.Error(err)
				break
			}
			one <- m.GetVideo().GetVersion()
		}
		close(one)
	})
	wg.Go(func() {
		for m, err := range c.WatchMany(ctx, &videov1.WatchVideosRequest{User: "alice"}) {
			if err != nil {
				t.Error(err)
				break
			}
			if m.GetVideo() != nil {
				ofUser <- m.GetVideo().GetVersion()
			}
			if client.Final(m.GetVideo()) {
				break
			}
		}
		close(ofUser)
	})
	heard := func(from <-chan int64, want int64) {
		t.Helper()
		if got := <-from; got != want { // 0 when it has ended
			t.Fatalf("told version %d, not %d", got, want)
		}
	}
	version := int64(1)
	heard(one, version)
	heard(ofUser, version)
	for version < last-2 {
		version++
		x.moveOf("alice", "video_1", version)
		heard(one, version)
		heard(ofUser, version)
		shut()
		x.halt()
		version++
		x.moveOf("alice", "video_1", version)
		x.serve()
		_, shut = x.door(addr)
		heard(one, version)
		heard(ofUser, version)
	}
	x.moveOf("alice", "video_1", last)
	heard(one, last)
	heard(ofUser, last)
	wg.Wait()
	heard(one, 0)
	heard(ofUser, 0)
}
