package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/durationpb"

	"reelway.dev/pkg/postgres"
	"reelway.dev/pkg/run"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type mailServer struct {
	ledgerv1.UnimplementedMailServiceServer
	s *Service
}

// recipient is the name of an address where it is not to stand itself. In SQL it
// is recipientSQL; addresses are ASCII, so both agree on lower case.
func recipient(address string) []byte {
	sum := sha256.Sum256([]byte(strings.ToLower(address)))
	return sum[:]
}

const (
	// recipientSQL is recipient of the column email.
	recipientSQL = `sha256(convert_to(lower(email), 'UTF8'))`
	// A job that its owner has deleted is not written about.
	mailOfJobSQL = `select m.email from job_mail m join job j on j.id = m.job_id
			where m.job_id = $2 and m.account_id = $1 and j.deleted_at is null
		union select u.email from job j join end_user u on u.account_id = j.account_id and u.id = j.end_user
			where j.id = $2 and j.account_id = $1 and j.deleted_at is null and u.notify`
	mailOfAccountSQL = `select email from account where id = $1 and email <> '' and $2 = ''`
	unsubscribedSQL  = `select exists (select from mail_unsubscribed where account_id = $1 and recipient = $2)`
	// A letter whose claimer has died is taken over.
	claimMailSQL = `insert into mail (account_id, event_id, recipient, leased_until) values ($1, $2, $3, clock_timestamp() + $4::interval)
		on conflict (account_id, event_id, recipient) do update set leased_until = excluded.leased_until
			where mail.state = 'sending' and mail.leased_until <= clock_timestamp()`
	knownMailSQL = `select state <> 'sending', greatest(leased_until - clock_timestamp(), interval '0') from mail
		where account_id = $1 and event_id = $2 and recipient = $3`
	// The letter before which there have been per_hour - 1 others.
	mailShareSQL = `select begun_at + interval '1 hour' - now() from mail
		where recipient = $1 and begun_at > now() - interval '1 hour' order by begun_at desc offset $2 limit 1`
	endMailSQL = `update mail set state = $4, ended_at = now() where account_id = $1 and event_id = $2 and recipient = $3 and state = 'sending'`
	deferSQL   = `update mail set leased_until = clock_timestamp() where account_id = $1 and event_id = $2 and recipient = $3 and state = 'sending'`
	doneSQL    = `delete from job_mail where job_id = $1 and ` + recipientSQL + ` = $2`
)

// BeginMail claims what is to be sent of an event. The clock is the database's, at
// the moment: a claim may have waited for another's end.
func (g *mailServer) BeginMail(ctx context.Context, r *ledgerv1.BeginMailRequest) (*ledgerv1.BeginMailResponse, error) {
	var resp *ledgerv1.BeginMailResponse
	err := postgres.InTx(ctx, g.s.pool, func(tx pgx.Tx) error {
		resp = &ledgerv1.BeginMailResponse{}
		sql := mailOfJobSQL
		if r.GetJobId() == "" {
			sql = mailOfAccountSQL
		}
		rows, err := tx.Query(ctx, sql, r.GetAccountId(), r.GetJobId())
		if err != nil {
			return fmt.Errorf("read addresses: %w", err)
		}
		addresses, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("read addresses: %w", err)
		}
		// In one order everywhere: two events must not wait for each other.
		slices.SortFunc(addresses, func(a, b string) int { return bytes.Compare(recipient(a), recipient(b)) })
		var longest time.Duration
		claimed := map[string]bool{}
		for _, a := range addresses {
			who := recipient(a)
			if claimed[string(who)] {
				continue // the same address, written in another way
			}
			claimed[string(who)] = true
			mine, wait, err := claimMail(ctx, tx, r, who)
			if err != nil {
				return err
			}
			if mine {
				resp.Letters = append(resp.Letters, &ledgerv1.Letter{Address: a, Recipient: who})
			}
			longest = max(longest, wait)
		}
		if longest > 0 {
			resp.Wait = durationpb.New(longest)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("begin mail: %w", err)
	}
	return resp, nil
}

// claimMail claims one letter; when it is not to be had now, wait is when to ask
// again, 0 for never.
func claimMail(ctx context.Context, tx pgx.Tx, r *ledgerv1.BeginMailRequest, who []byte) (mine bool, wait time.Duration, _ error) {
	// One letter to an address is weighed at a time: the share is counted.
	if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock(7233540, $1)", int32(binary.BigEndian.Uint32(who))); err != nil {
		return false, 0, fmt.Errorf("lock address: %w", err)
	}
	var gone bool
	if err := tx.QueryRow(ctx, unsubscribedSQL, r.GetAccountId(), who).Scan(&gone); err != nil || gone {
		return false, 0, err
	}
	var over bool
	err := tx.QueryRow(ctx, knownMailSQL, r.GetAccountId(), r.GetEventId(), who).Scan(&over, &wait)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		err := tx.QueryRow(ctx, mailShareSQL, who, r.GetPerHour()-1).Scan(&wait)
		if err == nil {
			return false, max(wait, time.Second), nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return false, 0, fmt.Errorf("count letters: %w", err)
		}
	case err != nil:
		return false, 0, fmt.Errorf("read letter: %w", err)
	case over:
		return false, 0, nil
	case wait > 0:
		return false, wait, nil
	}
	if _, err := tx.Exec(ctx, claimMailSQL, r.GetAccountId(), r.GetEventId(), who, r.GetLease().AsDuration()); err != nil {
		return false, 0, fmt.Errorf("claim letter: %w", err)
	}
	return true, 0, nil
}

// EndMail says what became of a letter. A job's own address is forgotten with its
// letter.
func (g *mailServer) EndMail(ctx context.Context, r *ledgerv1.EndMailRequest) (*ledgerv1.EndMailResponse, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	err := postgres.InTx(ctx, g.s.pool, func(tx pgx.Tx) error {
		key := []any{r.GetAccountId(), r.GetEventId(), r.GetRecipient()}
		if r.GetOutcome() == ledgerv1.MailOutcome_MAIL_OUTCOME_DEFERRED {
			_, err := tx.Exec(ctx, deferSQL, key...)
			return err
		}
		state := "sent"
		if r.GetOutcome() == ledgerv1.MailOutcome_MAIL_OUTCOME_REFUSED {
			state = "refused"
		}
		if _, err := tx.Exec(ctx, endMailSQL, append(key, state)...); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, doneSQL, r.GetJobId(), r.GetRecipient())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("end mail: %w", err)
	}
	return &ledgerv1.EndMailResponse{}, nil
}

// Unsubscribe ends all e-mail of an account to an address.
func (g *mailServer) Unsubscribe(ctx context.Context, r *ledgerv1.UnsubscribeRequest) (*ledgerv1.UnsubscribeResponse, error) {
	if _, err := g.s.pool.Exec(ctx, "insert into mail_unsubscribed (account_id, recipient) values ($1, $2) on conflict do nothing",
		r.GetAccountId(), r.GetRecipient()); err != nil {
		return nil, fmt.Errorf("unsubscribe: %w", err)
	}
	return &ledgerv1.UnsubscribeResponse{}, nil
}

// resubscribe lets an account write to an address again.
func resubscribe(ctx context.Context, tx pgx.Tx, account, address string) error {
	if _, err := tx.Exec(ctx, "delete from mail_unsubscribed where account_id = $1 and recipient = $2", account, recipient(address)); err != nil {
		return fmt.Errorf("resubscribe: %w", err)
	}
	return nil
}

// writeNotify keeps the addresses of opened jobs.
func (u *unit) writeNotify(b *pgx.Batch) {
	var told []*record
	for _, j := range u.opened {
		if j.NotifyEmail != "" {
			told = append(told, j)
		}
	}
	if len(told) == 0 {
		return
	}
	var t table
	column(&t, told, func(j *record) string { return j.ID })
	column(&t, told, func(j *record) string { return j.Account })
	column(&t, told, func(j *record) string { return j.NotifyEmail })
	b.Queue(`insert into job_mail (job_id, account_id, email)
		select id, account, email from unnest($1::text[], $2::text[], $3::text[]) as x (id, account, email)`, t.columns...)
}

const (
	// mailKept is longer than the events live that letters are made of.
	mailKept = 7 * 24 * time.Hour
	// An address is kept for as long as its job is under way and an event of it
	// may come: for a job without a letter, such as a canceled one, until here.
	forgetAddressesSQL = `delete from job_mail m where m.created_at < now() - $1::interval
		and not exists (select from job j where j.id = m.job_id and (j.completed_at is null or j.completed_at > now() - $1::interval))`
	forgetMailSQL = `delete from mail where begun_at < now() - $1::interval`
)

// forgetMail forgets letters that cannot come again, and addresses that are of
// no use any more, once an hour.
func (s *Service) forgetMail(ctx context.Context) error {
	run.Every(ctx, time.Hour, func() {
		if err := s.forgetMailOnce(ctx, mailKept); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "old mail not forgotten", "error", err.Error())
		}
	})
	return nil
}

func (s *Service) forgetMailOnce(ctx context.Context, kept time.Duration) error {
	for _, sql := range []string{forgetAddressesSQL, forgetMailSQL} {
		if _, err := s.pool.Exec(ctx, sql, kept); err != nil {
			return fmt.Errorf("forget mail: %w", err)
		}
	}
	return nil
}
