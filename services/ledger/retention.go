package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// chore is something that is done to every finished job in turn, oldest first,
// when it has been finished for a while. How far it has come is kept in the
// database, so each job is looked at once and no index is needed for it.
type chore struct {
	task string
	age  time.Duration // since the job ended
	do   func(ctx context.Context, u *unit, ids []string) error
}

// settled is older than any transaction of the ledger: no job with a smaller id
// is still to be committed.
const settled = 2 * moneyTimeout

func (s *Service) chores() []chore {
	all := []chore{{"count", settled, s.countMissed}}
	for _, c := range []chore{
		{"redact", s.cfg.RetainPrompts, redactAll},
		{"remove", s.cfg.RetainVideos, removeCommon},
		{"forget", s.cfg.RetainFacts, forgetAll},
	} {
		if c.age > 0 { // 0 keeps for ever
			all = append(all, c)
		}
	}
	return all
}

// retain does the chores, batch by batch, with as much rest as work.
func (s *Service) retain(ctx context.Context) error {
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-rest.C:
		}
		began, wait := time.Now(), cmp.Or(s.cfg.RetainEvery, time.Minute)
		for _, c := range s.chores() {
			more, err := s.step(ctx, c)
			if err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "old jobs not tidied", "task", c.task, "error", err.Error())
			}
			if more {
				wait = 0
			}
		}
		if more, err := s.removeOwn(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "old videos of accounts not removed", "error", err.Error())
		} else if more {
			wait = 0
		}
		if wait == 0 {
			wait = time.Since(began)
		}
		rest.Reset(wait)
	}
}

const (
	choreBatch = 500
	// One replica at a time.
	choreLockSQL = "select pg_try_advisory_xact_lock(7233530)"
	// nextJobsSQL reads past the mark, in one partition or two. job_id_at keeps
	// it from jobs that are too young to be due.
	nextJobsSQL = `select id, completed_at is not null and completed_at <= now() - $2::interval from job
		where id > $1 and id < job_id_at(now() - $2::interval) order by id limit $3`
)

// step does a chore to the next jobs and reports whether more are due. It stops
// before the first that is not: nothing is passed over.
func (s *Service) step(ctx context.Context, c chore) (more bool, err error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	err = s.write(ctx, func(ctx context.Context, u *unit) error {
		more = false
		var mine bool
		if err := u.tx.QueryRow(ctx, choreLockSQL).Scan(&mine); err != nil || !mine {
			return err
		}
		var after string
		err := u.tx.QueryRow(ctx, "select after from progress_mark where task = $1", c.task).Scan(&after)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("read mark: %w", err)
		}
		rows, err := u.tx.Query(ctx, nextJobsSQL, after, c.age, choreBatch)
		if err != nil {
			return fmt.Errorf("read old jobs: %w", err)
		}
		var ids []string
		var id string
		var due, stop bool
		if _, err := pgx.ForEachRow(rows, []any{&id, &due}, func() error {
			if stop = stop || !due; !stop {
				ids = append(ids, id)
			}
			return nil
		}); err != nil {
			return fmt.Errorf("read old jobs: %w", err)
		}
		if len(ids) == 0 {
			return nil
		}
		more = len(ids) == choreBatch
		if err := c.do(ctx, u, ids); err != nil {
			return err
		}
		_, err = u.tx.Exec(ctx, "insert into progress_mark (task, after) values ($1, $2) on conflict (task) do update set after = excluded.after",
			c.task, ids[len(ids)-1])
		return err
	})
	if err != nil {
		return false, fmt.Errorf("%s: %w", c.task, err)
	}
	s.wake()
	return more, nil
}

// countMissed puts into usage what a version that kept none has finished.
func (s *Service) countMissed(ctx context.Context, u *unit, ids []string) error {
	rows, err := u.tx.Query(ctx, "select id from job where id = any($1) and not counted", ids)
	if err != nil {
		return fmt.Errorf("read uncounted jobs: %w", err)
	}
	missed, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(missed) == 0 {
		return err
	}
	jobs, err := u.lockJobs(ctx, missed)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if j.Counted {
			continue
		}
		if err := u.count(j); err != nil {
			return err
		}
		u.change(j)
		// Usage is changed under the account's lock alone.
		u.later(j.Account, func(*balance) error { return nil })
	}
	return nil
}

// redactAll removes what callers wrote from jobs; what they cost remains.
func redactAll(ctx context.Context, u *unit, ids []string) error {
	jobs, err := u.lockJobs(ctx, ids)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if err := u.redact(j); err != nil {
			return err
		}
	}
	return nil
}

const (
	forgetFactsSQL = "delete from observation where job_id = any($1)"
	forgetKeysSQL  = `delete from idempotency where job_id collate "C" = any($1)`
)

// forgetAll removes observations and idempotency keys: a repetition that comes
// later than this is taken for something new.
func forgetAll(ctx context.Context, u *unit, ids []string) error {
	b := &pgx.Batch{}
	b.Queue(forgetFactsSQL, ids)
	b.Queue(forgetKeysSQL, ids)
	return u.send(ctx, b)
}

// redact removes what a caller wrote, and what was answered to it, from a
// locked, finished job. What was rendered (model, length, size) stays.
func (u *unit) redact(j *record) error {
	var p videov1.VideoParams
	if err := proto.Unmarshal(j.Params, &p); err != nil {
		return fmt.Errorf("redact %s: %w", j.ID, err)
	}
	redactParams(&p)
	j.redactPlan()
	var err error
	if j.Params, err = proto.Marshal(&p); err != nil {
		return fmt.Errorf("redact %s: %w", j.ID, err)
	}
	if j.planned, err = j.Plan.bytes(); err != nil {
		return fmt.Errorf("redact %s: %w", j.ID, err)
	}
	if j.Error, err = redactedError(j.Error); err != nil {
		return fmt.Errorf("redact %s: %w", j.ID, err)
	}
	for _, a := range j.Attempts {
		if len(a.Error) == 0 {
			continue
		}
		if a.Error, err = redactedError(a.Error); err != nil {
			return fmt.Errorf("redact %s: %w", a.ID, err)
		}
		u.changeAttempt(a)
	}
	j.Metadata, j.ResultURL, j.RequestHash = []byte("{}"), nil, nil
	u.redacted = append(u.redacted, j)
	u.change(j)
	return nil
}

// redactedError keeps the code of an error and loses its words, which may quote
// a prompt.
func redactedError(raw []byte) ([]byte, error) {
	if len(raw) == 0 {
		return raw, nil
	}
	var e videov1.VideoError
	if err := proto.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	e.Message = "removed after the time for which such texts are kept"
	return proto.Marshal(&e)
}

func (u *unit) writeRedacted(b *pgx.Batch) {
	if len(u.redacted) == 0 {
		return
	}
	var t table
	column(&t, u.redacted, func(j *record) string { return j.ID })
	b.Queue("delete from job_mail where job_id = any($1)", t.columns...)
	column(&t, u.redacted, func(j *record) []byte { return j.Params })
	column(&t, u.redacted, func(j *record) string { return j.User })
	column(&t, u.redacted, func(j *record) []byte { return j.planned })
	b.Queue(`update job set params = x.params, plan = x.plan, end_user = x.end_user, metadata = '{}', counted_in = case when job.end_user = x.end_user then counted_in end, request_hash = null, redacted_at = now()
		from unnest($1::text[], $2::bytea[], $3::text[], $4::bytea[]) as x (id, params, end_user, plan) where job.id = x.id`, t.columns...)
	b.Queue(redactDeliveriesSQL, t.columns[0])
}
