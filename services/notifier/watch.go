package notifier

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// kind is what an item is.
type kind string

const (
	isEvent    kind = "event"
	isSnapshot kind = "snapshot"
	// isReset says that the events after a cursor are lost to a watch of all
	// videos: what they told is to be read from the list of videos.
	isReset kind = "reset"
	// isSubscribed says that a watch of all videos has begun: what happens from
	// now on is told, and its cursor resumes from here.
	isSubscribed kind = "subscribed"
	// isNotice is a word to the account, for a watch of all its videos.
	isNotice kind = "notice"
)

// item is one thing that a watcher is told.
type item struct {
	kind   kind
	cursor string
	video  *videov1.Video // nil with isReset, isSubscribed and isNotice
	notice *eventv1.AccountNotice
}

// scope is what one watcher watches: one job, or all of an account.
type scope struct{ account, job string }

func (sc scope) subjects() []string {
	if sc.job == "" {
		return []string{bus.EventSubject(sc.account, "x", "x")[:len("job.")+len(sc.account)] + ".>", bus.NoticeSubject(sc.account)}
	}
	return []string{strings.TrimSuffix(bus.EventSubject(sc.account, sc.job, "x"), ".x") + ".>"}
}

var (
	// errSlow says that a watcher did not keep up; it may resume.
	errSlow = errors.New("watcher is too slow")
	// errMoved says that the stream was made anew; a watcher may resume.
	errMoved = errors.New("the event stream began anew")
)

// errDown says that nothing can be watched now.
func errDown(cause error) error {
	e := fault.Wrap(cause, fault.Unavailable, "events cannot be watched at the moment; retry with your last cursor")
	e.RetryAfter = 2 * time.Second
	return e
}

// watch is a watch that is open: the hub buffers for it.
type watch struct {
	s       *Service
	scope   scope
	sub     *subscriber
	resumed bool
	after   uint64         // with resumed: where the watcher's cursor stands
	upto    place          // what comes after is the hub's to tell
	lost    bool           // it had a cursor where the stream cannot continue
	video   *videov1.Video // the one job, read after the hub began to listen
	told    map[string]mark
	billing bool // may know of the account's money: a page that shows videos holds a key too
}

// open begins a watch of what p may see of videoID (all of the account when
// empty), from after a cursor or from a snapshot. Close it.
func (s *Service) open(ctx context.Context, p auth.Principal, videoID, after string) (*watch, error) {
	if err := s.d.Bus.Ready(ctx); err != nil {
		return nil, errDown(err)
	}
	if videoID != "" && !id.Safe(videoID) {
		return nil, fault.New(fault.NotFound, "no such video")
	}
	sub, err := s.hub.attach(ctx, scope{p.AccountID, videoID})
	if err != nil {
		return nil, err
	}
	w := &watch{s: s, scope: sub.scope, sub: sub, upto: sub.from, told: map[string]mark{}, billing: p.Require(auth.BillingRead) == nil}
	if err := w.begin(ctx, after); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *watch) begin(ctx context.Context, after string) (err error) {
	if w.scope.job != "" {
		// The ledger is asked, not the read model: that may be behind the
		// events before our place, and still knows a deleted video.
		if w.video, err = w.s.read(ctx, w.scope.account, w.scope.job); err != nil {
			return err
		}
	}
	at, m, told, ok := parseCursor(after, w.scope.job)
	if told {
		w.told[w.scope.job] = m
	}
	if ok {
		if err := w.resume(ctx, at); err != nil {
			return err
		}
	}
	w.lost = after != "" && !w.resumed
	return nil
}

// resume continues after a cursor where the stream can. It reads the stream to
// its end as it is now, which the hub may not have reached.
func (w *watch) resume(ctx context.Context, at place) error {
	st, err := w.s.hub.stream(ctx)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // the hub will notice
	}
	if err != nil {
		return errDown(err)
	}
	now := place{st.Created.UnixNano(), st.State.LastSeq}
	if now.epoch == at.epoch && now.epoch == w.upto.epoch && at.seq <= now.seq && at.seq+1 >= st.State.FirstSeq {
		w.resumed, w.after, w.upto = true, at.seq, now
	}
	return nil
}

func (w *watch) close() { w.s.hub.detach(w.sub) }

// over says that the one job is final and its watcher knows.
func (w *watch) over() bool {
	m, told := w.told[w.scope.job]
	return w.final() && told && !markOf(w.video).after(m)
}

func (w *watch) final() bool {
	return w.video != nil && job.FromProto(w.video.GetState()).Terminal()
}

// grace is how long a resumed watch of a job that has ended waits for events
// that are committed and not yet published.
const grace = 3 * time.Second

// run emits until ctx is done, emit fails, or the one job is final. Nothing is
// left out and nothing comes twice: what lies between the cursor and a place
// that the hub had not passed is read from the stream, all that follows is the
// hub's.
func (w *watch) run(ctx context.Context, emit func(item) error) error {
	if w.over() {
		return nil
	}
	at := w.upto
	var ended <-chan time.Time
	switch {
	case w.resumed:
		if done, err := w.replay(ctx, emit); done || err != nil {
			return err
		}
		if w.final() {
			t := time.NewTimer(grace)
			defer t.Stop()
			ended = t.C
		}
	case w.video != nil:
		if done, err := w.tell(isSnapshot, at, w.video, emit); done || err != nil {
			return err
		}
	case w.lost:
		if err := emit(item{kind: isReset, cursor: at.String()}); err != nil {
			return err
		}
	default:
		if err := emit(item{kind: isSubscribed, cursor: at.String()}); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ended: // the stream has lost the job's last event
			_, err := w.tell(isSnapshot, at, w.video, emit)
			return err
		case ev, ok := <-w.sub.ch:
			if !ok {
				return w.sub.why
			}
			if ev.seq <= at.seq {
				continue
			}
			at.seq = ev.seq
			if done, err := w.event(ctx, at, ev, emit); done || err != nil {
				return err
			}
		}
	}
}

func (w *watch) event(ctx context.Context, at place, l live, emit func(item) error) (done bool, err error) {
	if l.notice != nil && w.billing && w.scope.job == "" {
		return false, emit(item{kind: isNotice, cursor: at.String(), notice: l.notice})
	}
	ev := l.ev
	v := ev.GetVideo()
	if v == nil {
		return false, nil
	}
	if w.video == nil && ev.GetTransient() && job.FromProto(v.GetState()) == job.Storing {
		return false, nil // the sweep's reminder: told long ago, perhaps before a cut
	}
	if _, known := w.told[v.GetId()]; !known && ev.GetTransient() && w.stale(ctx, v) {
		return false, nil
	}
	return w.tell(isEvent, at, v, emit)
}

// stale reports whether a video has moved on since a percentage of it was told.
// Percentages do not pass through the outbox, so that one may lie in the stream
// after the change that outdates it; a watch of all videos that was told of the
// change before a cut, or has seen the video end, no longer knows that. A
// percentage too few costs nothing: the change that outdates it is told.
func (w *watch) stale(ctx context.Context, v *videov1.Video) bool {
	now, err := w.s.read(ctx, w.scope.account, v.GetId())
	return err != nil || now.GetVersion() > v.GetVersion()
}

// tell emits what is news; done says that the one job is final.
func (w *watch) tell(k kind, at place, v *videov1.Video, emit func(item) error) (done bool, err error) {
	m, final, one := markOf(v), job.FromProto(v.GetState()).Terminal(), w.video != nil
	if old, ok := w.told[v.GetId()]; ok && !m.after(old) {
		return final && one, nil
	}
	w.told[v.GetId()] = m
	cursor := at.String()
	if one {
		cursor = cursorOf(at, v)
	} else if final {
		delete(w.told, v.GetId())
	}
	return final && one, emit(item{kind: k, cursor: cursor, video: v})
}

// replay emits the stream's events after the cursor, up to the place where the
// hub's begin.
func (w *watch) replay(ctx context.Context, emit func(item) error) (done bool, err error) {
	if w.after >= w.upto.seq {
		return false, nil
	}
	cons, err := consumer(ctx, w.s.hub.js, w.scope.subjects(), w.after)
	if err != nil {
		return false, err
	}
	defer w.s.hub.forget(ctx, cons)
	deleted := map[string]bool{}
	n, pending := uint64(0), cons.CachedInfo().NumPending
	for n < pending {
		batch, err := cons.Fetch(int(min(pending-n, 256)), jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			return false, fmt.Errorf("replay events: %w", err)
		}
		before := n
		for msg := range batch.Messages() {
			n++
			ev, err := parse(msg, n)
			if err != nil {
				return false, err
			}
			if ev.seq > w.upto.seq {
				return false, nil // the hub's
			}
			if gone, err := w.deleted(ctx, deleted, ev.ev.GetVideo()); err != nil {
				return false, err
			} else if gone {
				continue
			}
			if done, err := w.event(ctx, place{w.upto.epoch, ev.seq}, ev, emit); done || err != nil {
				return done, err
			}
		}
		if n == before {
			return false, fmt.Errorf("replay events: %d of %d came: %w", n, pending, errMoved)
		}
	}
	return false, nil
}

// deleted keeps a watch of all videos from telling of one that its owner has
// deleted since: the stream keeps events for days.
func (w *watch) deleted(ctx context.Context, known map[string]bool, v *videov1.Video) (bool, error) {
	if w.video != nil || v == nil {
		return false, nil
	}
	gone, ok := known[v.GetId()]
	if !ok {
		_, err := w.s.read(ctx, w.scope.account, v.GetId())
		var f *fault.Error
		gone = errors.As(err, &f) && f.Code == fault.NotFound
		if err != nil && !gone {
			return false, err
		}
		known[v.GetId()] = gone
	}
	return gone, nil
}

// read reads a job with its account checked; foreign, missing and deleted are
// alike.
func (s *Service) read(ctx context.Context, account, videoID string) (*videov1.Video, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := s.d.Jobs.GetJob(ctx, &ledgerv1.GetJobRequest{JobId: videoID, AccountId: account})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	return r.GetVideo(), nil
}
