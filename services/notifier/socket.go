package notifier

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/videojson"
)

// request is what a WebSocket client sends.
type request struct {
	Type   string   `json:"type"` // subscribe, unsubscribe
	Videos []string `json:"videos"`
	All    bool     `json:"all"`
	After  string   `json:"after"`
}

const maxWatches = 100 // subscriptions of one socket at a time

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
	refuse := func(videoID string, err error) error {
		e := fault.From(err)
		return send(frame{Type: "error", VideoID: videoID, Error: &videojson.Error{Code: string(e.Code), Message: e.Message, Retryable: e.Retryable}})
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
			_ = refuse("", f)
			_ = c.Close(websocket.StatusPolicyViolation, "the API key has ended")
			cancel()
		}
	})
	// follow tells of one subscription until it ends, and lets it go before it
	// says so: who reads that may use its place for another.
	follow := func(wctx context.Context, videoID, after string, release func()) {
		watch, err := s.open(wctx, p, videoID, after)
		if err == nil {
			err = watch.run(wctx, func(it item) error { return send(s.frame(wctx, it)) })
			watch.close()
		}
		release()
		var f *fault.Error
		switch {
		case wctx.Err() != nil: // unsubscribed, or the socket is closing
		case err == nil:
			_ = send(frame{Type: "end", VideoID: videoID})
		case errors.As(err, &f):
			_ = refuse(videoID, f)
		default:
			status, text := websocket.StatusInternalError, "resume with your cursors"
			switch {
			case errors.Is(err, errSlow):
				status, text = websocket.StatusTryAgainLater, "too slow; resume with your cursors"
			case errors.Is(err, errMoved):
				status, text = websocket.StatusServiceRestart, "the event stream began anew; resume with your cursors"
			}
			_ = c.Close(status, text)
			cancel()
		}
	}
	watches := &subscriptions{m: map[string]*subscription{}}
	for {
		_, data, err := c.Read(ctx)
		if err != nil {
			if r.Context().Err() != nil {
				_ = c.Close(websocket.StatusServiceRestart, "server is draining; resume with your cursors")
			}
			return
		}
		var req request
		if json.Unmarshal(data, &req) != nil || req.Type != "subscribe" && req.Type != "unsubscribe" {
			if refuse("", fault.New(fault.InvalidRequest, `send {"type":"subscribe","videos":["video_…"]} or {"type":"subscribe","all":true}`)) != nil {
				return
			}
			continue
		}
		if req.All {
			req.Videos = []string{""}
		}
		for _, v := range req.Videos {
			watches.stop(v)
			if req.Type == "unsubscribe" {
				continue
			}
			sub := watches.add(ctx, v)
			if sub == nil {
				if refuse(v, fault.New(fault.InvalidRequest, "a socket watches at most %d videos at a time; subscribe to all instead", maxWatches)) != nil {
					return
				}
				continue
			}
			wg.Go(func() {
				defer close(sub.done)
				defer sub.cancel()
				follow(sub.ctx, v, req.After, func() { watches.remove(v, sub) })
			})
		}
	}
}

// subscription is one watch of a socket.
type subscription struct {
	ctx    context.Context // its life
	cancel context.CancelFunc
	done   chan struct{}
}

// subscriptions are the watches of a socket that have not ended, by video.
type subscriptions struct {
	mu sync.Mutex
	m  map[string]*subscription
}

// add returns nil when there are too many.
func (s *subscriptions) add(ctx context.Context, videoID string) *subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.m) >= maxWatches {
		return nil
	}
	sub := &subscription{done: make(chan struct{})}
	sub.ctx, sub.cancel = context.WithCancel(ctx)
	s.m[videoID] = sub
	return sub
}

// stop ends a watch, if there is one, and returns when it sends no more.
func (s *subscriptions) stop(videoID string) {
	s.mu.Lock()
	sub := s.m[videoID]
	s.mu.Unlock()
	if sub != nil {
		sub.cancel()
		<-sub.done
	}
}

// remove forgets a watch that has ended, unless another took its place.
func (s *subscriptions) remove(videoID string, sub *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m[videoID] == sub {
		delete(s.m, videoID)
	}
}
