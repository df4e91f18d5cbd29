package notifier

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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
	// isReset says that the events after a cursor are lost to a watch of many
	// videos: which ones ended meanwhile is to be read from the list of videos.
	isReset kind = "reset"
	// isSubscribed says that a watch of many videos has begun: those that are not
	// finished were told, what happens from now on will be, and its cursor resumes
	// from here.
	isSubscribed kind = "subscribed"
	// isNotice is a word to the account, for a watch of all its videos.
	isNotice kind = "notice"
)

// item is one thing that a watcher is told.
type item struct {
	kind   kind
	cursor string         // empty where a resumption would leave something out
	video  *videov1.Video // nil with isReset, isSubscribed and isNotice
	notice *eventv1.AccountNotice
	more   bool    // with isSubscribed: not every unfinished video was told
	frames *frames // shared by all who are told the same; may be nil
}

// scope is what one watcher watches: one job, all of an end user, or all of an
// account.
type scope struct{ account, job, user string }

func (sc scope) subjects() []string {
	if sc.user != "" {
		return []string{bus.EventSubject(sc.account, "x", "x")[:len("job.")+len(sc.account)] + ".>"}
	}
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

// watch is a watch that is open: the hub buffers for it. One goroutine at a time
// may use it.
type watch struct {
	s       *Service
	scope   scope
	sub     *subscriber
	resumed bool
	after   uint64         // with resumed: where the watcher's cursor stands
	upto    place          // what comes after is the hub's to tell
	at      place          // how far it was told
	lost    bool           // it had a cursor where the stream cannot continue
	video   *videov1.Video // the one job, read after the hub began to listen
	until   time.Time      // when a resumed watch of a job that has ended gives up; zero otherwise
	told    told
	billing bool // may know of the account's money: a page that shows videos holds a key too
}

// open begins a watch of what c may see of sc, from after a cursor or from a
// snapshot. wake is called, and must not block, when there is something to
// drain. Close it.
func (s *Service) open(ctx context.Context, c caller, sc scope, after string, wake func()) (*watch, error) {
	if err := s.d.Bus.Ready(ctx); err != nil {
		return nil, errDown(err)
	}
	if sc.job != "" && !id.Safe(sc.job) {
		return nil, noVideo()
	}
	if sc.job == "" {
		if err := c.mayWatch(sc.user); err != nil {
			return nil, err
		}
	}
	sub, err := s.hub.attach(ctx, sc, wake)
	if err != nil {
		return nil, err
	}
	w := &watch{s: s, scope: sub.scope, sub: sub, upto: sub.from, told: told{job: sc.job}, billing: c.billing}
	err = w.begin(ctx, after)
	if err == nil && w.video != nil && !c.allows(w.video) {
		err = noVideo() // like one that there is not: it is none of theirs
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func noVideo() error { return fault.New(fault.NotFound, "no such video") }

func (w *watch) begin(ctx context.Context, after string) (err error) {
	if w.scope.job != "" {
		// The ledger is asked, not the read model: that may be behind the
		// events before our place, and still knows a deleted video.
		if w.video, err = w.s.read(ctx, w.scope.account, w.scope.job); err != nil {
			return err
		}
	}
	at, m, known, ok := parseCursor(after, w.scope.job)
	if known {
		w.told.set(w.scope.job, m)
	}
	if ok {
		if err := w.resume(ctx, at); err != nil {
			return err
		}
	}
	if w.lost = after != "" && !w.resumed; after != "" {
		resumption(ctx, w.lost)
	}
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
	m, known := w.told.get(w.scope.job)
	return w.final() && known && !markOf(w.video).after(m)
}

func (w *watch) final() bool {
	return w.video != nil && job.FromProto(w.video.GetState()).Terminal()
}

// grace is how long a resumed watch of a job that has ended waits for events
// that are committed and not yet published.
const grace = 3 * time.Second

// run emits until ctx is done, emit fails, or the one job is final. signal is
// what wake sends on.
func (w *watch) run(ctx context.Context, signal <-chan struct{}, emit func(item) error) error {
	done, err := w.start(ctx, emit)
	var ended <-chan time.Time
	if !w.until.IsZero() {
		t := time.NewTimer(time.Until(w.until))
		defer t.Stop()
		ended = t.C
	}
	for !done && err == nil {
		if done, err = w.drain(ctx, emit); done || err != nil {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-signal:
		case <-ended:
		}
	}
	return err
}

// start tells how things stand, or what has happened since the cursor. Nothing
// is left out and nothing comes twice: what lies between the cursor and a place
// that the hub had not passed is read from the stream, all that follows is the
// hub's, for drain to tell.
func (w *watch) start(ctx context.Context, emit func(item) error) (done bool, err error) {
	w.at = w.upto
	switch {
	case w.over():
		return true, nil
	case w.resumed:
		if done, err := w.replay(ctx, emit); done || err != nil {
			return done, err
		}
		if w.final() {
			w.until = time.Now().Add(grace)
		} else {
			w.video = nil // watches are many and long
		}
		return false, nil
	case w.video != nil:
		v := w.video
		w.video = nil
		return w.tell(item{kind: isSnapshot, video: v}, emit)
	}
	if w.lost {
		if err := emit(item{kind: isReset}); err != nil {
			return false, err
		}
	}
	more, err := w.snapshot(ctx, emit)
	if err != nil {
		return false, err
	}
	return false, emit(item{kind: isSubscribed, cursor: w.at.String(), more: more})
}

// snapshotMost is how many unfinished videos a watch of many begins with.
const snapshotMost = 1000

// snapshot tells of every video of the scope that is not finished. Its frames
// have no cursor: who is cut among them begins anew. more says that there are
// too many.
func (w *watch) snapshot(ctx context.Context, emit func(item) error) (more bool, err error) {
	req := &ledgerv1.ListUnfinishedJobsRequest{AccountId: w.scope.account, User: w.scope.user, Limit: 100}
	for n := 0; ; {
		page, err := w.s.unfinished(ctx, req)
		if err != nil {
			return false, err
		}
		for _, v := range page.GetVideos() {
			if n++; n > snapshotMost {
				return true, nil
			}
			// What is estimated is in the read model alone.
			if now, ok, err := w.s.d.Bus.Status(ctx, v.GetId()); err == nil && ok && now.GetVersion() == v.GetVersion() {
				v.Progress, v.ProgressEstimated = now.GetProgress(), now.GetProgressEstimated()
			}
			if _, err := w.tell(item{kind: isSnapshot, video: v}, emit); err != nil {
				return false, err
			}
			req.After = v.GetId()
		}
		if !page.GetHasMore() {
			return false, nil
		}
	}
}

// drain tells what the hub has passed on meanwhile. done says that the one job
// is final.
func (w *watch) drain(ctx context.Context, emit func(item) error) (done bool, err error) {
	events, gone, why := w.sub.take()
	for _, ev := range events {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if ev.seq <= w.at.seq {
			continue
		}
		w.at.seq = ev.seq
		if done, err := w.event(ctx, ev, emit); done || err != nil {
			return done, err
		}
	}
	if gone {
		return false, why
	}
	if !w.until.IsZero() && !time.Now().Before(w.until) { // the stream has lost the job's last event
		_, err := w.tell(item{kind: isSnapshot, video: w.video}, emit)
		return true, err
	}
	return false, nil
}

func (w *watch) event(ctx context.Context, l live, emit func(item) error) (done bool, err error) {
	if l.notice != nil && w.billing && w.scope.job == "" && w.scope.user == "" {
		return false, emit(item{kind: isNotice, cursor: w.at.String(), notice: l.notice})
	}
	ev := l.ev
	v := ev.GetVideo()
	if v == nil {
		return false, nil
	}
	if w.scope.job == "" && ev.GetTransient() && job.FromProto(v.GetState()) == job.Storing {
		return false, nil // the sweep's reminder: told long ago, perhaps before a cut
	}
	if _, known := w.told.get(v.GetId()); !known && ev.GetTransient() && w.stale(ctx, v) {
		return false, nil
	}
	return w.tell(item{kind: isEvent, video: v, frames: l.frames}, emit)
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
func (w *watch) tell(it item, emit func(item) error) (done bool, err error) {
	v := it.video
	m, final, one := markOf(v), job.FromProto(v.GetState()).Terminal(), w.scope.job != ""
	if old, ok := w.told.get(v.GetId()); ok && !m.after(old) {
		return final && one, nil
	}
	w.told.set(v.GetId(), m)
	switch {
	case one:
		it.cursor = cursorOf(w.at, v)
	case it.kind == isEvent:
		it.cursor = w.at.String()
		if final {
			delete(w.told.many, v.GetId())
		}
	}
	return final && one, emit(it)
}

// replay emits the stream's events after the cursor, up to the place where the
// hub's begin.
func (w *watch) replay(ctx context.Context, emit func(item) error) (done bool, err error) {
	defer func() { w.at.seq = w.upto.seq }()
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
	defer func() { replayed.Record(ctx, int64(n)) }()
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
			if u := w.scope.user; u != "" && ev.ev.GetVideo().GetUser() != u {
				continue
			}
			if gone, err := w.deleted(ctx, deleted, ev.ev.GetVideo()); err != nil {
				return false, err
			} else if gone {
				continue
			}
			w.at.seq = ev.seq
			if done, err := w.event(ctx, ev, emit); done || err != nil {
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
	if w.scope.job != "" || v == nil {
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

func (s *Service) unfinished(ctx context.Context, r *ledgerv1.ListUnfinishedJobsRequest) (*ledgerv1.ListUnfinishedJobsResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	page, err := s.d.Realtime.ListUnfinishedJobs(ctx, r)
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	return page, nil
}
