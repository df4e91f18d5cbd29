package traffic

import (
	"context"
	"time"
)

// Allow reports whether a model may be submitted to a provider. While its
// circuit is open nothing may, and wait is when to ask again. Once it has cooled
// down one caller of all replicas is let through as a probe, whose outcome
// decides; it has to be told by Outcome, or Withdraw when nothing was submitted.
func (t *Traffic) Allow(ctx context.Context, provider, model string) (probe bool, wait time.Duration) {
	now := t.now()
	t.mu.Lock()
	b := t.state.breakers[pair{provider, model}]
	t.mu.Unlock()
	switch b.At(now) {
	case Closed:
		return false, 0
	case Open:
		return false, b.Until.Sub(now)
	}
	if b.Probe.After(now) {
		return false, time.Second
	}
	wait = time.Second
	err := t.breaker(ctx, provider, model, func(b *Breaker) bool {
		probe = false
		switch {
		case !b.Open:
			wait = 0
			return false
		case now.Before(b.Until) || b.Probe.After(now):
			wait = max(b.Until.Sub(now), time.Second)
			return false
		}
		probe, wait = true, 0
		b.Probe = now.Add(t.cfg.Probe)
		return true
	})
	if err != nil {
		return false, time.Second // a probe that nobody knows of could be many
	}
	return probe, wait
}

// Withdraw gives a probe back that was not made.
func (t *Traffic) Withdraw(ctx context.Context, provider, model string) {
	_ = t.breaker(ctx, provider, model, func(b *Breaker) bool {
		changed := !b.Probe.IsZero()
		b.Probe = time.Time{}
		return changed
	}) // logged; the probe's time runs out
}

// OpenModels are the models of a provider whose circuit is not closed.
func (t *Traffic) OpenModels(provider string) (out []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p, b := range t.state.breakers {
		if p.provider == provider && b.Open {
			out = append(out, b.Model)
		}
	}
	return out
}

// Outcome tells how a submit went: took is the time of its answer; failed is why
// the provider did not answer as it should, empty when it did. It counts for the
// health and for the circuit.
func (t *Traffic) Outcome(ctx context.Context, provider, model string, probe bool, took time.Duration, failed string) {
	half := t.count(provider, model, took, failed != "")
	t.mu.Lock()
	b := t.state.breakers[pair{provider, model}]
	t.mu.Unlock()
	if failed == "" {
		if b.Failures == 0 && !b.Open {
			return
		}
		closed := false
		_ = t.breaker(ctx, provider, model, func(b *Breaker) bool {
			// A late answer of before says nothing about now.
			if b.Open && !probe {
				return false
			}
			closed = b.Open
			*b = Breaker{Provider: provider, Model: model}
			return true
		})
		if closed {
			t.log.InfoContext(ctx, "circuit closed", "provider", provider, "model", model)
		}
		return
	}
	t.trip(ctx, provider, model, probe, half, failed)
}

// Trip opens a circuit at once.
func (t *Traffic) Trip(ctx context.Context, provider, model, reason string) {
	t.trip(ctx, provider, model, false, true, reason)
}

func (t *Traffic) trip(ctx context.Context, provider, model string, probe, now bool, reason string) {
	opened := false
	var until time.Time
	_ = t.breaker(ctx, provider, model, func(b *Breaker) bool {
		opened = false
		if b.Open && !probe {
			return false
		}
		b.Failures++
		b.Reason = reason
		if !probe && !now && b.Failures < t.cfg.Failures {
			return true
		}
		opened = true
		b.Open, b.Probe = true, time.Time{}
		b.Until = t.now().Add(min(t.cfg.Cooldown<<min(b.Opens, 5), 30*t.cfg.Cooldown))
		b.Opens++
		until = b.Until
		return true
	}) // logged; the next failure tries again
	if opened {
		t.log.ErrorContext(ctx, "circuit opened, jobs wait", "provider", provider, "model", model, "reason", reason, "until", until.UTC(), "probe", probe)
	}
}

func (t *Traffic) breaker(ctx context.Context, provider, model string, fn func(*Breaker) bool) error {
	return change(ctx, t, "breaker", func(r *record) **Breaker { return &r.Breaker }, func(b *Breaker) bool {
		b.Provider, b.Model = provider, model
		return fn(b)
	}, provider, orAll(model))
}

// Bench lets a key rest whose account refuses us; others go on. It is an alarm,
// once.
func (t *Traffic) Bench(ctx context.Context, provider, key, reason string) {
	now := t.now()
	fresh := false
	_ = change(ctx, t, "bench", func(r *record) **Bench { return &r.Bench }, func(b *Bench) bool {
		fresh = b.Reason == ""
		*b = Bench{Provider: provider, Key: key, Until: now.Add(t.cfg.Bench), Reason: reason}
		return true
	}, provider, key)
	if fresh {
		t.log.ErrorContext(ctx, "key benched: its account at the provider refuses us; mend the account or replace the key", "provider", provider, "key_id", key, "reason", reason)
	}
}

// Benched reports whether a key rests.
func (t *Traffic) Benched(provider, key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now().Before(t.state.benches[pair{provider, key}].Until)
}

// Try reports whether a key may be used. A benched key whose time is up may be
// tried by one caller of all replicas at a time.
func (t *Traffic) Try(ctx context.Context, provider, key string) bool {
	now := t.now()
	t.mu.Lock()
	b := t.state.benches[pair{provider, key}]
	t.mu.Unlock()
	if b.Reason == "" {
		return true
	}
	if now.Before(b.Until) {
		return false
	}
	ok := false
	err := change(ctx, t, "bench", func(r *record) **Bench { return &r.Bench }, func(b *Bench) bool {
		ok = !now.Before(b.Until)
		if ok && b.Reason != "" {
			b.Until = now.Add(t.cfg.Probe) // meanwhile nobody else tries it
			return true
		}
		return false
	}, provider, key)
	return ok && err == nil
}

// Unbench lets a key play again that was taken.
func (t *Traffic) Unbench(ctx context.Context, provider, key string) {
	t.mu.Lock()
	b := t.state.benches[pair{provider, key}]
	t.mu.Unlock()
	if b.Reason == "" {
		return
	}
	_ = change(ctx, t, "bench", func(r *record) **Bench { return &r.Bench }, func(b *Bench) bool {
		*b = Bench{Provider: provider, Key: key}
		return true
	}, provider, key)
	t.log.InfoContext(ctx, "key plays again", "provider", provider, "key_id", key)
}
