package dispatcher

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/traffic"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// gate is what one replica allows its polls of a provider: a rate, and a pause
// after the provider asked one to wait. Submits have rates that all replicas
// share.
type gate struct {
	limit *rate.Limiter

	mu    sync.Mutex
	until time.Time
}

func (g *gate) pause(until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if until.After(g.until) {
		g.until = until
	}
}

// closed is how long the gate stays shut.
func (g *gate) closed(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.until.Sub(now)
}

// account is what talks to a provider with the key that has an attempt. Without
// the key the attempt waits: nobody else can speak for its task.
func (s *Service) account(name, keyID string) (provider.Adapter, error) {
	ring := s.keys[name]
	if ring == nil {
		return nil, fmt.Errorf("no keys of provider %q", name)
	}
	k := ring.Key(keyID)
	if k == nil {
		return nil, fmt.Errorf("key %q of provider %q, which has the task, is not there any more; put it back as retiring", keyID, name)
	}
	return k.Adapter, nil
}

// withoutKey puts off what only a missing key can ask.
func (s *Service) withoutKey(ctx context.Context, a *ledgerv1.GetAttemptResponse, err error) error {
	s.d.Logger.ErrorContext(ctx, "task cannot be asked for", "job_id", a.GetJobId(), "provider", a.GetProvider(), "key_id", a.GetKeyId(), "error", err.Error())
	return bus.After(time.Minute, err)
}

// desk is where the submits of one provider are let through.
type desk struct {
	name    string
	ring    *registry.Keyring
	limits  registry.Limits // where the ring has none
	traffic *traffic.Traffic
	full    gate // after the ledger said that there is no room at all
}

// busy is why a job has to wait, and for how long. all says that it is so for
// any job of the provider, away that the provider itself is why.
type busy struct {
	why  string
	wait time.Duration
	all  bool
	away bool
}

// pass is the right to ask the ledger for an attempt.
type pass struct {
	model  string
	probe  bool
	offers []*ledgerv1.KeyOffer
	rest   []string // keys that are there, and cannot take a task now
	closed []string // models whose jobs must not be granted with it
}

func (d *desk) rate() float64 { return cmp.Or(d.ring.Limits().Rate, d.limits.Rate) }

func (d *desk) maxRunning() int { return cmp.Or(d.ring.Limits().MaxRunning, d.limits.MaxRunning) }

// pass waits for a turn of a model, by whichever key is free.
func (d *desk) pass(ctx context.Context, model string, now time.Time) (*pass, *busy, error) {
	if wait := d.full.closed(now); wait > 0 {
		return nil, &busy{why: "full", wait: wait, all: true}, nil
	}
	keys := d.usable(ctx, model)
	if len(keys) == 0 {
		if !d.lastKey("", "") { // they rest for this model alone, and other models' jobs may pass by
			return nil, &busy{why: "no_key", wait: holdFor, away: true}, nil
		}
		return nil, &busy{why: "no_key", wait: time.Second, all: true, away: true}, nil
	}
	probe, wait := d.traffic.Allow(ctx, d.name, model)
	if wait > 0 {
		return nil, &busy{why: "circuit_open", wait: wait, away: true}, nil
	}
	p := &pass{model: model, probe: probe}
	no, err := d.turn(ctx, p, keys, now)
	if no != nil || err != nil {
		d.withdraw(ctx, p)
		return nil, no, err
	}
	for _, m := range d.traffic.OpenModels(d.name) {
		if m != model {
			p.closed = append(p.closed, m)
		}
	}
	return p, nil, nil
}

// turn takes a place in the lanes of the first key that has one, the narrowest
// lane first: a place that a wide one then refuses is lost.
func (d *desk) turn(ctx context.Context, p *pass, keys []*registry.Key, now time.Time) (*busy, error) {
	slow := &busy{why: "key_rate", wait: time.Hour}
	var chosen *registry.Key
	for _, k := range keys {
		wait, err := d.take(ctx, traffic.Lane{Provider: d.name, Key: k.ID, Model: p.model, Limit: k.Models[p.model].Rate},
			traffic.Lane{Provider: d.name, Key: k.ID, Limit: k.Rate})
		if err != nil {
			return nil, err
		}
		if wait == 0 {
			chosen = k
			break
		}
		slow.wait = min(slow.wait, wait)
	}
	if chosen == nil {
		return slow, nil
	}
	if wait, err := d.take(ctx, traffic.Lane{Provider: d.name, Model: p.model, Limit: d.ring.Models()[p.model].Rate}); wait > 0 || err != nil {
		return &busy{why: "model_rate", wait: wait}, err
	}
	if wait, err := d.take(ctx, traffic.Lane{Provider: d.name, Limit: d.rate()}); wait > 0 || err != nil {
		return &busy{why: "provider_rate", wait: wait, all: true}, err
	}
	slowed := d.slowed(now)
	p.offers = append(p.offers, offer(chosen))
	for _, k := range keys {
		// Others may step in where the ledger finds the chosen key full, but not
		// those with a rate of their own, in which no place was taken.
		if k != chosen && k.Rate == 0 && k.Models[p.model].Rate == 0 && !slowed[[2]string{k.ID, p.model}] {
			p.offers = append(p.offers, offer(k))
		}
	}
	for _, k := range d.ring.Keys() {
		if !k.Retiring && !slices.ContainsFunc(p.offers, func(o *ledgerv1.KeyOffer) bool { return o.GetKeyId() == k.ID }) {
			p.rest = append(p.rest, k.ID)
		}
	}
	for lane := range slowed {
		if lane[1] != p.model && !slices.Contains(p.closed, lane[1]) {
			p.closed = append(p.closed, lane[1])
		}
	}
	return nil, nil
}

// slowed are the keys' models that were told to slow down.
func (d *desk) slowed(now time.Time) map[[2]string]bool {
	out := map[[2]string]bool{}
	for _, r := range d.traffic.Slowed(d.name, now) {
		out[[2]string{r.Key, r.Model}] = true
	}
	return out
}

func (d *desk) take(ctx context.Context, lanes ...traffic.Lane) (time.Duration, error) {
	for _, l := range lanes {
		if wait, err := d.traffic.Take(ctx, l); wait > 0 || err != nil {
			return wait, err
		}
	}
	return 0, nil
}

// usable are the keys that may take a task, in an order in which each comes
// first as often as its weight says.
func (d *desk) usable(ctx context.Context, model string) []*registry.Key {
	type drawn struct {
		k   *registry.Key
		lot float64
	}
	var lots []drawn
	for _, k := range d.ring.Keys() {
		if !k.Retiring && !d.traffic.Benched(d.name, k.ID, model) {
			lots = append(lots, drawn{k, math.Pow(rand.Float64(), 1/float64(max(k.Weight, 1)))})
		}
	}
	slices.SortFunc(lots, func(a, b drawn) int { return cmp.Compare(b.lot, a.lot) })
	var out []*registry.Key
	for _, l := range lots {
		if d.traffic.Try(ctx, d.name, l.k.ID, model) {
			out = append(out, l.k)
		}
	}
	return out
}

// lastKey reports whether no other key than one may take a task of a model.
func (d *desk) lastKey(id, model string) bool {
	return !slices.ContainsFunc(d.ring.Keys(), func(k *registry.Key) bool {
		return k.ID != id && !k.Retiring && !d.traffic.Benched(d.name, k.ID, model)
	})
}

// bench lets a key rest whose account the provider refuses: for one model where the
// cause is that model's, and the others go on.
func (d *desk) bench(ctx context.Context, keyID, model string, c provider.Cause, f *fault.Error) {
	if !c.OfModel() {
		model = ""
	}
	d.traffic.Bench(ctx, d.name, keyID, model, f.Message, f.RetryAfter)
}

// slow has a key's model slow down, to be as fast as its settings allow again
// later.
func (d *desk) slow(ctx context.Context, keyID, model string, retryAfter time.Duration) {
	limit := d.rate()
	narrow := func(l registry.Limits) {
		if l.Rate > 0 {
			limit = min(limit, l.Rate)
		}
	}
	narrow(d.ring.Models()[model])
	if k := d.ring.Key(keyID); k != nil {
		narrow(k.Limits)
		narrow(k.Models[model])
	}
	d.traffic.Slow(ctx, traffic.Lane{Provider: d.name, Key: keyID, Model: model}, limit, retryAfter)
}

// withdraw gives a probe back that was not made.
func (d *desk) withdraw(ctx context.Context, p *pass) {
	if p.probe {
		d.traffic.Withdraw(ctx, d.name, p.model)
	}
}

func offer(k *registry.Key) *ledgerv1.KeyOffer {
	return &ledgerv1.KeyOffer{KeyId: k.ID, MaxRunning: int32(k.MaxRunning), DailyBudgetMicros: k.DailyBudget, MaxRunningByModel: running(k.Models)}
}

// running are the limits of models on tasks at one time.
func running(models map[string]registry.Limits) map[string]int32 {
	var out map[string]int32
	for m, l := range models {
		if l.MaxRunning > 0 {
			if out == nil {
				out = map[string]int32{}
			}
			out[m] = int32(l.MaxRunning)
		}
	}
	return out
}

// request asks the ledger for an attempt with this pass.
func (d *desk) request(jobID string, p *pass) *ledgerv1.BeginAttemptRequest {
	return &ledgerv1.BeginAttemptRequest{JobId: jobID, Provider: d.name, Keys: p.offers, MaxRunning: int32(d.maxRunning()),
		MaxRunningByModel: running(d.ring.Models()), ClosedModels: p.closed, RestingKeys: p.rest}
}

// settings are the desk's for whoever asks how the provider stands.
func (d *desk) settings() traffic.Provider {
	p := traffic.Provider{Name: d.name, Rate: d.rate(), MaxRunning: d.maxRunning()}
	for _, k := range d.ring.Keys() {
		p.Keys = append(p.Keys, traffic.Key{ID: k.ID, Weight: k.Weight, Retiring: k.Retiring, MaxRunning: k.MaxRunning, DailyBudget: k.DailyBudget})
	}
	return p
}
