package traffic_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"reelway.dev/pkg/natstest"
	"reelway.dev/pkg/traffic"
)

// clock is set by hand; all replicas read it.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time { return time.Unix(0, c.at.Load()) }

func (c *clock) pass(d time.Duration) { c.at.Add(int64(d)) }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC).UnixNano())
	return c
}

// replicas are two views of one store.
func replicas(t *testing.T, c *clock) (a, b *traffic.Traffic) {
	t.Helper()
	s := natstest.NewServer(t)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { stop(); wg.Wait() })
	view := func() *traffic.Traffic {
		x := traffic.New(traffic.Config{Failures: 3, Cooldown: 10 * time.Second}, s.Bus().Shared(), c.now, slog.New(slog.DiscardHandler))
		wg.Go(func() { _ = x.Run(ctx) })
		return x
	}
	return view(), view()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within half a minute: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// One request to slow down halves the rate for all replicas, once for all that
// were under way; then it recovers with time.
func TestOneSlowDownIsEverybodys(t *testing.T) {
	t.Parallel()
	c := newClock()
	a, b := replicas(t, c)
	lane := traffic.Lane{Provider: "p", Key: "k", Model: "m-1.0"}
	if wait, err := a.Take(t.Context(), lane); wait != 0 || err != nil {
		t.Fatalf("a lane without a limit: %v %v", wait, err)
	}
	for range 5 {
		a.Slow(t.Context(), lane, 40, 5*time.Second)
		b.Slow(t.Context(), lane, 40, 5*time.Second)
	}
	for _, x := range []*traffic.Traffic{a, b} {
		eventually(t, "both know", func() bool { return len(x.Slowed("p", c.now())) == 1 })
		if wait, err := x.Take(t.Context(), lane); wait != 5*time.Second || err != nil {
			t.Errorf("told to wait %v, %v; want the 5 s that were asked for", wait, err)
		}
		if r := x.Slowed("p", c.now())[0]; r.At(c.now()) != 20 || r.Model != "m-1.0" {
			t.Errorf("%v a second left of 40, in %+v", r.At(c.now()), r)
		}
	}
	c.pass(5*time.Second + traffic.Recovery/4)
	if r := b.Slowed("p", c.now())[0].At(c.now()); r != 30 {
		t.Errorf("%v a second after a quarter of the recovery, want 30", r)
	}
	if wait, err := b.Take(t.Context(), lane); wait != 0 || err != nil {
		t.Errorf("after the pause: %v %v", wait, err)
	}
	// Once more: the half of what was left.
	a.Slow(t.Context(), lane, 40, 0)
	eventually(t, "the other knows", func() bool { return b.Slowed("p", c.now())[0].At(c.now()) == 15 })
	c.pass(time.Second + traffic.Recovery)
	if s := b.Slowed("p", c.now()); len(s) != 0 {
		t.Errorf("still slowed: %v", s)
	}
}

// counted counts the journeys to a store, in each of which a moment passes.
type counted struct {
	traffic.Store
	clock    *clock
	journeys atomic.Int64
}

func (s *counted) Change(ctx context.Context, fn func([]byte) ([]byte, error), key ...string) ([]byte, error) {
	defer s.clock.pass(time.Millisecond)
	s.journeys.Add(1)
	return s.Store.Change(ctx, fn, key...)
}

// A crowd at a lane that was idle shares its journeys to the store: one for each
// would be the speed limit of all.
func TestACrowdTakesItsTurnsTogether(t *testing.T) {
	t.Parallel()
	c := newClock()
	store := &counted{Store: natstest.NewServer(t).Bus().Shared(), clock: c}
	x := traffic.New(traffic.Config{}, store, c.now, slog.New(slog.DiscardHandler))
	const crowd, each = 50, 20
	var wg sync.WaitGroup
	for range crowd {
		wg.Go(func() {
			for range each {
				if wait, err := x.Take(t.Context(), traffic.Lane{Provider: "p", Limit: 1_000_000}); wait != 0 || err != nil {
					t.Errorf("told to wait %v, %v", wait, err)
				}
			}
		})
	}
	wg.Wait()
	if n := store.journeys.Load(); n > crowd*each/2 {
		t.Errorf("%d journeys for %d turns", n, crowd*each)
	}
}

// A circuit opens for all, lets one probe through, and follows its outcome.
func TestACircuitIsEverybodys(t *testing.T) {
	t.Parallel()
	c := newClock()
	a, b := replicas(t, c)
	ctx := t.Context()
	a.Outcome(ctx, "p", "m", false, 0, "no answer")
	b.Outcome(ctx, "p", "m", false, 0, "no answer")
	if _, wait := a.Allow(ctx, "p", "m"); wait != 0 {
		t.Error("open after two failures of three")
	}
	a.Outcome(ctx, "p", "m", false, 0, "no answer")
	for _, x := range []*traffic.Traffic{a, b} {
		eventually(t, "open", func() bool { _, wait := x.Allow(ctx, "p", "m"); return wait == 10*time.Second })
		if _, wait := x.Allow(ctx, "p", "other"); wait != 0 {
			t.Error("another model's circuit is open")
		}
	}
	probes := func() (n int) {
		for _, x := range []*traffic.Traffic{a, b, a, b} {
			if probe, _ := x.Allow(ctx, "p", "m"); probe {
				n++
			}
		}
		return n
	}
	c.pass(10 * time.Second)
	if n := probes(); n != 1 {
		t.Fatalf("%d probes, want 1", n)
	}
	b.Withdraw(ctx, "p", "m") // whoever had it found no job
	eventually(t, "another probes", func() bool { return probes() == 1 })
	a.Outcome(ctx, "p", "m", false, 0, "") // an answer of before says nothing
	a.Outcome(ctx, "p", "m", true, 0, "no answer")
	eventually(t, "open for twice as long", func() bool { _, wait := b.Allow(ctx, "p", "m"); return wait == 20*time.Second })
	c.pass(20 * time.Second)
	if n := probes(); n != 1 {
		t.Fatalf("%d probes, want 1", n)
	}
	b.Outcome(ctx, "p", "m", true, 0, "")
	for _, x := range []*traffic.Traffic{a, b} {
		eventually(t, "closed", func() bool { probe, wait := x.Allow(ctx, "p", "m"); return !probe && wait == 0 })
	}
}

// Models whose names differ in what a subject cannot hold have circuits of their
// own.
func TestNamesThatLookAlikeAreToldApart(t *testing.T) {
	t.Parallel()
	c := newClock()
	a, b := replicas(t, c)
	a.Trip(t.Context(), "p", "wan-2.6/fast", "no answer")
	eventually(t, "open everywhere", func() bool { _, wait := b.Allow(t.Context(), "p", "wan-2.6/fast"); return wait > 0 })
	for range 2 { // one failure short of three
		b.Outcome(t.Context(), "p", "wan-2_6/fast", false, time.Millisecond, "no answer")
	}
	if _, wait := b.Allow(t.Context(), "p", "wan-2_6/fast"); wait != 0 {
		t.Error("another model's circuit is open")
	}
	b.Outcome(t.Context(), "p", "wan-2_6/fast", false, time.Millisecond, "no answer")
	if _, wait := b.Allow(t.Context(), "p", "wan-2_6/fast"); wait == 0 {
		t.Error("its own circuit did not open, for another's is open already")
	}
}

// Half of many outcomes is enough, also when no three failures follow each other.
func TestHalfOfTheOutcomesOpensACircuit(t *testing.T) {
	t.Parallel()
	c := newClock()
	a, _ := replicas(t, c)
	for range 5 {
		a.Outcome(t.Context(), "p", "m", false, time.Millisecond, "no answer")
		a.Outcome(t.Context(), "p", "m", false, time.Millisecond, "")
	}
	if _, wait := a.Allow(t.Context(), "p", "m"); wait != 0 {
		t.Fatal("open after 10 outcomes, want 12")
	}
	a.Outcome(t.Context(), "p", "m", false, time.Millisecond, "")
	a.Outcome(t.Context(), "p", "m", false, time.Millisecond, "no answer")
	if _, wait := a.Allow(t.Context(), "p", "m"); wait == 0 {
		t.Error("closed with half of 12 failed")
	}
}

// A benched key rests everywhere; then one caller tries it.
func TestABenchedKeyRestsEverywhere(t *testing.T) {
	t.Parallel()
	c := newClock()
	a, b := replicas(t, c)
	a.Bench(t.Context(), "p", "k", "", "refused", 0)
	eventually(t, "both know", func() bool { return a.Benched("p", "k", "m") && b.Benched("p", "k", "") })
	if a.Try(t.Context(), "p", "k", "m") || !a.Try(t.Context(), "p", "other", "m") {
		t.Error("the benched key is tried, or another is not")
	}
	c.pass(10 * time.Minute)
	tried := 0
	for _, x := range []*traffic.Traffic{a, b, a, b} {
		if x.Try(t.Context(), "p", "k", "m") {
			tried++
		}
	}
	if tried != 1 {
		t.Errorf("%d tried it at once", tried)
	}
	b.Unbench(t.Context(), "p", "k", "m")
	// Where one model is closed to it the others go on.
	a.Bench(t.Context(), "p", "closed", "m-1.0", "not for this account", 0)
	eventually(t, "both know", func() bool { return a.Benched("p", "closed", "m-1.0") && b.Benched("p", "closed", "m-1.0") })
	if b.Benched("p", "closed", "m-1_0") || b.Benched("p", "closed", "") || !b.Try(t.Context(), "p", "closed", "other") || b.Try(t.Context(), "p", "closed", "m-1.0") {
		t.Error("another model is closed, or that one is not")
	}
	eventually(t, "it plays again", func() bool { return a.Try(t.Context(), "p", "k", "m") })
	if !a.Try(t.Context(), "p", "k", "m") {
		t.Error("a key that plays again is tried once only")
	}
	// A provider that says how long is taken by its word.
	a.Bench(t.Context(), "p", "tired", "m", "its day is over", time.Hour)
	eventually(t, "both know", func() bool { return a.Benched("p", "tired", "m") && b.Benched("p", "tired", "m") })
	c.pass(59 * time.Minute)
	if b.Try(t.Context(), "p", "tired", "m") {
		t.Error("tried before the provider's time")
	}
	c.pass(time.Minute)
	if !b.Try(t.Context(), "p", "tired", "m") {
		t.Error("not tried at the provider's time")
	}
}

// silent is a store that does not answer.
type silent struct{ asked atomic.Int64 }

func (s *silent) Change(context.Context, func([]byte) ([]byte, error), ...string) ([]byte, error) {
	s.asked.Add(1)
	return nil, errors.New("no NATS")
}

func (*silent) Watch(ctx context.Context, _ func(string, []byte)) error { <-ctx.Done(); return nil }

// Without the store each replica keeps to its limits by itself, and asks once in
// a while.
func TestWithoutAStoreEachGoesOn(t *testing.T) {
	t.Parallel()
	c, s := newClock(), &silent{}
	x := traffic.New(traffic.Config{}, s, c.now, slog.New(slog.DiscardHandler))
	for range 50 {
		if wait, err := x.Take(t.Context(), traffic.Lane{Provider: "p", Limit: 1000}); wait != 0 || err != nil {
			t.Fatalf("%v %v", wait, err)
		}
	}
	if n := s.asked.Load(); n != 1 {
		t.Errorf("asked %d times in one moment", n)
	}
	if _, wait := x.Allow(t.Context(), "p", "m"); wait != 0 {
		t.Error("a circuit of which nothing is known is open")
	}
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	var err error
	for range 1000 {
		if _, err = x.Take(ctx, traffic.Lane{Provider: "slow", Limit: 0.01}); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("a thousand requests passed a limit of one in 100 s")
	}
}

// A vanished store is made again, and what is learned is shared anew.
func TestTheStoreIsMadeAgain(t *testing.T) {
	t.Parallel()
	s := natstest.NewServer(t)
	b := s.Bus()
	c := newClock()
	x := traffic.New(traffic.Config{}, b.Shared(), c.now, slog.New(slog.DiscardHandler))
	s.Wipe()
	eventually(t, "announced again", func() bool {
		c.pass(time.Second)
		x.Announce(t.Context(), traffic.Provider{Name: "p", Rate: 3})
		values, err := b.Shared().All(t.Context())
		return err == nil && traffic.Read(values).Providers["p"].Rate == 3
	})
}
