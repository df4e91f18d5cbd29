package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/postgres"
)

// Reseal seals what is kept of webhook endpoints with the first key of
// REELWAY_WEBHOOK_SECRET_KEY, where an older one did it: afterwards no other key is
// needed. What no key opens is left as it is, and told of. Replicas may do it at the
// same time.
func (s *Service) Reseal(ctx context.Context) error {
	const batch = 500
	after, changed, closed := "", 0, 0
	for n := batch; n == batch; {
		last, c, x := after, 0, 0
		err := postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
			last, c, x = after, 0, 0
			rows, err := tx.Query(ctx, `select id, secret, secret_before, headers from webhook_endpoint
				where deleted_at is null and id > $1 order by id limit $2 for update`, after, batch)
			if err != nil {
				return err
			}
			type endpoint struct {
				ID     string
				Sealed [3][]byte
			}
			all, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (e endpoint, err error) {
				return e, r.Scan(&e.ID, &e.Sealed[0], &e.Sealed[1], &e.Sealed[2])
			})
			if err != nil {
				return err
			}
			n = len(all)
			var b pgx.Batch
			for _, e := range all {
				last = e.ID
				fresh, old := e.Sealed, false
				for i, sealed := range e.Sealed {
					if sealed == nil || s.seal.Current(sealed, e.ID) {
						continue
					}
					plain, err := s.seal.Open(sealed, e.ID)
					if err != nil {
						x++
						continue
					}
					fresh[i], old = s.seal.Seal(plain, e.ID), true
				}
				if old {
					c++
					b.Queue("update webhook_endpoint set secret = $2, secret_before = $3, headers = $4 where id = $1", e.ID, fresh[0], fresh[1], fresh[2])
				}
			}
			return tx.SendBatch(ctx, &b).Close()
		})
		if err != nil {
			return fmt.Errorf("reseal secrets of webhooks: %w", err)
		}
		after, changed, closed = last, changed+c, closed+x
	}
	if changed > 0 {
		s.log.InfoContext(ctx, "secrets of webhook endpoints are sealed with the new key", "endpoints", changed)
	}
	if closed > 0 {
		s.log.ErrorContext(ctx, "secrets of webhook endpoints are opened by no key: add the one that sealed them to REELWAY_WEBHOOK_SECRET_KEY", "secrets", closed)
	}
	return nil
}
