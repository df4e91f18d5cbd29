package ledger

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type privacyServer struct {
	ledgerv1.UnimplementedPrivacyServiceServer
	s *Service
}

const (
	eraseBatch = 100
	liveShown  = 20
	liveOfUser = `select id from job where account_id = $1 and end_user = $2 and end_user <> '' and completed_at is null order by id limit $3`
	jobsOfUser = `select id from job where account_id = $1 and end_user = $2 and end_user <> '' order by id desc limit $3`
)

// EraseUser works in batches, each whole in itself: the jobs that it has done do
// not bear the user's name any more, so a repetition goes on where it stopped.
func (g *privacyServer) EraseUser(ctx context.Context, r *ledgerv1.EraseUserRequest) (*ledgerv1.EraseUserResponse, error) {
	if err := liveJobs(ctx, g.s.pool, r); err != nil {
		return nil, err
	}
	// Random, not made of the name: it leads nobody back.
	token := "erased_" + strings.ToLower(rand.Text())
	resp := &ledgerv1.EraseUserResponse{}
	for {
		jobs, videos, err := g.s.eraseSome(ctx, r, token)
		if err != nil {
			return nil, err
		}
		resp.Jobs, resp.Videos = resp.GetJobs()+jobs, resp.GetVideos()+videos
		if jobs == 0 {
			break
		}
	}
	resp.Token = token
	if err := g.s.eraseName(ctx, r, resp); err != nil {
		return nil, err
	}
	g.s.wake()
	return resp, nil
}

// liveJobs is a conflict that names the user's live jobs; nil without any.
func liveJobs(ctx context.Context, q querier, r *ledgerv1.EraseUserRequest) error {
	rows, err := q.Query(ctx, liveOfUser, r.GetAccountId(), r.GetUser(), liveShown)
	if err != nil {
		return fmt.Errorf("read live jobs: %w", err)
	}
	live, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read live jobs: %w", err)
	}
	if len(live) == 0 {
		return nil
	}
	e := fault.New(fault.Conflict, "the user has videos that are not finished; ask again when they are: %s", strings.Join(live, ", "))
	for _, id := range live {
		e.Fields = append(e.Fields, fault.Field{Name: "user", Message: id + " is not finished"})
	}
	return e
}

// eraseSome erases the next jobs of a user, in one transaction.
func (s *Service) eraseSome(ctx context.Context, r *ledgerv1.EraseUserRequest, token string) (jobs, videos int64, err error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	err = s.write(ctx, func(ctx context.Context, u *unit) error {
		jobs, videos = 0, 0
		rows, err := u.tx.Query(ctx, jobsOfUser, r.GetAccountId(), r.GetUser(), eraseBatch)
		if err != nil {
			return fmt.Errorf("read user's jobs: %w", err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(ids) == 0 {
			return err
		}
		locked, err := u.lockJobs(ctx, ids)
		if err != nil {
			return err
		}
		for _, j := range locked {
			if !j.State.Terminal() {
				return liveJobs(ctx, u.tx, r) // begun since the first look
			}
			// Before the commit: once the name is gone nobody would find the
			// job again to make up for what the bus still holds.
			if err := s.bus.Forget(ctx, j.Account, j.ID); err != nil {
				return err
			}
			j.User = token
			if err := u.redact(j); err != nil {
				return err
			}
			jobs++
		}
		if videos, err = u.remove(ctx, slices.Collect(maps.Values(locked))...); err != nil {
			return err
		}
		if _, err = u.tx.Exec(ctx, forgetKeysSQL, ids); err != nil {
			return err
		}
		return dropUploadsOf(ctx, u.tx, ids)
	})
	return jobs, videos, err
}

// eraseName ends an erasure: the user's usage is added to that of nobody in
// particular, so the account's sums stay what they were, the user's registration
// goes, and the audit log says what was done. done.Token is emptied when there
// was nothing to do.
func (s *Service) eraseName(ctx context.Context, r *ledgerv1.EraseUserRequest, done *ledgerv1.EraseUserResponse) error {
	_, _, err := s.onAccount(ctx, r.GetAccountId(), "", func(ctx context.Context, u *unit, _ *balance, _ *record) error {
		// Under the account's lock, which every new job needs.
		if err := liveJobs(ctx, u.tx, r); err != nil {
			return err
		}
		const keys = "account_id, end_user, day, model, provider, api_key_id"
		usage, err := u.tx.Exec(ctx, `with gone as (delete from usage_user_day where account_id = $1 and end_user = $2 returning *)
			insert into usage_user_day as u (`+keys+", "+usageSums+`)
			select account_id, '', day, model, provider, api_key_id, `+usageSums+` from gone order by day, model, provider, api_key_id
			on conflict (`+keys+")"+onUsage, r.GetAccountId(), r.GetUser())
		if err != nil {
			return fmt.Errorf("merge usage: %w", err)
		}
		name, err := u.tx.Exec(ctx, "delete from end_user where account_id = $1 and id = $2", r.GetAccountId(), r.GetUser())
		if err != nil {
			return fmt.Errorf("delete end user: %w", err)
		}
		// What budgets counted stays, for whoever the token is; a budget for the
		// user alone has nothing more to guard.
		b := &pgx.Batch{}
		b.Queue(`update budget_use set subject_id = $3 where subject_id = $2
			and budget_id in (select id from budget where account_id = $1 and subject = 'end_user')`, r.GetAccountId(), r.GetUser(), done.GetToken())
		b.Queue(`update budget set subject_id = $3, deleted_at = coalesce(deleted_at, now())
			where account_id = $1 and subject = 'end_user' and subject_id = $2`, r.GetAccountId(), r.GetUser(), done.GetToken())
		if err := u.send(ctx, b); err != nil {
			return fmt.Errorf("erase from budgets: %w", err)
		}
		if done.GetJobs()+usage.RowsAffected()+name.RowsAffected() == 0 {
			done.Token = ""
			return nil
		}
		return enter(ctx, u.tx, deed{action: "user.erase", account: r.GetAccountId(), target: done.GetToken(),
			details: map[string]any{"reason": r.GetReason(), "jobs": done.GetJobs(), "videos": done.GetVideos()}})
	})
	return err
}
