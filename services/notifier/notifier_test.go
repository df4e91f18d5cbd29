package notifier_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/livetoken"
	"reelway.dev/pkg/natstest"
	"reelway.dev/pkg/videojson"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/notifier"
)

const account = "acct_1"

// books stand for the ledger: what it has committed, which is ahead of what it
// has published.
type books struct {
	ledgerv1.JobServiceClient
	ledgerv1.AccountServiceClient
	mu      sync.Mutex
	jobs    map[string]*videov1.Video
	revoked map[string]bool // tokens
}

// richKey has the scope billing:read besides.
const richKey = "rich"

func (b *books) Authenticate(_ context.Context, r *ledgerv1.AuthenticateRequest, _ ...grpc.CallOption) (*ledgerv1.AuthenticateResponse, error) {
	a := &ledgerv1.AuthenticateResponse{AccountId: account, Scopes: []string{auth.VideosRead}}
	if rich := sha256.Sum256([]byte(richKey)); bytes.Equal(r.GetKeyHash(), rich[:]) {
		a.Scopes = append(a.Scopes, auth.BillingRead)
	}
	return a, nil
}

func (b *books) GetJob(_ context.Context, r *ledgerv1.GetJobRequest, _ ...grpc.CallOption) (*ledgerv1.GetJobResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.jobs[r.GetJobId()]
	if v == nil || r.GetAccountId() != v.GetAccountId() {
		return nil, status.Error(codes.NotFound, "no such video")
	}
	return &ledgerv1.GetJobResponse{Video: v}, nil
}

func (b *books) ListUnfinishedJobs(_ context.Context, r *ledgerv1.ListUnfinishedJobsRequest, _ ...grpc.CallOption) (*ledgerv1.ListUnfinishedJobsResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	resp := &ledgerv1.ListUnfinishedJobsResponse{}
	for _, id := range slices.Sorted(maps.Keys(b.jobs)) {
		v := b.jobs[id]
		if v.GetAccountId() != r.GetAccountId() || v.GetState() == videov1.VideoState_VIDEO_STATE_SUCCEEDED || r.GetUser() != "" && v.GetUser() != r.GetUser() || id <= r.GetAfter() {
			continue
		}
		if len(resp.GetVideos()) == int(r.GetLimit()) {
			resp.HasMore = true
			break
		}
		resp.Videos = append(resp.Videos, v)
	}
	return resp, nil
}

func (b *books) RevokeRealtimeToken(context.Context, *ledgerv1.RevokeRealtimeTokenRequest, ...grpc.CallOption) (*ledgerv1.RevokeRealtimeTokenResponse, error) {
	return nil, status.Error(codes.Unimplemented, "the notifier revokes nothing")
}

func (b *books) ListEndedRealtimeTokens(_ context.Context, r *ledgerv1.ListEndedRealtimeTokensRequest, _ ...grpc.CallOption) (*ledgerv1.ListEndedRealtimeTokensResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	resp := &ledgerv1.ListEndedRealtimeTokensResponse{}
	for _, t := range r.GetTokens() {
		if b.revoked[t.GetTokenId()] {
			resp.TokenIds = append(resp.TokenIds, t.GetTokenId())
		}
	}
	return resp, nil
}

type files struct{}

func (files) SignedURL(_ context.Context, key string) (string, time.Time, error) {
	return "http://files/" + key, time.Now(), nil
}

// bundle is a notifier behind its door, on a real JetStream.
type bundle struct {
	t      *testing.T
	nats   *natstest.Server
	bus    *bus.Bus
	books  *books
	tokens *livetoken.Tokens
	s      *notifier.Service
	url    string
	narrow bool   // the system buffers little of what is sent
	halt   func() // stops its components; they run again by begin
}

func setup(t *testing.T, change ...func(*notifier.Config)) *bundle {
	t.Helper()
	x := &bundle{t: t, nats: natstest.NewServer(t), books: &books{jobs: map[string]*videov1.Video{}, revoked: map[string]bool{}}}
	x.bus = x.nats.Bus()
	var err error
	if x.tokens, err = livetoken.Open(livetoken.Config{Secret: strings.Repeat("s", 32)}); err != nil {
		t.Fatal(err)
	}
	x.serve(change...)
	return x
}

// serve starts a notifier, which is x's from now on.
func (x *bundle) serve(change ...func(*notifier.Config)) {
	x.t.Helper()
	cfg := notifier.Config{PerKey: 1000, PerToken: 20}
	for _, f := range change {
		f(&cfg)
	}
	s, err := notifier.New(cfg, notifier.Deps{Bus: x.bus, Jobs: x.books, Auth: auth.New(x.books, time.Now), Files: files{}, Tokens: x.tokens, Realtime: x.books, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		x.t.Fatal(err)
	}
	x.s = s
	srv := httptest.NewUnstartedServer(s.Handler())
	srv.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if tcp, ok := c.(*net.TCPConn); ok && x.narrow {
			_ = tcp.SetWriteBuffer(4096)
		}
		return ctx
	}
	srv.Start()
	x.url = srv.URL
	x.begin()
	x.t.Cleanup(func() { srv.CloseClientConnections(); srv.Close(); x.halt() })
}

func (x *bundle) begin() {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, c := range x.s.Components() {
		wg.Go(func() { _ = c.Run(ctx) })
	}
	x.halt = func() { stop(); wg.Wait() }
}

// last is the version at which the jobs of these tests are final.
const last = 6

func video(id string, version int64) *videov1.Video {
	v := &videov1.Video{Id: id, AccountId: account, Version: version, Provider: "kling", State: videov1.VideoState_VIDEO_STATE_RUNNING,
		Params: &videov1.VideoParams{Prompt: "a secret prompt"}, Metadata: map[string]string{"version": strconv.FormatInt(version, 10)}}
	if version == last {
		v.State, v.Progress = videov1.VideoState_VIDEO_STATE_SUCCEEDED, 100
		v.Artifact = &videov1.Artifact{Key: id + ".mp4"}
	}
	return v
}

// commit is the ledger's transaction, publish its outbox afterwards.
func (x *bundle) commit(v *videov1.Video) {
	x.books.mu.Lock()
	defer x.books.mu.Unlock()
	x.books.jobs[v.GetId()] = v
}

func (x *bundle) publish(v *videov1.Video) error {
	m, err := bus.NewMessage(bus.EventSubject(account, v.GetId(), "x"), fmt.Sprint(v.GetId(), "-", v.GetVersion()), &eventv1.JobEvent{Video: v})
	if err != nil {
		return err
	}
	return x.bus.Publish(context.Background(), m)
}

func (x *bundle) move(id string, version int64) {
	x.t.Helper()
	v := video(id, version)
	x.commit(v)
	if err := x.publish(v); err != nil {
		x.t.Error(err)
	}
}

func (x *bundle) remove(id string) {
	x.books.mu.Lock()
	defer x.books.mu.Unlock()
	delete(x.books.jobs, id)
}

// told is one frame.
type told struct {
	Type    string
	Cursor  string
	VideoID string `json:"video_id"`
	Video   *videojson.Video
	User    string
	More    bool
	Error   *videojson.Error
	version int

	Sequence int64
}

// The version is not public: the story's jobs carry it in their metadata.
func (f *told) read() {
	if f.Video != nil {
		f.version, _ = strconv.Atoi(f.Video.Metadata["version"])
	}
}

// head is how a door answered.
type head struct {
	status int
	header http.Header
}

// sse opens a stream; next returns false at its end.
func (x *bundle) sse(ctx context.Context, id, after string) (h head, next func() (told, bool)) {
	x.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, x.url+"/v1/videos/"+id+"/events", nil)
	if err != nil {
		x.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer k")
	if after != "" {
		req.Header.Set("Last-Event-ID", after)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { _ = resp.Body.Close() })
	return head{resp.StatusCode, resp.Header}, sseFrames(resp.Body)
}

// sseFrames reads the frames of a stream; false is its end.
func sseFrames(body io.Reader) func() (told, bool) {
	sc := bufio.NewScanner(body)
	return func() (told, bool) {
		for sc.Scan() {
			var f told
			if data, ok := strings.CutPrefix(sc.Text(), "data: "); ok && json.Unmarshal([]byte(data), &f) == nil {
				f.read()
				return f, true
			}
		}
		return told{}, false
	}
}

// socket opens a WebSocket.
func (x *bundle) socket(ctx context.Context) (send func(text string), next func() (told, error)) {
	x.t.Helper()
	c, resp, err := websocket.Dial(ctx, strings.Replace(x.url, "http", "ws", 1)+"/v1/stream", &websocket.DialOptions{Subprotocols: []string{"reelway.bearer.k"}})
	if err != nil {
		x.t.Fatal(err)
	}
	if resp.Body != nil {
		_ = resp.Body.Close()
	}
	x.t.Cleanup(func() { _ = c.CloseNow() })
	send = func(text string) {
		if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
			x.t.Error(err)
		}
	}
	return send, func() (f told, err error) {
		_, data, err := c.Read(ctx)
		if err == nil {
			err = json.Unmarshal(data, &f)
		}
		f.read()
		return f, err
	}
}

func limit(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

// Events are published while watchers attach, are cut and resume, and while the
// hub is stopped and started again: each watcher is told every version from its
// first to the last, in order, once.
func TestNoGapAndNoRepetition(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, 2*time.Minute)
	restarts, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(restarts)
		for {
			select {
			case <-stop:
				return
			default:
				x.halt()
				x.begin()
			}
		}
	}()
	// A watcher that reads n frames, then comes again with its cursor.
	follow := func(id string, n int) {
		var seen []int
		after := ""
		for cuts := 0; ; cuts++ {
			cctx, cut := context.WithCancel(ctx)
			h, next := x.sse(cctx, id, after)
			if h.status == http.StatusServiceUnavailable && ctx.Err() == nil {
				cut() // the hub took too long to begin again: come again, as told
				continue
			}
			if h.status != http.StatusOK {
				t.Errorf("%s: status %d after %v", id, h.status, seen)
				cut()
				return
			}
			for range n {
				f, ok := next()
				if !ok {
					break
				}
				seen, after = append(seen, f.version), f.Cursor
				if f.Video.State == "succeeded" {
					cut()
					for i := 1; i < len(seen); i++ {
						if seen[i] != seen[i-1]+1 {
							t.Errorf("%s was told versions %v", id, seen)
						}
					}
					return
				}
			}
			cut()
			if ctx.Err() != nil || cuts > 100 {
				t.Errorf("%s: no end after %v", id, seen)
				return
			}
		}
	}
	for round := range 20 {
		var wg sync.WaitGroup
		for j := range 4 {
			id := fmt.Sprintf("video_%d_%d", round, j)
			x.move(id, 1)
			for n := range 3 {
				wg.Go(func() { follow(id, n+1) })
			}
			wg.Go(func() {
				for v := int64(2); v <= last; v++ {
					<-time.After(time.Duration(rand.Int64N(int64(4 * time.Millisecond)))) // scattered among cuts and restarts
					x.move(id, v)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			break
		}
	}
	close(stop)
	<-restarts
}

// JetStream comes back empty while watchers are attached: they are cut off, not
// left with heartbeats, and told the rest when they resume.
func TestStreamWipedUnderWatchers(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, time.Minute)
	for range 50 { // the new stream's numbers will be small ones
		x.move("video_other", 1)
		x.move("video_other", 2)
	}
	x.move("video_1", 1)
	x.move("video_1", 2)
	_, next := x.sse(ctx, "video_1", "")
	f, _ := next()
	send, all := x.socket(ctx)
	send(`{"type":"subscribe","all":true,"after":"` + f.Cursor + `"}`)
	x.move("video_1", 3)
	f, _ = next()
	a, err := all()
	for a.version < 3 && err == nil { // the hub may have been behind the snapshot
		a, err = all()
	}
	if f.version != 3 || err != nil || a.Video.ID != "video_1" {
		t.Fatalf("%+v, %+v %v", f, a, err)
	}
	x.nats.Wipe()
	eventually(t, "the streams are there again", func() bool { return x.bus.Ensure(ctx, 1) == nil })
	x.move("video_1", 4)
	if f, ok := next(); ok {
		t.Fatalf("after the wipe: %+v", f)
	}
	if _, err := all(); websocket.CloseStatus(err) != websocket.StatusServiceRestart {
		t.Errorf("the socket: %v", err)
	}
	var seen []int
	send, all = x.socket(ctx)
	send(`{"type":"subscribe","all":true,"after":"` + a.Cursor + `"}`)
	if f, err := all(); err != nil || f.Type != "reset" {
		t.Errorf("a watch of all is not told what it lost: %+v %v", f, err)
	}
	for _, want := range []string{"video_1", "video_other"} { // both unfinished
		if f, err := all(); err != nil || f.Type != "snapshot" || f.Video.ID != want || f.Cursor != "" {
			t.Errorf("%+v %v", f, err)
		}
	}
	if f, err := all(); err != nil || f.Type != "subscribed" || f.Cursor == "" {
		t.Errorf("%+v %v", f, err)
	}
	_, next = x.sse(ctx, "video_1", f.Cursor)
	for v := int64(5); v <= last; v++ {
		f, ok := next()
		if !ok {
			t.Fatalf("ended after %v", seen)
		}
		seen = append(seen, f.version)
		x.move("video_1", v)
	}
	if f, ok := next(); !ok || f.Video.State != "succeeded" {
		t.Errorf("%+v after %v", f, seen)
	}
	if fmt.Sprint(seen) != "[4 5]" {
		t.Errorf("told %v", seen)
	}
	if f, err := all(); err != nil || f.Video.ID != "video_1" {
		t.Errorf("%+v %v", f, err)
	}
}

// A server that restarts with its files costs the watchers nothing.
func TestServerRestartsUnderWatchers(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, time.Minute)
	x.move("video_1", 1)
	_, next := x.sse(ctx, "video_1", "")
	for v := int64(2); v <= last; v++ {
		if f, ok := next(); !ok || f.version != int(v-1) {
			t.Fatalf("%+v, want version %d", f, v-1)
		}
		if v == 4 {
			x.nats.Stop()
			x.nats.Start()
		}
		x.commit(video("video_1", v))
		eventually(t, "the event is published", func() bool { return x.publish(video("video_1", v)) == nil })
	}
	if f, ok := next(); !ok || f.Video.State != "succeeded" {
		t.Errorf("%+v", f)
	}
}

// A deleted video is gone from every door, though its events and its status
// stay on the bus for days.
func TestDeletedIsNotFound(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, time.Minute)
	x.move("video_0", 1)
	_, next := x.sse(ctx, "video_0", "")
	start, _ := next()
	for v := range int64(last) {
		x.move("video_1", v+1)
	}
	if err := x.bus.PutStatus(ctx, video("video_1", last)); err != nil {
		t.Fatal(err)
	}
	h, next := x.sse(ctx, "video_1", "")
	if f, _ := next(); f.Video.State != "succeeded" || f.Video.URL == "" {
		t.Errorf("%d %+v", h.status, f)
	}
	x.remove("video_1")
	x.move("video_0", 2)
	for _, after := range []string{"", start.Cursor} {
		if h, _ := x.sse(ctx, "video_1", after); h.status != http.StatusNotFound {
			t.Errorf("status %d", h.status)
		}
		send, next := x.socket(ctx)
		send(`{"type":"subscribe","videos":["video_1"],"after":"` + after + `"}`)
		if f, err := next(); err != nil || f.Type != "error" || f.Error.Code != "not_found" || f.VideoID != "video_1" {
			t.Errorf("%+v %v", f, err)
		}
	}
	send, all := x.socket(ctx)
	send(`{"type":"subscribe","all":true,"after":"` + start.Cursor + `"}`)
	if f, err := all(); err != nil || f.Video.ID != "video_0" {
		t.Errorf("a watch of all is told %+v %v", f, err)
	}
}

// Who knows the end is told so: 204 stops an EventSource, "end" a subscription.
func TestResumptionAfterTheEnd(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, time.Minute)
	x.move("video_1", 1)
	_, next := x.sse(ctx, "video_1", "")
	first, _ := next()
	x.move("video_1", last)
	final, _ := next()
	if _, ok := next(); ok || final.Video.State != "succeeded" {
		t.Fatalf("%+v", final)
	}
	if h, _ := x.sse(ctx, "video_1", final.Cursor); h.status != http.StatusNoContent {
		t.Errorf("status %d", h.status)
	}
	h, next := x.sse(ctx, "video_1", first.Cursor)
	if f, _ := next(); h.status != http.StatusOK || f.Cursor != final.Cursor || f.Type != "event" {
		t.Errorf("%d %+v", h.status, f)
	}
	if _, ok := next(); ok {
		t.Error("the stream goes on")
	}
	send, frames := x.socket(ctx)
	send(`{"type":"subscribe","videos":["video_1"],"after":"` + final.Cursor + `"}`)
	if f, err := frames(); err != nil || f.Type != "end" || f.VideoID != "video_1" {
		t.Errorf("%+v %v", f, err)
	}
	// Committed, told as a snapshot, and published only afterwards: not again.
	x.move("video_2", 1)
	x.commit(video("video_2", last))
	_, next = x.sse(ctx, "video_2", "")
	snapshot, _ := next()
	if err := x.publish(video("video_2", last)); err != nil || snapshot.Type != "snapshot" {
		t.Fatalf("%+v %v", snapshot, err)
	}
	if h, _ := x.sse(ctx, "video_2", snapshot.Cursor); h.status != http.StatusNoContent {
		t.Errorf("status %d", h.status)
	}
	// A cursor of one video, given for another, holds nothing of that one.
	x.move("video_3", last)
	if h, next := x.sse(ctx, "video_3", snapshot.Cursor); h.status != http.StatusOK {
		t.Errorf("status %d", h.status)
	} else if f, _ := next(); f.Video.State != "succeeded" {
		t.Errorf("%+v", f)
	}
	// The last event is lost with the stream: the end is told all the same.
	x.move("video_4", 1)
	_, next = x.sse(ctx, "video_4", "")
	first, _ = next()
	x.commit(video("video_4", last))
	_, next = x.sse(ctx, "video_4", first.Cursor)
	if f, _ := next(); f.Video == nil || f.Video.State != "succeeded" {
		t.Errorf("%+v", f)
	}
}

// Percentages lie in the stream beside the changes that outdate them: a watch
// of all videos tells none that comes too late, also when it was cut in between
// or has seen the video end.
func TestStalePercentageIsNotTold(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, time.Minute)
	percentage := func(id string, version int64, progress int32) {
		v := video(id, version)
		v.Progress = progress
		m, err := bus.NewMessage(bus.EventSubject(account, id, "progress"), fmt.Sprint(id, version, progress), &eventv1.JobEvent{Video: v, Transient: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := x.bus.Publish(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	send, next := x.socket(ctx)
	send(`{"type":"subscribe","all":true}`)
	var f told
	expect := func(id string, version, progress int) {
		t.Helper()
		var err error
		if f, err = next(); err != nil || f.Video == nil || f.Video.ID != id || f.version != version || f.Video.Progress != int32(progress) {
			t.Fatalf("%+v %v instead of %s %d at %d %%", f, err, id, version, progress)
		}
	}
	if _, err := next(); err != nil {
		t.Fatal(err)
	}
	x.move("video_1", 1)
	x.move("video_1", 2)
	expect("video_1", 1, 0)
	expect("video_1", 2, 0)
	percentage("video_1", 1, 90)
	percentage("video_1", 2, 95)
	send, next = x.socket(ctx)
	send(`{"type":"subscribe","all":true,"after":"` + f.Cursor + `"}`)
	expect("video_1", 2, 95)
	x.move("video_1", last)
	expect("video_1", last, 100)
	percentage("video_1", 2, 98)
	x.move("video_2", 1)
	expect("video_2", 1, 0)
}

// A socket is not worn out by what it has watched, only by what it watches.
func TestSocketDoesNotWearOut(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, time.Minute)
	x.move("video_done", last)
	send, next := x.socket(ctx)
	for i := range 250 {
		if i%2 == 0 {
			send(fmt.Sprintf(`{"type":"subscribe","videos":["video_unknown_%d"]}`, i))
			if f, err := next(); err != nil || f.Error == nil || f.Error.Code != "not_found" || f.VideoID != fmt.Sprint("video_unknown_", i) {
				t.Fatalf("%d: %+v %v", i, f, err)
			}
			continue
		}
		send(`{"type":"subscribe","videos":["video_done"]}`)
		if f, err := next(); err != nil || f.Type != "snapshot" {
			t.Fatalf("%d: %+v %v", i, f, err)
		}
		if f, err := next(); err != nil || f.Type != "end" {
			t.Fatalf("%d: %+v %v", i, f, err)
		}
	}
	for i := range 101 {
		id := fmt.Sprint("video_", i)
		x.move(id, 1)
		send(fmt.Sprintf(`{"type":"subscribe","videos":[%q]}`, id))
		f, err := next()
		if err != nil || (i < 100) != (f.Error == nil) || i == 100 && f.VideoID != id {
			t.Fatalf("%d: %+v %v", i, f, err)
		}
	}
	send(`{"type":"unsubscribe","videos":["video_7"]}`)
	send(`{"type":"subscribe","videos":["video_100"]}`)
	if f, err := next(); err != nil || f.Video == nil || f.Video.ID != "video_100" {
		t.Errorf("%+v %v", f, err)
	}
}

// With the bus down a watcher is told so, in the header.
func TestBusDown(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, time.Minute)
	x.move("video_1", 1)
	x.nats.Stop()
	eventually(t, "the connection is seen to be lost", func() bool { return x.bus.Ready(ctx) != nil })
	h, _ := x.sse(ctx, "video_1", "")
	if h.status != http.StatusServiceUnavailable || h.header.Get("Retry-After") == "" {
		t.Errorf("status %d, %v", h.status, h.header)
	}
	send, next := x.socket(ctx)
	send(`{"type":"subscribe","videos":["video_1"]}`)
	if f, err := next(); err != nil || f.Error == nil || f.Error.Code != "unavailable" || !f.Error.Retryable || f.VideoID != "video_1" {
		t.Errorf("%+v %v", f, err)
	}
}

// Whoever knocks wrongly is answered in the envelope of every other error.
func TestErrorsAreEnveloped(t *testing.T) {
	t.Parallel()
	x := setup(t)
	for name, c := range map[string]struct {
		method, path string
		header       [2]string
		status       int
		code         string
	}{
		"no upgrade":    {http.MethodGet, "/v1/stream", [2]string{}, http.StatusUpgradeRequired, "invalid_request"},
		"old version":   {http.MethodGet, "/v1/stream", [2]string{"Sec-WebSocket-Version", "7"}, http.StatusBadRequest, "invalid_request"},
		"unknown route": {http.MethodGet, "/v1/nothing", [2]string{}, http.StatusNotFound, "not_found"},
		"method":        {http.MethodPost, "/v1/stream", [2]string{}, http.StatusMethodNotAllowed, "invalid_request"},
		"unknown video": {http.MethodGet, "/v1/videos/video_x/events", [2]string{}, http.StatusNotFound, "not_found"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, x.url+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer k")
		if c.header[0] != "" {
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "websocket")
			req.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
			req.Header.Set(c.header[0], c.header[1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		var e struct{ Error videojson.Fault }
		if uerr := json.Unmarshal(raw, &e); err != nil || uerr != nil || e.Error.Code != c.code || e.Error.Message == "" || e.Error.RequestID == "" ||
			resp.StatusCode != c.status || resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s %v %v", name, resp.StatusCode, raw, err, uerr)
		}
	}
}
