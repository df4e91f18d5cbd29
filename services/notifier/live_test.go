package notifier_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/livetoken"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/notifier"
)

func (x *bundle) moveOf(user, id string, version int64) {
	x.t.Helper()
	v := video(id, version)
	v.User = user
	x.commit(v)
	if err := x.publish(v); err != nil {
		x.t.Error(err)
	}
}

func (x *bundle) token(g livetoken.Grant) string {
	x.t.Helper()
	if g.AccountID == "" {
		g.AccountID = account
	}
	if g.ExpiresAt.IsZero() {
		g.ExpiresAt = time.Now().Add(time.Hour)
	}
	if g.ID == "" {
		g.ID = "rtok_" + g.User + fmt.Sprint(len(g.Videos))
	}
	token, err := x.tokens.Sign(g)
	if err != nil {
		x.t.Fatal(err)
	}
	return token
}

// dial opens a WebSocket by a subprotocol, from a page of origin when it is set,
// and returns the handshake's status.
func (x *bundle) dial(ctx context.Context, protocol, origin string) (*websocket.Conn, int, error) {
	h := http.Header{}
	if origin != "" {
		h.Set("Origin", origin)
	}
	status := 0
	c, resp, err := websocket.Dial(ctx, strings.Replace(x.url, "http", "ws", 1)+"/v1/stream", &websocket.DialOptions{Subprotocols: []string{protocol}, HTTPHeader: h})
	if resp != nil {
		status = resp.StatusCode
		if resp.Body != nil {
			_ = resp.Body.Close()
		}
	}
	if err == nil {
		c.SetReadLimit(1 << 20)
		x.t.Cleanup(func() { _ = c.CloseNow() })
	}
	return c, status, err
}

// live is a WebSocket that must open.
func (x *bundle) live(ctx context.Context, protocol string) *websocket.Conn {
	x.t.Helper()
	c, _, err := x.dial(ctx, protocol, "")
	if err != nil {
		x.t.Fatal(err)
	}
	return c
}

func say(ctx context.Context, t *testing.T, c *websocket.Conn, text string) {
	t.Helper()
	if err := c.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		t.Error(err)
	}
}

func hear(ctx context.Context, t *testing.T, c *websocket.Conn) told {
	t.Helper()
	_, data, err := c.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var f told
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	f.read()
	return f
}

// stream is an answer that goes on; it is closed when the test ends.
type stream struct {
	head
	io.ReadCloser
}

// events reads a stream of SSE at a path.
func (x *bundle) events(ctx context.Context, path string) stream {
	x.t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, x.url+path, nil)
	if err != nil {
		x.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { _ = resp.Body.Close() })
	return stream{head{resp.StatusCode, resp.Header}, resp.Body}
}

// An end user's watch begins with what is unfinished and goes on with each
// change of that user's videos; a break that outlasts the notifier loses nothing
// and repeats nothing.
func TestWatchOfAnEndUser(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, 2*time.Minute)
	x.moveOf("alice", "video_0", last)
	x.moveOf("alice", "video_1", 2)
	x.moveOf("bob", "video_2", 2)
	first := x.live(ctx, "reelway.bearer.k")
	say(ctx, t, first, `{"type":"subscribe","user":"alice"}`)
	if f := hear(ctx, t, first); f.Type != "snapshot" || f.Video.ID != "video_1" || f.Cursor != "" || f.User != "alice" {
		t.Fatalf("%+v", f)
	}
	begun := hear(ctx, t, first)
	if begun.Type != "subscribed" || begun.Cursor == "" || begun.More {
		t.Fatalf("%+v", begun)
	}
	// The hub may have been behind: then the end of video_0 is yet to be told.
	next := func() told {
		f := hear(ctx, t, first)
		for f.Video != nil && f.Video.ID == "video_0" {
			f = hear(ctx, t, first)
		}
		return f
	}
	say(ctx, t, first, `{"type":"subscribe","videos":["video_1"]}`)
	if f := next(); f.Type != "snapshot" || f.VideoID != "video_1" || f.User != "" {
		t.Fatalf("%+v", f)
	}
	x.moveOf("bob", "video_2", 3)
	x.moveOf("alice", "video_1", 3)
	sequence := int64(0)
	for range 2 { // one for each subscription, in any order
		f := next()
		if f.version != 3 || f.Video.ID != "video_1" || (f.User == "") == (f.VideoID == "") {
			t.Fatalf("%+v", f)
		}
		if f.User != "" {
			begun.Cursor = f.Cursor
		}
		sequence = f.Sequence
	}
	// The notifier dies, time passes, another one lives.
	x.halt()
	_ = first.CloseNow()
	x.moveOf("alice", "video_1", 4)
	x.moveOf("bob", "video_2", 4)
	x.moveOf("alice", "video_3", 1)
	x.serve()
	second := x.live(ctx, "reelway.bearer.k")
	say(ctx, t, second, `{"type":"subscribe","user":"alice","after":"`+begun.Cursor+`"}`)
	x.moveOf("alice", "video_1", 5)
	resp := x.events(ctx, "/v1/events?user=alice&token="+x.token(livetoken.Grant{User: "alice"})+"&last_event_id="+begun.Cursor)
	if resp.status != http.StatusOK {
		t.Fatal(resp.status)
	}
	for i, want := range []string{"video_1 4", "video_3 1", "video_1 5"} {
		f := hear(ctx, t, second)
		if got := fmt.Sprint(f.Video.ID, " ", f.version); got != want || f.Type != "event" {
			t.Errorf("%d: %s instead of %s", i, got, want)
		}
		if f.Video.ID == "video_1" {
			if f.Sequence <= sequence {
				t.Errorf("sequence %d after %d", f.Sequence, sequence)
			}
			sequence = f.Sequence
		}
	}
	frames := sseFrames(resp)
	for _, want := range []string{"video_1 4", "video_3 1", "video_1 5"} {
		f, ok := frames()
		if !ok || fmt.Sprint(f.Video.ID, " ", f.version) != want {
			t.Errorf("SSE: %+v instead of %s", f, want)
		}
	}
}

// A watch of many begins with a page after the other of what is unfinished, up to
// a bound, and says when there is more.
func TestSnapshotOfMany(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, time.Minute)
	begin := func() (n int, more bool) {
		c := x.live(ctx, "reelway.bearer.k")
		say(ctx, t, c, `{"type":"subscribe","all":true}`)
		f := hear(ctx, t, c)
		for ; f.Type == "snapshot"; f = hear(ctx, t, c) {
			if want := fmt.Sprintf("video_%04d", n); f.Video.ID != want {
				t.Fatalf("%s instead of %s", f.Video.ID, want)
			}
			n++
		}
		if f.Type != "subscribed" {
			t.Fatalf("%+v", f)
		}
		return n, f.More
	}
	for i, want := range []int{0, 1, 100, 101, 1000, 1000} {
		for n := range []int{0, 1, 100, 101, 1000, 1001}[i] {
			x.commit(video(fmt.Sprintf("video_%04d", n), 1))
		}
		if n, more := begin(); n != want || more != (i == 5) {
			t.Errorf("%d: told of %d, more: %v", i, n, more)
		}
	}
}

// What a token was made for can be watched, and nothing else; of that neither
// what it cost nor who tried.
func TestTokenGrantsWhatItNames(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, time.Minute)
	x.moveOf("alice", "video_1", 1)
	x.moveOf("bob", "video_2", 1)
	x.moveOf("bob", "video_3", 1)
	c := x.live(ctx, "reelway.token."+x.token(livetoken.Grant{Videos: []string{"video_2", "video_missing"}, User: "alice"}))
	for request, want := range map[string]string{
		`{"type":"subscribe","videos":["video_1"]}`:       "snapshot video_1",
		`{"type":"subscribe","videos":["video_2"]}`:       "snapshot video_2",
		`{"type":"subscribe","videos":["video_3"]}`:       "not_found video_3",
		`{"type":"subscribe","videos":["video_missing"]}`: "not_found video_missing",
		`{"type":"subscribe","user":"bob"}`:               "permission_denied ",
		`{"type":"subscribe","all":true}`:                 "permission_denied ",
		`{"type":"subscribe"}`:                            "invalid_request ",
		`{"type":"ping"}`:                                 "pong ",
	} {
		say(ctx, t, c, request)
		f := hear(ctx, t, c)
		got := f.Type + " " + f.VideoID
		if f.Error != nil {
			got = f.Error.Code + " " + f.VideoID
		}
		if got != want {
			t.Errorf("%s: %s, want %s", request, got, want)
		}
	}
	raw := func(c *websocket.Conn) string {
		say(ctx, t, c, `{"type":"subscribe","videos":["video_2"]}`)
		_, data, err := c.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if s := raw(c); strings.Contains(s, "cost") || strings.Contains(s, "micros") || strings.Contains(s, "attempts") {
		t.Error(s)
	}
	if s := raw(x.live(ctx, "reelway.bearer.k")); !strings.Contains(s, `"quote_micros"`) {
		t.Error(s)
	}
	good := x.token(livetoken.Grant{Videos: []string{"video_2"}})
	for path, want := range map[string]int{
		"/v1/videos/video_2/events?token=" + good:       http.StatusOK,
		"/v1/videos/video_3/events?token=" + good:       http.StatusNotFound,
		"/v1/videos/video_2/events?token=" + good + "x": http.StatusUnauthorized,
		"/v1/videos/video_2/events":                     http.StatusUnauthorized,
		"/v1/videos/video_2/events?token=k":             http.StatusUnauthorized, // a key has no place in an address
		"/v1/events?user=bob&token=" + good:             http.StatusForbidden,
		"/v1/events?token=" + good:                      http.StatusForbidden,
		"/v1/videos/video_2/events?token=" + x.token(livetoken.Grant{AccountID: "acct_2", Videos: []string{"video_2"}}): http.StatusNotFound,
	} {
		if resp := x.events(ctx, path); resp.status != want {
			t.Errorf("%s: %d", path, resp.status)
		}
	}
}

// A token's streams end when it does: revoked, also unheard, or expired. A
// browser is told so by a close code.
func TestTokenEnds(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, 2*time.Minute)
	x.move("video_1", 1)
	closed := func(name string, c *websocket.Conn) {
		t.Helper()
		if f := hear(ctx, t, c); f.Error == nil || f.Error.Code != "unauthenticated" || f.Error.Retryable {
			t.Errorf("%s: %+v", name, f)
		}
		if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
			t.Errorf("%s: %v", name, err)
		}
	}
	open := func(g livetoken.Grant) (*websocket.Conn, stream) {
		t.Helper()
		g.Videos = []string{"video_1"}
		token := x.token(g)
		c := x.live(ctx, "reelway.token."+token)
		say(ctx, t, c, `{"type":"subscribe","videos":["video_1"]}`)
		if f := hear(ctx, t, c); f.Video == nil {
			t.Fatalf("%+v", f)
		}
		return c, x.events(ctx, "/v1/videos/video_1/events?token="+token)
	}
	revoke := func(id string) {
		x.books.mu.Lock()
		defer x.books.mu.Unlock()
		x.books.revoked[id] = true
	}
	elsewhere, _ := open(livetoken.Grant{ID: "rtok_heard"})
	halt := x.halt
	t.Cleanup(func() { halt() })
	x.serve() // another replica
	heard, heardSSE := open(livetoken.Grant{ID: "rtok_heard"})
	unheard, _ := open(livetoken.Grant{ID: "rtok_unheard"})
	other, _ := open(livetoken.Grant{ID: "rtok_other"})
	expiring, expiringSSE := open(livetoken.Grant{ID: "rtok_expiring", ExpiresAt: time.Now().Add(5 * time.Second)})
	revoke("rtok_heard")
	if err := x.bus.Broadcast(ctx, bus.AccessChangedSubject, &eventv1.AccessChanged{AccountId: account, TokenId: "rtok_heard"}); err != nil {
		t.Fatal(err)
	}
	closed("revoked", heard)
	closed("revoked, on the other replica", elsewhere)
	revoke("rtok_unheard") // and the broadcast is lost
	closed("revoked, unheard", unheard)
	closed("expired", expiring)
	for _, resp := range []stream{heardSSE, expiringSSE} {
		if _, err := io.Copy(io.Discard, resp); err != nil {
			t.Error(err)
		}
	}
	closed("revoked before", x.live(ctx, "reelway.token."+x.token(livetoken.Grant{ID: "rtok_heard", Videos: []string{"video_1"}})))
	closed("no token", x.live(ctx, "reelway.token.nonsense"))
	x.move("video_1", 2)
	if f := hear(ctx, t, other); f.version != 2 {
		t.Errorf("another token: %+v", f)
	}
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	x := setup(t, func(c *notifier.Config) { c.Origins = []string{"https://app.example"} })
	ctx := limit(t, time.Minute)
	x.move("video_1", 1)
	token := x.token(livetoken.Grant{Videos: []string{"video_1"}})
	try := func(origin string, allowed bool) {
		t.Helper()
		_, status, err := x.dial(ctx, "reelway.token."+token, origin)
		if (err == nil) != allowed || !allowed && status != http.StatusForbidden {
			t.Errorf("WebSocket from %q: %v", origin, err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, x.url+"/v1/videos/video_1/events?token="+token, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		sse, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = sse.Body.Close()
		if allowed && (sse.StatusCode != http.StatusOK || sse.Header.Get("Access-Control-Allow-Origin") != origin) ||
			!allowed && (sse.StatusCode != http.StatusForbidden || sse.Header.Get("Access-Control-Allow-Origin") != "") {
			t.Errorf("SSE from %q: %s %v", origin, sse.Status, sse.Header)
		}
	}
	try("https://app.example", true)
	try(x.url, true) // a page of our own
	try("https://app.example.evil", false)
	try("http://app.example", false)
	try("null", false)
	x.halt()
	x.serve(func(c *notifier.Config) { c.Origins = []string{"*"} })
	try("https://anywhere.example", true)
}

// Streams are counted by key and by token, and one that ends makes room.
func TestTooManyStreams(t *testing.T) {
	t.Parallel()
	x := setup(t, func(c *notifier.Config) { c.PerKey, c.PerToken = 3, 2 })
	ctx := limit(t, time.Minute)
	x.move("video_1", 1)
	token := x.token(livetoken.Grant{KeyID: "key_1", Videos: []string{"video_1"}})
	first := x.live(ctx, "reelway.token."+token)
	if resp := x.events(ctx, "/v1/videos/video_1/events?token="+token); resp.status != http.StatusOK {
		t.Fatal(resp.status)
	}
	refused := x.live(ctx, "reelway.token."+token)
	if f := hear(ctx, t, refused); f.Error == nil || f.Error.Code != "rate_limited" || !f.Error.Retryable || !strings.Contains(f.Error.Message, "2 open connections") {
		t.Errorf("%+v", f)
	}
	if _, _, err := refused.Read(ctx); websocket.CloseStatus(err) != websocket.StatusTryAgainLater {
		t.Error(err)
	}
	if resp := x.events(ctx, "/v1/videos/video_1/events?token="+token); resp.status != http.StatusTooManyRequests || resp.header.Get("Retry-After") == "" {
		t.Error(resp.status)
	}
	another := x.token(livetoken.Grant{ID: "rtok_another", KeyID: "key_1", Videos: []string{"video_1"}})
	if resp := x.events(ctx, "/v1/videos/video_1/events?token="+another); resp.status != http.StatusOK {
		t.Error(resp.status)
	}
	if resp := x.events(ctx, "/v1/videos/video_1/events?token="+another); resp.status != http.StatusTooManyRequests {
		t.Errorf("a fourth of the key: %d", resp.status)
	}
	_ = first.Close(websocket.StatusNormalClosure, "")
	eventually(t, "there is room again", func() bool {
		resp := x.events(ctx, "/v1/videos/video_1/events?token="+another)
		_ = resp.Close()
		return resp.status == http.StatusOK
	})
}

// A client that does not read is cut off by 1013 while others are told, and
// resumes without a gap.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	x := setup(t)
	x.halt()
	x.narrow = true
	x.serve()
	ctx := limit(t, 2*time.Minute)
	small := &http.Client{Transport: &http.Transport{DialContext: (&net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
	}}).DialContext}}
	slow, resp, err := websocket.Dial(ctx, strings.Replace(x.url, "http", "ws", 1)+"/v1/stream", &websocket.DialOptions{Subprotocols: []string{"reelway.bearer.k"}, HTTPClient: small})
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body != nil {
		_ = resp.Body.Close()
	}
	t.Cleanup(func() { _ = slow.CloseNow() })
	slow.SetReadLimit(1 << 20)
	fast := x.live(ctx, "reelway.bearer.k")
	for _, c := range []*websocket.Conn{slow, fast} {
		say(ctx, t, c, `{"type":"subscribe","all":true}`)
		if f := hear(ctx, t, c); f.Type != "subscribed" {
			t.Fatalf("%+v", f)
		}
	}
	const n = 400
	ballast := strings.Repeat("x", 2<<10)
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
		if f := hear(ctx, t, fast); f.version != 100+i {
			t.Fatalf("the fast one is told %d, not %d", f.version, 100+i)
		}
	}
	if err := <-publish; err != nil {
		t.Fatal(err)
	}
	seen, cursor := 0, ""
	read := func(c *websocket.Conn) error {
		for seen < n {
			_, data, err := c.Read(ctx)
			if err != nil {
				return err
			}
			var f told
			if err := json.Unmarshal(data, &f); err != nil {
				t.Fatal(err)
			}
			if f.read(); f.version != 100+seen {
				t.Fatalf("the slow one is told %d, not %d", f.version, 100+seen)
			}
			seen, cursor = seen+1, f.Cursor
		}
		return nil
	}
	if err := read(slow); websocket.CloseStatus(err) != websocket.StatusTryAgainLater || seen == 0 {
		t.Fatalf("after %d: %v", seen, err)
	}
	again := x.live(ctx, "reelway.bearer.k")
	say(ctx, t, again, `{"type":"subscribe","all":true,"after":"`+cursor+`"}`)
	x.commit(video("video_1", 100+n))
	if err := read(again); err != nil {
		t.Error(err)
	}
}

// A notifier that stops says so to every socket.
func TestDraining(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, time.Minute)
	var all []*websocket.Conn
	for range 20 {
		c := x.live(ctx, "reelway.bearer.k")
		say(ctx, t, c, `{"type":"subscribe","all":true}`)
		if f := hear(ctx, t, c); f.Type != "subscribed" {
			t.Fatalf("%+v", f)
		}
		all = append(all, c)
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); x.halt() }()
	for _, c := range all {
		if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != websocket.StatusServiceRestart {
			t.Error(err)
		}
	}
	<-stopped
}

func TestModuleIsServed(t *testing.T) {
	t.Parallel()
	x := setup(t)
	ctx := limit(t, time.Minute)
	for path, kind := range map[string]string{"/v1/reelway.js": "text/javascript", "/v1/reelway.d.ts": "text/plain", "/v1/demo": "text/html"} {
		resp := x.events(ctx, path)
		data, err := io.ReadAll(resp)
		if err != nil || resp.status != http.StatusOK || !strings.HasPrefix(resp.header.Get("Content-Type"), kind) || len(data) == 0 || len(data) >= 10<<10 {
			t.Errorf("%s: %d, %d bytes, %v", path, resp.status, len(data), err)
		}
	}
}
