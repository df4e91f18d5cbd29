package notifier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/bus"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
)

// buffer is how many events a watcher may lag behind before it is cut off.
const buffer = 256

// readyWait is how long a watcher waits for the hub's first reading.
const readyWait = 2 * time.Second

// live is what the hub passes on: an event of a video, or a notice to an
// account. Both are shared and read-only; neither is set for what is no event.
type live struct {
	seq    uint64
	ev     *eventv1.JobEvent
	notice *eventv1.AccountNotice
	frames *frames // what was written of it already; nil for what the hub did not pass on
}

// scopes are whose watchers are told.
func (l live) scopes() []scope {
	if l.notice != nil {
		return []scope{{account: l.notice.GetAccountId()}}
	}
	v := l.ev.GetVideo()
	out := []scope{{account: v.GetAccountId(), job: v.GetId()}, {account: v.GetAccountId()}}
	if v.GetUser() != "" {
		out = append(out, scope{account: v.GetAccountId(), user: v.GetUser()})
	}
	return out
}

// place is a place in the stream. The stream's birth is part of it: after a
// wipe the same number means another event.
type place struct {
	epoch int64
	seq   uint64
}

// subscriber is given every event of its scope after from, in order, until it
// is dropped: then, once it has taken what there is, why says why.
type subscriber struct {
	scope scope
	from  place
	wake  func() // says that there is something to take; must not block

	mu    sync.Mutex
	queue []live
	gone  bool
	why   error
}

// offer reports whether there was room.
func (s *subscriber) offer(ev live) bool {
	s.mu.Lock()
	n := len(s.queue)
	if n < buffer {
		s.queue = append(s.queue, ev)
	}
	s.mu.Unlock()
	if n == 0 {
		s.wake()
	}
	return n < buffer
}

// take returns what has come; gone says that nothing more will. Idle watchers
// are many: they keep no buffer.
func (s *subscriber) take() (events []live, gone bool, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events, s.queue = s.queue, nil
	return events, s.gone, s.why
}

// hub reads EVENTS once for all watchers of this replica. It never waits for
// one: a full buffer ends its watcher. at is the place up to which it has
// passed everything on; attaching and passing exclude each other, so that what
// lies before at is a watcher's to read and all that comes after is given to it.
type hub struct {
	js     jetstream.JetStream
	log    *slog.Logger
	meters *meters

	mu    sync.Mutex
	subs  map[scope]map[*subscriber]struct{}
	at    place
	ready chan struct{} // closed when at is known
}

func newHub(js jetstream.JetStream, log *slog.Logger, m *meters) *hub {
	return &hub{js: js, log: log, meters: m, subs: map[scope]map[*subscriber]struct{}{}, ready: make(chan struct{})}
}

// attach waits until the hub knows its place, which it does from its first
// reading on: it goes on from there however often it is interrupted.
func (h *hub) attach(ctx context.Context, sc scope, wake func()) (*subscriber, error) {
	wait := time.NewTimer(readyWait)
	defer wait.Stop()
	select {
	case <-h.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-wait.C:
		return nil, errDown(nil)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &subscriber{scope: sc, from: h.at, wake: wake}
	if h.subs[sc] == nil {
		h.subs[sc] = map[*subscriber]struct{}{}
	}
	h.subs[sc][s] = struct{}{}
	return s, nil
}

func (h *hub) detach(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.drop(s, nil)
}

// drop forgets s and tells it so; the caller holds mu.
func (h *hub) drop(s *subscriber, why error) {
	if _, ok := h.subs[s.scope][s]; !ok {
		return
	}
	delete(h.subs[s.scope], s)
	if len(h.subs[s.scope]) == 0 {
		delete(h.subs, s.scope)
	}
	if why != nil {
		h.meters.cut(context.Background(), why)
	}
	s.mu.Lock()
	s.gone, s.why = true, why
	s.mu.Unlock()
	s.wake()
}

// pass gives an event to its watchers and moves on.
func (h *hub) pass(ev live) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at.seq = ev.seq
	for _, sc := range ev.scopes() {
		for s := range h.subs[sc] {
			if !s.offer(ev) {
				h.drop(s, errSlow)
			}
		}
	}
}

// run reads until ctx is done. An interruption costs the watchers nothing: the
// hub reads on from its place.
func (h *hub) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := h.read(ctx); err != nil && ctx.Err() == nil {
			h.log.WarnContext(ctx, "event reader restarts", "error", err.Error())
			select {
			case <-ctx.Done():
			case <-time.After(500 * time.Millisecond):
			}
		}
	}
	return nil
}

func (h *hub) read(ctx context.Context) error {
	st, err := h.stream(ctx)
	if err != nil {
		return err
	}
	from := h.settle(ctx, st)
	cons, err := consumer(ctx, h.js, nil, from.seq)
	if err != nil {
		return err
	}
	defer h.forget(ctx, cons)
	// Between the two the stream may have been made anew.
	if again, err := h.stream(ctx); err != nil || again.Created != st.Created {
		return errors.Join(errMoved, err)
	}
	it, err := cons.Messages(jetstream.PullHeartbeat(time.Second), jetstream.PullExpiry(5*time.Second))
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	defer it.Stop()
	for n := uint64(1); ; n++ {
		msg, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		ev, err := parse(msg, n)
		if err != nil {
			return err
		}
		if ev.notice == nil && ev.ev.GetVideo() == nil {
			h.log.ErrorContext(ctx, "event cannot be read", "sequence", ev.seq)
		}
		ev.frames = &frames{}
		if ev.notice == nil && ev.ev.GetVideo() != nil {
			ev.frames.born(msg, ev.ev)
		}
		h.pass(ev)
	}
}

func (h *hub) stream(ctx context.Context) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	st, err := h.js.Stream(ctx, bus.StreamEvents)
	if err != nil {
		return nil, fmt.Errorf("open events: %w", err)
	}
	return st.CachedInfo(), nil
}

// settle is where to read on. Where the stream does not continue the hub's
// place (it was made anew, lost its tail, or expired ahead of us), events were
// missed: every watcher is cut off, to resume or be given a snapshot.
func (h *hub) settle(ctx context.Context, st *jetstream.StreamInfo) place {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := place{st.Created.UnixNano(), st.State.LastSeq}
	if h.at.epoch == now.epoch && h.at.seq <= now.seq && h.at.seq+1 >= st.State.FirstSeq {
		return h.at
	}
	for _, subs := range h.subs {
		for s := range subs {
			h.drop(s, errMoved)
		}
	}
	if h.at.epoch == 0 {
		close(h.ready)
	} else {
		h.log.WarnContext(ctx, "the event stream does not continue; watchers resume", "was", h.at.String(), "is", now.String())
	}
	h.at = now
	return now
}

// forget spares the server a reader that nobody reads; it would expire anyway.
func (h *hub) forget(ctx context.Context, cons jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = h.js.DeleteConsumer(ctx, bus.StreamEvents, cons.CachedInfo().Name)
}

// consumer reads subjects of EVENTS, or all, after a sequence, in order. It is not the
// client's ordered consumer: that one makes itself anew when it is lost, on
// whatever stream there is by then, and does not tell.
func consumer(ctx context.Context, js jetstream.JetStream, subjects []string, after uint64) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cons, err := js.CreateConsumer(ctx, bus.StreamEvents, jetstream.ConsumerConfig{
		FilterSubjects: subjects, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	return cons, nil
}

// parse reads the n-th message of a consumer. One that is no event comes back
// empty: it must not stop the others.
func parse(msg jetstream.Msg, n uint64) (live, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return live{}, fmt.Errorf("read events: %w", err)
	}
	if meta.Sequence.Consumer != n {
		return live{}, fmt.Errorf("read events: message %d came as %d", n, meta.Sequence.Consumer)
	}
	l := live{seq: meta.Sequence.Stream, ev: &eventv1.JobEvent{}}
	if msg.Headers().Get(bus.HeaderType) == noticeType {
		l.notice = &eventv1.AccountNotice{}
		if proto.Unmarshal(msg.Data(), l.notice) != nil {
			l.notice = nil
		}
		return l, nil
	}
	if proto.Unmarshal(msg.Data(), l.ev) != nil {
		l.ev.Reset()
	}
	return l, nil
}

var noticeType = string((&eventv1.AccountNotice{}).ProtoReflect().Descriptor().FullName())
