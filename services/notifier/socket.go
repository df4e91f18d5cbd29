package notifier

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/videojson"
)

// request is what a WebSocket client sends.
type request struct {
	Type   string   `json:"type"` // subscribe, unsubscribe, ping
	Videos []string `json:"videos"`
	User   string   `json:"user"`
	All    bool     `json:"all"`
	After  string   `json:"after"`
}

// scopes are what a request is about.
func (r request) scopes(account string) (out []scope) {
	if r.All {
		return []scope{{account: account}}
	}
	if r.User != "" {
		out = append(out, scope{account: account, user: r.User})
	}
	for _, v := range r.Videos {
		if v != "" {
			out = append(out, scope{account: account, job: v})
		}
	}
	return out
}

const (
	maxWatches  = 100 // subscriptions of one socket at a time
	maxRequest  = 64 << 10
	closeWait   = 5 * time.Second
	maxProtocol = 123 // bytes of a close frame's text, RFC 6455 §5.5
)

// The buffers of an idle socket are small: what comes from clients is short, and
// the larger ones for writing are shared by all (decision 28).
var writeBuffers sync.Pool

func (s *Service) upgrader(protocol string) *websocket.Upgrader {
	u := &websocket.Upgrader{
		ReadBufferSize: 512, WriteBufferSize: 2048, WriteBufferPool: &writeBuffers,
		CheckOrigin: func(*http.Request) bool { return true }, // judged before
		Error: func(w http.ResponseWriter, _ *http.Request, status int, reason error) {
			w.Header().Set("Sec-WebSocket-Version", "13")
			http.Error(w, reason.Error(), status)
		},
	}
	if protocol != "" {
		u.Subprotocols = []string{protocol}
	}
	return u
}

// socket serves a WebSocket. The handler returns and the socket lives on: a
// request that stays keeps its buffers and a deep stack.
func (s *Service) socket(w http.ResponseWriter, r *http.Request) {
	rid := id.New(id.Request)
	w.Header().Set("X-Request-Id", rid)
	if err := s.fromElsewhere(r); err != nil {
		videojson.WriteFault(w, rid, err)
		return
	}
	if !websocket.IsWebSocketUpgrade(r) {
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "this is a WebSocket: ask for an upgrade", http.StatusUpgradeRequired)
		return
	}
	have := credentialsOf(r)
	c, err := s.admit(context.WithoutCancel(r.Context()), have)
	if err != nil && have.token == "" {
		videojson.WriteFault(w, rid, err)
		return
	}
	conn, uerr := s.upgrader(have.protocol).Upgrade(w, r, nil)
	if uerr != nil { // it has answered
		if err == nil {
			c.free()
		}
		return
	}
	k := &socket{s: s, conn: conn, admitted: c}
	if err != nil {
		// A browser is not told the status of a handshake: it is told so.
		_ = k.send(refusal(scope{}, err))
		code := websocket.ClosePolicyViolation
		if fault.From(err).Retryable {
			code = websocket.CloseTryAgainLater
		}
		k.goodbye(code, fault.From(err).Message)
		conn.SetReadLimit(maxRequest)
		go k.drain()
		return
	}
	if !s.sockets.add(k) {
		k.goodbye(websocket.CloseServiceRestart, draining)
	}
	go k.serve()
}

const draining = "server is draining; resume with your cursors"

// sockets are the open ones.
type sockets struct {
	mu       sync.Mutex
	open     map[*socket]struct{}
	stopping bool
	empty    chan struct{} // with stopping: closed when the last has gone
}

// add reports whether the socket may live.
func (t *sockets) add(k *socket) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = map[*socket]struct{}{}
	}
	t.open[k] = struct{}{}
	return !t.stopping
}

func (t *sockets) remove(k *socket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, k)
	if t.stopping && len(t.open) == 0 {
		close(t.empty)
		t.stopping = false
	}
}

// run says goodbye to every socket when ctx is done, and waits until they have
// gone.
func (t *sockets) run(ctx context.Context) error {
	<-ctx.Done()
	t.mu.Lock()
	if len(t.open) == 0 {
		t.mu.Unlock()
		return nil
	}
	t.stopping, t.empty = true, make(chan struct{})
	empty := t.empty
	all := make([]*socket, 0, len(t.open))
	for k := range t.open {
		all = append(all, k)
	}
	t.mu.Unlock()
	var wg sync.WaitGroup
	for _, k := range all {
		wg.Go(func() { k.goodbye(websocket.CloseServiceRestart, draining) })
	}
	wg.Wait()
	<-empty
	return nil
}

// socket is one WebSocket. At rest it is one goroutine, which reads; another
// writes while there is something to write.
type socket struct {
	*admitted

	s       *Service
	conn    *websocket.Conn
	writing sync.Mutex

	mu      sync.Mutex
	watches []*subscription // those that have not ended
	ready   []*subscription // those that have something to tell
	telling bool            // somebody is at it
	leaving bool            // a close frame was sent
	gone    bool            // there is nothing more to tell
	working sync.WaitGroup  // all that may write or watch
}

// subscription is one watch of a socket.
type subscription struct {
	scope   scope
	stopped atomic.Bool // it tells no more

	mu    sync.Mutex // held by who tells of it
	watch *watch     // set once it has begun
	ended bool
}

// serve reads until the socket ends, and frees what it had.
func (k *socket) serve() {
	defer func() {
		defer k.s.sockets.remove(k)
		defer k.free()
		k.end()
		_ = k.conn.Close()
		k.mu.Lock()
		k.gone = true // wake starts nothing any more
		k.mu.Unlock()
		k.working.Wait()
		for _, sub := range k.watches { // nobody else is left
			if sub.watch != nil {
				sub.watch.close()
			}
		}
	}()
	stop := context.AfterFunc(k.ctx, func() {
		var f *fault.Error
		if errors.As(context.Cause(k.ctx), &f) {
			_ = k.send(refusal(scope{}, f))
			k.goodbye(websocket.ClosePolicyViolation, f.Message)
		}
	})
	defer stop()
	k.conn.SetReadLimit(maxRequest)
	alive := func(string) error { return k.conn.SetReadDeadline(time.Now().Add(2*heartbeat + writeTimeout)) }
	k.conn.SetPongHandler(alive)
	var ping *time.Timer
	k.mu.Lock()
	ping = time.AfterFunc(heartbeat, func() {
		if k.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeTimeout)) != nil {
			_ = k.conn.Close() // it takes nothing: the reader notices
			return
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		if !k.leaving {
			ping.Reset(heartbeat)
		}
	})
	k.mu.Unlock()
	defer ping.Stop()
	_ = alive("")
	for {
		_, data, err := k.conn.ReadMessage()
		if err != nil {
			return
		}
		k.mu.Lock()
		leaving := k.leaving
		k.mu.Unlock()
		if leaving {
			continue // until the other side has said goodbye too
		}
		_ = alive("")
		// In a goroutine of its own: what it needs of a stack would stay with
		// this one, which may rest for hours.
		done := make(chan bool)
		go func() { done <- k.handle(data) }()
		if !<-done {
			return
		}
	}
}

// handle does what a client asks for; false ends the socket.
func (k *socket) handle(data []byte) bool {
	var req request
	bad := json.Unmarshal(data, &req) != nil
	about := req.scopes(k.account)
	switch {
	case !bad && req.Type == "ping":
		return k.send(frame{Type: "pong"}) == nil
	case bad, req.Type != "subscribe" && req.Type != "unsubscribe", len(about) == 0:
		return k.send(refusal(scope{}, fault.New(fault.InvalidRequest,
			`send {"type":"subscribe","videos":["video_…"]}, or with "user":"…" or "all":true in the place of videos`))) == nil
	}
	for _, sc := range about {
		k.stop(sc)
		if req.Type == "unsubscribe" {
			continue
		}
		sub := k.add(sc)
		if sub == nil {
			if k.send(refusal(sc, fault.New(fault.InvalidRequest, "a socket has at most %d subscriptions at a time; subscribe to a user or to all instead", maxWatches))) != nil {
				return false
			}
			continue
		}
		k.working.Go(func() { k.begin(sub, req.After) })
	}
	return true
}

// send writes a frame; a client that takes no byte of it for too long is cut.
func (k *socket) send(f frame) error {
	data, err := marshal(f)
	if err != nil {
		return err
	}
	return k.sendText(data)
}

func (k *socket) sendText(data []byte) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	_ = k.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	err := k.conn.WriteMessage(websocket.TextMessage, data)
	if err != nil && !errors.Is(err, websocket.ErrCloseSent) {
		_ = k.conn.Close() // the reader notices
	}
	return err
}

// goodbye sends a close frame, once, and gives the other side a moment to send
// its own.
func (k *socket) goodbye(code int, text string) {
	k.mu.Lock()
	again := k.leaving
	k.leaving = true
	k.mu.Unlock()
	if again {
		return
	}
	if len(text) > maxProtocol {
		text = text[:maxProtocol]
	}
	_ = k.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, text), time.Now().Add(closeWait))
	_ = k.conn.SetReadDeadline(time.Now().Add(closeWait))
	if k.admitted != nil {
		k.end()
	}
}

// drain waits for the other side's goodbye and closes.
func (k *socket) drain() {
	for {
		if _, _, err := k.conn.ReadMessage(); err != nil {
			_ = k.conn.Close()
			return
		}
	}
}

// add returns nil when there are too many.
func (k *socket) add(sc scope) *subscription {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.watches) >= maxWatches {
		return nil
	}
	sub := &subscription{scope: sc}
	k.watches = append(k.watches, sub)
	return sub
}

// stop ends a watch, if there is one, and returns when it tells no more.
func (k *socket) stop(sc scope) {
	k.mu.Lock()
	i := slices.IndexFunc(k.watches, func(s *subscription) bool { return s.scope == sc })
	var sub *subscription
	if i >= 0 {
		sub = k.watches[i]
	}
	k.mu.Unlock()
	if sub == nil {
		return
	}
	sub.stopped.Store(true)
	sub.mu.Lock()
	defer sub.mu.Unlock()
	k.letGo(sub)
}

// letGo ends a watch; the caller holds sub.mu.
func (k *socket) letGo(sub *subscription) {
	if sub.ended {
		return
	}
	sub.ended = true
	if sub.watch != nil {
		sub.watch.close()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.watches = slices.DeleteFunc(k.watches, func(s *subscription) bool { return s == sub })
}

// begin opens a watch and tells how things stand; from then on tell does.
func (k *socket) begin(sub *subscription, after string) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	watch, err := k.s.open(k.ctx, k.caller, sub.scope, after, func() { k.wake(sub) })
	if err != nil {
		k.over(sub, err)
		return
	}
	sub.watch = watch
	done, err := watch.start(k.ctx, k.emit(sub))
	if done || err != nil {
		k.over(sub, err)
		return
	}
	if !watch.until.IsZero() {
		time.AfterFunc(time.Until(watch.until), func() { k.wake(sub) })
	}
	k.wake(sub) // what came meanwhile
}

var errStopped = errors.New("the watch was stopped")

func (k *socket) emit(sub *subscription) func(item) error {
	return k.s.telling("websocket", func(it item) error {
		if sub.stopped.Load() {
			return errStopped
		}
		data, err := k.s.encode(k.ctx, k.caller, sub.scope, it)
		if err != nil {
			return err
		}
		return k.sendText(data)
	})
}

// wake has a watch told of. It does not block.
func (k *socket) wake(sub *subscription) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return
	}
	k.ready = append(k.ready, sub)
	if !k.telling {
		k.telling = true
		k.working.Go(k.tell)
	}
}

// tell tells of watches until none is ready.
func (k *socket) tell() {
	for {
		k.mu.Lock()
		some := k.ready
		k.ready = nil
		k.telling = len(some) > 0
		k.mu.Unlock()
		if len(some) == 0 {
			return
		}
		for _, sub := range some {
			sub.mu.Lock()
			if sub.watch != nil && !sub.ended {
				if done, err := sub.watch.drain(k.ctx, k.emit(sub)); done || err != nil {
					k.over(sub, err)
				}
			}
			sub.mu.Unlock()
		}
	}
}

// over ends a watch and says why. It lets it go before it says so: who reads
// that may use its place for another. The caller holds sub.mu.
func (k *socket) over(sub *subscription, err error) {
	cut := sub.stopped.Load() || k.ctx.Err() != nil // unsubscribed, or the socket is closing
	k.letGo(sub)
	var f *fault.Error
	switch {
	case cut:
	case err == nil:
		_ = k.send(frame{Type: "end", VideoID: sub.scope.job})
	case errors.As(err, &f):
		_ = k.send(refusal(sub.scope, f))
	default:
		code, text := websocket.CloseInternalServerErr, "resume with your cursors"
		switch {
		case errors.Is(err, errSlow):
			code, text = websocket.CloseTryAgainLater, "too slow; resume with your cursors"
		case errors.Is(err, errMoved):
			code, text = websocket.CloseServiceRestart, "the event stream began anew; resume with your cursors"
		}
		k.goodbye(code, text)
	}
}
