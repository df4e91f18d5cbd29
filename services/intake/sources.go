package intake

import (
	"context"
	"errors"
	"math"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/route"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// source is the caller's own video that a request is to work on; nil when it
// names none. It must be finished, and its file still there.
func (s *Service) source(ctx context.Context, p auth.Principal, r *videov1.VideoRequest) (*catalog.Made, error) {
	videoID := r.GetSourceVideo()
	if videoID == "" {
		return nil, nil
	}
	v, err := s.get(ctx, p, videoID)
	if f := (*fault.Error)(nil); errors.As(err, &f) && f.Code == fault.NotFound {
		return nil, ofSource(fault.NotFound, "there is no such video")
	}
	if err != nil {
		return nil, err
	}
	switch state := job.FromProto(v.GetState()); {
	case !state.Terminal():
		err := ofSource(fault.Conflict, "is "+string(state)+"; send the request again when it is completed")
		err.Retryable = true
		return nil, err
	case state != job.Succeeded:
		return nil, ofSource(fault.Conflict, "is "+string(state)+", and has no file to work on")
	case v.GetArtifact().GetKey() == "":
		return nil, ofSource(fault.Conflict, "was removed: its file is kept no more")
	}
	params := v.GetParams()
	made := &catalog.Made{ID: v.GetId(), Model: params.GetModel(), URL: bucket.Ref(v.GetArtifact().GetKey()),
		Seconds: params.GetDurationSeconds(), Ratio: params.GetAspectRatio(), Resolution: params.GetResolution()}
	if ms := v.GetArtifact().GetDurationMs(); ms > 0 { // an extension may hold its source
		made.Seconds = max(int32(math.Round(float64(ms)/1000)), 1)
	}
	for _, a := range v.GetAttempts() {
		if a.GetState() == "succeeded" {
			made.TaskID = a.GetProviderTaskId()
		}
	}
	return made, nil
}

// sourceFile is the caller's own video whose file a route of p hands over; empty
// where there is none, or the provider is told its own task in every one.
func sourceFile(p *route.Plan) string {
	for _, c := range p.Routes {
		if _, ours := bucket.RefKey(c.Params.GetVideoUrl()); ours && c.Params.GetSourceVideo() != "" {
			return c.Params.GetSourceVideo()
		}
	}
	return ""
}

// ofSource refuses the video that a request is to work on.
func ofSource(code fault.Code, message string) *fault.Error {
	f := fault.New(code, "video: %s", message)
	f.Fields = []fault.Field{{Name: "video", Message: message}}
	return f
}

// meant is r with a model where it names none: that of its source, or for any
// other video the first with a price that takes one.
func (s *Service) meant(r *videov1.VideoRequest, made *catalog.Made) *videov1.VideoRequest {
	if made == nil && r.GetVideoUrl() == "" || r.GetModel() != "" || r.GetRoute() != "" {
		return r
	}
	r = proto.CloneOf(r)
	if made != nil {
		r.Model = made.Model
		return r
	}
	task := catalog.Task(r)
	for _, m := range s.d.Catalog.Models() {
		if m.Priced() && m.ProviderModels[task] != "" && !m.Sources[task].Own {
			r.Model = m.ID
			break
		}
	}
	return r
}

// maxNamed bounds how many models an advice names.
const maxNamed = 8

// offering advises other models where the one that is meant cannot do a task on
// a video at all.
func (s *Service) offering(p auth.Principal, r *videov1.VideoRequest, made *catalog.Made) []fault.Field {
	task := catalog.Task(r)
	m, known := s.d.Catalog.Model(r.GetModel())
	if r.GetVideoUrl() == "" && made == nil || !known || r.GetRoute() != "" || m.ProviderModels[task] != "" {
		return nil
	}
	var names []string
	for _, m := range s.d.Catalog.Models() {
		if _, bad := m.Resolve(&videov1.VideoRequest{Prompt: "p", VideoUrl: r.GetVideoUrl(), SourceVideo: r.GetSourceVideo(), Extend: r.GetExtend()}, s.cap(p), made); bad == nil {
			names = append(names, m.ID)
		}
	}
	advice := "no model on offer can " + task + " here"
	if len(names) > 0 {
		advice = "for " + task + " choose one of " + strings.Join(names[:min(len(names), maxNamed)], ", ")
	}
	return []fault.Field{{Name: "model", Message: advice}}
}

// postOfVideo creates a video of another one, as OpenAI's SDKs ask for it: a
// remix, whose source is in the path, an edit, or an extension.
func (s *Service) postOfVideo(extend bool) func(http.ResponseWriter, *http.Request, auth.Principal) error {
	return func(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
		return s.submit(w, r, p, func(req *videov1.VideoRequest, bad []fault.Field) (worse []fault.Field, _ error) {
			wrong := func(field, message string) { worse = append(worse, fault.Field{Name: field, Message: message}) }
			if source := r.PathValue("id"); source != "" {
				if req.GetSourceVideo() != "" && req.GetSourceVideo() != source {
					wrong("video", "contradicts the path, which names "+source)
				}
				if !id.Safe(source) {
					return nil, missing()
				}
				req.SourceVideo = source
			}
			if req.GetExtend() && !extend {
				wrong("extend", "is for POST /v1/videos/extensions")
			}
			if req.Extend = extend; req.GetSourceVideo() == "" && req.GetVideoUrl() == "" && !slices.ContainsFunc(bad, func(f fault.Field) bool { return strings.HasPrefix(f.Name, "video") }) {
				wrong("video", "is required: the id of a completed video, or video_url in its place")
			}
			return worse, nil
		})
	}
}
