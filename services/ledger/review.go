package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/money"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// What became of a task that had no verdict in time.
const (
	billed    = "billed"
	notBilled = "not_billed"
)

var outcomes = map[ledgerv1.Outcome]string{ledgerv1.Outcome_OUTCOME_BILLED: billed, ledgerv1.Outcome_OUTCOME_NOT_BILLED: notBilled}

// review is a task whose fate is unknown; its possible cost is in suspense
// until there is an outcome, which there is once.
type review struct {
	job, account, attempt, provider string
	amount                          int64
	opened, pollAfter               time.Time
	outcome, actor, reason          string
	settled                         *time.Time
}

const reviewColumns = `job_id, account_id, attempt_id, provider, amount_micros, opened_at, coalesce(outcome, ''), settled_at, actor, reason`

func scanReview(row pgx.CollectableRow) (*review, error) {
	var r review
	return &r, row.Scan(&r.job, &r.account, &r.attempt, &r.provider, &r.amount, &r.opened, &r.outcome, &r.settled, &r.actor, &r.reason)
}

func (r *review) proto() *ledgerv1.Review {
	p := &ledgerv1.Review{JobId: r.job, AccountId: r.account, AttemptId: r.attempt, Provider: r.provider, AmountMicros: r.amount,
		OpenedAt: timestamppb.New(r.opened), SettledAt: stamp(r.settled), Actor: r.actor, Reason: r.reason}
	for o, word := range outcomes {
		if word == r.outcome {
			p.Outcome = o
		}
	}
	return p
}

// suspend opens a review of an attempt: the customer is released, and what the
// provider may ask for goes into suspense.
func (s *Service) suspend(u *unit, j *record, a *attempt) {
	u.reviews = append(u.reviews, &review{job: j.ID, account: j.Account, attempt: a.ID, provider: a.Provider, amount: j.priceAt(a.Route),
		opened: u.now, pollAfter: u.now.Add(s.cfg.ReviewEvery)})
	u.later(j.Account, func(b *balance) error {
		return u.post(b, posting{key: j.ID + "/suspense/" + a.ID, kind: "suspense", job: j.ID, from: providerCost, to: suspense, amount: j.priceAt(a.Route)})
	})
}

// conclude settles a locked job's suspense, once: a billed task is a loss and
// stays owed to the provider; of one that is not billed the suspense is
// reversed. It returns the review with the outcome that holds, which may be an
// earlier one, and whether it is new; nil when the job has no review.
func (u *unit) conclude(ctx context.Context, j *record, outcome, actor, reason string) (r *review, fresh bool, err error) {
	if r, fresh, err = u.settleReview(ctx, j.ID, outcome, actor, reason); err != nil || !fresh {
		return r, false, err
	}
	to := providerCost
	if outcome == billed {
		to = writeOff
	}
	u.later(j.Account, func(b *balance) error {
		return u.post(b, posting{key: j.ID + "/suspense_settled", kind: "suspense_settled", job: j.ID, from: suspense, to: to,
			amount: r.amount, actor: actor, reason: reason})
	})
	return r, true, nil
}

// settleReview writes an outcome where there is none.
func (u *unit) settleReview(ctx context.Context, jobID, outcome, actor, reason string) (*review, bool, error) {
	for _, r := range u.reviews { // opened in this very unit: its row is not written yet
		if r.job == jobID {
			fresh := r.outcome == ""
			if fresh {
				r.outcome, r.actor, r.reason, r.settled = outcome, actor, reason, &u.now
			}
			return r, fresh, nil
		}
	}
	// Rare enough for a journey of its own.
	rows, err := u.tx.Query(ctx, `update review set outcome = $2, settled_at = now(), actor = $3, reason = $4
		where job_id = $1 and outcome is null returning `+reviewColumns, jobID, outcome, actor, reason)
	if err != nil {
		return nil, false, fmt.Errorf("settle review: %w", err)
	}
	r, err := pgx.CollectExactlyOneRow(rows, scanReview)
	if err == nil {
		return r, true, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return nil, false, fmt.Errorf("settle review: %w", err)
	}
	if rows, err = u.tx.Query(ctx, "select "+reviewColumns+" from review where job_id = $1", jobID); err != nil {
		return nil, false, fmt.Errorf("read review: %w", err)
	}
	r, err = pgx.CollectExactlyOneRow(rows, scanReview)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read review: %w", err)
	}
	return r, false, nil
}

func (u *unit) writeReviews(b *pgx.Batch) {
	if len(u.reviews) == 0 {
		return
	}
	var t table
	column(&t, u.reviews, func(r *review) string { return r.job })
	column(&t, u.reviews, func(r *review) string { return r.account })
	column(&t, u.reviews, func(r *review) string { return r.attempt })
	column(&t, u.reviews, func(r *review) string { return r.provider })
	column(&t, u.reviews, func(r *review) int64 { return r.amount })
	column(&t, u.reviews, func(r *review) time.Time { return r.pollAfter })
	column(&t, u.reviews, func(r *review) string { return r.outcome })
	column(&t, u.reviews, func(r *review) *time.Time { return r.settled })
	column(&t, u.reviews, func(r *review) string { return r.actor })
	column(&t, u.reviews, func(r *review) string { return r.reason })
	b.Queue(`insert into review (job_id, account_id, attempt_id, provider, amount_micros, poll_after, outcome, settled_at, actor, reason)
		select job, account, attempt, provider, amount, poll_after, nullif(outcome, ''), settled_at, actor, reason
		from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::timestamptz[], $7::text[], $8::timestamptz[], $9::text[], $10::text[])
			as x (job, account, attempt, provider, amount, poll_after, outcome, settled_at, actor, reason)`, t.columns...)
}

// judgeFate draws the conclusion from what is seen of a task in review. The
// customer was released and stays so; only the provider's cost is settled. A
// word against the outcome that holds is an alarm, never applied.
func (s *Service) judgeFate(ctx context.Context, u *unit, x *sighting, a *attempt, owners map[[2]string]string) (string, error) {
	j, o := x.job, x.o
	if !claimTask(u, a, o, owners) {
		return conflict, nil
	}
	if (o.GetRendered() != nil || o.GetAccepted() != nil) && !j.Late {
		j.Late = true
		u.change(j)
	}
	outcome, verdict := notBilled, applied
	switch {
	case o.GetRendered() != nil:
		outcome, verdict = billed, late
	case o.GetAccepted() != nil:
		return late, nil
	case o.GetFailed() == nil && o.GetRefused() == nil && o.GetCanceled() == nil:
		return ignored, nil
	}
	r, fresh, err := u.conclude(ctx, j, outcome, "ledger", "the provider's late word: "+factName(o))
	switch {
	case err != nil:
		return "", err
	case r == nil:
		return ignored, nil
	case r.outcome != outcome:
		return conflict, nil
	case !fresh && outcome == notBilled:
		return ignored, nil // said before
	}
	if outcome == billed {
		j.bill(o.GetRendered())
		u.change(j)
	}
	return verdict, nil
}

// pollReviews asks, now and then, for the fate of tasks in review, for as long
// as their providers can be expected to know it. After that an operator settles.
func (s *Service) pollReviews(ctx context.Context) error {
	type due struct {
		job, attempt, provider string
		inTime                 bool
	}
	rows, err := s.pool.Query(ctx, `update review set poll_after = case when opened_at > now() - $2::interval then now() + $1::interval else 'infinity' end
		where job_id in (select job_id from review where outcome is null and poll_after <= now() order by poll_after limit $3 for update skip locked)
		returning job_id, attempt_id, provider, opened_at > now() - $2::interval`, s.cfg.ReviewEvery, s.cfg.ReviewFor, reviewBatch)
	if err != nil {
		return fmt.Errorf("read due reviews: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (due, error) {
		var d due
		err := row.Scan(&d.job, &d.attempt, &d.provider, &d.inTime)
		return d, err
	})
	if err != nil {
		return fmt.Errorf("read due reviews: %w", err)
	}
	for _, d := range all {
		if !d.inTime {
			s.log.WarnContext(ctx, "the fate of a task was never learned: settle its suspense by hand", "job_id", d.job, "provider", d.provider)
			continue
		}
		if err := s.bus.SchedulePoll(ctx, &eventv1.PollAttempt{JobId: d.job, AttemptId: d.attempt, Provider: d.provider}, time.Now()); err != nil {
			return err // the next ones' turn comes again
		}
	}
	return nil
}

// reviewBatch bounds the polls of one sweep: a provider's limits are for live
// jobs first.
const reviewBatch = 20

// SettleSuspense says by hand what became of a task.
func (g *moneyServer) SettleSuspense(ctx context.Context, r *ledgerv1.SettleSuspenseRequest) (*ledgerv1.SettleSuspenseResponse, error) {
	outcome, resp := outcomes[r.GetOutcome()], &ledgerv1.SettleSuspenseResponse{}
	_, _, err := g.s.onAccount(ctx, "", r.GetJobId(), func(ctx context.Context, u *unit, b *balance, j *record) error {
		rev, fresh, err := u.conclude(ctx, j, outcome, actor(ctx), r.GetReason())
		switch {
		case err != nil:
			return err
		case rev == nil:
			return fault.New(fault.Conflict, "%s is %s and has nothing in suspense", j.ID, j.State)
		case rev.outcome != outcome:
			return fault.New(fault.Conflict, "the suspense of %s was settled before, as %s by %s; correct it with a write-off or leave it", j.ID, rev.outcome, rev.actor)
		}
		resp.Review = rev.proto()
		if !fresh {
			return nil
		}
		if outcome == billed {
			j.bill(nil)
			u.change(j)
		}
		return enter(ctx, u.tx, deed{action: "job.settle_suspense", account: b.account, target: j.ID,
			details: map[string]any{"credits": money.Format(rev.amount), "posting": j.ID + "/suspense_settled", "outcome": outcome, "reason": r.GetReason()}})
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// ListReviews reads the open reviews, or all, the latest job first.
func (g *moneyServer) ListReviews(ctx context.Context, r *ledgerv1.ListReviewsRequest) (*ledgerv1.ListReviewsResponse, error) {
	resp := &ledgerv1.ListReviewsResponse{}
	all, more, err := page(ctx, g.s.pool, r.GetLimit(), scanReview, "select "+reviewColumns+` from review
		where ($1 or outcome is null) and ($2 = '' or job_id < $2) order by job_id desc`, r.GetAll(), r.GetAfter())
	if err != nil {
		return nil, err
	}
	for _, x := range all {
		resp.Reviews = append(resp.Reviews, x.proto())
	}
	resp.HasMore = more
	return resp, nil
}

// mayGiveUp reports whether an attempt of unknown outcome may be given up for
// another. It is done once for a job, never for a task that the provider is
// known to have, and not for a job that is to be canceled.
func (s *Service) mayGiveUp(j *record, a *attempt) bool {
	for _, before := range j.Attempts {
		if before.GivenUp {
			return false
		}
	}
	return a.State == "uncertain" && a.TaskID == "" && j.Cancel.At == nil && j.AttemptCount < s.cfg.MaxAttempts
}
