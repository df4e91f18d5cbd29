package bus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Shared is what all replicas know together: small values by key, changed by
// compare and swap. They may be lost and hold no fact. It is safe for
// concurrent use.
type Shared struct{ b *Bus }

// Shared is the bucket of what dispatchers know of providers. A key consists of
// parts, of which none may be empty.
func (b *Bus) Shared() *Shared { return &Shared{b} }

// ErrUnchanged is what a change returns that has nothing to write.
var ErrUnchanged = errors.New("nothing to change")

// sharedTries bounds how often one change is tried against faster writers.
const sharedTries = 20

// kv opens the bucket, which costs no journey, and fails at once with the bus
// down.
func (s *Shared) kv(ctx context.Context) (jetstream.KeyValue, error) {
	if !s.b.nc.IsConnected() {
		return nil, fmt.Errorf("open bucket %s: %w", ProviderBucket, ErrDown)
	}
	s.b.mu.Lock()
	kv := s.b.shared
	s.b.mu.Unlock()
	if kv != nil {
		return kv, nil
	}
	kv, err := s.b.js.KeyValue(ctx, ProviderBucket)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", ProviderBucket, err)
	}
	s.b.mu.Lock()
	s.b.shared = kv
	s.b.mu.Unlock()
	return kv, nil
}

// Change replaces the value of a key by what fn makes of it, and returns what is
// there then; old is nil when there is none. fn may be called again when another
// writer was faster. An error of fn ends it; ErrUnchanged is none for the
// caller. A bucket that has vanished is made again, for the next try.
func (s *Shared) Change(ctx context.Context, fn func(old []byte) ([]byte, error), key ...string) ([]byte, error) {
	kv, err := s.kv(ctx)
	if err != nil {
		return nil, err
	}
	name := sharedKey(key)
	for range sharedTries {
		var old []byte
		var revision uint64
		entry, err := kv.Get(ctx, name)
		switch {
		case err == nil:
			old, revision = entry.Value(), entry.Revision()
		case !notFound(err):
			return nil, s.failed(ctx, err)
		}
		value, err := fn(old)
		if errors.Is(err, ErrUnchanged) {
			return old, nil
		}
		if err != nil {
			return nil, err
		}
		if revision == 0 {
			_, err = kv.Create(ctx, name, value)
		} else {
			_, err = kv.Update(ctx, name, value, revision)
		}
		if err == nil {
			return value, nil
		}
		if !isConflict(err) {
			return nil, s.failed(ctx, err)
		}
	}
	return nil, fmt.Errorf("change %s: %d others were faster", name, sharedTries)
}

func (s *Shared) failed(ctx context.Context, err error) error {
	if noStream(err) {
		s.b.mend(ctx)
	}
	return fmt.Errorf("change shared value: %w", err)
}

// All reads every value, by key.
func (s *Shared) All(ctx context.Context) (map[string][]byte, error) {
	kv, err := s.kv(ctx)
	if err != nil {
		return nil, err
	}
	w, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, s.failed(ctx, err)
	}
	defer func() { _ = w.Stop() }()
	out := map[string][]byte{}
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case e, ok := <-w.Updates():
			if !ok {
				return nil, errors.New("read shared values: the watch ended")
			}
			if e == nil { // all that was there has been shown
				return out, nil
			}
			out[e.Key()] = e.Value()
		}
	}
}

// sharedCheck is how often a watch looks whether its bucket is still there.
const sharedCheck = 5 * time.Second

// Watch shows every value, and each that follows, until ctx is done; then it
// returns nil. It watches anew when the bus or the bucket was away. In between
// what was shown last may be old.
func (s *Shared) Watch(ctx context.Context, fn func(key string, value []byte)) error {
	for ctx.Err() == nil {
		err := s.watch(ctx, fn)
		if err == nil || ctx.Err() != nil {
			continue
		}
		if s.b.nc.IsConnected() {
			s.b.mend(ctx)
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
	return nil
}

func (s *Shared) watch(ctx context.Context, fn func(key string, value []byte)) error {
	kv, err := s.kv(ctx)
	if err != nil {
		return err
	}
	w, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return s.failed(ctx, err)
	}
	defer func() { _ = w.Stop() }()
	check := time.NewTicker(sharedCheck)
	defer check.Stop()
	before, err := kv.Status(ctx)
	if err != nil {
		return s.failed(ctx, err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Updates():
			if !ok {
				return errors.New("the watch ended")
			}
			if e != nil {
				fn(e.Key(), e.Value())
			}
		case <-check.C:
			// A bucket that was made anew has a watch that shows nothing.
			now, err := kv.Status(ctx)
			if err != nil {
				return s.failed(ctx, err)
			}
			if created(before) != created(now) {
				return errors.New("the bucket was made anew")
			}
		}
	}
}

func created(s jetstream.KeyValueStatus) time.Time {
	if st, ok := s.(*jetstream.KeyValueBucketStatus); ok {
		return st.StreamInfo().Created
	}
	return time.Time{}
}

// sharedKey is a key's name. A part that has to be written otherwise, as that of a
// model with a dot, has its sum behind it: two models must not share a circuit.
func sharedKey(parts []string) string {
	name := ""
	for i, p := range parts {
		if i > 0 {
			name += "."
		}
		t := token(p)
		if name += t; t != p {
			sum := sha256.Sum256([]byte(p))
			name += "-" + hex.EncodeToString(sum[:6])
		}
	}
	return name
}
