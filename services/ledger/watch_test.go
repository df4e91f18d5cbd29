package ledger_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

func canceled(task string) *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_Canceled{Canceled: &eventv1.Canceled{ProviderTaskId: task, Error: &videov1.VideoError{Code: "provider_rejected", ProviderCode: "canceled"}}}}
}

func accepted(task string) *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_Accepted{Accepted: &eventv1.Accepted{ProviderTaskId: task}}}
}

func refusedForNow() *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_Refused{Refused: &eventv1.Refused{Retry: true, Error: &videov1.VideoError{Code: "rate_limited"}}}}
}

func refusedForGood() *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_Refused{Refused: &eventv1.Refused{Error: &videov1.VideoError{Code: "content_policy"}}}}
}

func (x *bundle) cancel(t *testing.T, job string) *videov1.Video {
	t.Helper()
	r, err := x.jobs.CancelJob(t.Context(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: job})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetVideo()
}

func (x *bundle) attempt(t *testing.T, id string) *ledgerv1.GetAttemptResponse {
	t.Helper()
	r, err := x.jobs.GetAttempt(t.Context(), &ledgerv1.GetAttemptRequest{AttemptId: id})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What becomes of a wish to cancel that comes while a provider is asked or works.
func TestWishToCancel(t *testing.T) {
	t.Parallel()
	const running, canceledState, failedState, storing = videov1.VideoState_VIDEO_STATE_RUNNING, videov1.VideoState_VIDEO_STATE_CANCELED, videov1.VideoState_VIDEO_STATE_FAILED, videov1.VideoState_VIDEO_STATE_STORING
	for name, c := range map[string]struct {
		before, after []*eventv1.Observation
		want          videov1.VideoState
		attempt       string
	}{
		"canceled by the provider":         {[]*eventv1.Observation{accepted("t")}, []*eventv1.Observation{canceled("t")}, canceledState, "canceled"},
		"canceled before the answer":       {nil, []*eventv1.Observation{canceled("t")}, canceledState, "canceled"},
		"surely not taken":                 {nil, []*eventv1.Observation{refusedForNow()}, canceledState, "refused"},
		"failed meanwhile":                 {[]*eventv1.Observation{accepted("t")}, []*eventv1.Observation{failed()}, failedState, "failed"},
		"refused for good":                 {nil, []*eventv1.Observation{refusedForGood()}, failedState, "refused"},
		"finished all the same":            {[]*eventv1.Observation{accepted("t")}, []*eventv1.Observation{rendered(0, "")}, storing, "succeeded"},
		"accepted only then":               {nil, []*eventv1.Observation{accepted("t")}, running, "accepted"},
		"canceled, and finished in a race": {[]*eventv1.Observation{accepted("t")}, []*eventv1.Observation{canceled("t"), rendered(0, "")}, canceledState, "canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := setup(t, 10*price, still)
			v, err := x.open("")
			if err != nil {
				t.Fatal(err)
			}
			a := x.begin(t, v.GetId())
			for i, o := range c.before {
				x.see(t, v.GetId(), a, fmt.Sprint("before", i), o)
			}
			if len(c.before) > 0 {
				x.await(t, v.GetId(), running)
			}
			first, second := x.cancel(t, v.GetId()), x.cancel(t, v.GetId())
			if !first.GetCancelRequested() || first.GetHeldMicros() != price || second.GetVersion() != first.GetVersion() {
				t.Errorf("%v, then %v", first, second)
			}
			for i, o := range c.after {
				x.see(t, v.GetId(), a, fmt.Sprint("after", i), o)
			}
			got := x.await(t, v.GetId(), c.want)
			if s := got.GetAttempts()[0].GetState(); s != c.attempt || len(got.GetAttempts()) != 1 {
				t.Errorf("%v", got.GetAttempts())
			}
			switch c.want {
			case running, storing:
				if !got.GetCancelRequested() {
					t.Errorf("the wish is forgotten: %v", got)
				}
				x.balance(t, 9*price, price)
				eventually(t, "the dispatcher is told", func() bool {
					m, err := x.bus.JetStream().Stream(t.Context(), bus.StreamJobs)
					if err != nil {
						t.Fatal(err)
					}
					_, err = m.GetLastMsgForSubject(t.Context(), bus.CancelSubject("testprovider"))
					return err == nil
				})
			default:
				x.balance(t, 10*price, 0)
			}
		})
	}
}

// A refusal of the wish is visible, is asked no further, and the job goes on.
func TestRefusedWishToCancel(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price, still)
	job, a := x.started(t, "", price)
	x.see(t, job, a, "a", accepted("t"))
	if x.attempt(t, a).GetCancelRequested() {
		t.Error("nobody asked")
	}
	x.cancel(t, job)
	if !x.attempt(t, a).GetCancelRequested() {
		t.Error("a poll is not told of the wish")
	}
	x.see(t, job, a, "no", &eventv1.Observation{Fact: &eventv1.Observation_CancelRefused{CancelRefused: &eventv1.CancelRefused{Reason: "unsupported"}}})
	eventually(t, "refused", func() bool { return !x.attempt(t, a).GetCancelRequested() })
	if v := x.await(t, job, videov1.VideoState_VIDEO_STATE_RUNNING); v.GetCancelRefused() != "unsupported" || !v.GetCancelRequested() {
		t.Errorf("%v", v)
	}
	x.see(t, job, a, "r", rendered(0, ""))
	x.await(t, job, videov1.VideoState_VIDEO_STATE_STORING)
	if _, err := x.jobs.CancelJob(t.Context(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: job}); fault.FromStatus(err).Code != fault.Conflict {
		t.Errorf("%v", err)
	}
	x.see(t, job, a, "s", archived(10))
	x.await(t, job, videov1.VideoState_VIDEO_STATE_SUCCEEDED)
	x.balance(t, 9*price, 0)
}

// An attempt of unknown outcome is given up once; what it comes to later is
// recorded as late, and nobody is charged for it.
func TestGivenUpAttempt(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price, still)
	v, err := x.open("")
	if err != nil {
		t.Fatal(err)
	}
	unknown := func() *eventv1.Observation {
		return &eventv1.Observation{Fact: &eventv1.Observation_Unknown{Unknown: &eventv1.Unknown{}}}
	}
	givenUp := func() *eventv1.Observation {
		return &eventv1.Observation{Fact: &eventv1.Observation_GivenUp{GivenUp: &eventv1.GivenUp{Reason: "policy"}}}
	}
	first := x.begin(t, v.GetId())
	x.see(t, v.GetId(), first, "early", givenUp()) // its submit may be under way
	x.see(t, v.GetId(), first, "u", unknown())
	x.see(t, v.GetId(), first, "g", givenUp())
	x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_QUEUED)
	second := x.begin(t, v.GetId())
	x.see(t, v.GetId(), second, "u", unknown())
	x.see(t, v.GetId(), second, "g", givenUp()) // once for a job
	x.see(t, v.GetId(), first, "late", &eventv1.Observation{Fact: &eventv1.Observation_Rendered{Rendered: &eventv1.Rendered{Url: "https://result.example/first.mp4", ProviderTaskId: "first"}}})
	eventually(t, "late", func() bool {
		r, err := x.jobs.GetJob(t.Context(), &ledgerv1.GetJobRequest{JobId: v.GetId()})
		return err == nil && r.GetVideo().GetLateResult()
	})
	got := x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_SUBMITTING)
	if a := got.GetAttempts(); len(a) != 2 || a[0].GetState() != "given_up" || a[0].GetProviderTaskId() != "first" || a[1].GetState() != "uncertain" {
		t.Errorf("%v", got.GetAttempts())
	}
	x.see(t, v.GetId(), second, "r", &eventv1.Observation{Fact: &eventv1.Observation_Rendered{Rendered: &eventv1.Rendered{Url: "https://result.example/second.mp4", ProviderTaskId: "second"}}})
	x.see(t, v.GetId(), second, "s", archived(5))
	x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_SUCCEEDED)
	x.balance(t, 9*price, 0)
	// The invoice will name both.
	r, err := x.money.FindProviderTasks(t.Context(), &ledgerv1.FindProviderTasksRequest{Provider: "testprovider", ProviderTaskIds: []string{"first", "second", "third"}})
	if err != nil || len(r.GetTasks()) != 2 {
		t.Errorf("%v, %v", r, err)
	}
}

// Trust is by who told the last verdicts, and when the callback came.
func TestTrustInWebhooks(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price, still)
	job, a := x.started(t, "0", price)
	if x.attempt(t, a).WebhookTrust != nil {
		t.Error("there is nothing to judge by")
	}
	tell := func(source string, o *eventv1.Observation) *eventv1.Observation { o.Source = source; return o }
	x.seeFrom(t, job, a, tell("poll", failed()))
	x.await(t, job, videov1.VideoState_VIDEO_STATE_FAILED)
	x.seeFrom(t, job, a, tell("webhook", failed())) // the same fact: a duplicate, but a callback
	eventually(t, "the callback is noted", func() bool {
		var n int
		if err := x.pool.QueryRow(t.Context(), "select count(*) from attempt where id = $1 and verdict_source = 'poll' and webhook_at is not null", a).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n == 1
	})
	trust := func(want int32) {
		t.Helper()
		var got *int32
		eventually(t, fmt.Sprint("trust is ", want), func() bool { got = x.attempt(t, a).WebhookTrust; return got != nil && *got == want })
	}
	trust(100) // the poll was only a little faster
	x.exec(t, "update attempt set ended_at = now() - interval '10 minutes'")
	trust(75) // late: one half, beside the success that nobody saw
	x.exec(t, "update attempt set webhook_at = null")
	trust(50) // lost
	x.exec(t, "update attempt set ended_at = now()")
	for i := range 3 {
		j, b := x.started(t, fmt.Sprint("w", i), price)
		x.seeFrom(t, j, b, tell("webhook", failed()))
		x.await(t, j, videov1.VideoState_VIDEO_STATE_FAILED)
	}
	trust(100) // a poll's verdict of just now is not counted as lost
}

// seeFrom publishes an observation with the source and the id that observers
// give it.
func (x *bundle) seeFrom(t *testing.T, job, attempt string, o *eventv1.Observation) {
	t.Helper()
	o.JobId, o.AttemptId, o.Provider, o.Id, o.ObservedAt = job, attempt, "testprovider", attempt+"-verdict", timestamppb.Now()
	if err := x.bus.PublishObservation(context.WithoutCancel(t.Context()), o); err != nil {
		t.Fatal(err)
	}
}

// A task is found by its provider's id, or by the end of it, and an unknown one
// says whether it may soon be known.
func TestFindAttempt(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price, still)
	find := func(provider, task string) *ledgerv1.FindAttemptResponse {
		t.Helper()
		r, err := x.jobs.FindAttempt(t.Context(), &ledgerv1.FindAttemptRequest{Provider: provider, ProviderTaskId: task})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	v, err := x.open("")
	if err != nil {
		t.Fatal(err)
	}
	if find("testprovider", "t1").GetSubmitOpen() {
		t.Error("nothing was submitted")
	}
	a := x.begin(t, v.GetId())
	if r := find("testprovider", "t1"); !r.GetSubmitOpen() || r.GetJobId() != "" {
		t.Errorf("%v", r)
	}
	x.see(t, v.GetId(), a, "a", accepted("models/m/operations/t1"))
	x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_RUNNING)
	for _, task := range []string{"t1", "models/m/operations/t1"} {
		if r := find("testprovider", task); r.GetJobId() != v.GetId() || r.GetAttemptId() != a {
			t.Errorf("%s: %v", task, r)
		}
	}
	for provider, task := range map[string]string{"testprovider": "1", "another": "t1"} {
		if r := find(provider, task); r.GetJobId() != "" || r.GetSubmitOpen() {
			t.Errorf("%s %s: %v", provider, task, r)
		}
	}
}

// A provider's tasks are read in order, page by page, each once.
func TestListProviderTasks(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price, still)
	from := time.Now().Add(-time.Minute)
	want := map[string]bool{}
	for i := range 5 {
		_, a := x.started(t, fmt.Sprint(i), price)
		want[a] = true
	}
	q := &ledgerv1.ListProviderTasksRequest{Provider: "testprovider", From: timestamppb.New(from), To: timestamppb.New(time.Now().Add(time.Minute)), Limit: 2}
	got, pages := map[string]bool{}, 0
	for more := true; more; pages++ {
		r, err := x.money.ListProviderTasks(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range r.GetTasks() {
			if got[task.GetAttemptId()] || !want[task.GetAttemptId()] || task.GetAttemptId() <= q.GetAfter() {
				t.Errorf("%v", task)
			}
			got[task.GetAttemptId()], q.After = true, task.GetAttemptId()
		}
		more = r.GetHasMore()
	}
	if len(got) != 5 || pages != 3 {
		t.Errorf("%d tasks on %d pages", len(got), pages)
	}
	q.After = ""
	for name, change := range map[string]func(){
		"another provider": func() { q.Provider = "another" }, "before": func() { q.Provider, q.To = "testprovider", timestamppb.New(from.Add(time.Second)) },
	} {
		change()
		if r, err := x.money.ListProviderTasks(t.Context(), q); err != nil || len(r.GetTasks()) != 0 {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	q.To = q.GetFrom()
	if _, err := x.money.ListProviderTasks(t.Context(), q); fault.FromStatus(err).Code != fault.InvalidRequest {
		t.Errorf("%v", err)
	}
}
