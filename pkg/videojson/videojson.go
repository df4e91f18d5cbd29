// Package videojson is a video and an error as JSON: OpenAI's objects with
// Reelway's finer fields beside them. REST, SSE and WebSocket share it.
package videojson

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/money"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Video is the object of the OpenAI Videos API, and more.
type Video struct {
	ID          string  `json:"id"`
	Object      string  `json:"object"`
	Model       string  `json:"model"`
	Status      string  `json:"status"` // queued, in_progress, completed, failed
	Progress    int32   `json:"progress"`
	CreatedAt   int64   `json:"created_at"`
	CompletedAt *int64  `json:"completed_at"`
	ExpiresAt   *int64  `json:"expires_at"`
	Prompt      string  `json:"prompt"`
	Seconds     string  `json:"seconds"`
	Size        string  `json:"size"`
	RemixedFrom *string `json:"remixed_from_video_id"`
	Error       *Error  `json:"error"`

	State             string            `json:"state"`
	ProgressEstimated bool              `json:"progress_estimated"`
	QueuePosition     *int64            `json:"queue_position,omitempty"`          // jobs ahead of it, while it waits
	EstimatedAt       *int64            `json:"estimated_completion_at,omitempty"` // Unix seconds
	Duration          int32             `json:"duration"`
	AspectRatio       string            `json:"aspect_ratio"`
	Resolution        string            `json:"resolution"`
	NegativePrompt    string            `json:"negative_prompt,omitempty"`
	Provider          string            `json:"provider"`
	User              string            `json:"user,omitempty"`
	Metadata          map[string]string `json:"metadata,omitempty"`
	Cost              Cost              `json:"cost"`
	Attempts          []Attempt         `json:"attempts,omitempty"`
	Artifact          *Artifact         `json:"artifact,omitempty"`
	LateResult        bool              `json:"late_result,omitempty"`
	Route             string            `json:"route,omitempty"`   // the alias that was asked for
	Dropped           []string          `json:"dropped,omitempty"` // optional parameters that the model lacks
	CancelRequested   bool              `json:"cancel_requested,omitempty"`
	CancelRefused     string            `json:"cancel_refused,omitempty"` // unsupported, too_late
	URL               string            `json:"url,omitempty"`
	URLExpiresAt      int64             `json:"url_expires_at,omitempty"`
}

// Error says why a video failed.
type Error struct {
	Code         string `json:"code"`
	Message      string `json:"message"`
	Retryable    bool   `json:"retryable"`
	Provider     string `json:"provider,omitempty"`
	ProviderCode string `json:"provider_code,omitempty"`
}

// Cost is the money of a job, in micro-credits and as decimal credits.
type Cost struct {
	Quote          string `json:"quote"`
	Held           string `json:"held"`
	Captured       string `json:"captured"`
	Refunded       string `json:"refunded,omitempty"`
	QuoteMicros    int64  `json:"quote_micros"`
	HeldMicros     int64  `json:"held_micros"`
	CapturedMicros int64  `json:"captured_micros"`
	RefundedMicros int64  `json:"refunded_micros,omitempty"`
}

// Attempt is one submission to a provider.
type Attempt struct {
	ID        string `json:"id"`
	Provider  string `json:"provider"`
	State     string `json:"state"`
	ErrorCode string `json:"error_code,omitempty"`
	Error     string `json:"error,omitempty"`
	CreatedAt int64  `json:"created_at"`
	EndedAt   *int64 `json:"ended_at"`

	Model       string   `json:"model"`
	Dropped     []string `json:"dropped,omitempty"`
	Price       string   `json:"price"` // when this attempt makes the video
	PriceMicros int64    `json:"price_micros"`
	Cost        string   `json:"cost"` // what was charged for it
	CostMicros  int64    `json:"cost_micros"`
}

// Artifact is what was stored.
type Artifact struct {
	ContentType string `json:"content_type"`
	Bytes       int64  `json:"bytes"`
	SHA256      string `json:"sha256"`
	Width       int32  `json:"width"`
	Height      int32  `json:"height"`
	DurationMS  int64  `json:"duration_ms"`
	images
}

// Status is OpenAI's word for a state.
func Status(s job.State) string {
	switch {
	case s == job.Queued:
		return "queued"
	case s == job.Succeeded:
		return "completed"
	case s.Terminal():
		return "failed"
	}
	return "in_progress"
}

// Of is v as JSON, without a URL.
func Of(v *videov1.Video) Video {
	p, s := v.GetParams(), job.FromProto(v.GetState())
	out := Video{
		ID: v.GetId(), Object: "video", Model: p.GetModel(), Status: Status(s), Progress: v.GetProgress(), CreatedAt: v.GetCreatedAt().GetSeconds(),
		CompletedAt: unix(v.GetCompletedAt()), ExpiresAt: unix(v.GetExpiresAt()), Prompt: p.GetPrompt(), Seconds: strconv.Itoa(int(p.GetDurationSeconds())),
		Size: fmt.Sprintf("%dx%d", p.GetWidth(), p.GetHeight()), State: string(s), ProgressEstimated: v.GetProgressEstimated(), QueuePosition: v.QueuePosition,
		EstimatedAt: unix(v.GetEstimatedCompletionAt()), Duration: p.GetDurationSeconds(),
		AspectRatio: p.GetAspectRatio(), Resolution: p.GetResolution(), NegativePrompt: p.GetNegativePrompt(), Provider: v.GetProvider(),
		User: v.GetUser(), Metadata: v.GetMetadata(), LateResult: v.GetLateResult(), CancelRequested: v.GetCancelRequested(), CancelRefused: v.GetCancelRefused(),
		Route: v.GetRoute(), Dropped: v.GetDropped(),
		Cost: Cost{Quote: money.Format(v.GetQuoteMicros()), Held: money.Format(v.GetHeldMicros()), Captured: money.Format(v.GetCapturedMicros()),
			QuoteMicros: v.GetQuoteMicros(), HeldMicros: v.GetHeldMicros(), CapturedMicros: v.GetCapturedMicros(), RefundedMicros: v.GetRefundedMicros()},
	}
	if id := p.GetSourceVideo(); id != "" {
		out.RemixedFrom = &id
	}
	if v.GetRefundedMicros() > 0 {
		out.Cost.Refunded = money.Format(v.GetRefundedMicros())
	}
	if e := v.GetError(); e != nil {
		out.Error = &Error{e.GetCode(), e.GetMessage(), e.GetRetryable(), e.GetProvider(), e.GetProviderCode()}
	} else if s == job.Canceled {
		out.Error = &Error{Code: "canceled", Message: "canceled by the caller; nothing was charged"}
	}
	for _, a := range v.GetAttempts() {
		out.Attempts = append(out.Attempts, Attempt{ID: a.GetId(), Provider: a.GetProvider(), State: a.GetState(), ErrorCode: a.GetErrorCode(), Error: a.GetErrorMessage(),
			CreatedAt: a.GetCreatedAt().GetSeconds(), EndedAt: unix(a.GetEndedAt()), Model: a.GetModel(), Dropped: a.GetDropped(),
			Price: money.Format(a.GetPriceMicros()), PriceMicros: a.GetPriceMicros(), Cost: money.Format(a.GetCapturedMicros()), CostMicros: a.GetCapturedMicros()})
	}
	if a := v.GetArtifact(); a != nil {
		out.Artifact = &Artifact{a.GetContentType(), a.GetSizeBytes(), a.GetSha256(), a.GetWidth(), a.GetHeight(), a.GetDurationMs(), imagesOf(a)}
	}
	return out
}

// priorities are the classes of the queue as callers write them, the lowest
// first.
var priorities = []string{"low", "normal", "high"}

// ParsePriority reads a class of the queue; empty is normal. ok is false for any
// other word.
func ParsePriority(s string) (p videov1.Priority, ok bool) {
	if s == "" {
		return videov1.Priority_PRIORITY_UNSPECIFIED, true
	}
	i := slices.Index(priorities, s)
	return videov1.Priority(i + 1), i >= 0
}

// Priority is a class as callers write it.
func Priority(p videov1.Priority) string {
	if p < videov1.Priority_PRIORITY_LOW || int(p) > len(priorities) {
		return "normal"
	}
	return priorities[p-1]
}

// PrioritiesTo lists the classes up to one, for people.
func PrioritiesTo(top videov1.Priority) string {
	return strings.Join(priorities[:min(max(int(top), 1), len(priorities))], " or ")
}

func unix(t *timestamppb.Timestamp) *int64 {
	if t == nil {
		return nil
	}
	n := t.GetSeconds()
	return &n
}

// Fault is an error in OpenAI's envelope, and more.
type Fault struct {
	Message    string  `json:"message"`
	Type       string  `json:"type"`
	Param      *string `json:"param"`
	Code       string  `json:"code"`
	Retryable  bool    `json:"retryable"`
	RetryAfter float64 `json:"retry_after,omitempty"` // seconds
	Fields     []Field `json:"fields,omitempty"`
	Provider   string  `json:"provider,omitempty"`
	RequestID  string  `json:"request_id"`
}

// Field is one wrong field.
type Field struct {
	Name    string `json:"name"`
	Message string `json:"message"`
}

// Envelope is the body of every answer that refuses.
type Envelope struct {
	Error Fault `json:"error"`
}

// FaultOf is e as JSON.
func FaultOf(requestID string, e *fault.Error) Fault {
	f := Fault{Message: e.Message, Type: string(e.Code), Code: string(e.Code), Retryable: e.Retryable, RetryAfter: e.RetryAfter.Seconds(), Provider: e.Provider, RequestID: requestID}
	switch e.Code {
	case fault.InvalidRequest, fault.MethodNotAllowed, fault.PayloadTooLarge, fault.NotFound, fault.Conflict, fault.ContentPolicy:
		f.Type = "invalid_request_error"
	case fault.Unauthenticated:
		f.Type = "authentication_error"
	case fault.RateLimited:
		f.Type = "rate_limit_error"
	case fault.InsufficientCredits:
		f.Type = "insufficient_quota"
	}
	for _, x := range e.Fields {
		f.Fields = append(f.Fields, Field(x))
	}
	if len(e.Fields) > 0 {
		f.Param = &e.Fields[0].Name
	}
	return f
}

// WriteFault answers err with its status, headers and envelope.
func WriteFault(w http.ResponseWriter, requestID string, err error) {
	e := fault.From(err)
	h := w.Header()
	h.Set("X-Should-Retry", strconv.FormatBool(e.Retryable))
	if e.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
		h.Set("Retry-After-Ms", strconv.FormatInt(max(e.RetryAfter, time.Millisecond).Milliseconds(), 10))
	}
	Write(w, e.Code.HTTPStatus(), Envelope{FaultOf(requestID, e)})
}

// Write answers v as JSON.
func Write(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false) // a URL should read as one
	_ = enc.Encode(v)        // the caller has gone; there is nobody to tell
}
