package provider

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Seen says of which attempt a report is, and who saw it.
type Seen struct {
	JobID, AttemptID, Provider string
	Source                     string // "submit", "webhook", "poll"
	At                         time.Time
}

// Observe turns a report into an observation. A verdict has the same id whoever
// sees it; progress has one for each value.
func Observe(r Report, s Seen) *eventv1.Observation {
	o := &eventv1.Observation{JobId: s.JobID, AttemptId: s.AttemptID, Provider: s.Provider, Source: s.Source, ObservedAt: timestamppb.New(s.At)}
	switch r.State {
	case Succeeded:
		o.Id = s.AttemptID + "-rendered"
		o.Fact = &eventv1.Observation_Rendered{Rendered: &eventv1.Rendered{Url: r.ResultURL, ProviderTaskId: r.TaskID}}
	case Failed:
		o.Id = s.AttemptID + "-failed"
		o.Fact = &eventv1.Observation_Failed{Failed: &eventv1.Failed{Error: ErrorProto(r.Err), ProviderTaskId: r.TaskID}}
	default:
		p := int32(max(r.Progress, 0))
		o.Id = fmt.Sprintf("%s-progressed-%s-%d", s.AttemptID, s.Source, p)
		o.Fact = &eventv1.Observation_Progressed{Progressed: &eventv1.Progressed{Progress: p, ProviderTaskId: r.TaskID}}
	}
	return o
}

// ErrorProto is a fault as jobs carry it; nil stays nil.
func ErrorProto(f *fault.Error) *videov1.VideoError {
	if f == nil {
		return nil
	}
	return &videov1.VideoError{Code: string(f.Code), Message: f.Message, Retryable: f.Retryable, Provider: f.Provider, ProviderCode: f.ProviderCode}
}
