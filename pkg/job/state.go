// Package job is the state machine of a video job: which states there are, and
// which observation moves a job from where to where. It is data; the ledger
// applies it, and nothing else moves a job.
package job

import (
	"slices"

	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// State is where a job stands. The strings are stored and part of the API.
type State string

const (
	// Queued: accepted, hold placed, no provider called. In: OpenJob, or an
	// attempt that surely came to nothing and is followed by another, of the same
	// route or the next. Out: an attempt
	// begins, the caller cancels, or it waited too long (ledger's sweep).
	Queued State = "queued"
	// Submitting: an attempt is committed and its outcome not known. In:
	// BeginAttempt. Out: the provider's answer, a webhook that overtakes it, or
	// the attempt's deadline (watchdog).
	Submitting State = "submitting"
	// Running: the provider has the task. Out: its verdict, or the deadline.
	Running State = "running"
	// Storing: the provider finished, the archiver copies. Out: stored, or the
	// result proved lost (ledger's sweep sends the archiver again).
	Storing State = "storing"
	// Succeeded: the video is in the bucket, its price captured. Final.
	Succeeded State = "succeeded"
	// Failed: no video, hold released. Final.
	Failed State = "failed"
	// Canceled: ended by the caller, before a provider began or, by the provider's
	// own word, after. Final.
	Canceled State = "canceled"
	// Expired: its time ran out before any provider was called. Final.
	Expired State = "expired"
	// NeedsReview: the longest possible time passed without a verdict. The hold
	// was released, the possible cost is in suspense. Final for the caller.
	NeedsReview State = "needs_review"
)

// Input is what moves a job.
type Input string

// The inputs: commands of the ledger's callers and facts of its observers.
const (
	Begin         Input = "begin"          // an attempt is committed
	Accept        Input = "accept"         // the provider took the task
	Progress      Input = "progress"       // the provider works on it
	RefuseRetry   Input = "refuse_retry"   // surely not accepted, may be repeated
	Refuse        Input = "refuse"         // surely not accepted, final
	FallBack      Input = "fall_back"      // the present route surely makes no video and costs nothing; there is another
	Render        Input = "render"         // the provider finished
	Fail          Input = "fail"           // the provider gave it up
	Archive       Input = "archive"        // the copy is in the bucket
	ArchiveFailed Input = "archive_failed" // the result cannot be had
	Cancel        Input = "cancel"         // the caller's wish
	Stop          Input = "stop"           // the caller's wish, proven done
	Expire        Input = "expire"         // waited too long in the queue
	TimeOut       Input = "time_out"       // no verdict in the longest possible time
)

// Transition is one legal move and its reason.
type Transition struct {
	From State
	On   Input
	To   State
	Why  string
}

// Table is every legal move. What is not here is recorded and ignored.
var Table = []Transition{
	{Queued, Begin, Submitting, "the intent is committed before the first byte leaves"},
	{Queued, Cancel, Canceled, "nothing was asked of a provider"},
	{Queued, Expire, Expired, "no provider could be called in time"},
	{Queued, Refuse, Failed, "no provider can take it"},
	{Queued, FallBack, Queued, "nobody takes it now or took it in time, the next route follows"},
	{Queued, Accept, Running, "an attempt thought refused turned out to exist: it is adopted, not repeated"},
	{Queued, Progress, Running, "the same, told by a webhook"},
	{Queued, Render, Storing, "the same, finished already"},
	{Submitting, Accept, Running, "the provider answered with its task id"},
	{Submitting, Progress, Running, "a webhook or look-up overtook the answer"},
	{Submitting, Render, Storing, "the verdict overtook the answer"},
	{Submitting, Fail, Failed, "the verdict overtook the answer"},
	{Submitting, RefuseRetry, Queued, "surely not accepted, or given up knowingly: another attempt follows"},
	{Submitting, Stop, Canceled, "surely not accepted, or canceled by the provider, and not wanted any more"},
	{Submitting, Refuse, Failed, "surely not accepted, no attempt would help"},
	{Submitting, FallBack, Queued, "surely not accepted or given up at once, the next route follows"},
	{Submitting, TimeOut, NeedsReview, "whether the provider has the task was never learned"},
	{Running, Progress, Running, "progress"},
	{Running, Render, Storing, "the provider finished"},
	{Running, Stop, Canceled, "the provider canceled it, as the caller wished"},
	{Running, Fail, Failed, "the provider gave it up"},
	{Running, FallBack, Queued, "the provider gave it up, the next route follows"},
	{Running, TimeOut, NeedsReview, "the provider never gave a verdict"},
	{Storing, Archive, Succeeded, "the copy is verified"},
	{Storing, ArchiveFailed, Failed, "the result cannot be fetched any more"},
}

// Next is the state that in leads to from s; false when the move is illegal.
func Next(s State, in Input) (State, bool) {
	for _, t := range Table {
		if t.From == s && t.On == in {
			return t.To, true
		}
	}
	return s, false
}

// States lists every state in the order of a job's life.
func States() []State {
	return []State{Queued, Submitting, Running, Storing, Succeeded, Failed, Canceled, Expired, NeedsReview}
}

// Terminal reports whether s never changes again.
func (s State) Terminal() bool {
	return !slices.ContainsFunc(Table, func(t Transition) bool { return t.From == s })
}

var protos = map[State]videov1.VideoState{
	Queued: videov1.VideoState_VIDEO_STATE_QUEUED, Submitting: videov1.VideoState_VIDEO_STATE_SUBMITTING,
	Running: videov1.VideoState_VIDEO_STATE_RUNNING, Storing: videov1.VideoState_VIDEO_STATE_STORING,
	Succeeded: videov1.VideoState_VIDEO_STATE_SUCCEEDED, Failed: videov1.VideoState_VIDEO_STATE_FAILED,
	Canceled: videov1.VideoState_VIDEO_STATE_CANCELED, Expired: videov1.VideoState_VIDEO_STATE_EXPIRED,
	NeedsReview: videov1.VideoState_VIDEO_STATE_NEEDS_REVIEW,
}

// Proto is the state on the wire.
func (s State) Proto() videov1.VideoState { return protos[s] }

// FromProto is the state of a wire value; empty for unspecified or unknown.
func FromProto(v videov1.VideoState) State {
	for s, p := range protos {
		if p == v {
			return s
		}
	}
	return ""
}
