package notifier

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

type watchServer struct {
	videov1.UnimplementedWatchServiceServer
	s *Service
}

// Register puts WatchService on a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	videov1.RegisterWatchServiceServer(r, &watchServer{s: s})
}

// tokenHeader carries a browser token; a key has the header authorization.
const tokenHeader = "reelway-token"

// credentialsIn reads what came with a call.
func credentialsIn(ctx context.Context) (have credentials) {
	if v := metadata.ValueFromIncomingContext(ctx, "authorization"); len(v) > 0 {
		have.key = auth.Bearer(v[0])
	}
	if v := metadata.ValueFromIncomingContext(ctx, tokenHeader); len(v) > 0 && have.key == "" {
		have.token = v[0]
	}
	return have
}

// WatchVideo implements WatchService.
func (g *watchServer) WatchVideo(r *videov1.WatchVideoRequest, stream grpc.ServerStreamingServer[videov1.WatchVideoResponse]) error {
	return g.serve(stream, scope{job: r.GetId()}, r.GetAfter(), func(ctx context.Context, c caller, it item) error {
		m := &videov1.WatchVideoResponse{Cursor: it.cursor, Video: c.shows(it.video), Sequence: markOf(it.video).sequence()}
		if u, expires := signed(ctx, g.s.d.Files, g.s.d.Logger, it.video); u != "" {
			m.Url, m.UrlExpiresAt = u, timestamppb.New(expires)
		}
		return stream.Send(m)
	})
}

var kinds = map[kind]videov1.WatchKind{
	isSnapshot:   videov1.WatchKind_WATCH_KIND_SNAPSHOT,
	isEvent:      videov1.WatchKind_WATCH_KIND_EVENT,
	isSubscribed: videov1.WatchKind_WATCH_KIND_SUBSCRIBED,
	isReset:      videov1.WatchKind_WATCH_KIND_RESET,
	isNotice:     videov1.WatchKind_WATCH_KIND_NOTICE,
}

// WatchVideos implements WatchService.
func (g *watchServer) WatchVideos(r *videov1.WatchVideosRequest, stream grpc.ServerStreamingServer[videov1.WatchVideosResponse]) error {
	return g.serve(stream, scope{user: r.GetUser()}, r.GetAfter(), func(ctx context.Context, c caller, it item) error {
		m := &videov1.WatchVideosResponse{Kind: kinds[it.kind], Cursor: it.cursor, More: it.more, Notice: noticeMessage(it.notice)}
		if it.video != nil {
			m.Video, m.Sequence = c.shows(it.video), markOf(it.video).sequence()
			if u, expires := signed(ctx, g.s.d.Files, g.s.d.Logger, it.video); u != "" {
				m.Url, m.UrlExpiresAt = u, timestamppb.New(expires)
			}
		}
		return stream.Send(m)
	})
}

// serve runs a watch of the caller's account. A send waits for its reader without
// end, and cannot be told to give up: it is given up by returning, which ends the
// stream under it.
func (g *watchServer) serve(stream grpc.ServerStream, sc scope, after string, send func(context.Context, caller, item) error) error {
	c, err := g.s.admit(stream.Context(), credentialsIn(stream.Context()))
	if err != nil {
		return err
	}
	sc.account = c.account
	signal := make(chan struct{}, 1)
	watch, err := g.s.open(c.ctx, c.caller, sc, after, signaller(signal))
	if err == nil {
		// Who waits for the first event knows that it is being watched for.
		if err = stream.SendHeader(nil); err != nil {
			watch.close()
			err = fmt.Errorf("send header: %w", err)
		}
	}
	if err != nil {
		c.free()
		return err
	}
	done, stuck := make(chan error, 1), make(chan struct{}, 1)
	go func() {
		defer c.free()
		defer watch.close()
		done <- watch.run(c.ctx, signal, g.s.telling("grpc", func(it item) error {
			patience := time.AfterFunc(writeTimeout, signaller(stuck))
			defer patience.Stop()
			return send(c.ctx, c.caller, it)
		}))
	}()
	select {
	case err = <-done:
	case <-stuck:
		return slow()
	}
	if f := (*fault.Error)(nil); errors.As(context.Cause(c.ctx), &f) {
		return f
	}
	switch {
	case errors.Is(err, errSlow):
		return slow()
	case errors.Is(err, errMoved):
		return fault.Wrap(err, fault.Unavailable, "the event stream began anew; resume with the last cursor")
	}
	return err
}

// slow is what a reader that does not keep up is told, when it reads again.
func slow() error {
	e := fault.Wrap(errSlow, fault.RateLimited, "too slow: %d events were waiting, or none was taken for %s; resume with the last cursor", buffer, writeTimeout)
	e.RetryAfter = time.Second
	return e
}

// shows is v as c may see it: the holder of a token sees no cost, no attempts and
// nothing that is the operator's.
func (c caller) shows(v *videov1.Video) *videov1.Video {
	if c.grant == nil || v == nil {
		return v
	}
	v = proto.CloneOf(v)
	v.AccountId, v.Attempts = "", nil
	v.QuoteMicros, v.HeldMicros, v.CapturedMicros, v.RefundedMicros = 0, 0, 0, 0
	if v.GetParams() != nil {
		v.Params.ProviderModel = ""
	}
	if a := v.GetArtifact(); a != nil {
		a.Key = ""
		for _, image := range []*videov1.Variant{a.GetThumbnail(), a.GetSpritesheet()} {
			if image != nil {
				image.Key = ""
			}
		}
	}
	return v
}

// noticeMessage is a notice as watchers over gRPC get it.
func noticeMessage(n *eventv1.AccountNotice) *videov1.Notice {
	if n == nil {
		return nil
	}
	out := &videov1.Notice{OccurredAt: n.GetOccurredAt(), Text: n.GetText()}
	switch about := n.GetAbout().(type) {
	case *eventv1.AccountNotice_Budget:
		b := about.Budget
		out.About = &videov1.Notice_Budget{Budget: &videov1.BudgetNotice{BudgetId: b.GetBudgetId(), Subject: b.GetSubject(), SubjectId: b.GetSubjectId(), Period: b.GetPeriod(),
			Percent: b.GetPercent(), LimitMicros: b.GetLimitMicros(), SpentMicros: b.GetSpentMicros(), HeldMicros: b.GetHeldMicros(), Hard: b.GetHard(), ResetsAt: b.GetResetsAt()}}
	case *eventv1.AccountNotice_Paused:
		p := about.Paused
		out.About = &videov1.Notice_Paused{Paused: &videov1.PausedNotice{HourMicros: p.GetHourMicros(), LimitMicros: p.GetLimitMicros(), UsualMicros: p.UsualMicros}}
	case *eventv1.AccountNotice_Webhook:
		w := about.Webhook
		out.About = &videov1.Notice_Webhook{Webhook: &videov1.WebhookNotice{EndpointId: w.GetEndpointId(), Reason: w.GetReason(), FailingSince: w.GetFailingSince()}}
	}
	return out
}
