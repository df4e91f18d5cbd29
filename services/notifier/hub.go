package notifier

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/bus"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// buffer is how many events a watcher may lag behind before it is cut off.
const buffer = 256

// live is an event as the hub passes it on, of a video or a notice to an
// account; both are shared and read-only.
type live struct {
	epoch  int64
	seq    uint64
	video  *videov1.Video
	notice *eventv1.AccountNotice
}

// decode reads a message of EVENTS.
func decode(msg jetstream.Msg) (*videov1.Video, *eventv1.AccountNotice, error) {
	if msg.Headers().Get(bus.HeaderType) == noticeType {
		n := &eventv1.AccountNotice{}
		return nil, n, proto.Unmarshal(msg.Data(), n)
	}
	var ev eventv1.JobEvent
	if err := proto.Unmarshal(msg.Data(), &ev); err != nil {
		return nil, nil, err
	}
	if ev.GetVideo() == nil {
		return nil, nil, errors.New("event without a video")
	}
	return ev.GetVideo(), nil, nil
}

var noticeType = string((&eventv1.AccountNotice{}).ProtoReflect().Descriptor().FullName())

type subscriber struct {
	scope scope
	ch    chan live
	gone  bool
}

// hub reads EVENTS once for all watchers of this replica. It never waits for
// one: a full buffer ends its watcher.
type hub struct {
	js  jetstream.JetStream
	log *slog.Logger

	mu   sync.Mutex
	subs map[scope]map[*subscriber]struct{}
}

func newHub(js jetstream.JetStream, log *slog.Logger) *hub {
	return &hub{js: js, log: log, subs: map[scope]map[*subscriber]struct{}{}}
}

func (h *hub) attach(sc scope) *subscriber {
	s := &subscriber{scope: sc, ch: make(chan live, buffer)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs[sc] == nil {
		h.subs[sc] = map[*subscriber]struct{}{}
	}
	h.subs[sc][s] = struct{}{}
	return s
}

func (h *hub) detach(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(s)
}

// drop forgets s and closes its channel; the caller holds mu.
func (h *hub) drop(s *subscriber) {
	if s.gone {
		return
	}
	s.gone = true
	close(s.ch)
	delete(h.subs[s.scope], s)
	if len(h.subs[s.scope]) == 0 {
		delete(h.subs, s.scope)
	}
}

func (h *hub) pass(ev live) {
	h.mu.Lock()
	defer h.mu.Unlock()
	scopes := []scope{{ev.video.GetAccountId(), ev.video.GetId()}, {ev.video.GetAccountId(), ""}}
	if ev.notice != nil {
		scopes = []scope{{ev.notice.GetAccountId(), ""}}
	}
	for _, sc := range scopes {
		for s := range h.subs[sc] {
			select {
			case s.ch <- ev:
			default:
				h.drop(s)
			}
		}
	}
}

// run reads until ctx is done. When the stream is lost every watcher is cut
// off, since events may have been missed: they resume or get a snapshot.
func (h *hub) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := h.read(ctx); err != nil && ctx.Err() == nil {
			h.log.WarnContext(ctx, "event reader restarts", "error", err.Error())
			h.mu.Lock()
			for _, subs := range h.subs {
				for s := range subs {
					h.drop(s)
				}
			}
			h.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
		}
	}
	return nil
}

func (h *hub) read(ctx context.Context) error {
	st, err := h.js.Stream(ctx, bus.StreamEvents)
	if err != nil {
		return err
	}
	info := st.CachedInfo()
	cons, err := h.js.OrderedConsumer(ctx, bus.StreamEvents, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: info.State.LastSeq + 1,
	})
	if err != nil {
		return err
	}
	it, err := cons.Messages()
	if err != nil {
		return err
	}
	defer it.Stop()
	for {
		msg, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		video, notice, err := decode(msg)
		if err != nil {
			h.log.ErrorContext(ctx, "event cannot be read", "subject", msg.Subject(), "error", err.Error())
			continue
		}
		h.pass(live{info.Created.UnixNano(), meta.Sequence.Stream, video, notice})
	}
}
