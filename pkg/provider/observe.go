package provider

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

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

// What a provider may say, in bytes: its words are stored, pushed to watchers
// and carried on a bus that takes 1 MiB.
const (
	maxTaskID  = 512
	maxURL     = 8 << 10
	maxMessage = 1 << 10
)

// ValidTaskID reports whether a provider's task id can be stored and sent back:
// 1 to 512 bytes of UTF-8 without control characters.
func ValidTaskID(id string) bool {
	return id != "" && len(id) <= maxTaskID && utf8.ValidString(id) && !strings.ContainsFunc(id, unicode.IsControl)
}

// clip cuts a provider's text to what is stored, at a whole character, and
// drops what no database takes.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == 0 || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	if len(s) <= maxMessage {
		return s
	}
	n := maxMessage
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

// Observe turns a report into an observation. A verdict on a task has the same
// id whoever sees it; progress has one for each value.
func Observe(r Report, s Seen) *eventv1.Observation {
	o := &eventv1.Observation{JobId: s.JobID, AttemptId: s.AttemptID, Provider: s.Provider, Source: s.Source, ObservedAt: timestamppb.New(s.At)}
	if !ValidTaskID(r.TaskID) {
		r.TaskID = ""
	}
	if u := r.ResultURL; r.State == Succeeded && (len(u) > maxURL || !utf8.ValidString(u) || strings.ContainsFunc(u, unicode.IsControl)) {
		r.State = Failed
		r.Err = fault.New(fault.ProviderRejected, "%s finished the video but its address cannot be used", s.Provider)
		r.Err.Provider, r.Err.ProviderCode = s.Provider, "unusable_result"
	}
	switch r.State {
	case Succeeded:
		o.Id = s.AttemptID + "-rendered" + of(r.TaskID)
		o.Fact = &eventv1.Observation_Rendered{Rendered: &eventv1.Rendered{Url: r.ResultURL, ProviderTaskId: r.TaskID}}
	case Failed:
		if r.Canceled {
			o.Id = s.AttemptID + "-canceled" + of(r.TaskID)
			o.Fact = &eventv1.Observation_Canceled{Canceled: &eventv1.Canceled{Error: ErrorProto(r.Err), ProviderTaskId: r.TaskID}}
			break
		}
		o.Id = s.AttemptID + "-failed" + of(r.TaskID)
		o.Fact = &eventv1.Observation_Failed{Failed: &eventv1.Failed{Error: ErrorProto(r.Err), ProviderTaskId: r.TaskID}}
	default:
		p := int32(max(r.Progress, 0))
		o.Id = fmt.Sprintf("%s-progressed-%s-%d", s.AttemptID, s.Source, p)
		o.Fact = &eventv1.Observation_Progressed{Progressed: &eventv1.Progressed{Progress: p, ProviderTaskId: r.TaskID}}
	}
	return o
}

// of makes a verdict's id one of its task: a verdict on another task, however
// it came here, must not pass for this one.
func of(task string) string {
	if task == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(task))
	return "-" + hex.EncodeToString(sum[:6])
}

// ErrorProto is a fault as jobs carry it; nil stays nil.
func ErrorProto(f *fault.Error) *videov1.VideoError {
	if f == nil {
		return nil
	}
	return &videov1.VideoError{Code: string(f.Code), Message: clip(f.Message), Retryable: f.Retryable, Provider: f.Provider, ProviderCode: clip(f.ProviderCode)}
}
