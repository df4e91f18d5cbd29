package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/bus"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type realtimeServer struct {
	ledgerv1.UnimplementedRealtimeServiceServer
	s *Service
}

const (
	// A revocation is kept for as long as a token can live, and an hour for
	// clocks that differ. Each sweeps some that are past that.
	revokeSQL = `with past as (delete from realtime_revocation where (account_id, token_id) in
			(select account_id, token_id from realtime_revocation where ends_at < now() order by ends_at limit 10 for update skip locked))
		insert into realtime_revocation (account_id, token_id, ends_at) values ($1, $2, now() + interval '25 hours')
		on conflict do nothing`
	// Expiry, which a token tells by itself, is not asked about.
	endedTokensSQL = `select t.token_id from unnest($1::text[], $2::text[], $3::text[]) t (token_id, account_id, key_id)
		where exists (select from realtime_revocation r where r.account_id = t.account_id and r.token_id = t.token_id)
			or not exists (select from api_key k where k.id = t.key_id and k.account_id = t.account_id
				and k.revoked_at is null and (k.expires_at is null or k.expires_at > now()))`
)

// RevokeRealtimeToken ends a token and tells every replica.
func (g *realtimeServer) RevokeRealtimeToken(ctx context.Context, r *ledgerv1.RevokeRealtimeTokenRequest) (*ledgerv1.RevokeRealtimeTokenResponse, error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	if _, err := g.s.pool.Exec(ctx, revokeSQL, r.GetAccountId(), r.GetTokenId()); err != nil {
		return nil, ofAccount(fmt.Errorf("revoke token: %w", err))
	}
	if err := g.s.bus.Broadcast(ctx, bus.AccessChangedSubject, &eventv1.AccessChanged{AccountId: r.GetAccountId(), TokenId: r.GetTokenId()}); err != nil {
		g.s.log.WarnContext(ctx, "change of access not broadcast", "account_id", r.GetAccountId(), "error", err.Error())
	}
	return &ledgerv1.RevokeRealtimeTokenResponse{}, nil
}

// ListEndedRealtimeTokens picks those that ended before their time.
func (g *realtimeServer) ListEndedRealtimeTokens(ctx context.Context, r *ledgerv1.ListEndedRealtimeTokensRequest) (*ledgerv1.ListEndedRealtimeTokensResponse, error) {
	var ids, accounts, keys []string
	for _, t := range r.GetTokens() {
		ids, accounts, keys = append(ids, t.GetTokenId()), append(accounts, t.GetAccountId()), append(keys, t.GetKeyId())
	}
	rows, err := g.s.pool.Query(ctx, endedTokensSQL, ids, accounts, keys)
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	ended, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	return &ledgerv1.ListEndedRealtimeTokensResponse{TokenIds: ended}, nil
}

// unfinishedSQL reads what is live, which is little, for an account; for an end
// user all that is theirs, by the index of users.
func unfinishedSQL(ofUser bool) string {
	whose := "$3 = ''"
	if ofUser {
		whose = "end_user = $3 and end_user <> ''"
	}
	return "select " + columns + " from job where account_id = $1 and completed_at is null and deleted_at is null and id > $2 and " + whose + " order by id limit $4"
}

// ListUnfinishedJobs pages through what is not final.
func (g *realtimeServer) ListUnfinishedJobs(ctx context.Context, r *ledgerv1.ListUnfinishedJobsRequest) (*ledgerv1.ListUnfinishedJobsResponse, error) {
	rows, err := g.s.pool.Query(ctx, unfinishedSQL(r.GetUser() != ""), r.GetAccountId(), r.GetAfter(), r.GetUser(), r.GetLimit()+1)
	if err != nil {
		return nil, fmt.Errorf("list unfinished jobs: %w", err)
	}
	jobs, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return nil, fmt.Errorf("list unfinished jobs: %w", err)
	}
	resp := &ledgerv1.ListUnfinishedJobsResponse{}
	if len(jobs) > int(r.GetLimit()) {
		jobs, resp.HasMore = jobs[:r.GetLimit()], true
	}
	for _, j := range jobs {
		v, err := j.video(g.s.cfg.RetainVideos)
		if err != nil {
			return nil, err
		}
		resp.Videos = append(resp.Videos, v)
	}
	return resp, nil
}
