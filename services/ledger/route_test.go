package ledger_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/ledger"
)

// Three routes of different providers, models and odd prices.
const (
	dear  = 1_234_567
	cheap = 234_561
	third = 700_001
)

func routes() []*ledgerv1.Route {
	return []*ledgerv1.Route{
		{Provider: "one", PriceMicros: cheap, CostMicros: 100, CostCurrency: "USD", Params: &videov1.VideoParams{Model: "m-one", Prompt: "p", DurationSeconds: 5}},
		{Provider: "two", PriceMicros: dear, CostMicros: 200, CostCurrency: "USD", Params: &videov1.VideoParams{Model: "m-two", Prompt: "p", DurationSeconds: 6}, Dropped: []string{"seed"}},
		{Provider: "three", PriceMicros: third, CostMicros: 300, CostCurrency: "USD", Params: &videov1.VideoParams{Model: "m-three", Prompt: "p", DurationSeconds: 5}},
	}
}

func twoTries(c *ledgerConfig) { c.RouteAttempts = 2 }

// openRoutes opens a job of an alias; its hold is the dearest route's price.
func (x *bundle) openRoutes(t *testing.T, change ...func(*ledgerv1.OpenJobRequest)) *videov1.Video {
	t.Helper()
	rs := routes()
	hash := sha256.Sum256([]byte("body"))
	r := &ledgerv1.OpenJobRequest{AccountId: x.acct, Provider: rs[0].GetProvider(), RequestHash: hash[:], QuoteMicros: cheap, CostMicros: 100, CostCurrency: "USD",
		Params: rs[0].GetParams(), Plan: &ledgerv1.Plan{Routes: rs, Alias: "best"}}
	for _, f := range change {
		f(r)
	}
	o, err := x.jobs.OpenJob(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return o.GetVideo()
}

// beginAt begins the next attempt, at the provider whose turn it must be.
func (x *bundle) beginAt(t *testing.T, jobID, provider, model string) string {
	t.Helper()
	var r *ledgerv1.BeginAttemptResponse
	eventually(t, "attempt granted to "+provider, func() bool {
		var err error
		if r, err = x.jobs.BeginAttempt(context.Background(), &ledgerv1.BeginAttemptRequest{JobId: jobID, Provider: provider}); err != nil {
			t.Fatal(err)
		}
		return r.GetGranted()
	})
	if r.GetParams().GetModel() != model {
		t.Errorf("%s is to be asked for %s; want %s", provider, r.GetParams().GetModel(), model)
	}
	return r.GetAttemptId()
}

// say publishes one observation and waits until it is consumed.
func (x *bundle) say(t *testing.T, jobID, attempt, provider, id string, fact *eventv1.Observation) {
	t.Helper()
	fact.JobId, fact.AttemptId, fact.Provider, fact.Id, fact.Source, fact.ObservedAt = jobID, attempt, provider, attempt+"-"+id, "test", timestamppb.Now()
	if err := x.bus.PublishObservation(context.Background(), fact); err != nil {
		t.Fatal(err)
	}
	eventually(t, id+" consumed", func() bool {
		s, err := x.bus.JetStream().Stream(context.Background(), bus.StreamObservations)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs == 0
	})
}

func refusal(code fault.Code, retry bool) *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_Refused{Refused: &eventv1.Refused{Retry: retry, Error: &videov1.VideoError{Code: string(code), Retryable: retry}}}}
}

func failure(code fault.Code, providerCode string) *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_Failed{Failed: &eventv1.Failed{Error: &videov1.VideoError{Code: string(code), ProviderCode: providerCode}}}}
}

func acceptance(task string) *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_Accepted{Accepted: &eventv1.Accepted{ProviderTaskId: task}}}
}

func render(task string) *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_Rendered{Rendered: &eventv1.Rendered{Url: "https://result.example/x.mp4", ProviderTaskId: task}}}
}

func storage() *eventv1.Observation {
	return &eventv1.Observation{Fact: &eventv1.Observation_Archived{Archived: &eventv1.Archived{Artifact: &videov1.Artifact{Key: "k", Sha256: "00"}}}}
}

// The first route's provider is away, the second refuses for good: the third
// makes the video, and its own price is captured to the micro-credit.
func TestRoutesAreTriedInTurnAndTheLastOnesPriceIsCaptured(t *testing.T) {
	t.Parallel()
	x := setup(t, 5*price, twoTries)
	v := x.openRoutes(t)
	x.balance(t, 5*price-dear, dear)
	if v.GetRoute() != "best" || v.GetProvider() != "one" || v.GetQuoteMicros() != dear {
		t.Errorf("opened as %v", v)
	}
	for range 2 { // REELWAY_ROUTE_ATTEMPTS
		x.say(t, v.GetId(), x.beginAt(t, v.GetId(), "one", "m-one"), "one", "refused", refusal(fault.ProviderUnavailable, true))
	}
	a2 := x.beginAt(t, v.GetId(), "two", "m-two")
	r, err := x.jobs.GetAttempt(context.Background(), &ledgerv1.GetAttemptRequest{AttemptId: a2})
	if err != nil || r.GetProvider() != "two" || r.GetParams().GetModel() != "m-two" || r.GetParams().GetDurationSeconds() != 6 {
		t.Errorf("the second route's attempt is %v, %v", r, err)
	}
	x.say(t, v.GetId(), a2, "two", "refused", refusal(fault.ProviderRejected, false))
	a3 := x.beginAt(t, v.GetId(), "three", "m-three")
	x.say(t, v.GetId(), a3, "three", "accepted", acceptance("t3"))
	x.say(t, v.GetId(), a3, "three", "rendered", render("t3"))
	x.say(t, v.GetId(), a3, "three", "archived", storage())
	got := x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_SUCCEEDED)
	if got.GetCapturedMicros() != third || got.GetProvider() != "three" || got.GetParams().GetModel() != "m-three" {
		t.Errorf("ended as %v", got)
	}
	x.balance(t, 5*price-third, 0)
	var seen []string
	for i, a := range got.GetAttempts() {
		seen = append(seen, a.GetModel()+" "+a.GetProvider()+" "+a.GetState())
		if last := i == 3; last != (a.GetCapturedMicros() == third) || !last && a.GetCapturedMicros() != 0 {
			t.Errorf("attempt %d was charged %d", i+1, a.GetCapturedMicros())
		}
	}
	want := []string{"m-one one refused", "m-one one refused", "m-two two refused", "m-three three succeeded"}
	if len(seen) != len(want) {
		t.Fatalf("attempts %v; want %v", seen, want)
	}
	for i := range want {
		if seen[i] != want[i] {
			t.Errorf("attempt %d is %q; want %q", i+1, seen[i], want[i])
		}
	}
	if second := got.GetAttempts()[2]; second.GetPriceMicros() != dear || len(second.GetDropped()) != 1 || second.GetDropped()[0] != "seed" {
		t.Errorf("the second route's attempt is shown as %v", second)
	}
	today, day := time.Now().UTC(), time.DateOnly
	u, err := x.usage.QueryUsage(context.Background(), &ledgerv1.QueryUsageRequest{AccountId: x.acct, Query: &videov1.QueryUsageRequest{
		From: today.AddDate(0, 0, -1).Format(day), To: today.AddDate(0, 0, 1).Format(day), GroupBy: []videov1.UsageGroup{videov1.UsageGroup_USAGE_GROUP_MODEL, videov1.UsageGroup_USAGE_GROUP_PROVIDER}}})
	if rows := u.GetUsage().GetRows(); err != nil || len(rows) != 1 || rows[0].GetModel() != "m-three" || rows[0].GetProvider() != "three" || rows[0].GetSpendMicros() != third {
		t.Errorf("usage is %v, %v", u, err)
	}
	m, err := x.money.Margin(context.Background(), &ledgerv1.MarginRequest{FromDay: today.AddDate(0, 0, -1).Format(day), ToDay: today.AddDate(0, 0, 1).Format(day),
		By: []string{"provider", "model"}})
	if err != nil || len(m.GetRows()) != 1 || m.GetRows()[0].GetProvider() != "three" || m.GetRows()[0].GetModel() != "m-three" ||
		m.GetRows()[0].GetRevenueMicros() != third || m.GetRows()[0].GetCosts()[0].GetMicros() != 300 {
		t.Errorf("margins are %v, %v", m, err)
	}
}

// What a refusal or a failure leads to: state and provider afterwards.
func TestWhatFallsBackAndWhatDoesNot(t *testing.T) {
	t.Parallel()
	queued, failed := videov1.VideoState_VIDEO_STATE_QUEUED, videov1.VideoState_VIDEO_STATE_FAILED
	submitting, running := videov1.VideoState_VIDEO_STATE_SUBMITTING, videov1.VideoState_VIDEO_STATE_RUNNING
	review := videov1.VideoState_VIDEO_STATE_NEEDS_REVIEW
	onPolicy := func(r *ledgerv1.OpenJobRequest) { r.Plan.FallbackOnPolicy = true }
	unknown := func() *eventv1.Observation {
		return &eventv1.Observation{Fact: &eventv1.Observation_Unknown{Unknown: &eventv1.Unknown{}}}
	}
	// The dispatcher has the job tried again when the provider refuses our account.
	account := refusal(fault.ProviderUnavailable, false)
	account.GetRefused().Retry = true
	timeOut := func() *eventv1.Observation {
		return &eventv1.Observation{Fact: &eventv1.Observation_TimedOut{TimedOut: &eventv1.TimedOut{}}}
	}
	x := setup(t, 100*price, twoTries)
	for name, c := range map[string]struct {
		change   func(*ledgerv1.OpenJobRequest)
		facts    []*eventv1.Observation
		state    videov1.VideoState
		provider string
	}{
		"a key that is refused":                 {nil, []*eventv1.Observation{account}, queued, "two"},
		"a final refusal":                       {nil, []*eventv1.Observation{refusal(fault.ProviderRejected, false)}, queued, "two"},
		"one refusal that time heals":           {nil, []*eventv1.Observation{refusal(fault.RateLimited, true)}, queued, "one"},
		"a policy refusal":                      {nil, []*eventv1.Observation{refusal(fault.ContentPolicy, false)}, failed, "one"},
		"a policy refusal, when the alias says": {onPolicy, []*eventv1.Observation{refusal(fault.ContentPolicy, false)}, queued, "two"},
		"an invalid request":                    {onPolicy, []*eventv1.Observation{refusal(fault.InvalidRequest, false)}, failed, "one"},
		"a failed render":                       {nil, []*eventv1.Observation{acceptance("t-fail"), failure(fault.ProviderRejected, "")}, queued, "two"},
		"a failed render before the answer":     {nil, []*eventv1.Observation{failure(fault.ProviderRejected, "")}, queued, "two"},
		"a failed render, and then its answer":  {nil, []*eventv1.Observation{failure(fault.ProviderRejected, ""), acceptance("t-over")}, queued, "two"},
		"a failed render, then a stale refusal": {nil, []*eventv1.Observation{failure(fault.ProviderRejected, ""), refusal(fault.ProviderRejected, false)}, queued, "two"},
		"a render withheld by policy":           {nil, []*eventv1.Observation{acceptance("t-held"), failure(fault.ContentPolicy, "")}, failed, "one"},
		"a success without a video":             {nil, []*eventv1.Observation{acceptance("t-empty"), failure(fault.ProviderRejected, "empty_result")}, failed, "one"},
		"an unknown outcome":                    {nil, []*eventv1.Observation{unknown()}, submitting, "one"},
		"an unknown outcome without a verdict":  {nil, []*eventv1.Observation{unknown(), timeOut()}, review, "one"},
		"a task without a verdict":              {nil, []*eventv1.Observation{acceptance("t-lost"), timeOut()}, review, "one"},
		"a refusal of a task that exists":       {nil, []*eventv1.Observation{refusal(fault.ProviderRejected, false), acceptance("t-after-all")}, running, "one"},
	} {
		change := c.change
		if change == nil {
			change = func(*ledgerv1.OpenJobRequest) {}
		}
		v := x.openRoutes(t, change)
		attempt := x.beginAt(t, v.GetId(), "one", "m-one")
		for i, f := range c.facts {
			x.say(t, v.GetId(), attempt, "one", string(rune('a'+i)), f)
		}
		r, err := x.jobs.GetJob(context.Background(), &ledgerv1.GetJobRequest{JobId: v.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.GetVideo(); got.GetState() != c.state || got.GetProvider() != c.provider || got.GetLateResult() {
			t.Errorf("%s: %s at %s, late %v; want %s at %s", name, got.GetState(), got.GetProvider(), got.GetLateResult(), c.state, c.provider)
		}
		b, err := x.jobs.BeginAttempt(context.Background(), &ledgerv1.BeginAttemptRequest{JobId: v.GetId(), Provider: "two"})
		if want := c.provider == "two"; err != nil || b.GetGranted() != want || b.GetOpenAttemptId() != "" {
			t.Errorf("%s: the second provider is granted %v and shown %q, %v; want %v", name, b.GetGranted(), b.GetOpenAttemptId(), err, want)
		}
	}
	r, err := x.money.Verify(context.Background(), &ledgerv1.VerifyRequest{})
	if err != nil || len(r.GetViolations()) > 0 {
		t.Errorf("the books: %v, %v", r.GetViolations(), err)
	}
}

// A refusal that was wrong: the first provider's task finishes while the second
// one renders, or after it. It is noted and paid for by nobody.
func TestLateSuccessOfAnEarlierRouteIsNotCharged(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"before the second ends": true, "afterwards": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := setup(t, 5*price, twoTries)
			v := x.openRoutes(t)
			a1 := x.beginAt(t, v.GetId(), "one", "m-one")
			x.say(t, v.GetId(), a1, "one", "refused", refusal(fault.ProviderRejected, false))
			a2 := x.beginAt(t, v.GetId(), "two", "m-two")
			x.say(t, v.GetId(), a2, "two", "accepted", acceptance("t2"))
			if before {
				x.say(t, v.GetId(), a1, "one", "rendered", render("t1"))
			}
			x.say(t, v.GetId(), a2, "two", "rendered", render("t2"))
			x.say(t, v.GetId(), a2, "two", "archived", storage())
			x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_SUCCEEDED)
			if !before {
				x.say(t, v.GetId(), a1, "one", "rendered", render("t1"))
			}
			x.say(t, v.GetId(), a1, "one", "archived", storage())
			got := x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_SUCCEEDED)
			if !got.GetLateResult() || got.GetCapturedMicros() != dear || got.GetProvider() != "two" {
				t.Errorf("late %v, captured %d by %s", got.GetLateResult(), got.GetCapturedMicros(), got.GetProvider())
			}
			var verdict string
			if err := x.pool.QueryRow(context.Background(), "select verdict from observation where id = $1", a1+"-rendered").Scan(&verdict); err != nil || verdict != "late" {
				t.Errorf("the late success is noted as %q, %v", verdict, err)
			}
			x.balance(t, 5*price-dear, 0)
		})
	}
}

// A task that was thought refused finishes before the next route has begun: it
// is adopted, at its own route's price, and nothing is submitted any more.
func TestTaskThoughtRefusedIsAdoptedAtItsOwnPrice(t *testing.T) {
	t.Parallel()
	x := setup(t, 5*price, twoTries)
	v := x.openRoutes(t)
	a1 := x.beginAt(t, v.GetId(), "one", "m-one")
	x.say(t, v.GetId(), a1, "one", "refused", refusal(fault.ProviderRejected, false))
	x.say(t, v.GetId(), a1, "one", "rendered", render("t1"))
	if b, err := x.jobs.BeginAttempt(context.Background(), &ledgerv1.BeginAttemptRequest{JobId: v.GetId(), Provider: "two"}); err != nil || b.GetGranted() {
		t.Errorf("the second route was begun beside the first one's task: %v, %v", b, err)
	}
	x.say(t, v.GetId(), a1, "one", "archived", storage())
	got := x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_SUCCEEDED)
	if got.GetCapturedMicros() != cheap || got.GetProvider() != "one" || got.GetParams().GetModel() != "m-one" {
		t.Errorf("adopted as %v", got)
	}
	x.balance(t, 5*price-cheap, 0)
}

// When every route is exhausted the job fails with the last one's error and the
// whole hold is released. A cancel between two routes releases it as well.
func TestRoutesThatAllRefuseCostNothing(t *testing.T) {
	t.Parallel()
	x := setup(t, 5*price, twoTries)
	v := x.openRoutes(t)
	for _, r := range routes() {
		a := x.beginAt(t, v.GetId(), r.GetProvider(), r.GetParams().GetModel())
		x.say(t, v.GetId(), a, r.GetProvider(), "refused", refusal(fault.ProviderUnavailable, false))
	}
	if got := x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_FAILED); got.GetError().GetCode() != string(fault.ProviderUnavailable) || len(got.GetAttempts()) != 3 {
		t.Errorf("failed as %v", got)
	}
	v = x.openRoutes(t)
	x.say(t, v.GetId(), x.beginAt(t, v.GetId(), "one", "m-one"), "one", "refused", refusal(fault.ProviderUnavailable, false))
	if _, err := x.jobs.CancelJob(context.Background(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: v.GetId()}); err != nil {
		t.Error(err)
	}
	x.balance(t, 5*price, 0)
}

// Nobody begins with the job: it goes from route to route, and the last one
// keeps it. A command that comes late to an earlier one begins nothing.
func TestRouteThatNobodyServesIsLeft(t *testing.T) {
	t.Parallel()
	x := setup(t, 5*price, twoTries, func(c *ledgerConfig) { c.RouteWait = time.Millisecond })
	v := x.openRoutes(t)
	a3 := x.beginAt(t, v.GetId(), "three", "m-three")
	for _, provider := range []string{"one", "two"} {
		if b, err := x.jobs.BeginAttempt(context.Background(), &ledgerv1.BeginAttemptRequest{JobId: v.GetId(), Provider: provider}); err != nil || b.GetGranted() || b.GetOpenAttemptId() != "" {
			t.Errorf("%s is granted %v and shown %q, %v", provider, b.GetGranted(), b.GetOpenAttemptId(), err)
		}
	}
	x.say(t, v.GetId(), a3, "three", "rendered", render("t3"))
	x.say(t, v.GetId(), a3, "three", "archived", storage())
	if got := x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_SUCCEEDED); got.GetCapturedMicros() != third || len(got.GetAttempts()) != 1 {
		t.Errorf("ended as %v", got)
	}
	x.balance(t, 5*price-third, 0)
}

// A dispatcher finds the provider's circuit open: the job goes on at once, and
// waits where it has no other route. A command of an older route moves nothing.
func TestRouteWhoseProviderIsAwayIsLeft(t *testing.T) {
	t.Parallel()
	x := setup(t, 5*price, twoTries, unhurried)
	v := x.openRoutes(t, func(r *ledgerv1.OpenJobRequest) { r.Plan.Routes = r.GetPlan().GetRoutes()[:2] })
	away := func(provider, model string) *ledgerv1.BeginAttemptResponse {
		b, err := x.jobs.BeginAttempt(context.Background(), &ledgerv1.BeginAttemptRequest{JobId: v.GetId(), Provider: provider, UnavailableModel: model})
		if err != nil || b.GetGranted() || b.GetOpenAttemptId() != "" {
			t.Fatalf("%s is granted %v and shown %q, %v", provider, b.GetGranted(), b.GetOpenAttemptId(), err)
		}
		return b
	}
	if b := away("one", "m-other"); !b.GetFull() || b.GetRetryAfterMs() <= 0 {
		t.Errorf("a command of another model: %v", b)
	}
	if b := away("one", "m-one"); b.GetFull() {
		t.Errorf("the job has another route, and waits: %v", b)
	}
	if b := away("one", "m-one"); b.GetFull() {
		t.Errorf("a command that is over waits: %v", b)
	}
	if b := away("two", "m-two"); !b.GetFull() || b.GetFullReason() != "closed" {
		t.Errorf("the last route is left: %v", b)
	}
	a := x.beginAt(t, v.GetId(), "two", "m-two")
	x.say(t, v.GetId(), a, "two", "rendered", render("t2"))
	x.say(t, v.GetId(), a, "two", "archived", storage())
	if got := x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_SUCCEEDED); got.GetCapturedMicros() != dear || len(got.GetAttempts()) != 1 {
		t.Errorf("ended as %v", got)
	}
	x.balance(t, 5*price-dear, 0)
}

// A budget of a model counts what that model made, though it was reserved in
// those of every route.
func TestModelBudgetsCountTheRouteThatMadeIt(t *testing.T) {
	t.Parallel()
	x := setupGuarded(t, 5*price, ledger.Config{})
	one, two := x.set(t, ofModel, "m-one", total, 5*price, true).GetId(), x.set(t, ofModel, "m-two", total, 5*price, true).GetId()
	account := x.set(t, ofAccount, "", total, 5*price, true).GetId()
	v := x.openRoutes(t)
	x.used(t, one, "m-one", dear, 0)
	x.used(t, two, "m-two", dear, 0)
	x.say(t, v.GetId(), x.beginAt(t, v.GetId(), "one", "m-one"), "one", "refused", refusal(fault.ProviderRejected, false))
	a2 := x.beginAt(t, v.GetId(), "two", "m-two")
	x.say(t, v.GetId(), a2, "two", "rendered", render("t2"))
	x.say(t, v.GetId(), a2, "two", "archived", storage())
	x.await(t, v.GetId(), videov1.VideoState_VIDEO_STATE_SUCCEEDED)
	x.used(t, one, "m-one", 0, 0)
	x.used(t, two, "m-two", 0, dear)
	x.used(t, account, "", 0, dear)
	x.balance(t, 5*price-dear, 0)
}

// What a caller wrote is in every route, and is removed from every route.
func TestRedactionReachesEveryRoute(t *testing.T) {
	t.Parallel()
	x := setup(t, 5*price, twoTries, func(c *ledgerConfig) { c.RetainPrompts = time.Millisecond })
	v := x.openRoutes(t, func(r *ledgerv1.OpenJobRequest) {
		for _, route := range r.GetPlan().GetRoutes() {
			route.Params.Prompt = "a word to be forgotten"
		}
	})
	if _, err := x.jobs.CancelJob(context.Background(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: v.GetId()}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the prompt is gone", func() bool {
		var plan []byte
		var redacted bool
		if err := x.pool.QueryRow(context.Background(), "select plan, redacted_at is not null from job where id = $1", v.GetId()).Scan(&plan, &redacted); err != nil {
			t.Fatal(err)
		}
		if redacted && (bytes.Contains(plan, []byte("forgotten")) || !bytes.Contains(plan, []byte("m-three"))) {
			t.Fatalf("the redacted plan is %q", plan)
		}
		return redacted
	})
}

// A model's latency is what its last videos took, fallen-back ones on the route
// that made them; of too few nothing is said.
func TestLatenciesAreOfTheModelThatMadeTheVideo(t *testing.T) {
	t.Parallel()
	x := setup(t, 100*price, twoTries)
	for i := range 6 {
		v := x.openRoutes(t)
		if i > 0 { // the first is made by the first route, which is too few
			x.say(t, v.GetId(), x.beginAt(t, v.GetId(), "one", "m-one"), "one", "refused", refusal(fault.ProviderRejected, false))
			x.say(t, v.GetId(), x.beginAt(t, v.GetId(), "two", "m-two"), "two", "rendered", render("t2-"+v.GetId()))
			continue
		}
		x.say(t, v.GetId(), x.beginAt(t, v.GetId(), "one", "m-one"), "one", "rendered", render("t1"))
	}
	if _, err := x.pool.Exec(context.Background(), "update attempt set ended_at = created_at + number * interval '1 minute' where state = 'succeeded'"); err != nil {
		t.Fatal(err)
	}
	latencies := func() []*ledgerv1.Latency {
		r, err := x.jobs.ListLatencies(context.Background(), &ledgerv1.ListLatenciesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetLatencies()
	}
	eventually(t, "the videos are measured", func() bool {
		ls := latencies()
		if len(ls) > 0 && (len(ls) != 1 || ls[0].GetModel() != "m-two" || ls[0].GetProvider() != "two") {
			t.Fatalf("latencies are %v", ls)
		}
		return len(ls) == 1 && ls[0].GetTypicalMs() == 120_000 && ls[0].GetSlowMs() == 120_000
	})
	if _, err := x.pool.Exec(context.Background(), "update attempt set ended_at = ended_at - interval '25 hours', created_at = created_at - interval '25 hours' where state = 'succeeded'"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what is old is not told", func() bool { return len(latencies()) == 0 })
}

// Both providers' commands fill the bus. A job that waits in the first one's
// queue for too long leaves it, and is sent to the next provider, in whose queue
// it would be the first; one that has no other route waits for its turn.
func TestRouteIsLeftInTheQueue(t *testing.T) {
	t.Parallel()
	x := setup(t, 0, twoTries, func(c *ledgerConfig) { c.RouteWait = time.Millisecond })
	x.acct = x.account(t)
	var wg sync.WaitGroup
	for _, provider := range []string{"one", "two"} {
		for range 256 {
			wg.Go(func() {
				if _, err := x.jobs.OpenJob(t.Context(), &ledgerv1.OpenJobRequest{AccountId: x.acct, Provider: provider, QuoteMicros: 1, Params: &videov1.VideoParams{Model: "m-" + provider, Prompt: "p"}}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	eventually(t, "the bus has what it takes", func() bool {
		n, err := x.bus.Commands(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return n.Of("one") >= 256 && n.Of("two") >= 256
	})
	only := x.openRoutes(t, func(r *ledgerv1.OpenJobRequest) { r.Plan.Routes = r.GetPlan().GetRoutes()[:1] })
	v := x.openRoutes(t, func(r *ledgerv1.OpenJobRequest) { r.Plan.Routes = r.GetPlan().GetRoutes()[:2] })
	stands := func(id string) (provider string, turn int64) {
		if err := x.pool.QueryRow(t.Context(), "select coalesce(min(provider), ''), coalesce(min(turn), 0) from queue where job_id = $1", id).Scan(&provider, &turn); err != nil {
			t.Fatal(err)
		}
		return provider, turn
	}
	if p, _ := stands(only.GetId()); p != "one" {
		t.Fatalf("the job of one route waits at %q", p)
	}
	eventually(t, "the job stands first at the second provider", func() bool {
		p, turn := stands(v.GetId())
		return p == "two" && turn == 0
	})
	r, err := x.jobs.GetJob(t.Context(), &ledgerv1.GetJobRequest{JobId: v.GetId()})
	if got := r.GetVideo(); err != nil || got.GetProvider() != "two" || got.GetParams().GetModel() != "m-two" || got.QueuePosition == nil || got.GetQueuePosition() != 0 {
		t.Errorf("waits as %v, %v", r, err)
	}
	if r, err = x.jobs.GetJob(t.Context(), &ledgerv1.GetJobRequest{JobId: only.GetId()}); err != nil || r.GetVideo().QueuePosition == nil || r.GetVideo().GetProvider() != "one" {
		t.Errorf("the job of one route waits as %v, %v", r, err)
	}
	var swept bool
	if err := x.pool.QueryRow(t.Context(), "select swept_at > created_at from job where id = $1", only.GetId()).Scan(&swept); err != nil || swept {
		t.Errorf("the job of one route was swept from its turn: %v, %v", swept, err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	granted := false
	if err := bus.Consume(ctx, x.bus, bus.SubmitConsumer("two"), 1, func(ctx context.Context, m *eventv1.SubmitJob) error {
		if m.GetJobId() != v.GetId() {
			return nil
		}
		defer stop()
		b, err := x.jobs.BeginAttempt(ctx, &ledgerv1.BeginAttemptRequest{JobId: m.GetJobId(), Provider: m.GetProvider()})
		granted = granted || b.GetGranted() && m.GetProvider() == "two" && m.GetModel() == "m-two"
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if !granted {
		t.Error("no command of the next route began the job")
	}
}

// Jobs that are opened together, of an account that has plenty, hold the dearest
// price as well.
func TestRoutesOpenedTogetherHoldTheDearest(t *testing.T) {
	t.Parallel()
	const jobs = 128
	x := setup(t, 1000*jobs*price, twoTries)
	x.openRoutes(t)
	var wg sync.WaitGroup
	for range jobs - 1 {
		wg.Go(func() {
			if v := x.openRoutes(t); v.GetQuoteMicros() != dear || v.GetRoute() != "best" {
				t.Errorf("opened as %v", v)
			}
		})
	}
	wg.Wait()
	x.balance(t, 1000*jobs*price-jobs*dear, jobs*dear)
}

// Whatever is seen in whatever order, of whichever attempt: one video is paid for
// at most, at the price of the route that made it, and the books are right.
func TestAnyOrderOfFactsPaysOnce(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	x := setup(t, 100*price, twoTries)
	ctx, rs := context.Background(), routes()
	prices := map[string]int64{}
	for _, route := range rs {
		prices[route.GetProvider()] = route.GetPriceMicros()
	}
	type begun struct{ id, provider string }
	for range 15 {
		v := x.openRoutes(t, func(q *ledgerv1.OpenJobRequest) { q.Plan.FallbackOnPolicy = r.IntN(2) == 0 })
		var attempts []begun
		for range 14 {
			provider := rs[r.IntN(len(rs))].GetProvider()
			b, err := x.jobs.BeginAttempt(ctx, &ledgerv1.BeginAttemptRequest{JobId: v.GetId(), Provider: provider})
			if err != nil {
				t.Fatal(err)
			}
			if b.GetGranted() {
				attempts = append(attempts, begun{b.GetAttemptId(), provider})
			}
			if len(attempts) == 0 {
				continue
			}
			// The latest attempt mostly, and now and then one that is over.
			a := attempts[len(attempts)-1]
			if r.IntN(4) == 0 {
				a = attempts[r.IntN(len(attempts))]
			}
			task := "task-" + a.id
			facts := []*eventv1.Observation{refusal(fault.ProviderUnavailable, true), refusal(fault.ProviderRejected, false), refusal(fault.ContentPolicy, false),
				acceptance(task), acceptance(task), failure(fault.ProviderRejected, ""), failure(fault.ContentPolicy, ""), render(task), storage(),
				{Fact: &eventv1.Observation_Unknown{Unknown: &eventv1.Unknown{}}}}
			n := r.IntN(len(facts))
			x.say(t, v.GetId(), a.id, a.provider, strconv.Itoa(n), facts[n])
		}
		g, err := x.jobs.GetJob(ctx, &ledgerv1.GetJobRequest{JobId: v.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		got, made := g.GetVideo(), ""
		for _, a := range got.GetAttempts() {
			if a.GetCapturedMicros() > 0 {
				made += a.GetProvider()
			}
		}
		if want := prices[made]; got.GetCapturedMicros() != want || (want > 0) != (got.GetState() == videov1.VideoState_VIDEO_STATE_SUCCEEDED) {
			t.Errorf("%s is %s and captured %d for %q: %v", v.GetId(), got.GetState(), got.GetCapturedMicros(), made, got.GetAttempts())
		}
	}
	m, err := x.money.Verify(ctx, &ledgerv1.VerifyRequest{})
	if err != nil || len(m.GetViolations()) > 0 {
		t.Errorf("the books: %v, %v", m.GetViolations(), err)
	}
}
