package notifier

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

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
)

// Handler serves SSE and WebSocket.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/videos/{id}/events", s.sse)
	mux.HandleFunc("GET /v1/stream", s.socket)
	return enveloped(mux)
}

// frame is what a WebSocket sends, and an SSE message's data. A cursor resumes
// the subscription whose frame it came with: one video's, or that of all.
type frame struct {
	Type    string           `json:"type"` // subscribed, snapshot, event, notice, reset, end, error
	Cursor  string           `json:"cursor,omitempty"`
	VideoID string           `json:"video_id,omitempty"` // with end and error: whose watch ended
	Video   *videojson.Video `json:"video,omitempty"`
	Notice  *notice          `json:"notice,omitempty"`
	Error   *videojson.Error `json:"error,omitempty"`
}

func (s *Service) frame(ctx context.Context, it item) frame {
	f := frame{Type: string(it.kind), Cursor: it.cursor}
	if it.video != nil {
		o := s.object(ctx, it.video)
		f.Video = &o
	}
	if it.notice != nil {
		f.Notice = noticeOf(it.notice)
	}
	return f
}

// sse serves one video's events. Everything that can be refused is, before the
// first byte of a stream: an EventSource makes a stream that ends again, for
// ever, and stops at 204, which says that the watcher knows the end.
func (s *Service) sse(w http.ResponseWriter, r *http.Request) {
	rid := id.New(id.Request)
	w.Header().Set("X-Request-Id", rid)
	after := r.Header.Get("Last-Event-ID")
	if after == "" {
		after = r.URL.Query().Get("last_event_id")
	}
	p, err := s.d.Auth.Request(r, auth.VideosRead)
	var watch *watch
	if err == nil {
		watch, err = s.open(r.Context(), p, r.PathValue("id"), after)
	}
	if err != nil {
		videojson.WriteFault(w, rid, err)
		return
	}
	defer watch.close()
	if watch.over() {
		w.WriteHeader(http.StatusNoContent)
		return
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
		err = watch.run(ctx, func(it item) error {
			data, err := json.Marshal(s.frame(ctx, it))
			if err != nil {
				return err
			}
			return write("id: " + it.cursor + "\nevent: " + string(it.kind) + "\ndata: " + string(data) + "\n\n")
		})
	}
	cancel()
	wg.Wait() // nobody writes to w after the handler
	if err != nil && !errors.Is(err, context.Canceled) {
		s.d.Logger.DebugContext(r.Context(), "watcher left", "error", err.Error())
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
	watch, err := g.s.open(ctx, p, r.GetId(), r.GetAfter())
	if err != nil {
		return err
	}
	defer watch.close()
	err = watch.run(ctx, func(it item) error {
		return stream.Send(&videov1.WatchVideoResponse{Cursor: it.cursor, Video: it.video})
	})
	if f := (*fault.Error)(nil); errors.As(context.Cause(ctx), &f) {
		return f
	}
	if errors.Is(err, errSlow) || errors.Is(err, errMoved) {
		return fault.Wrap(err, fault.Unavailable, "the watch was cut off; resume with the last cursor")
	}
	return err
}
