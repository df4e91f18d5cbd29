package ledger_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

func (x *bundle) beginWith(t *testing.T, r *ledgerv1.BeginAttemptRequest) *ledgerv1.BeginAttemptResponse {
	t.Helper()
	r.Provider = "testprovider"
	resp, err := x.jobs.BeginAttempt(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func (x *bundle) opened(t *testing.T, model string) string {
	t.Helper()
	r, err := x.jobs.OpenJob(t.Context(), &ledgerv1.OpenJobRequest{AccountId: x.acct, Provider: "testprovider", RequestHash: make([]byte, 32), QuoteMicros: 1,
		CostMicros: 400_000, CostCurrency: "USD", Params: &videov1.VideoParams{Model: model, Prompt: "p"}})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetVideo().GetId()
}

// However many ask at one time, no more begin than there is room for; the others
// stay queued, and begin when a task has ended.
func TestNoMoreBeginThanThereIsRoomFor(t *testing.T) {
	t.Parallel()
	x := setup(t, price, still)
	var ids []string
	for range 30 {
		ids = append(ids, x.opened(t, "m"))
	}
	var granted, full atomic.Int64
	var mu sync.Mutex
	attempts := map[string]string{}
	ask := func(ids []string) {
		var wg sync.WaitGroup
		for _, j := range ids {
			wg.Go(func() {
				r := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: j, MaxRunning: 5, Keys: []*ledgerv1.KeyOffer{{KeyId: "a", MaxRunning: 3}, {KeyId: "b"}}})
				switch {
				case r.GetGranted():
					granted.Add(1)
					mu.Lock()
					attempts[j] = r.GetAttemptId()
					mu.Unlock()
				case r.GetFull() && r.GetFullReason() == "provider" && r.GetRetryAfterMs() > 0:
					full.Add(1)
				}
			})
		}
		wg.Wait()
	}
	ask(ids)
	if granted.Load() != 5 || full.Load() != 25 {
		t.Fatalf("%d granted and %d full, want 5 and 25", granted.Load(), full.Load())
	}
	byKey := map[string]int{}
	for j, a := range attempts {
		r, err := x.jobs.GetAttempt(t.Context(), &ledgerv1.GetAttemptRequest{AttemptId: a})
		if err != nil {
			t.Fatal(err)
		}
		byKey[r.GetKeyId()]++
		x.observe(t, j, a, "failed")
	}
	if byKey["a"] != 3 || byKey["b"] != 2 {
		t.Errorf("attempts by key: %v", byKey)
	}
	var left []string
	for _, j := range ids {
		if attempts[j] == "" {
			left = append(left, j)
		}
	}
	eventually(t, "ended tasks make room", func() bool { ask(left); return granted.Load() == 10 })
}

// What was in the way is told, and what was granted keeps its key; a refused
// task gives its cost back to the key's day.
func TestWhatIsInTheWayOfAnAttempt(t *testing.T) {
	t.Parallel()
	x := setup(t, price, still)
	full := func(why string, r *ledgerv1.BeginAttemptRequest) {
		t.Helper()
		if resp := x.beginWith(t, r); resp.GetGranted() || !resp.GetFull() || resp.GetFullReason() != why {
			t.Errorf("%v, want full by %s", resp, why)
		}
	}
	one := x.opened(t, "m")
	keyA := func() []*ledgerv1.KeyOffer {
		return []*ledgerv1.KeyOffer{{KeyId: "a", DailyBudgetMicros: 500_000, MaxRunningByModel: map[string]int32{"n": 1}}}
	}
	full("closed", &ledgerv1.BeginAttemptRequest{JobId: one, Keys: keyA(), ClosedModels: []string{"m"}})
	got := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: one, Keys: keyA()})
	if !got.GetGranted() || got.GetKeyId() != "a" || got.GetJobId() != one {
		t.Fatalf("%v", got)
	}
	two, three := x.opened(t, "m"), x.opened(t, "n")
	full("budget", &ledgerv1.BeginAttemptRequest{JobId: two, Keys: keyA()}) // 0.40 of 0.50 are spent
	full("model", &ledgerv1.BeginAttemptRequest{JobId: two, Keys: keyA(), MaxRunningByModel: map[string]int32{"m": 1}})
	full("key", &ledgerv1.BeginAttemptRequest{JobId: two, Keys: []*ledgerv1.KeyOffer{{KeyId: "a", MaxRunning: 1}}})
	if r := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: three, Keys: []*ledgerv1.KeyOffer{{KeyId: "b", MaxRunningByModel: map[string]int32{"n": 1}}}}); !r.GetGranted() {
		t.Errorf("another key and model: %v", r)
	}
	x.observe(t, one, got.GetAttemptId(), "refused")
	eventually(t, "the refused task gave its cost back", func() bool {
		return x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: two, Keys: keyA()}).GetGranted()
	})
	var micros int64
	if err := x.pool.QueryRow(t.Context(), "select sum(cost_micros) from key_spend where key_id = 'a'").Scan(&micros); err != nil || micros != 400_000 {
		t.Errorf("the key spent %d, %v", micros, err)
	}
}

// What works on a provider's own task goes to the key that made that: it waits for
// its room, or until it may take a task again, and takes another only where that key
// is not there any more.
func TestAVideoOfAVideoIsMadeByItsKey(t *testing.T) {
	t.Parallel()
	x := setup(t, price, still)
	of := func(task string) string {
		r, err := x.jobs.OpenJob(t.Context(), &ledgerv1.OpenJobRequest{AccountId: x.acct, Provider: "testprovider", RequestHash: make([]byte, 32), QuoteMicros: 1,
			Params: &videov1.VideoParams{Model: "m", Prompt: "p", SourceVideo: "video_1", SourceTask: task, Extend: true}})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetVideo().GetId()
	}
	offers := func(keys ...*ledgerv1.KeyOffer) []*ledgerv1.KeyOffer { return keys }
	a, b := &ledgerv1.KeyOffer{KeyId: "a"}, &ledgerv1.KeyOffer{KeyId: "b", MaxRunning: 2}
	source := x.opened(t, "m")
	first := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: source, Keys: offers(b, a)})
	x.see(t, source, first.GetAttemptId(), "accepted", &eventv1.Observation{Fact: &eventv1.Observation_Accepted{Accepted: &eventv1.Accepted{ProviderTaskId: "made"}}})
	x.await(t, source, videov1.VideoState_VIDEO_STATE_RUNNING)
	if r := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: of("made"), Keys: offers(a, b)}); r.GetKeyId() != "b" || r.GetParams().GetSourceTask() != "made" {
		t.Errorf("%v is not with its source", r)
	}
	waits := of("made")
	if r := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: waits, Keys: offers(a, b)}); r.GetGranted() || r.GetFullReason() != "key" {
		t.Errorf("%v does not wait for room", r)
	}
	if r := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: waits, Keys: offers(a), RestingKeys: []string{"c", "b"}}); r.GetGranted() || r.GetFullReason() != "source_key" {
		t.Errorf("%v does not wait for a key that rests", r)
	}
	if r := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: waits, Keys: offers(a, &ledgerv1.KeyOffer{KeyId: "c"})}); r.GetKeyId() != "a" {
		t.Errorf("%v waits for a key that is gone", r)
	}
	if r := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: of("unknown"), Keys: offers(a, b)}); r.GetKeyId() != "a" {
		t.Errorf("%v", r)
	}
}

// The answer to a granted attempt was lost. Asked again by the same call it is the
// same grant; by anybody else it is an attempt whose outcome is open, and so it is for
// the same call once the provider is known to have it.
func TestAGrantIsGivenAgain(t *testing.T) {
	t.Parallel()
	x := setup(t, price, still)
	id := x.opened(t, "m")
	ask := func(nonce uint64) *ledgerv1.BeginAttemptResponse {
		return x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: id, Nonce: nonce, Keys: []*ledgerv1.KeyOffer{{KeyId: "a"}}})
	}
	first := ask(1 << 63)
	if !first.GetGranted() {
		t.Fatalf("%v", first)
	}
	if r := ask(1 << 63); !proto.Equal(r, first) {
		t.Errorf("asked again: %v, first it was %v", r, first)
	}
	for _, other := range []uint64{0, 7} {
		if r := ask(other); r.GetGranted() || r.GetOpenAttemptId() != first.GetAttemptId() {
			t.Errorf("asked by another: %v", r)
		}
	}
	x.see(t, id, first.GetAttemptId(), "unknown", &eventv1.Observation{Fact: &eventv1.Observation_Unknown{Unknown: &eventv1.Unknown{Reason: "no answer"}}})
	if r := ask(1 << 63); r.GetGranted() {
		t.Errorf("granted after it was sent: %v", r)
	}
}

// A model that takes long is waited for as long as its dispatcher says, and none for
// less than the settings do.
func TestASlowModelHasItsTime(t *testing.T) {
	t.Parallel()
	x := setup(t, price, still, func(c *ledgerConfig) { c.MaxRuntime = 2 * time.Hour })
	for longest, want := range map[time.Duration]int{0: 2, time.Minute: 2, 10 * time.Hour: 10} {
		id := x.opened(t, "m")
		if r := x.beginWith(t, &ledgerv1.BeginAttemptRequest{JobId: id, MaxRuntimeMs: longest.Milliseconds()}); !r.GetGranted() {
			t.Fatalf("%v", r)
		}
		var hours int
		if err := x.pool.QueryRow(t.Context(), "select round(extract(epoch from deadline_at - updated_at) / 3600) from job where id = $1", id).Scan(&hours); err != nil || hours != want {
			t.Errorf("%d hours, want %d; %v", hours, want, err)
		}
	}
}
