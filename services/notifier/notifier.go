// Package notifier pushes what happens to a job to whoever watches it:
// WebSocket, SSE and gRPC over one hub. It owns no fact; a watcher that was cut
// off resumes from the EVENTS stream or, past that, from a snapshot.
package notifier

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/run"
	"reelway.dev/pkg/videojson"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Signer makes a result's URL; bucket.Bucket is one.
type Signer interface {
	SignedURL(ctx context.Context, key string) (string, time.Time, error)
}

// Deps are the notifier's neighbours.
type Deps struct {
	Bus    *bus.Bus
	Jobs   ledgerv1.JobServiceClient
	Auth   *auth.Authenticator
	Files  Signer
	Logger *slog.Logger
}

// Service is the notifier. Any number of replicas may run, each with all
// events.
type Service struct {
	d   Deps
	hub *hub
}

// New returns a notifier; every field of d is required.
func New(d Deps) (*Service, error) {
	if d.Bus == nil || d.Jobs == nil || d.Auth == nil || d.Files == nil || d.Logger == nil {
		return nil, errors.New("notifier: Bus, Jobs, Auth, Files and Logger are required")
	}
	return &Service{d: d, hub: newHub(d.Bus.JetStream(), d.Logger)}, nil
}

// Components are the hub's reader.
func (s *Service) Components() []run.Component {
	return []run.Component{{Name: "notifier-hub", Run: s.hub.run}}
}

// item is one thing that a watcher is told: of a video, or a notice.
type item struct {
	cursor   string
	video    *videov1.Video
	notice   *eventv1.AccountNotice
	snapshot bool
}

// scope is what one watcher watches: one job, or all of an account.
type scope struct{ account, job string }

func (sc scope) subjects() []string {
	if sc.job == "" {
		return []string{bus.EventSubject(sc.account, "x", "x")[:len("job.")+len(sc.account)] + ".>", bus.NoticeSubject(sc.account)}
	}
	return []string{strings.TrimSuffix(bus.EventSubject(sc.account, sc.job, "x"), ".x") + ".>"}
}

// errSlow says that a watcher did not keep up; it may resume.
var errSlow = errors.New("watcher is too slow")

// watch emits what p may see of videoID (all of the account when empty), from
// after its cursor or from a snapshot, until ctx is done, emit fails, or the
// one job watched is final. Nothing is left out and nothing comes twice. With
// all of the account come its notices, for keys of scope billing:read.
func (s *Service) watch(ctx context.Context, p auth.Principal, videoID, after string, emit func(item) error) error {
	if videoID != "" {
		if _, err := s.read(ctx, p, videoID); err != nil {
			return err
		}
	}
	sc := scope{p.AccountID, videoID}
	sub := s.hub.attach(sc) // buffers from here on
	defer s.hub.detach(sub)
	st, err := s.d.Bus.JetStream().Stream(ctx, bus.StreamEvents)
	if err != nil {
		return fmt.Errorf("open events: %w", err)
	}
	info := st.CachedInfo()
	epoch, last := info.Created.UnixNano(), info.State.LastSeq
	told := map[string]mark{}
	// Money is not everybody's: a page that shows videos holds such a key too.
	billing := p.Require(auth.BillingRead) == nil
	tell := func(it item) (done bool, err error) {
		if it.notice != nil {
			if !billing {
				return false, nil
			}
			return false, emit(it)
		}
		m := mark{it.video.GetVersion(), it.video.GetProgress()}
		if old, ok := told[it.video.GetId()]; ok && !m.after(old) {
			return false, nil
		}
		told[it.video.GetId()] = m
		final := job.FromProto(it.video.GetState()).Terminal()
		if final && videoID == "" {
			delete(told, it.video.GetId())
		}
		return final && videoID != "", emit(it)
	}
	seen := last
	if from, ok := resume(after, epoch, info.State.FirstSeq, last); ok {
		done, err := s.replay(ctx, sc, from, last, epoch, tell)
		if done || err != nil {
			return err
		}
	} else if videoID != "" {
		// Read again: the first reading was before the hub listened.
		current, err := s.read(ctx, p, videoID)
		if err != nil {
			return err
		}
		done, err := tell(item{cursor: cursor(epoch, last), video: current, snapshot: true})
		if done || err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case ev, ok := <-sub.ch:
			if !ok {
				return errSlow
			}
			if ev.epoch == epoch && ev.seq <= seen {
				continue
			}
			epoch, seen = ev.epoch, ev.seq
			if done, err := tell(item{cursor: cursor(ev.epoch, ev.seq), video: ev.video, notice: ev.notice}); done || err != nil {
				return err
			}
		}
	}
}

// mark orders what was told of a job: versions, then progress within one.
type mark struct {
	version  int64
	progress int32
}

func (m mark) after(o mark) bool {
	return m.version > o.version || m.version == o.version && m.progress > o.progress
}

// read reads a job with its account checked; foreign and missing are alike.
func (s *Service) read(ctx context.Context, p auth.Principal, videoID string) (*videov1.Video, error) {
	if !id.Safe(videoID) {
		return nil, fault.New(fault.NotFound, "no such video")
	}
	if v, ok, err := s.d.Bus.Status(ctx, videoID); err == nil && ok && v.GetAccountId() == p.AccountID {
		return v, nil
	}
	r, err := s.d.Jobs.GetJob(ctx, &ledgerv1.GetJobRequest{JobId: videoID, AccountId: p.AccountID})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	return r.GetVideo(), nil
}

// replay emits the stream's events after from, up to last.
func (s *Service) replay(ctx context.Context, sc scope, from, last uint64, epoch int64, tell func(item) (bool, error)) (bool, error) {
	if from >= last {
		return false, nil
	}
	cons, err := s.d.Bus.JetStream().OrderedConsumer(ctx, bus.StreamEvents, jetstream.OrderedConsumerConfig{
		FilterSubjects: sc.subjects(), DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from + 1,
	})
	if err != nil {
		return false, fmt.Errorf("replay events: %w", err)
	}
	info, err := cons.Info(ctx)
	if err != nil {
		return false, fmt.Errorf("replay events: %w", err)
	}
	if info.NumPending == 0 {
		return false, nil
	}
	it, err := cons.Messages()
	if err != nil {
		return false, fmt.Errorf("replay events: %w", err)
	}
	defer it.Stop()
	for {
		msg, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return false, fmt.Errorf("replay events: %w", err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return false, fmt.Errorf("replay events: %w", err)
		}
		if meta.Sequence.Stream > last {
			return false, nil // the hub has it
		}
		video, notice, err := decode(msg)
		if err != nil {
			return false, fmt.Errorf("read event: %w", err)
		}
		if done, err := tell(item{cursor: cursor(epoch, meta.Sequence.Stream), video: video, notice: notice}); done || err != nil {
			return done, err
		}
		if meta.NumPending == 0 {
			return false, nil
		}
	}
}

// cursor names a place in the stream. The stream's birth is part of it: after
// a wipe the same number means another event.
func cursor(epoch int64, seq uint64) string {
	return strconv.FormatInt(epoch, 36) + "-" + strconv.FormatUint(seq, 36)
}

// resume is the place of a cursor; false when the stream cannot continue there.
func resume(after string, epoch int64, first, last uint64) (uint64, bool) {
	e, n, ok := strings.Cut(after, "-")
	ep, err1 := strconv.ParseInt(e, 36, 64)
	seq, err2 := strconv.ParseUint(n, 36, 64)
	return seq, ok && err1 == nil && err2 == nil && ep == epoch && seq <= last && seq+1 >= first
}

// object is a video as watchers get it, with its URL once it is stored.
func (s *Service) object(ctx context.Context, v *videov1.Video) videojson.Video {
	o := videojson.Of(v)
	if k := v.GetArtifact().GetKey(); k != "" && job.FromProto(v.GetState()) == job.Succeeded {
		if u, expires, err := s.d.Files.SignedURL(ctx, k); err == nil {
			o.URL, o.URLExpiresAt = u, expires.Unix()
		} else {
			s.d.Logger.ErrorContext(ctx, "result not signed", "job_id", v.GetId(), "error", err.Error())
		}
	}
	return o
}
