package traffic

import (
	"context"
	"slices"
	"time"
)

// HealthFor is how far back outcomes are kept.
const HealthFor = 10 * time.Minute

// count adds an outcome; it reports whether half of enough recent ones failed.
func (t *Traffic) count(provider, model string, took time.Duration, failed bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, minute := pair{provider, model}, t.now().Unix()/60
	d := t.deltas[p]
	if d == nil {
		d = &Minute{Minute: minute}
		t.deltas[p] = d
	}
	if failed {
		d.Failed++
	} else {
		d.OK++
		d.TookMillis += took.Milliseconds()
	}
	sum := t.state.healths[p].Sum(t.now().Add(-time.Minute))
	bad := sum.Failed + d.Failed
	all := bad + sum.OK + d.OK
	return failed && all >= 4*t.cfg.Failures && 2*bad >= all
}

// flush tells the others of outcomes; what cannot be told is told with the next.
func (t *Traffic) flush(ctx context.Context) {
	t.mu.Lock()
	deltas := t.deltas
	t.deltas = map[pair]*Minute{}
	t.mu.Unlock()
	for p, d := range deltas {
		err := change(ctx, t, "health", func(r *record) **Health { return &r.Health }, func(h *Health) bool {
			h.Provider, h.Model = p.provider, p.of
			i := slices.IndexFunc(h.Minutes, func(m Minute) bool { return m.Minute >= d.Minute })
			if i < 0 || h.Minutes[i].Minute != d.Minute {
				if i < 0 {
					i = len(h.Minutes)
				}
				h.Minutes = slices.Insert(h.Minutes, i, Minute{Minute: d.Minute})
			}
			m := &h.Minutes[i]
			m.OK, m.Failed, m.TookMillis = m.OK+d.OK, m.Failed+d.Failed, m.TookMillis+d.TookMillis
			h.Minutes = h.Minutes[max(len(h.Minutes)-int(HealthFor/time.Minute), 0):]
			return true
		}, p.provider, orAll(p.of))
		if err == nil {
			continue
		}
		t.mu.Lock()
		if n := t.deltas[p]; n != nil {
			n.OK, n.Failed, n.TookMillis = n.OK+d.OK, n.Failed+d.Failed, n.TookMillis+d.TookMillis
		} else {
			t.deltas[p] = d
		}
		t.mu.Unlock()
	}
}

// Announce tells what a provider's settings are, when the others do not know it.
func (t *Traffic) Announce(ctx context.Context, p Provider) {
	_ = change(ctx, t, "provider", func(r *record) **Provider { return &r.Provider }, func(v *Provider) bool {
		same := v.Name == p.Name && v.Rate == p.Rate && v.MaxRunning == p.MaxRunning && slices.Equal(v.Keys, p.Keys)
		*v = p
		return !same
	}, p.Name) // logged, and told again
}
