// Package traffic is what all dispatchers know together of how the providers
// may be sent to: shared rates that slow down when a provider asks for it,
// circuit breakers, benched keys and recent outcomes. It owns no fact. What it
// forgets is learned again, and when its store does not answer each replica goes
// on by what it knew last; how many tasks run is counted in Postgres.
package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"reelway.dev/pkg/bus"
)

// Store is where replicas meet; *bus.Shared is one.
type Store interface {
	Change(ctx context.Context, fn func(old []byte) ([]byte, error), key ...string) ([]byte, error)
	Watch(ctx context.Context, fn func(key string, value []byte)) error
}

// Config is how traffic is judged. Zero fields have defaults.
type Config struct {
	// Failures in a row, or half of at least four times as many within two
	// minutes, open a circuit. Default 5.
	Failures int
	// Cooldown is how long a circuit stays open at first; it doubles with each
	// probe that fails, to 30 times this. Default 10 s.
	Cooldown time.Duration
	// Bench is how long a key rests whose account refuses us. Default 10 min.
	Bench time.Duration
	// Probe is the longest that a probe's answer may take. Default 90 s.
	Probe time.Duration
}

// Recovery is how long a rate takes from nothing back to its limit.
const Recovery = time.Minute

// Traffic is one replica's view. It is safe for concurrent use.
type Traffic struct {
	cfg   Config
	store Store
	now   func() time.Time
	log   *slog.Logger

	mu     sync.Mutex
	state  State // the same, read
	lanes  map[string]*lane
	deltas map[pair]*Minute // outcomes that are not in the store yet
	down   time.Time        // the store is not asked before
}

// pair names a provider's model, or its key.
type pair struct{ provider, of string }

// New returns a replica's view. Run has to run beside it.
func New(cfg Config, s Store, now func() time.Time, log *slog.Logger) *Traffic {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.Cooldown, 10*time.Second)
	def(&cfg.Bench, 10*time.Minute)
	def(&cfg.Probe, 90*time.Second)
	if cfg.Failures == 0 {
		cfg.Failures = 5
	}
	return &Traffic{cfg: cfg, store: s, now: now, log: log, state: newState(), lanes: map[string]*lane{}, deltas: map[pair]*Minute{}}
}

// flushEvery is how soon other replicas learn of outcomes.
const flushEvery = 2 * time.Second

// Run follows the other replicas and tells them of this one's outcomes, until
// ctx is done.
func (t *Traffic) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		tick := time.NewTicker(flushEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				t.flush(context.WithoutCancel(ctx))
				return
			case <-tick.C:
				t.flush(ctx)
			}
		}
	})
	return t.store.Watch(ctx, func(_ string, value []byte) { t.learn(value) })
}

// learn takes a value of the store into the view.
func (t *Traffic) learn(value []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state.add(value)
}

// State is the view as it is now.
func (t *Traffic) State() State {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state.clone()
}

// storeTimeout is how long a submit waits for the store before it goes on
// without.
const (
	storeTimeout = 500 * time.Millisecond
	downFor      = time.Second
)

// change reads, changes and writes one record, and learns the result. fn says
// whether there is something to write.
func change[T any](ctx context.Context, t *Traffic, kind string, rec func(*record) **T, fn func(v *T) bool, key ...string) error {
	t.mu.Lock()
	down := t.now().Before(t.down)
	t.mu.Unlock()
	if down {
		return errors.New("the shared state does not answer")
	}
	// Detached: who hangs up must not seem to be a failure of the store.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	value, err := t.store.Change(ctx, func(old []byte) ([]byte, error) {
		var r record
		if len(old) > 0 {
			if err := json.Unmarshal(old, &r); err != nil {
				r = record{} // another version's: begin anew
			}
		}
		v := rec(&r)
		if *v == nil {
			*v = new(T)
		}
		if !fn(*v) {
			return nil, bus.ErrUnchanged
		}
		return json.Marshal(r)
	}, append([]string{kind}, key...)...)
	if err != nil {
		t.mu.Lock()
		t.down = t.now().Add(downFor)
		t.mu.Unlock()
		t.log.WarnContext(ctx, "shared state of providers is not reached, this replica goes on by what it knows", "error", err.Error())
		return fmt.Errorf("change %s: %w", kind, err)
	}
	if len(value) > 0 {
		t.learn(value)
	}
	return nil
}

// all stands for every key, or every model, in the name of a record.
const all = "_all"

func orAll(s string) string {
	if s == "" {
		return all
	}
	return s
}
