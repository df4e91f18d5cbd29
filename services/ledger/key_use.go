package ledger

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// usedKeys are keys whose last use waits to be written. It is safe for
// concurrent use.
type usedKeys struct {
	mu  sync.Mutex
	ids map[string]struct{}
}

const (
	usedKeysMax   = 10_000 // more are left out: they will be used again
	usedKeysEvery = time.Second
)

func (u *usedKeys) add(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ids == nil {
		u.ids = map[string]struct{}{}
	}
	if len(u.ids) < usedKeysMax {
		u.ids[key] = struct{}{}
	}
}

func (u *usedKeys) take() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	ids := make([]string, 0, len(u.ids))
	for k := range u.ids {
		ids = append(ids, k)
	}
	clear(u.ids)
	return ids
}

// noteUse writes when keys were last used, each at most once a minute, however
// many replicas see it.
func (s *Service) noteUse(ctx context.Context) error {
	tick := time.NewTicker(usedKeysEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.noteUseOnce(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "use of keys not noted", "error", err.Error())
			}
		}
	}
}

func (s *Service) noteUseOnce(ctx context.Context) error {
	keys := s.used.take()
	if len(keys) == 0 {
		return nil
	}
	// A key that another replica notes, or an operator changes, is passed over:
	// nobody waits for this.
	if _, err := s.pool.Exec(ctx, `with due as (
			select id from api_key where id = any($1) and (last_used_at is null or last_used_at < now() - interval '1 minute')
			for no key update skip locked)
		update api_key k set last_used_at = now() from due where k.id = due.id`, keys); err != nil {
		return fmt.Errorf("update api keys: %w", err)
	}
	return nil
}
