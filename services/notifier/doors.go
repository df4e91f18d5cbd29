package notifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/videojson"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

const (
	writeTimeout = 10 * time.Second // a watcher that takes no byte for this long is cut off
	heartbeat    = 15 * time.Second
	maxWatches   = 100 // subscriptions of one socket
)

// Handler serves SSE and WebSocket.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/videos/{id}/events", s.sse)
	mux.HandleFunc("GET /v1/stream", s.socket)
	return mux
}

// frame is what a WebSocket sends, and an SSE message's data.
type frame struct {
	Type   string           `json:"type"` // snapshot, event, notice, error
	Cursor string           `json:"cursor,omitempty"`
	Video  *videojson.Video `json:"video,omitempty"`
	Notice *notice          `json:"notice,omitempty"`
	Error  *videojson.Error `json:"error,omitempty"`
}

func (s *Service) frame(ctx context.Context, it item) frame {
	if it.notice != nil {
		return frame{Type: "notice", Cursor: it.cursor, Notice: noticeOf(it.notice)}
	}
	o := s.object(ctx, it.video)
	f := frame{Type: "event", Cursor: it.cursor, Video: &o}
	if it.snapshot {
		f.Type = "snapshot"
	}
	return f
}

func (s *Service) sse(w http.ResponseWriter, r *http.Request) {
	rid := id.New(id.Request)
	w.Header().Set("X-Request-Id", rid)
	p, err := s.d.Auth.Request(r, auth.VideosRead)
	if err == nil {
		_, err = s.read(r.Context(), p, r.PathValue("id"))
	}
	if err != nil {
		videojson.WriteFault(w, rid, err)
		return
	}
	after := r.Header.Get("Last-Event-ID")
	if after == "" {
		after = r.URL.Query().Get("last_event_id")
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	var mu sync.Mutex
	write := func(text string) error {
		mu.Lock()
		defer mu.Unlock()
		_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := fmt.Fprint(w, text); err != nil {
			return err
		}
		return rc.Flush()
	}
	ctx, cancel := s.d.Auth.Hold(r.Context(), p, auth.Bearer(r.Header.Get("Authorization")))
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(heartbeat)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				if write(": heartbeat\n\n") != nil {
					cancel()
				}
			}
		}
	})
	if write("retry: 1000\n\n") == nil {
		err = s.watch(ctx, p, r.PathValue("id"), after, func(it item) error {
			data, err := json.Marshal(s.frame(ctx, it))
			if err != nil {
				return err
			}
			kind := "event"
			if it.snapshot {
				kind = "snapshot"
			}
			return write("id: " + it.cursor + "\nevent: " + kind + "\ndata: " + string(data) + "\n\n")
		})
	}
	cancel()
	wg.Wait() // nobody writes to w after the handler
	if err != nil && !errors.Is(err, context.Canceled) {
		s.d.Logger.DebugContext(r.Context(), "watcher left", "error", err.Error())
	}
}

// request is what a WebSocket client sends.
type request struct {
	Type   string   `json:"type"` // subscribe, unsubscribe
	Videos []string `json:"videos"`
	All    bool     `json:"all"`
	After  string   `json:"after"`
}

const protocolPrefix = "reelway.bearer."

// socket serves a WebSocket. A browser, which cannot set headers, gives its key
// as the subprotocol "reelway.bearer.KEY".
func (s *Service) socket(w http.ResponseWriter, r *http.Request) {
	key, offered := auth.Bearer(r.Header.Get("Authorization")), ""
	for v := range strings.SplitSeq(r.Header.Get("Sec-WebSocket-Protocol"), ",") {
		if v = strings.TrimSpace(v); key == "" && strings.HasPrefix(v, protocolPrefix) {
			key, offered = strings.TrimPrefix(v, protocolPrefix), v
		}
	}
	p, err := s.d.Auth.Authenticate(r.Context(), key)
	if err == nil {
		err = p.Require(auth.VideosRead)
	}
	if err != nil {
		videojson.WriteFault(w, id.New(id.Request), err)
		return
	}
	opts := &websocket.AcceptOptions{
		// The key in hand is the proof, not the page's origin: there are no cookies.
		InsecureSkipVerify: true,
	}
	if offered != "" {
		opts.Subprotocols = []string{offered}
	}
	c, err := websocket.Accept(w, r, opts)
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = c.CloseNow() }()
	c.SetReadLimit(64 << 10)
	ctx, cancel := context.WithCancel(r.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	send := func(f frame) error {
		data, err := json.Marshal(f)
		if err != nil {
			return err
		}
		wctx, done := context.WithTimeout(ctx, writeTimeout)
		defer done()
		return c.Write(wctx, websocket.MessageText, data)
	}
	refuse := func(err error) error {
		e := fault.From(err)
		return send(frame{Type: "error", Error: &videojson.Error{Code: string(e.Code), Message: e.Message, Retryable: e.Retryable}})
	}
	wg.Go(func() {
		t := time.NewTicker(heartbeat)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				pctx, done := context.WithTimeout(ctx, writeTimeout)
				if c.Ping(pctx) != nil {
					cancel()
				}
				done()
			}
		}
	})
	held, free := s.d.Auth.Hold(ctx, p, key)
	defer free()
	wg.Go(func() {
		<-held.Done()
		var f *fault.Error
		if errors.As(context.Cause(held), &f) {
			_ = refuse(f)
			_ = c.Close(websocket.StatusPolicyViolation, "the API key has ended")
			cancel()
		}
	})
	watches := map[string]context.CancelFunc{}
	for {
		_, data, err := c.Read(ctx)
		if err != nil {
			if r.Context().Err() != nil {
				_ = c.Close(websocket.StatusServiceRestart, "server is draining; resume with your cursor")
			}
			return
		}
		var req request
		if json.Unmarshal(data, &req) != nil || req.Type != "subscribe" && req.Type != "unsubscribe" {
			if refuse(fault.New(fault.InvalidRequest, `send {"type":"subscribe","videos":["video_…"]} or {"type":"subscribe","all":true}`)) != nil {
				return
			}
			continue
		}
		if req.All {
			req.Videos = []string{""}
		}
		for _, v := range req.Videos {
			if stop := watches[v]; stop != nil {
				stop()
				delete(watches, v)
			}
			if req.Type == "unsubscribe" {
				continue
			}
			if len(watches) >= maxWatches {
				_ = refuse(fault.New(fault.InvalidRequest, "a socket watches at most %d videos; subscribe to all instead", maxWatches))
				break
			}
			wctx, stop := context.WithCancel(ctx)
			watches[v] = stop
			wg.Go(func() {
				err := s.watch(wctx, p, v, req.After, func(it item) error { return send(s.frame(wctx, it)) })
				var f *fault.Error
				switch {
				case errors.Is(err, errSlow):
					_ = c.Close(websocket.StatusTryAgainLater, "too slow; resume with your cursor")
					cancel()
				case errors.As(err, &f):
					_ = refuse(f)
				case err != nil && wctx.Err() == nil:
					_ = c.Close(websocket.StatusInternalError, "resume with your cursor")
					cancel()
				}
			})
		}
	}
}

type watchServer struct {
	videov1.UnimplementedWatchServiceServer
	s *Service
}

// Register puts WatchService on a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	videov1.RegisterWatchServiceServer(r, &watchServer{s: s})
}

// WatchVideo implements WatchService.
func (g *watchServer) WatchVideo(r *videov1.WatchVideoRequest, stream grpc.ServerStreamingServer[videov1.WatchVideoResponse]) error {
	key := ""
	if v := metadata.ValueFromIncomingContext(stream.Context(), "authorization"); len(v) > 0 {
		key = auth.Bearer(v[0])
	}
	p, err := g.s.d.Auth.Authenticate(stream.Context(), key)
	if err == nil {
		err = p.Require(auth.VideosRead)
	}
	if err != nil {
		return err
	}
	ctx, free := g.s.d.Auth.Hold(stream.Context(), p, key)
	defer free()
	err = g.s.watch(ctx, p, r.GetId(), r.GetAfter(), func(it item) error {
		return stream.Send(&videov1.WatchVideoResponse{Cursor: it.cursor, Video: it.video})
	})
	if f := (*fault.Error)(nil); errors.As(context.Cause(ctx), &f) {
		return f
	}
	if errors.Is(err, errSlow) {
		return fault.New(fault.ProviderUnavailable, "the reader is too slow; resume with the last cursor")
	}
	return err
}
