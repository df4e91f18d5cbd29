package notifier

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"reelway.dev/pkg/id"
	"reelway.dev/pkg/videojson"
	"reelway.dev/services/notifier/web"
)

const (
	writeTimeout = 10 * time.Second // a watcher that takes no byte for this long is cut off
	heartbeat    = 15 * time.Second
)

// Handler serves WebSocket, SSE, and the module by which browsers use them.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, d := range doors() {
		mux.HandleFunc(d.Method+" "+d.Path, func(w http.ResponseWriter, r *http.Request) { d.serve(s, w, r) })
	}
	for path, f := range web.Files() {
		mux.Handle("GET "+path, f)
	}
	return enveloped(mux)
}

// sse serves the events of one video, of a user's, or of all. Everything that
// can be refused is, before the first byte of a stream: an EventSource makes a
// stream that ends again, for ever, and stops at 204, which says that the
// watcher knows the end.
func (s *Service) sse(w http.ResponseWriter, r *http.Request, videoID, user string) {
	rid := id.New(id.Request)
	h := w.Header()
	h.Set("X-Request-Id", rid)
	if err := s.fromElsewhere(r); err != nil {
		videojson.WriteFault(w, rid, err)
		return
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		h.Set("Access-Control-Allow-Origin", origin)
		h.Add("Vary", "Origin")
	}
	after := r.Header.Get("Last-Event-ID")
	if after == "" {
		after = r.URL.Query().Get("last_event_id")
	}
	c, err := s.admit(r.Context(), credentialsOf(r))
	if err != nil {
		videojson.WriteFault(w, rid, err)
		return
	}
	defer c.free()
	signal := make(chan struct{}, 1)
	watch, err := s.open(c.ctx, c.caller, scope{account: c.account, job: videoID, user: user}, after, signaller(signal))
	if err != nil {
		videojson.WriteFault(w, rid, err)
		return
	}
	defer watch.close()
	if watch.over() {
		w.WriteHeader(http.StatusNoContent)
		return
	}
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
		if _, err := io.WriteString(w, text); err != nil { //nolint:gosec // an event stream of JSON, no page
			return err
		}
		return rc.Flush()
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
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
	if err = write("retry: 1000\n\n"); err == nil {
		err = watch.run(ctx, signal, s.telling("sse", func(it item) error {
			data, err := s.encode(ctx, c.caller, watch.scope, it)
			if err != nil {
				return err
			}
			id := ""
			if it.cursor != "" {
				id = "id: " + it.cursor + "\n"
			}
			return write(id + "event: " + string(it.kind) + "\ndata: " + string(data) + "\n\n")
		}))
	}
	cancel()
	wg.Wait() // nobody writes to w after the handler
	if err != nil && !errors.Is(err, context.Canceled) {
		s.d.Logger.DebugContext(r.Context(), "watcher left", "error", err.Error())
	}
}

// signaller is a wake for who waits on signal, which holds one.
func signaller(signal chan<- struct{}) func() {
	return func() {
		select {
		case signal <- struct{}{}:
		default:
		}
	}
}
