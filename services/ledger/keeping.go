package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/durationpb"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// An account's own age of files wins over the common one. It is read with the
// job where a file is about to be, or is: one look by a primary key, and none on
// a job's earlier steps.
const keepColumn = `case when state in ('storing', 'succeeded') then (select keep_seconds from video_retention where account_id = job.account_id) end`

// kept is how long the job's file is kept, 0 for ever.
func (j *record) kept(common time.Duration) time.Duration {
	if j.Keep != nil {
		return time.Duration(*j.Keep) * time.Second
	}
	return common
}

// setRetention sets how long an account's videos are kept, in the transaction
// that holds its row, and notes the change.
func setRetention(ctx context.Context, tx pgx.Tx, r *ledgerv1.UpdateAccountRequest, a *ledgerv1.Account, changes map[string]any) error {
	to := r.GetRetainVideos()
	switch {
	case to != nil && r.GetDefaultRetainVideos():
		return fault.Invalid(fault.Field{Name: "default_retain_videos", Message: "contradicts retain_videos; give one of the two"})
	case to.GetNanos() != 0:
		return fault.Invalid(fault.Field{Name: "retain_videos", Message: "must be whole seconds; 0 keeps for ever"})
	case to == nil && !r.GetDefaultRetainVideos(), retention(to) == retention(a.GetRetainVideos()):
		return nil
	}
	var seconds *int64
	if to != nil {
		s := to.GetSeconds()
		seconds = &s
	}
	if _, err := tx.Exec(ctx, `insert into video_retention (account_id, keep_seconds) values ($1, $2)
		on conflict (account_id) do update set keep_seconds = excluded.keep_seconds`, a.GetId(), seconds); err != nil {
		return fmt.Errorf("set retention: %w", err)
	}
	changes["retain_videos"] = map[string]any{"from": retention(a.GetRetainVideos()), "to": retention(to)}
	a.RetainVideos = to
	return nil
}

// retention is an age in the words of the audit log.
func retention(d *durationpb.Duration) string {
	switch {
	case d == nil:
		return "default"
	case d.GetSeconds() == 0:
		return "for ever"
	}
	return d.AsDuration().String()
}

// ownAge is an account's age as scanned: absent when the common one decides.
func ownAge(seconds *int64) *durationpb.Duration {
	if seconds == nil {
		return nil
	}
	return &durationpb.Duration{Seconds: *seconds}
}

const (
	ownBatch = 100
	// Of each account as many jobs as are due before the first that is not.
	dueOwnSQL = `select r.account_id, j.id from video_retention r
		cross join lateral (select make_interval(secs => coalesce(r.keep_seconds, $1::double precision)) as age) k
		cross join lateral (select id, bool_and(completed_at is not null and completed_at <= now() - k.age) over (order by id) as due from (
			select id, completed_at from job where account_id = r.account_id and deleted_at is null and id > r.after and id < job_id_at(now() - k.age)
			order by id limit $2) w) j
		where coalesce(r.keep_seconds, $1::double precision) > 0 and j.due order by r.account_id, j.id limit $3`
	notOwnSQL = `select id from job where id = any($1) and not exists (select from video_retention r where r.account_id = job.account_id)`
)

// removeOwn removes the files of accounts with an age of their own, a batch of
// each, and reports whether more are due.
func (s *Service) removeOwn(ctx context.Context) (more bool, err error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	err = s.write(ctx, func(ctx context.Context, u *unit) error {
		more = false
		var mine bool
		if err := u.tx.QueryRow(ctx, choreLockSQL).Scan(&mine); err != nil || !mine {
			return err
		}
		rows, err := u.tx.Query(ctx, dueOwnSQL, s.cfg.RetainVideos.Seconds(), ownBatch, choreBatch)
		if err != nil {
			return fmt.Errorf("read old jobs of accounts: %w", err)
		}
		var accounts, last, ids []string
		var account, job string
		count := 0
		if _, err := pgx.ForEachRow(rows, []any{&account, &job}, func() error {
			if n := len(accounts); n == 0 || accounts[n-1] != account {
				accounts, last, count = append(accounts, account), append(last, ""), 0
			}
			last[len(last)-1], ids = job, append(ids, job)
			if count++; count == ownBatch {
				more = true
			}
			return nil
		}); err != nil {
			return fmt.Errorf("read old jobs of accounts: %w", err)
		}
		if len(ids) == 0 {
			return nil
		}
		more = more || len(ids) == choreBatch
		if err := removeFiles(ctx, u, ids); err != nil {
			return err
		}
		_, err = u.tx.Exec(ctx, `update video_retention set after = x.after from unnest($1::text[], $2::text[]) as x (account, after) where account_id = x.account`, accounts, last)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("remove videos of accounts: %w", err)
	}
	s.wake()
	return more, nil
}

// removeCommon removes the files of jobs whose account goes by the common age.
func removeCommon(ctx context.Context, u *unit, ids []string) error {
	rows, err := u.tx.Query(ctx, notOwnSQL, ids)
	if err != nil {
		return fmt.Errorf("read accounts of old jobs: %w", err)
	}
	common, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read accounts of old jobs: %w", err)
	}
	return removeFiles(ctx, u, common)
}

func removeFiles(ctx context.Context, u *unit, ids []string) error {
	jobs, err := u.lockJobs(ctx, ids)
	if err != nil {
		return err
	}
	_, err = u.remove(ctx, slices.Collect(maps.Values(jobs))...)
	return err
}
