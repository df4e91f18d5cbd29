package ledger

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/postgres"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// opening is one OpenJob on its way through a group.
type opening struct {
	*ledgerv1.OpenJobRequest
	params, metadata, plan []byte
	turn                   int64        // given with the first try, and kept
	refusal                *fault.Error // of what is new; what was accepted before is answered all the same
}

// opened is what became of it.
type opened struct {
	job      *record
	replayed bool
}

type openCall = call[opening, opened]

// OpenJob commits job, hold, event and submit command together, in one
// transaction with whatever other jobs arrive meanwhile.
func (g *jobServer) OpenJob(ctx context.Context, r *ledgerv1.OpenJobRequest) (resp *ledgerv1.OpenJobResponse, err error) {
	defer func() { g.s.meters.opened(ctx, resp.GetReplayed(), err) }()
	sw, err := g.s.switched(ctx)
	if err != nil {
		return nil, err
	}
	o := opening{OpenJobRequest: r, metadata: []byte("{}"), refusal: sw.refuses(r)}
	sw.prefer(r)
	if o.params, err = proto.Marshal(r.GetParams()); err != nil {
		return nil, fmt.Errorf("marshal params: %w", err)
	}
	if o.plan, err = (routePlan{r.GetPlan()}).bytes(); err != nil {
		return nil, err
	}
	if len(r.GetMetadata()) > 0 {
		if o.metadata, err = json.Marshal(r.GetMetadata()); err != nil {
			return nil, fmt.Errorf("marshal metadata: %w", err)
		}
	}
	if err := g.s.expectCallback(ctx, r); err != nil {
		return nil, err
	}
	res, err := g.s.opens.do(ctx, o)
	if errors.Is(err, postgres.ErrUnknown) {
		f := fault.Wrap(err, fault.Unavailable, "whether the video was accepted is unknown; retry with the same Idempotency-Key, or without one look for it first")
		f.Retryable = r.GetIdempotencyKey() != ""
		return nil, f
	}
	if err != nil {
		return nil, err
	}
	if res.replayed {
		own := *res.job // others with the same key read it too
		v, err := g.s.full(ctx, &own)
		return &ledgerv1.OpenJobResponse{Video: v, Replayed: true}, err
	}
	v, err := res.job.video(g.s.cfg.RetainVideos)
	return &ledgerv1.OpenJobResponse{Video: v}, err
}

// open opens a group of jobs: one lock and one update for each account, in the
// order of arrival.
func (s *Service) open(ctx context.Context, group []*openCall) error {
	if done, err := s.openAhead(ctx, group); done {
		return err
	}
	err := s.write(ctx, func(ctx context.Context, u *unit) error {
		for _, c := range group {
			c.resp, c.err = opened{}, nil
		}
		claims, err := u.claimKeys(ctx, group)
		if err != nil {
			return err
		}
		needed, err := u.lockFiles(ctx, group)
		if err != nil {
			return err
		}
		if err := u.lockSpending(ctx, group); err != nil {
			return err
		}
		for _, c := range group {
			if err := s.openOne(ctx, u, c, claims, needed); err != nil {
				return err
			}
		}
		u.freeKeys(claims)
		s.ample.note(u)
		return nil
	})
	s.wakeOpened()
	return err
}

// idempotencyKey names a caller's request.
type idempotencyKey struct{ account, key string }

// claim is a key that is taken: by an earlier job, or for one of this group.
type claim struct {
	id   string  // the job's
	job  *record // nil while the job is of this group and not opened yet
	hash []byte
}

// claimed are the keys of one group.
type claimed map[idempotencyKey]*claim

// claimKeys takes the group's idempotency keys, so that whoever comes second
// waits for the first, and reads the jobs of those that were taken before.
func (u *unit) claimKeys(ctx context.Context, group []*openCall) (claimed, error) {
	claims := claimed{}
	var mine []*openCall
	for _, c := range group {
		k := c.req.key()
		if k.key != "" && claims[k] == nil {
			claims[k] = &claim{id: id.New(id.Video)}
			mine = append(mine, c)
		}
	}
	if len(mine) == 0 {
		return claims, nil
	}
	// In one order everywhere: two groups must not wait for each other.
	slices.SortFunc(mine, func(a, b *openCall) int {
		return cmp.Or(cmp.Compare(a.req.GetAccountId(), b.req.GetAccountId()), cmp.Compare(a.req.GetIdempotencyKey(), b.req.GetIdempotencyKey()))
	})
	var t table
	column(&t, mine, func(c *openCall) string { return c.req.GetAccountId() })
	column(&t, mine, func(c *openCall) string { return c.req.GetIdempotencyKey() })
	column(&t, mine, func(c *openCall) string { return claims[c.req.key()].id })
	column(&t, mine, func(c *openCall) []byte { return c.req.GetRequestHash() })
	column(&t, mine, func(c *openCall) []byte { return c.req.GetNamedHash() })
	if _, err := u.tx.Exec(ctx, `insert into idempotency (account_id, key, job_id, request_hash, named_hash)
		select account, key, job, hash, named from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[]) as x (account, key, job, hash, named)
		on conflict do nothing`, t.columns...); err != nil {
		return nil, fmt.Errorf("claim idempotency keys: %w", err)
	}
	// The fence has each looked up by its key, whatever the plan was made on.
	rows, err := u.tx.Query(ctx, `select i.account_id, i.key, i.job_id, i.request_hash from unnest($1::text[], $2::text[], $3::text[]) as x (account, key, job)
		cross join lateral (select * from idempotency i where i.account_id = x.account and i.key = x.key offset 0) i
		where i.job_id <> x.job`, t.columns[:3]...)
	if err != nil {
		return nil, fmt.Errorf("read idempotency keys: %w", err)
	}
	var k idempotencyKey
	var jobID string
	var hash []byte
	var taken []*claim
	if _, err = pgx.ForEachRow(rows, []any{&k.account, &k.key, &jobID, &hash}, func() error {
		c := claims[k]
		c.id, c.hash = jobID, bytes.Clone(hash)
		taken = append(taken, c)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read idempotency keys: %w", err)
	}
	for _, c := range taken {
		if c.job, err = one(ctx, u.tx, "id = $1", c.id); err != nil {
			return nil, err
		}
	}
	return claims, nil
}

func (o *opening) key() idempotencyKey {
	return idempotencyKey{o.GetAccountId(), o.GetIdempotencyKey()}
}

// freeKeys gives up the keys whose requests were refused: a refusal is not an
// answer to keep.
func (u *unit) freeKeys(claims claimed) {
	for k, c := range claims {
		if c.job == nil {
			u.freed = append(u.freed, k)
		}
	}
}

func (u *unit) writeFreed(b *pgx.Batch) {
	if len(u.freed) == 0 {
		return
	}
	var t table
	column(&t, u.freed, func(k idempotencyKey) string { return k.account })
	column(&t, u.freed, func(k idempotencyKey) string { return k.key })
	b.Queue(`delete from idempotency i using unnest($1::text[], $2::text[]) as x (account, key)
		where i.account_id = x.account and i.key = x.key`, t.columns...)
}

// openOne judges one call. What concerns this call alone is its verdict; an
// error is the group's.
func (s *Service) openOne(ctx context.Context, u *unit, c *openCall, claims claimed, needed files) error {
	if claims.replay(c) {
		return nil
	}
	if c.err = needed.lacks(c.req.OpenJobRequest); c.err != nil {
		return nil //nolint:nilerr // the call's verdict, not the group's failure
	}
	b := u.balances[c.req.GetAccountId()]
	if b == nil {
		c.err = fault.New(fault.NotFound, "no such account")
		return nil
	}
	if c.req.refusal != nil {
		c.err = c.req.refusal
		return nil //nolint:nilerr // the call's verdict, not the group's failure
	}
	j := u.draft(c, claims)
	refusal, err := s.admit(ctx, u, b, j)
	if err != nil {
		return err
	}
	if refusal != nil {
		c.err = refusal
		return nil //nolint:nilerr // the call's verdict, not the group's failure
	}
	switch err := u.hold(b, j); {
	case errors.Is(err, errShort):
		c.err = insufficient(j.Quote, b.of[available])
		return nil
	case err != nil:
		return err
	}
	if err := u.countOpened(c.ctx, b, j); err != nil {
		return err
	}
	return s.accept(u, c, j, claims)
}

// replay answers a call whose key was used before; false when it was not.
func (cs claimed) replay(c *openCall) bool {
	taken := cs[c.req.key()]
	if taken == nil || taken.job == nil {
		return false
	}
	if bytes.Equal(taken.hash, c.req.GetRequestHash()) {
		c.resp = opened{taken.job, true}
	} else {
		c.err = reused(taken.id)
	}
	return true
}

// draft is the job that a call asks for.
func (u *unit) draft(c *openCall, cs claimed) *record {
	r := c.req
	j := &record{Account: r.GetAccountId(), Provider: r.GetProvider(), User: r.GetUser(), Key: r.GetApiKeyId(),
		State: job.Queued, Version: 1, Quote: dearest(r.OpenJobRequest), CreatedAt: u.now, SubmitAfter: u.now, RequestHash: r.GetRequestHash(),
		Model: r.GetParams().GetModel(), Params: r.params, Plan: routePlan{r.GetPlan()}, planned: r.plan, Metadata: r.metadata, Traceparent: traceparent(c.ctx)}
	j.expect(r.GetCostMicros(), r.GetCostCurrency())
	j.NotifyEmail = r.GetNotifyEmail()
	if taken := cs[r.key()]; taken != nil {
		j.ID, taken.hash = taken.id, r.GetRequestHash()
	} else {
		j.ID = id.New(id.Video)
	}
	return j
}

// accept has a job written, announced and put in the queue.
func (s *Service) accept(u *unit, c *openCall, j *record, cs claimed) error {
	if taken := cs[c.req.key()]; taken != nil {
		taken.job = j
	}
	u.opened = append(u.opened, j)
	u.need(j.ID, c.req.OpenJobRequest)
	u.callBack(j, c.req.GetCallbackUrl())
	c.resp = opened{job: j}
	if c.req.turn == 0 {
		c.req.turn = s.turns.next(j.Provider, j.Account, c.req.GetPriority(), c.req.GetQueueWeight())
	}
	u.enqueue(j, c.req.turn)
	return u.announce(c.ctx, j)
}

func reused(jobID string) error {
	e := fault.New(fault.Conflict, "this Idempotency-Key was used before with another request; use a new key for a new video")
	e.Fields = []fault.Field{{Name: "Idempotency-Key", Message: "already used by " + jobID}}
	return e
}
