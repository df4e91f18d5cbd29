package ledger

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// Prove asks the invariants within a test's own transaction, over everything or
// over what the short runs look at.
func Prove(ctx context.Context, s *Service, tx pgx.Tx, whole bool) ([]string, error) {
	part := span{}
	if !whole {
		part.jobsFrom = time.Now().Add(-settled)
	}
	r, err := s.ask(ctx, tx, part)
	return r.violations, err
}

// ForgetMail forgets letters and addresses older than an age, as is done once an
// hour.
func ForgetMail(ctx context.Context, s *Service, kept time.Duration) error {
	return s.forgetMailOnce(ctx, kept)
}

// SweepOnce publishes again what has been silent, as is done in the background.
func SweepOnce(ctx context.Context, s *Service) error { return s.sweepOnce(ctx) }

// Begin judges one intent of a caller with a context of its own.
func Begin(ctx context.Context, s *Service, r *ledgerv1.BeginAttemptRequest) (*ledgerv1.BeginAttemptResponse, error) {
	c := &beginCall{ctx: ctx, req: r}
	if err := s.begin(context.WithoutCancel(ctx), []*beginCall{c}); err != nil {
		return nil, err
	}
	return c.resp, c.err
}
