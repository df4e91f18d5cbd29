package traffic

import (
	"cmp"
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

// Bench lets a key rest whose account a provider refuses, for one model or, with an
// empty one, for all; for as long as the provider says, and for Config.Bench when
// that is 0.
func (t *Traffic) Bench(ctx context.Context, provider, key, model, reason string, rest time.Duration) {
	now := t.now()
	fresh := false
	_ = t.bench(ctx, provider, key, model, func(b *Bench) bool {
		fresh = b.Reason == ""
		b.Until, b.Reason = now.Add(cmp.Or(rest, t.cfg.Bench)), reason
		return true
	})
	if fresh {
		t.log.ErrorContext(ctx, "key benched: its account at the provider refuses us; mend the account or replace the key", "provider", provider, "key_id", key, "model", model, "reason", reason)
	}
}

func (t *Traffic) bench(ctx context.Context, provider, key, model string, fn func(b *Bench) bool) error {
	return change(ctx, t, "bench", func(r *record) **Bench { return &r.Bench }, func(b *Bench) bool {
		b.Provider, b.Key, b.Model = provider, key, model
		return fn(b)
	}, provider, key, orAll(model))
}

// benchOf is what is known of one bench.
func (t *Traffic) benchOf(provider, key, model string) Bench {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.state.benches[[3]string{provider, key, model}]
}

// Benched reports whether a key rests for a model, or for all of them.
func (t *Traffic) Benched(provider, key, model string) bool {
	now := t.now()
	return now.Before(t.benchOf(provider, key, "").Until) || now.Before(t.benchOf(provider, key, model).Until)
}

// Try reports whether a key may be used for a model. A benched key whose time is up
// may be tried by one caller of all replicas at a time.
func (t *Traffic) Try(ctx context.Context, provider, key, model string) bool {
	return t.try(ctx, provider, key, "") && t.try(ctx, provider, key, model)
}

func (t *Traffic) try(ctx context.Context, provider, key, model string) bool {
	now, b := t.now(), t.benchOf(provider, key, model)
	if b.Reason == "" {
		return true
	}
	if now.Before(b.Until) {
		return false
	}
	ok := false
	err := t.bench(ctx, provider, key, model, func(b *Bench) bool {
		ok = !now.Before(b.Until)
		if ok && b.Reason != "" {
			b.Until = now.Add(t.cfg.Probe) // meanwhile nobody else tries it
			return true
		}
		return false
	})
	return ok && err == nil
}

// Unbench lets a key play again that was taken for a model.
func (t *Traffic) Unbench(ctx context.Context, provider, key, model string) {
	for _, m := range []string{"", model} {
		if t.benchOf(provider, key, m).Reason == "" {
			continue
		}
		_ = t.bench(ctx, provider, key, m, func(b *Bench) bool {
			b.Until, b.Reason = time.Time{}, ""
			return true
		})
		t.log.InfoContext(ctx, "key plays again", "provider", provider, "key_id", key, "model", m)
	}
}
