package registry

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"reelway.dev/pkg/provider"
)

// DefaultKey is the id of the key that a provider's single-key variables hold.
const DefaultKey = "default"

// Limits bound what is sent to a provider, over all replicas.
type Limits struct {
	// MaxRunning is the most tasks at one time; 0: any number.
	MaxRunning int `yaml:"max_running"`
	// Rate is submits a second; 0: as many as the wider limits allow.
	Rate float64 `yaml:"rate"`
}

// Key is one key of an account at a provider. It is not changed once it is in a
// Keyring.
type Key struct {
	// ID is the key's name, with its version if it has one. It is no secret.
	ID string
	// Weight is its share of the tasks beside the other keys'.
	Weight int
	// Retiring keys take no new task and serve those that they have.
	Retiring bool
	// DailyBudget is what its tasks may cost in a UTC day, in millionths of the
	// provider's currency; 0: anything.
	DailyBudget int64
	Limits
	Models  map[string]Limits // by the catalog's id
	Adapter provider.Adapter

	spec keySpec
}

// Keyring is one provider's keys and limits. They may be replaced while it is
// used; it is safe for concurrent use.
type Keyring struct{ now atomic.Pointer[ring] }

// ring is a Keyring at one moment.
type ring struct {
	Limits
	models map[string]Limits
	keys   []*Key
	gone   []*Key // taken out while this process ran; they may still have tasks
}

// Single is a keyring of the default key alone, without limits.
func Single(a provider.Adapter) *Keyring {
	return newKeyring(&ring{keys: []*Key{{ID: DefaultKey, Weight: 1, Adapter: a}}})
}

func newKeyring(r *ring) *Keyring {
	k := &Keyring{}
	k.now.Store(r)
	return k
}

// Keys are the keys, retiring ones included.
func (k *Keyring) Keys() []*Key { return k.now.Load().keys }

// Key is the key with an id; nil when there is none. Keys that were taken out
// are found until the process ends, for the tasks that they have. Without an id
// it is the default key, or else the first: attempts of older versions have none.
func (k *Keyring) Key(id string) *Key {
	r := k.now.Load()
	for _, key := range r.all() {
		if key.ID == id || id == "" && key.ID == DefaultKey {
			return key
		}
	}
	if id == "" && len(r.keys) > 0 {
		return r.keys[0]
	}
	return nil
}

// Limits are the provider's, over all its keys.
func (k *Keyring) Limits() Limits { return k.now.Load().Limits }

// Models are the limits of single models, over all keys, by the catalog's id.
func (k *Keyring) Models() map[string]Limits { return k.now.Load().models }

func (r *ring) all() []*Key { return slices.Concat(r.keys, r.gone) }

// replace puts other keys and limits in the place of the present ones. Keys that
// did not change stay as they are, with what they have learned.
func (k *Keyring) replace(next *ring) {
	old := k.now.Load()
	for i, key := range next.keys {
		for _, o := range old.all() {
			if o.ID == key.ID && o.spec.secrets() == key.spec.secrets() {
				next.keys[i].Adapter = o.Adapter
			}
		}
	}
	for _, o := range old.all() {
		if !slices.ContainsFunc(next.keys, func(n *Key) bool { return n.ID == o.ID }) {
			next.gone = append(next.gone, o)
		}
	}
	k.now.Store(next)
}

// differs reports whether next is written otherwise than the present keys.
func (k *Keyring) differs(next *ring) bool {
	old := k.now.Load()
	same := func(a, b *Key) bool { return reflect.DeepEqual(a.spec, b.spec) }
	return old.Limits != next.Limits || !maps.Equal(old.models, next.models) || !slices.EqualFunc(old.keys, next.keys, same)
}

// parser takes a callback that any of the keys verifies.
type parser struct{ keys *Keyring }

// ParseWebhook implements provider.WebhookParser.
func (p parser) ParseWebhook(ctx context.Context, h http.Header, body []byte, now time.Time) (provider.Report, error) {
	var bad error
	for _, k := range p.keys.verifiers() {
		w, ok := k.Adapter.(provider.WebhookParser)
		if !ok {
			continue
		}
		r, err := w.ParseWebhook(ctx, h, body, now)
		if !errors.Is(err, provider.ErrBadSignature) {
			return r, err
		}
		bad = err
	}
	return provider.Report{}, bad
}

// VerifiesWebhooks implements provider.Verifier: one key that takes unsigned
// callbacks takes them all.
func (p parser) VerifiesWebhooks() bool {
	all := p.keys.now.Load().all()
	return len(all) > 0 && !slices.ContainsFunc(all, func(k *Key) bool {
		v, ok := k.Adapter.(provider.Verifier)
		return !ok || !v.VerifiesWebhooks()
	})
}

// verifiers are all keys, those with a secret first: one without takes what it
// cannot verify for a hint.
func (k *Keyring) verifiers() []*Key {
	all := k.now.Load().all()
	slices.SortStableFunc(all, func(a, b *Key) int {
		switch {
		case a.spec.WebhookSecret != "" && b.spec.WebhookSecret == "":
			return -1
		case a.spec.WebhookSecret == "" && b.spec.WebhookSecret != "":
			return 1
		}
		return 0
	})
	return all
}

// challenged is the parser of a provider that tests callback URLs.
type challenged struct {
	parser
	provider.Challenger
}
