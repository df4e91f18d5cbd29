package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/callbacktoken"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/natstest"
	"reelway.dev/pkg/provider"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/dispatcher"
)

// plain is a provider without webhooks, cancel or a way to look for a task. It
// answers polls with what it was given.
type plain struct {
	mu     sync.Mutex
	polled int
	answer func(n int) (provider.Report, error)
}

func (*plain) Submit(context.Context, provider.Task) (string, error) {
	return "", errors.New("nobody submits here")
}

func (p *plain) Poll(_ context.Context, taskID string, _ provider.Task) (provider.Report, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.polled++
	r, err := p.answer(p.polled)
	r.TaskID = taskID
	return r, err
}

// vanished takes cancels, and forgets what it canceled.
type vanished struct{ *plain }

func (vanished) Cancel(context.Context, string, provider.Task) error { return nil }

// stranger does not know what it is to cancel.
type stranger struct{ *plain }

func (stranger) Cancel(context.Context, string, provider.Task) error {
	return fmt.Errorf("cancel: %w", provider.ErrNoTask)
}

// attempts answers for the ledger: an attempt without a state is granted.
type attempts struct {
	ledgerv1.JobServiceClient
	a *ledgerv1.GetAttemptResponse
}

func (x attempts) GetAttempt(context.Context, *ledgerv1.GetAttemptRequest, ...grpc.CallOption) (*ledgerv1.GetAttemptResponse, error) {
	return x.a, nil
}

func (x attempts) BeginAttempt(context.Context, *ledgerv1.BeginAttemptRequest, ...grpc.CallOption) (*ledgerv1.BeginAttemptResponse, error) {
	if x.a.GetState() == "" {
		return &ledgerv1.BeginAttemptResponse{Granted: true, JobId: x.a.GetJobId(), AttemptId: x.a.GetAttemptId(), Params: x.a.GetParams()}, nil
	}
	return &ledgerv1.BeginAttemptResponse{OpenAttemptId: x.a.GetAttemptId()}, nil
}

// bench is a dispatcher on a real bus and what it observes.
type bench struct {
	bus  *bus.Bus
	seen chan *eventv1.Observation
	logs *lines
}

// lines is a log to read again.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) count(words string) int { return strings.Count(l.String(), words) }

// unsigned is a bucket that cannot sign.
type unsigned struct{}

func (unsigned) Sign(context.Context, string, bucket.Response) (string, time.Time, error) {
	return "", time.Time{}, errors.New("it is away")
}

func setup(t *testing.T, adapter provider.Adapter, a *ledgerv1.GetAttemptResponse, policy string) *bench {
	t.Helper()
	return setupWith(t, adapter, attempts{a: a}, a, policy)
}

// setupWith is setup with another ledger.
func setupWith(t *testing.T, adapter provider.Adapter, ledger ledgerv1.JobServiceClient, a *ledgerv1.GetAttemptResponse, policy string) *bench {
	t.Helper()
	b := natstest.Bus(t)
	tokens, err := callbacktoken.New("http://callbacks.example", []byte(strings.Repeat("s", 32)))
	if err != nil {
		t.Fatal(err)
	}
	a.JobId, a.AttemptId, a.Provider = "video_1", "att_1", "acme"
	if a.Params == nil {
		a.Params = &videov1.VideoParams{Model: "m"}
	}
	logs := &lines{}
	s, err := dispatcher.New(dispatcher.Config{SubmitTimeout: time.Second, PollInterval: 20 * time.Millisecond, MaxRuntime: time.Hour, Concurrency: 2, Rate: 1000},
		dispatcher.Deps{Bus: b, Jobs: ledger, Providers: map[string]provider.Adapter{"acme": adapter}, Model: func(*videov1.VideoParams) (string, error) { return "m", nil },
			Tokens: tokens, Files: unsigned{}, MaxRuntime: func(model string) time.Duration { return map[string]time.Duration{"slow": 10 * time.Hour}[model] }, Logger: slog.New(slog.NewTextHandler(logs, nil)), Now: time.Now, OnUncertain: func(model string) string { return map[string]string{"m": policy}[model] }})
	if err != nil {
		t.Fatal(err)
	}
	x := &bench{bus: b, seen: make(chan *eventv1.Observation, 64), logs: logs}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, c := range s.Components() {
		wg.Go(func() {
			if err := c.Run(ctx); err != nil {
				t.Errorf("%s: %v", c.Name, err)
			}
		})
	}
	wg.Go(func() {
		_ = bus.Consume(ctx, b, bus.ObservationConsumer, 1, func(_ context.Context, o *eventv1.Observation) error { x.seen <- o; return nil })
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return x
}

func (x *bench) send(t *testing.T, subject string, m *eventv1.SubmitJob) {
	t.Helper()
	msg, err := bus.NewMessage(subject, "m", m)
	if err != nil {
		t.Fatal(err)
	}
	if err := x.bus.Publish(t.Context(), msg); err != nil {
		t.Fatal(err)
	}
}

func (x *bench) poll(t *testing.T, m *eventv1.PollAttempt) {
	t.Helper()
	m.JobId, m.AttemptId, m.Provider = "video_1", "att_1", "acme"
	if err := x.bus.SchedulePoll(t.Context(), m, time.Now()); err != nil {
		t.Fatal(err)
	}
}

// acknowledged waits until a consumer has done its first message.
func (x *bench) acknowledged(t *testing.T, stream, consumer string) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := x.bus.JetStream().Consumer(t.Context(), stream, consumer)
		if err == nil && c.CachedInfo().AckFloor.Consumer > 0 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("not acknowledged: %v", err)
		case <-tick.C:
		}
	}
}

func (x *bench) next(t *testing.T) *eventv1.Observation {
	t.Helper()
	select {
	case o := <-x.seen:
		return o
	case <-time.After(60 * time.Second):
		t.Fatal("nothing was observed")
	}
	return nil
}

// nothingElse checks that nothing was observed: what is published now comes
// after it on the same bus, and is all there is.
func (x *bench) nothingElse(t *testing.T) {
	t.Helper()
	if err := x.bus.PublishObservation(t.Context(), &eventv1.Observation{JobId: "video_1", AttemptId: "att_1", Provider: "acme", Id: "mark"}); err != nil {
		t.Fatal(err)
	}
	if o := x.next(t); o.GetId() != "mark" {
		t.Errorf("%v", o)
	}
}

// An attempt of unknown outcome is given up where the policy says so, and when
// its submit surely is over; never otherwise.
func TestGivingUp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		policy string
		a      *ledgerv1.GetAttemptResponse
		gives  bool
	}{
		"by policy":     {"resubmit", &ledgerv1.GetAttemptResponse{State: "uncertain", AgeMs: 60_000}, true},
		"by default":    {"", &ledgerv1.GetAttemptResponse{State: "uncertain", AgeMs: 60_000}, false},
		"told to wait":  {"wait", &ledgerv1.GetAttemptResponse{State: "uncertain", AgeMs: 60_000}, false},
		"too early":     {"resubmit", &ledgerv1.GetAttemptResponse{State: "uncertain", AgeMs: 1000}, false},
		"already over":  {"resubmit", &ledgerv1.GetAttemptResponse{State: "uncertain", AgeMs: 60_000, Settled: true}, false},
		"in review":     {"resubmit", &ledgerv1.GetAttemptResponse{State: "uncertain", AgeMs: 60_000, InReview: true}, false},
		"it has a task": {"resubmit", &ledgerv1.GetAttemptResponse{State: "uncertain", AgeMs: 60_000, ProviderTaskId: "t1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := setup(t, &plain{answer: func(int) (provider.Report, error) { return provider.Report{State: provider.Running, Progress: 7}, nil }}, c.a, c.policy)
			x.send(t, bus.SubmitSubject("acme", "m"), &eventv1.SubmitJob{JobId: "video_1", Provider: "acme"})
			if c.gives {
				if o := x.next(t); o.GetGivenUp() == nil || o.GetAttemptId() != "att_1" {
					t.Errorf("%v", o)
				}
				return
			}
			if name != "too early" {
				x.acknowledged(t, bus.StreamJobs, bus.SubmitConsumer("acme").Name)
			}
			x.nothingElse(t)
		})
	}
}

// Whatever goes wrong with a poll says nothing of the task, and it is polled on.
func TestTroubleOfPollsEndsNothing(t *testing.T) {
	t.Parallel()
	p := &plain{answer: func(n int) (provider.Report, error) {
		switch n {
		case 1, 2:
			return provider.Report{}, errors.New("read task: status 429")
		case 3:
			return provider.Report{}, errors.New("read task: status 503")
		case 4:
			return provider.Report{}, provider.ErrNoTask
		case 5:
			return provider.Unfinished("", "transmogrifying", nil), nil
		}
		return provider.Done("acme", "", "https://result.example/v.mp4"), nil
	}}
	x := setup(t, p, &ledgerv1.GetAttemptResponse{State: "accepted", ProviderTaskId: "t1"}, "")
	x.poll(t, &eventv1.PollAttempt{})
	if o := x.next(t); o.GetRendered().GetProviderTaskId() != "t1" || o.GetSource() != "poll" {
		t.Errorf("%v", o)
	}
}

// A task that a provider forgets once it is canceled is proven canceled by that,
// and by nothing less.
func TestForgottenAfterCancel(t *testing.T) {
	t.Parallel()
	gone := &plain{answer: func(int) (provider.Report, error) { return provider.Report{}, provider.ErrNoTask }}
	x := setup(t, vanished{gone}, &ledgerv1.GetAttemptResponse{State: "accepted", ProviderTaskId: "t1", CancelRequested: true}, "")
	msg, err := bus.NewMessage(bus.CancelSubject("acme"), "c", &eventv1.CancelAttempt{JobId: "video_1", AttemptId: "att_1", Provider: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.bus.Publish(t.Context(), msg); err != nil {
		t.Fatal(err)
	}
	if o := x.next(t); o.GetCanceled().GetProviderTaskId() != "t1" || o.GetCanceled().GetError().GetProvider() != "acme" {
		t.Errorf("%v", o)
	}
	// A bare failure after the same cancel proves nothing.
	lost := &plain{answer: func(n int) (provider.Report, error) {
		if n < 4 {
			return provider.Report{}, errors.New("read task: status " + http.StatusText(http.StatusBadGateway))
		}
		return provider.Done("acme", "", "https://result.example/v.mp4"), nil
	}}
	x = setup(t, vanished{lost}, &ledgerv1.GetAttemptResponse{State: "accepted", ProviderTaskId: "t1", CancelRequested: true}, "")
	x.poll(t, &eventv1.PollAttempt{})
	if o := x.next(t); o.GetRendered() == nil {
		t.Errorf("%v", o)
	}
}

// That a provider never saw a task proves its end only when it must be visible.
func TestUnknownToTheProvider(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ageMs  int64
		proven bool
	}{"just submitted": {1000, false}, "long ago": {60_000, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &plain{answer: func(n int) (provider.Report, error) {
				if n < 4 {
					return provider.Report{}, provider.ErrNoTask
				}
				return provider.Done("acme", "", "https://result.example/v.mp4"), nil
			}}
			x := setup(t, stranger{p}, &ledgerv1.GetAttemptResponse{State: "accepted", ProviderTaskId: "t1", CancelRequested: true, AgeMs: c.ageMs}, "")
			x.poll(t, &eventv1.PollAttempt{})
			if o := x.next(t); (o.GetCanceled() != nil) != c.proven || (o.GetRendered() != nil) == c.proven {
				t.Errorf("%v", o)
			}
		})
	}
}

// A task that is two hours old has had its time, but for one of a model that takes
// longer: that is polled on.
func TestTimeOfSlowModels(t *testing.T) {
	t.Parallel()
	for model, over := range map[string]bool{"m": true, "slow": false} {
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			p := &plain{answer: func(n int) (provider.Report, error) {
				if n < 3 {
					return provider.Unfinished("", "running", map[string]provider.State{"running": provider.Running}), nil
				}
				return provider.Done("acme", "", "https://result.example/v.mp4"), nil
			}}
			x := setup(t, p, &ledgerv1.GetAttemptResponse{State: "accepted", ProviderTaskId: "t1", AgeMs: 7_200_000, Params: &videov1.VideoParams{Model: model}}, "")
			x.poll(t, &eventv1.PollAttempt{})
			for o := x.next(t); ; o = x.next(t) {
				if (o.GetTimedOut() != nil) == over && (o.GetRendered() != nil) != over {
					return
				}
				if o.GetTimedOut() != nil || o.GetRendered() != nil {
					t.Fatalf("%v", o)
				}
			}
		})
	}
}

// An attempt in review is polled as it comes up, once each time: a verdict is
// told; without one nothing is, and no other poll is made.
func TestPollsInReview(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		r    provider.Report
		err  error
		fact func(o *eventv1.Observation) bool
	}{
		"finished":   {r: provider.Done("acme", "", "https://result.example/v.mp4"), fact: func(o *eventv1.Observation) bool { return o.GetRendered() != nil }},
		"failed":     {r: provider.Rule{Code: fault.ProviderRejected}.Fail("acme", "", "failed", "no"), fact: func(o *eventv1.Observation) bool { return o.GetFailed() != nil }},
		"canceled":   {r: provider.Rule{Code: fault.ProviderRejected}.Fail("acme", "", "canceled", "no"), fact: func(o *eventv1.Observation) bool { return o.GetCanceled() != nil }},
		"still runs": {r: provider.Unfinished("", "running", map[string]provider.State{"running": provider.Running})},
		"no answer":  {err: errors.New("read task: status 502")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &plain{answer: func(int) (provider.Report, error) { return c.r, c.err }}
			// Older than MaxRuntime, so that a live one would time out now.
			x := setup(t, p, &ledgerv1.GetAttemptResponse{State: "uncertain", ProviderTaskId: "t1", InReview: true, AgeMs: 7_200_000}, "resubmit")
			x.poll(t, &eventv1.PollAttempt{})
			if c.fact != nil {
				if o := x.next(t); !c.fact(o) {
					t.Errorf("%v", o)
				}
				return
			}
			x.acknowledged(t, bus.StreamWatchdog, bus.PollConsumer("acme").Name)
			s, err := x.bus.JetStream().Stream(t.Context(), bus.StreamWatchdog)
			if err != nil {
				t.Fatal(err)
			}
			if n := s.CachedInfo().State.Msgs; n != 0 {
				t.Errorf("%d polls to come", n)
			}
			x.nothingElse(t)
		})
	}
}

// A poll that has to wait, here for a key that was taken out, lies in a schedule and
// not in the consumer, where thousands of them would be in the way of others.
func TestAPollThatWaitsIsInNobodysWay(t *testing.T) {
	t.Parallel()
	x := setup(t, &plain{}, &ledgerv1.GetAttemptResponse{State: "accepted", ProviderTaskId: "t1", KeyId: "gone"}, "")
	x.poll(t, &eventv1.PollAttempt{Polls: 3})
	x.acknowledged(t, bus.StreamWatchdog, bus.PollConsumer("acme").Name)
	s, err := x.bus.JetStream().Stream(t.Context(), bus.StreamWatchdog)
	if err != nil {
		t.Fatal(err)
	}
	if n := s.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("%d polls to come", n)
	}
	x.nothingElse(t)
}

// Where the answer to a submit was lost, a hint's task is asked for, and is the
// attempt's when the provider knows it; while the answer may still come, it is not.
func TestAHintNamesTheTaskOfALostAnswer(t *testing.T) {
	t.Parallel()
	running := &plain{answer: func(n int) (provider.Report, error) {
		if n < 2 {
			return provider.Report{}, errors.New("read task: status 503")
		}
		return provider.Unfinished("", "running", map[string]provider.State{"running": provider.Running}), nil
	}}
	x := setup(t, running, &ledgerv1.GetAttemptResponse{State: "uncertain", AgeMs: 60_000}, "")
	x.poll(t, &eventv1.PollAttempt{Hinted: true, ProviderTaskId: "t9"})
	if o := x.next(t); o.GetAccepted().GetProviderTaskId() != "t9" || o.GetAttemptId() != "att_1" {
		t.Errorf("%v", o)
	}
	early := &plain{answer: func(int) (provider.Report, error) { return provider.Report{}, errors.New("asked too early") }}
	x = setup(t, early, &ledgerv1.GetAttemptResponse{State: "intended", AgeMs: 60_000}, "")
	x.poll(t, &eventv1.PollAttempt{Hinted: true, ProviderTaskId: "t9"})
	if o := x.next(t); o.GetUnknown() == nil {
		t.Errorf("%v", o)
	}
	early.mu.Lock()
	defer early.mu.Unlock()
	if early.polled > 0 {
		t.Error("a task was asked for by a hint while the answer to its submit may still come")
	}
}

// full has no time for anything new.
type full struct{ *plain }

func (full) Submit(context.Context, provider.Task) (string, error) {
	return "", provider.Rule{Code: fault.RateLimited, Retry: true, Meaning: "the day's quota is used up"}.Refuse("acme", "429", "", time.Hour)
}

// A provider that takes no new task for an hour, and calls for one that it has, is
// asked for that one at once.
func TestAHintIsFollowedWhileNothingIsSubmitted(t *testing.T) {
	t.Parallel()
	done := &plain{answer: func(int) (provider.Report, error) {
		return provider.Done("acme", "", "https://result.example/v.mp4"), nil
	}}
	x := setup(t, full{done}, &ledgerv1.GetAttemptResponse{ProviderTaskId: "t1"}, "")
	x.send(t, bus.SubmitSubject("acme", "m"), &eventv1.SubmitJob{JobId: "video_1", Provider: "acme", Model: "m"})
	if o := x.next(t); o.GetRefused().GetError().GetCode() != string(fault.RateLimited) {
		t.Errorf("%v", o)
	}
	x.poll(t, &eventv1.PollAttempt{Hinted: true})
	if o := x.next(t); o.GetRendered().GetProviderTaskId() != "t1" {
		t.Errorf("%v", o)
	}
}

// A callback that comes after the end is told, so that it counts as one that came.
func TestLateHintIsTold(t *testing.T) {
	t.Parallel()
	x := setup(t, &plain{}, &ledgerv1.GetAttemptResponse{State: "succeeded", ProviderTaskId: "t1", Settled: true}, "")
	x.poll(t, &eventv1.PollAttempt{Hinted: true})
	if o := x.next(t); o.GetProgressed() == nil || o.GetSource() != "hint" {
		t.Errorf("%v", o)
	}
}

// findable can be asked for a task by its attempt, and has none.
type findable struct {
	*plain

	asked chan string
}

func (f findable) Find(_ context.Context, t provider.Task) (provider.Report, bool, error) {
	f.asked <- t.AttemptID
	return provider.Report{}, false, nil
}

// What is absent is believed after one question, for an attempt is of one key; only
// where the database was set back are attempts asked for that it may have lost.
func TestAbsenceOfOneAttempt(t *testing.T) {
	t.Parallel()
	for restored, want := range map[bool]int{false: 1, true: 5} {
		t.Run(fmt.Sprint(restored), func(t *testing.T) {
			t.Parallel()
			asked := make(chan string, 16)
			x := setup(t, findable{&plain{}, asked}, &ledgerv1.GetAttemptResponse{State: "uncertain", AgeMs: 60_000, Number: 1, Restored: restored}, "")
			x.send(t, bus.SubmitSubject("acme", "m"), &eventv1.SubmitJob{JobId: "video_1", Provider: "acme"})
			if o := x.next(t); !o.GetRefused().GetRetry() || len(asked) != want {
				t.Errorf("%v after %d questions, not %d", o, len(asked), want)
			}
		})
	}
}

// A file that cannot be signed keeps its job from the provider, which is told of
// nothing; the attempt is over, and another follows later.
func TestAFileThatCannotBeSigned(t *testing.T) {
	t.Parallel()
	x := setup(t, &plain{}, &ledgerv1.GetAttemptResponse{Params: &videov1.VideoParams{Model: "m", ImageUrl: bucket.Ref("uploads/acct_1/a.png")}}, "")
	x.send(t, bus.SubmitSubject("acme", "m"), &eventv1.SubmitJob{JobId: "video_1", Provider: "acme", Model: "m"})
	if o := x.next(t); !o.GetRefused().GetRetry() || o.GetRefused().GetRetryAfterMs() < 10_000 || o.GetRefused().GetError().GetCode() != string(fault.Unavailable) {
		t.Errorf("%v", o)
	}
	x.nothingElse(t)
}

// choosy does not offer the first models that it is asked for to our account.
type choosy struct {
	*plain

	asked  *atomic.Int64
	closed int64
}

func (c choosy) Submit(context.Context, provider.Task) (string, error) {
	if c.asked.Add(1) <= c.closed {
		return "", provider.Rule{Code: fault.ProviderUnavailable, Cause: provider.NoAccess, Meaning: "not for our account"}.Refuse("acme", "403", "", 0)
	}
	return "t1", nil
}

// A model that is closed to our account stops no other model.
func TestAClosedModelStopsNoOther(t *testing.T) {
	t.Parallel()
	x := setup(t, choosy{&plain{}, &atomic.Int64{}, 1}, &ledgerv1.GetAttemptResponse{}, "")
	x.send(t, bus.SubmitSubject("acme", "m"), &eventv1.SubmitJob{JobId: "video_1", Provider: "acme", Model: "m"})
	if o := x.next(t); !o.GetRefused().GetRetry() {
		t.Errorf("%v", o)
	}
	msg, err := bus.NewMessage(bus.SubmitSubject("acme", "open"), "m2", &eventv1.SubmitJob{JobId: "video_1", Provider: "acme", Model: "open"})
	if err != nil {
		t.Fatal(err)
	}
	if err := x.bus.Publish(t.Context(), msg); err != nil {
		t.Fatal(err)
	}
	if o := x.next(t); o.GetAccepted().GetProviderTaskId() != "t1" {
		t.Errorf("%v", o)
	}
}

// A ledger of the version before has one subject for all models of a provider. What
// it leaves behind is submitted, and takes no room on the bus for ever.
func TestCommandsOfTheVersionBeforeAreRead(t *testing.T) {
	t.Parallel()
	x := setup(t, choosy{&plain{}, &atomic.Int64{}, 0}, &ledgerv1.GetAttemptResponse{}, "")
	x.send(t, "jobs.submit.acme", &eventv1.SubmitJob{JobId: "video_1", Provider: "acme", Model: "m"})
	if o := x.next(t); o.GetAccepted().GetProviderTaskId() != "t1" {
		t.Errorf("%v", o)
	}
}

// spent has used up a day's quota of the model "m", for an hour yet.
type spent struct{ *plain }

func (spent) Submit(_ context.Context, t provider.Task) (string, error) {
	if strings.HasSuffix(t.JobID, "_m") {
		return "", provider.Rule{Code: fault.ProviderUnavailable, Cause: provider.NoQuota, Meaning: "the day is over"}.Refuse("acme", "429", "", time.Hour)
	}
	return "t1", nil
}

// named grants each job an attempt of its own model; none has another route.
type named struct{ attempts }

func (named) BeginAttempt(_ context.Context, r *ledgerv1.BeginAttemptRequest, _ ...grpc.CallOption) (*ledgerv1.BeginAttemptResponse, error) {
	_, model, _ := strings.Cut(r.GetJobId(), "_")
	return &ledgerv1.BeginAttemptResponse{Granted: r.GetUnavailableModel() == "", Full: r.GetUnavailableModel() != "", JobId: r.GetJobId(), AttemptId: r.GetJobId(), Params: &videov1.VideoParams{Model: model}}, nil
}

// A model whose quota is used up rests, and its job may go elsewhere at once: the
// wait is the key's. Any number of its jobs is in no other model's way.
func TestASpentQuotaStopsNoOtherModel(t *testing.T) {
	t.Parallel()
	a := &ledgerv1.GetAttemptResponse{}
	x := setupWith(t, spent{&plain{}}, named{attempts{a: a}}, a, "")
	submit := func(job, model string) {
		msg, err := bus.NewMessage(bus.SubmitSubject("acme", model), job, &eventv1.SubmitJob{JobId: job, Provider: "acme", Model: model})
		if err != nil {
			t.Fatal(err)
		}
		if err := x.bus.Publish(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
	}
	submit("video1_m", "m")
	if o := x.next(t).GetRefused(); !o.GetRetry() || o.GetRetryAfterMs() != 0 {
		t.Errorf("%v", o)
	}
	for i := range 20 { // ten for each worker
		submit(fmt.Sprintf("late%d_m", i), "m")
	}
	submit("video2_open", "open")
	if o := x.next(t); o.GetAccepted().GetProviderTaskId() != "t1" || o.GetJobId() != "video2_open" {
		t.Errorf("%v", o)
	}
}

// A task that fails for what an operator has to mend benches the key that had it.
func TestAVerdictThatBlamesOurAccount(t *testing.T) {
	t.Parallel()
	verdict := provider.Rule{Code: fault.ProviderRejected, Cause: provider.NoBalance, Meaning: "our credit ran out"}.Fail("acme", "t1", "budget_exhausted", "")
	p := &plain{answer: func(int) (provider.Report, error) { return verdict, nil }}
	x := setup(t, choosy{p, &atomic.Int64{}, 0}, &ledgerv1.GetAttemptResponse{State: "accepted", ProviderTaskId: "t1", AgeMs: 1000}, "")
	x.poll(t, &eventv1.PollAttempt{})
	if o := x.next(t); o.GetFailed().GetError().GetProviderCode() != "budget_exhausted" {
		t.Errorf("%v", o)
	}
	if x.logs.count("task failed for what an operator has to mend") != 1 || x.logs.count("key benched") != 1 || x.logs.count("cause=no_balance") != 1 {
		t.Errorf("the log: %s", x.logs)
	}
}

// forgetful grants an attempt, and its answer is lost.
type forgetful struct {
	attempts

	mu      sync.Mutex
	granted uint64 // the nonce
	asked   int
}

func (x *forgetful) BeginAttempt(ctx context.Context, r *ledgerv1.BeginAttemptRequest, opts ...grpc.CallOption) (*ledgerv1.BeginAttemptResponse, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch x.asked++; {
	case x.asked == 1:
		x.granted = r.GetNonce()
		return nil, status.Error(codes.Unavailable, "connection reset")
	case r.GetNonce() == x.granted && x.granted != 0:
		return x.attempts.BeginAttempt(ctx, r, opts...)
	}
	return &ledgerv1.BeginAttemptResponse{OpenAttemptId: x.a.GetAttemptId()}, nil
}

// The ledger granted an attempt and was killed: the one that has sent nothing asks
// again, by the same word, and submits it.
func TestAGrantWhoseAnswerWasLost(t *testing.T) {
	t.Parallel()
	a := &ledgerv1.GetAttemptResponse{}
	x := setupWith(t, choosy{&plain{}, &atomic.Int64{}, 0}, &forgetful{attempts: attempts{a: a}}, a, "")
	x.send(t, bus.SubmitSubject("acme", "m"), &eventv1.SubmitJob{JobId: "video_1", Provider: "acme", Model: "m"})
	if o := x.next(t); o.GetAccepted().GetProviderTaskId() != "t1" {
		t.Errorf("%v", o)
	}
	x.nothingElse(t)
}
