package client

import (
	"context"
	"errors"
	"io"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/job"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

func stateOf(v *videov1.Video) job.State { return job.FromProto(v.GetState()) }

// Final reports whether a video has ended, with a result or without. A state that
// this version does not know is not final, nor is no video at all.
func Final(v *videov1.Video) bool {
	s := stateOf(v)
	return s != "" && s.Terminal()
}

// CreateAndWait submits a video as Create does and waits for its end. onProgress,
// if set, is told how it stands, and then each change, the last one too. A job that
// ends without a video is an *EndedError. It ends before the job only with ctx, or
// when it is refused for good; the video that comes with the error, nil when none
// was created, is how the job stood last. It goes on: Watch it again.
func (c *Client) CreateAndWait(ctx context.Context, r *videov1.CreateVideoRequest, onProgress func(*videov1.Video)) (*videov1.Video, error) {
	v, err := c.Create(ctx, r)
	if err != nil {
		return nil, err
	}
	for m, err := range c.Watch(ctx, &videov1.WatchVideoRequest{Id: v.GetId()}) {
		if err != nil {
			return v, err
		}
		if v = m.GetVideo(); onProgress != nil {
			onProgress(v)
		}
	}
	if stateOf(v) != job.Succeeded {
		return v, &EndedError{v}
	}
	return v, nil
}

// Watch tells how a video stands and then each change, until it is final or no
// longer ranged over. With r.After, the cursor of an earlier watch, it goes on from
// there. What breaks is taken up again where it was, also on another replica of
// notifier; while notifier is away, intake is asked. Nothing comes twice and
// nothing goes back; what is learnt from intake leaves out what lies before. It
// ends before the video only with ctx, or when it is refused for good: that error
// is the last thing that it yields.
func (c *Client) Watch(ctx context.Context, r *videov1.WatchVideoRequest) iter.Seq2[*videov1.WatchVideoResponse, error] {
	return func(yield func(*videov1.WatchVideoResponse, error) bool) {
		q, b := proto.CloneOf(r), waits()
		var last *videov1.Video
		// tell reports whether to go on.
		tell := func(m *videov1.WatchVideoResponse) bool {
			if !newer(m.GetVideo(), last) {
				return true
			}
			last = m.GetVideo()
			return yield(m, nil) && !Final(last)
		}
		for {
			over, err := listen(ctx, c.watching.WatchVideo, q, func(m *videov1.WatchVideoResponse) bool {
				b.Reset()
				q.After = m.GetCursor()
				return tell(m)
			})
			if over {
				return
			}
			if !broken(err) || ctx.Err() != nil {
				yield(nil, ended(ctx, err))
				return
			}
			if !c.watchOnly {
				m, askErr := c.ask(ctx, q)
				if askErr == nil && !tell(m) {
					return
				}
				if askErr != nil && !Retryable(askErr) && ctx.Err() == nil {
					yield(nil, askErr)
					return
				}
			}
			if !pause(ctx, max(retryAfter(err), b.NextBackOff())) {
				<-ctx.Done() // a watch has its time to the end
				yield(nil, ended(ctx, err))
				return
			}
		}
	}
}

// WatchMany tells how the unfinished videos of an end user, or of the account,
// stand, and then each change, for as long as it is ranged over. With r.After, the
// cursor of an earlier watch, it goes on from there. What breaks is taken up again
// where it was: nothing is left out and nothing comes twice, but for what a reset
// says. It ends by itself only with ctx, or when it is refused for good: that error
// is the last thing that it yields. It keeps a few bytes of each unfinished video.
func (c *Client) WatchMany(ctx context.Context, r *videov1.WatchVideosRequest) iter.Seq2[*videov1.WatchVideosResponse, error] {
	return func(yield func(*videov1.WatchVideosResponse, error) bool) {
		q, b := proto.CloneOf(r), waits()
		told := map[string]int64{}
		for {
			over, err := listen(ctx, c.watching.WatchVideos, q, func(m *videov1.WatchVideosResponse) bool {
				b.Reset()
				if m.GetCursor() != "" {
					q.After = m.GetCursor()
				}
				if m.GetKind() == videov1.WatchKind_WATCH_KIND_RESET {
					clear(told)
				}
				if v := m.GetVideo(); v != nil {
					if m.GetSequence() <= told[v.GetId()] {
						return true
					}
					if told[v.GetId()] = m.GetSequence(); Final(v) {
						delete(told, v.GetId())
					}
				}
				return yield(m, nil)
			})
			if over {
				return
			}
			if !Retryable(err) || ctx.Err() != nil {
				yield(nil, ended(ctx, err))
				return
			}
			if !pause(ctx, max(retryAfter(err), b.NextBackOff())) {
				<-ctx.Done() // a watch has its time to the end
				yield(nil, ended(ctx, err))
				return
			}
		}
	}
}

// broken reports whether a watch may be taken up again. A door without the service
// is intake's own: then intake is asked.
func broken(err error) bool { return Retryable(err) || status.Code(err) == codes.Unimplemented }

// newer reports whether v tells more than what was told last.
func newer(v, last *videov1.Video) bool {
	return last == nil || v.GetVersion() > last.GetVersion() || v.GetVersion() == last.GetVersion() && v.GetProgress() > last.GetProgress()
}

// ask reads from intake what notifier would tell. A video is told without its URL
// rather than not at all.
func (c *Client) ask(ctx context.Context, q *videov1.WatchVideoRequest) (*videov1.WatchVideoResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	a, err := c.videos.GetVideo(ctx, &videov1.GetVideoRequest{Id: q.GetId()})
	if err != nil {
		return nil, err
	}
	m := &videov1.WatchVideoResponse{Cursor: q.GetAfter(), Video: a.GetVideo()}
	if stateOf(m.GetVideo()) == job.Succeeded {
		if f, err := c.videos.GetVideoContent(ctx, &videov1.GetVideoContentRequest{Id: q.GetId()}); err == nil {
			m.Url, m.UrlExpiresAt = f.GetUrl(), f.GetExpiresAt()
		}
	}
	return m, nil
}

// listen reads one stream. over says that it has come to its end, or that tell
// wants no more; otherwise err says why it broke.
func listen[Q, M any](ctx context.Context, open func(context.Context, *Q, ...grpc.CallOption) (grpc.ServerStreamingClient[M], error), q *Q, tell func(*M) bool) (over bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := open(ctx, q)
	if err != nil {
		return false, failed("Watch", nil, err)
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			header, _ := stream.Header()
			return false, failed("Watch", header, err)
		}
		if !tell(m) {
			return true, nil
		}
	}
}
