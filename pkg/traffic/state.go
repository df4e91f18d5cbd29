package traffic

import (
	"encoding/json"
	"maps"
	"time"
)

// record is one value of the store: one of its fields.
type record struct {
	Rate     *Rate     `json:"rate,omitempty"`
	Breaker  *Breaker  `json:"breaker,omitempty"`
	Bench    *Bench    `json:"bench,omitempty"`
	Health   *Health   `json:"health,omitempty"`
	Provider *Provider `json:"provider,omitempty"`
}

// Rate is a shared rate: of a provider, of one of its keys, of a model, or of a
// model by one key; an empty Key or Model is all of them.
type Rate struct {
	Provider, Key, Model string
	// Limit is what is allowed in requests a second.
	Limit float64
	// Base is what was left at Since after the provider asked to slow down; 0
	// when it never did.
	Base  float64
	Since time.Time
	// Next is the first moment that nobody has taken.
	Next time.Time
}

// At is the rate at a moment: it recovers by the same step each second, and
// reaches its limit in less than Recovery.
func (r Rate) At(now time.Time) float64 {
	if r.Base == 0 {
		return r.Limit
	}
	return min(r.Limit, r.Base+r.Limit*float64(max(now.Sub(r.Since), 0))/float64(Recovery))
}

// Slowed reports whether the rate has not recovered.
func (r Rate) Slowed(now time.Time) bool {
	return r.Base > 0 && (r.At(now) < r.Limit || now.Before(r.Next))
}

// Breaker is the circuit of a provider's model.
type Breaker struct {
	Provider, Model string
	Failures        int // in a row
	Open            bool
	Until           time.Time // open: no probe before
	Opens           int       // in a row, probes that failed
	Probe           time.Time // a probe is under way, at the longest until then
	Reason          string
}

// The words for a circuit's state.
const (
	Closed   = "closed"
	Open     = "open"
	HalfOpen = "half-open"
)

// At is the circuit's state in a word.
func (b Breaker) At(now time.Time) string {
	switch {
	case !b.Open:
		return Closed
	case now.Before(b.Until):
		return Open
	}
	return HalfOpen
}

// Bench is a key whose account refuses us, for a model or, without one, for all.
type Bench struct {
	Provider, Key, Model string
	Until                time.Time // zero: it plays again
	Reason               string
}

// Health is how the submits of a provider's model fared, by minute.
type Health struct {
	Provider, Model string
	Minutes         []Minute // the last ten at the most, in order
}

// Minute is the outcomes of one minute since 1970.
type Minute struct {
	Minute     int64
	OK, Failed int
	TookMillis int64 // of those that are OK, together
}

// Sum is the outcomes since a moment.
func (h Health) Sum(since time.Time) (sum Minute) {
	for _, m := range h.Minutes {
		if m.Minute >= since.Unix()/60 {
			sum.OK, sum.Failed, sum.TookMillis = sum.OK+m.OK, sum.Failed+m.Failed, sum.TookMillis+m.TookMillis
		}
	}
	return sum
}

// Provider is what dispatchers were told of a provider by their settings.
type Provider struct {
	Name       string
	Rate       float64
	MaxRunning int
	Keys       []Key
}

// Key is one of its keys, without the secret.
type Key struct {
	ID          string
	Weight      int
	Retiring    bool
	MaxRunning  int
	DailyBudget int64 // millionths of the provider's currency
}

// State is everything that the replicas share.
type State struct {
	rates     map[[3]string]Rate
	breakers  map[pair]Breaker
	benches   map[[3]string]Bench
	healths   map[pair]Health
	Providers map[string]Provider
}

func newState() State {
	return State{map[[3]string]Rate{}, map[pair]Breaker{}, map[[3]string]Bench{}, map[pair]Health{}, map[string]Provider{}}
}

// Read makes a State of the store's values.
func Read(values map[string][]byte) State {
	s := newState()
	for _, v := range values {
		s.add(v)
	}
	return s
}

// add takes one value in; one that cannot be read is another version's.
func (s *State) add(value []byte) {
	var r record
	if json.Unmarshal(value, &r) != nil {
		return
	}
	switch {
	case r.Rate != nil:
		s.rates[[3]string{r.Rate.Provider, r.Rate.Key, r.Rate.Model}] = *r.Rate
	case r.Breaker != nil:
		s.breakers[pair{r.Breaker.Provider, r.Breaker.Model}] = *r.Breaker
	case r.Bench != nil:
		s.benches[[3]string{r.Bench.Provider, r.Bench.Key, r.Bench.Model}] = *r.Bench
	case r.Health != nil:
		s.healths[pair{r.Health.Provider, r.Health.Model}] = *r.Health
	case r.Provider != nil:
		s.Providers[r.Provider.Name] = *r.Provider
	}
}

func (s State) clone() State {
	return State{maps.Clone(s.rates), maps.Clone(s.breakers), maps.Clone(s.benches), maps.Clone(s.healths), maps.Clone(s.Providers)}
}

// Rates are the shared rates of a provider.
func (s State) Rates(provider string) (out []Rate) {
	for _, r := range s.rates {
		if r.Provider == provider {
			out = append(out, r)
		}
	}
	return out
}

// Breakers are all circuits that have ever had a failure.
func (s State) Breakers() (out []Breaker) {
	for _, b := range s.breakers {
		out = append(out, b)
	}
	return out
}

// Benches are the keys that rest at a moment.
func (s State) Benches(now time.Time) (out []Bench) {
	for _, b := range s.benches {
		if now.Before(b.Until) {
			out = append(out, b)
		}
	}
	return out
}

// Healths are the outcomes of all models that were submitted.
func (s State) Healths() (out []Health) {
	for _, h := range s.healths {
		out = append(out, h)
	}
	return out
}
