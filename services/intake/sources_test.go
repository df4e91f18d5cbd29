package intake

import (
	"context"
	"testing"

	"google.golang.org/grpc"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// shelf is a ledger that knows one video.
type shelf struct {
	ledgerv1.JobServiceClient
	video *videov1.Video
}

func (s shelf) GetJob(context.Context, *ledgerv1.GetJobRequest, ...grpc.CallOption) (*ledgerv1.GetJobResponse, error) {
	return &ledgerv1.GetJobResponse{Video: s.video}, nil
}

type silent struct{}

func (silent) Status(context.Context, string) (*videov1.Video, bool, error) { return nil, false, nil }

// A source is a finished video whose file is still there; what is said of it is
// what the attempt made that succeeded.
func TestSource(t *testing.T) {
	t.Parallel()
	done := func() *videov1.Video {
		return &videov1.Video{Id: "video_1", State: videov1.VideoState_VIDEO_STATE_SUCCEEDED, Artifact: &videov1.Artifact{Key: "k/v.mp4", DurationMs: 11_600},
			Params:   &videov1.VideoParams{Model: "m", DurationSeconds: 7, AspectRatio: "9:16", Resolution: "720p"},
			Attempts: []*videov1.Attempt{{State: "failed", ProviderTaskId: "t1"}, {State: "succeeded", ProviderTaskId: "t2"}}}
	}
	for name, c := range map[string]struct {
		change func(*videov1.Video)
		code   fault.Code
	}{
		"done":         {func(*videov1.Video) {}, ""},
		"being made":   {func(v *videov1.Video) { v.State = videov1.VideoState_VIDEO_STATE_STORING }, fault.Conflict},
		"failed":       {func(v *videov1.Video) { v.State = videov1.VideoState_VIDEO_STATE_FAILED }, fault.Conflict},
		"file removed": {func(v *videov1.Video) { v.Artifact.Key = "" }, fault.Conflict},
	} {
		v := done()
		c.change(v)
		s := &Service{d: Deps{Jobs: shelf{video: v}, Status: silent{}}}
		made, err := s.source(t.Context(), auth.Principal{}, &videov1.VideoRequest{SourceVideo: "video_1"})
		f := fault.From(err)
		switch {
		case c.code == "" && (err != nil || made.ID != "video_1" || made.Model != "m" || made.TaskID != "t2" || made.Seconds != 12 || made.Ratio != "9:16" || made.URL != bucket.Ref("k/v.mp4")):
			t.Errorf("%s: %+v %v", name, made, err)
		case c.code != "" && (f == nil || f.Code != c.code || f.Fields[0].Name != "video" || f.Retryable != (name == "being made")):
			t.Errorf("%s: %v", name, err)
		}
	}
}
