package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/job"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	webhookv1 "reelway.dev/proto/gen/reelway/webhook/v1"
)

type deliveryServer struct {
	webhookv1.UnimplementedDeliveryServiceServer
	s *Service
}

const (
	// Claims exclude each other, and whatever ends or revives a delivery: what a
	// claim sees of a job's earlier deliveries is true until it has committed.
	claimLockSQL  = "select pg_advisory_xact_lock(7233541)"
	settleLockSQL = "select pg_advisory_xact_lock_shared(7233541)"

	// candidatesSQL hops from lane to lane along the index and takes the next ones of
	// each, as many as may be under way there: one at a time where the endpoint
	// fails. blocked is when to look again at one that an earlier event of its job
	// must precede.
	candidatesSQL = `with recursive lanes as (
			(select lane from webhook_delivery where state = 'pending' order by lane limit 1)
			union all
			select (select d.lane from webhook_delivery d where d.state = 'pending' and d.lane > l.lane order by d.lane limit 1)
			from lanes l where l.lane is not null)
		select d.id, (select p.next_attempt_at from webhook_delivery p where p.endpoint_id = d.endpoint_id and p.job_id = d.job_id and p.job_id <> ''
			and p.version < d.version and p.state = 'pending' order by p.version limit 1) as blocked
		from lanes l
		join webhook_endpoint e on e.id = split_part(l.lane, '/', 1) and e.deleted_at is null
		cross join lateral (
			select * from webhook_delivery d
			where d.state = 'pending' and d.lane = l.lane and d.next_attempt_at <= now() and (e.disabled_reason = '' or d.type = '` + testEvent + `')
			order by d.next_attempt_at
			limit greatest(0, case when e.failing_since is null then $1::int else 1 end
				- (select count(*) from webhook_delivery c where c.lane = l.lane and c.claimed_until > now()))) d
		order by d.next_attempt_at, d.id limit $2`
	claimSQL = `update webhook_delivery d set attempts = attempts + 1, claimed_until = now() + $2::interval, next_attempt_at = now() + $2::interval
		from webhook_endpoint e where d.id = any($1) and e.id = d.endpoint_id
		returning d.id, d.attempts, d.account_id, d.endpoint_id, case when d.url = '' then e.url else d.url end, d.type, d.occurred_at, d.traceparent,
			d.job_id, d.version, d.job_state, e.secret, case when e.overlap_until > now() then e.secret_before end, coalesce(e.headers, '')`
)

// settleHooks keeps claims away until the transaction has ended.
func settleHooks(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, settleLockSQL); err != nil {
		return fmt.Errorf("wait for claims: %w", err)
	}
	return nil
}

// claimRounds bounds how often a claim looks again when all that it found had to
// wait for something earlier.
const claimRounds = 5

// ClaimDeliveries hands out what is due. A delivery is in one notifier's hands
// until it reports, or its lease ends.
func (g *deliveryServer) ClaimDeliveries(ctx context.Context, r *webhookv1.ClaimDeliveriesRequest) (*webhookv1.ClaimDeliveriesResponse, error) {
	for range claimRounds {
		resp, blocked, err := g.s.claim(ctx, r)
		if err != nil || len(resp.GetClaims()) > 0 || !blocked {
			return resp, err
		}
	}
	return &webhookv1.ClaimDeliveriesResponse{}, nil
}

// claimedDelivery is a delivery to be sent, and the job that it tells of.
type claimedDelivery struct {
	*webhookv1.Claim
	job     string
	version int64
	state   job.State
}

func (s *Service) claim(ctx context.Context, r *webhookv1.ClaimDeliveriesRequest) (resp *webhookv1.ClaimDeliveriesResponse, blocked bool, err error) {
	ctx, cancel := detached(ctx)
	defer cancel()
	var claims []claimedDelivery
	jobs := map[string]*record{}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, claimLockSQL); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, candidatesSQL, r.GetPerEndpoint(), r.GetLimit())
		if err != nil {
			return err
		}
		var free, waiting []string
		var again []time.Time
		var id string
		var after *time.Time
		if _, err := pgx.ForEachRow(rows, []any{&id, &after}, func() error {
			if after == nil {
				free = append(free, id)
			} else {
				waiting, again = append(waiting, id), append(again, *after)
			}
			return nil
		}); err != nil {
			return err
		}
		if blocked = len(waiting) > 0; blocked {
			// Behind its predecessor, whose end makes it due: it must not stand in
			// the way of those that may go.
			if _, err := tx.Exec(ctx, `update webhook_delivery d set next_attempt_at = greatest(x.at, now()) + interval '1 millisecond'
				from unnest($1::text[], $2::timestamptz[]) as x (id, at) where d.id = x.id`, waiting, again); err != nil {
				return err
			}
		}
		if len(free) == 0 {
			return nil
		}
		if claims, err = takeClaims(ctx, tx, free, r.GetLease().AsDuration()); err != nil {
			return err
		}
		return readTold(ctx, tx, claims, jobs)
	})
	if err != nil {
		return nil, false, fmt.Errorf("claim deliveries: %w", err)
	}
	resp = &webhookv1.ClaimDeliveriesResponse{}
	for _, c := range claims {
		if j := jobs[c.job]; j != nil {
			if c.Video, err = s.videoThen(j, c.state, c.version); err != nil {
				return nil, false, err
			}
		}
		resp.Claims = append(resp.Claims, c.Claim)
	}
	return resp, blocked, nil
}

func takeClaims(ctx context.Context, tx pgx.Tx, ids []string, lease time.Duration) ([]claimedDelivery, error) {
	rows, err := tx.Query(ctx, claimSQL, ids, lease)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (claimedDelivery, error) {
		c := claimedDelivery{Claim: &webhookv1.Claim{}}
		var occurred time.Time
		var secret, before []byte
		err := row.Scan(&c.Id, &c.Attempt, &c.AccountId, &c.EndpointId, &c.Url, &c.Type, &occurred, &c.Traceparent,
			&c.job, &c.version, &c.state, &secret, &before, &c.Headers)
		c.OccurredAt, c.Secrets = timestamppb.New(occurred), [][]byte{secret}
		if len(before) > 0 {
			c.Secrets = append(c.Secrets, before)
		}
		return c, err
	})
}

// readTold reads the jobs that claims tell of.
func readTold(ctx context.Context, tx pgx.Tx, claims []claimedDelivery, into map[string]*record) error {
	var ids []string
	for _, c := range claims {
		if c.job != "" {
			ids = append(ids, c.job)
		}
	}
	rows, err := tx.Query(ctx, "select "+columns+" from job where id = any($1)", ids)
	if err != nil {
		return err
	}
	jobs, err := pgx.CollectRows(rows, scan)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		into[j.ID] = j
	}
	return loadAttempts(ctx, tx, into)
}

// videoThen is a job as it stood at an event. A final job stands as it does now:
// what happens to it later (a refund, an erasure) is true of it. One that has moved
// on is shown without what came after.
func (s *Service) videoThen(j *record, state job.State, version int64) (*videov1.Video, error) {
	then := *j
	if !state.Terminal() && j.Version > version {
		then.State, then.Version, then.CompletedAt, then.Captured, then.Refunded = state, version, nil, 0, 0
		then.Error, then.Artifact, then.Attempts, then.Late = nil, nil, nil, false
	}
	return then.video(s.cfg.RetainVideos)
}

// hookSchedule is what REELWAY_WEBHOOK_SCHEDULE says by default.
var hookSchedule = []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour}

// maxRetryAfter bounds what an endpoint may ask for.
const maxRetryAfter = 24 * time.Hour

// wait is how long a delivery waits after so many failures; false when it is
// given up. What the endpoint asks for is waited for, when that is longer.
func (s *Service) wait(failures int, asked time.Duration) (time.Duration, bool) {
	schedule := s.cfg.HookSchedule
	if len(schedule) == 0 {
		schedule = hookSchedule
	}
	if failures > len(schedule) {
		return 0, false
	}
	d := schedule[failures-1]
	d += time.Duration(rand.Int64N(int64(d)/10 + 1)) // what failed together comes back apart
	return max(d, min(asked, maxRetryAfter)), true
}

// The verdicts on an attempt.
const (
	hookDelivered = "delivered"
	hookRetried   = "retried"
	hookFailed    = "failed"
	hookStale     = "stale"
)

// ReportDelivery settles an attempt: the delivery ends, or waits for the next one.
func (g *deliveryServer) ReportDelivery(ctx context.Context, r *webhookv1.ReportDeliveryRequest) (*webhookv1.ReportDeliveryResponse, error) {
	resp := &webhookv1.ReportDeliveryResponse{}
	ctx, cancel := detached(ctx)
	defer cancel()
	err := g.s.write(ctx, func(ctx context.Context, u *unit) (err error) {
		resp.Verdict, err = g.s.report(ctx, u, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	g.s.wake()
	return resp, nil
}

// reported is a delivery and its endpoint while a report is being judged.
type reported struct {
	id, endpoint, account, job, event, state string
	attempts, failures                       int32
	version                                  int64
	own                                      bool // of an endpoint with a URL of its own
	failing                                  *time.Time
}

func (s *Service) report(ctx context.Context, u *unit, r *webhookv1.ReportDeliveryRequest) (string, error) {
	if err := settleHooks(ctx, u.tx); err != nil {
		return "", err
	}
	x := reported{id: r.GetId()}
	err := u.tx.QueryRow(ctx, `select now(), d.endpoint_id, d.account_id, d.job_id, d.version, d.type, d.state, d.attempts, d.failures, e.url <> '', e.failing_since
		from webhook_delivery d join webhook_endpoint e on e.id = d.endpoint_id where d.id = $1 for update of d`, r.GetId()).
		Scan(&u.now, &x.endpoint, &x.account, &x.job, &x.version, &x.event, &x.state, &x.attempts, &x.failures, &x.own, &x.failing)
	if errors.Is(err, pgx.ErrNoRows) {
		return hookStale, nil // kept no longer
	}
	if err != nil {
		return "", fmt.Errorf("read delivery: %w", err)
	}
	if err := logAttempt(ctx, u.tx, r); err != nil {
		return "", err
	}
	status := r.GetOutcome().GetStatus()
	good := status >= 200 && status < 300
	// What is delivered is delivered, also when it was claimed anew meanwhile.
	if x.state != "pending" || !good && x.attempts != r.GetAttempt() {
		return hookStale, nil
	}
	switch {
	case good:
		if x.failing != nil && x.event != testEvent {
			if _, err := u.tx.Exec(ctx, "update webhook_endpoint set failing_since = null where id = $1", x.endpoint); err != nil {
				return "", fmt.Errorf("update endpoint: %w", err)
			}
		}
		return hookDelivered, x.end(ctx, u.tx, "delivered")
	case x.event == testEvent:
		return hookFailed, x.end(ctx, u.tx, "failed")
	case status == 410 && !x.own:
		return hookFailed, x.end(ctx, u.tx, "failed") // this address alone is gone
	case status == 410:
		// It waits for its owner as what follows does.
		if err := s.disable(ctx, u, x, "gone"); err != nil {
			return "", err
		}
		return hookRetried, x.again(ctx, u.tx, x.failures, 0)
	}
	if err := s.noteFailure(ctx, u, x); err != nil {
		return "", err
	}
	wait, more := s.wait(int(x.failures)+1, r.GetRetryAfter().AsDuration())
	if !more {
		return hookFailed, x.end(ctx, u.tx, "failed")
	}
	return hookRetried, x.again(ctx, u.tx, x.failures+1, wait)
}

// end ends a delivery, which makes its job's next one due.
func (x reported) end(ctx context.Context, tx pgx.Tx, state string) error {
	b := &pgx.Batch{}
	b.Queue("update webhook_delivery set state = $2, ended_at = now(), claimed_until = null where id = $1", x.id, state)
	if x.job != "" {
		b.Queue(`update webhook_delivery set next_attempt_at = now() where endpoint_id = $1 and job_id = $2 and job_id <> '' and state = 'pending' and claimed_until is null
			and failures = 0 and version = (select min(version) from webhook_delivery where endpoint_id = $1 and job_id = $2 and job_id <> '' and version > $3 and state = 'pending')`,
			x.endpoint, x.job, x.version)
	}
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("end delivery: %w", err)
	}
	return nil
}

// again has a delivery wait for its next attempt.
func (x reported) again(ctx context.Context, tx pgx.Tx, failures int32, wait time.Duration) error {
	if _, err := tx.Exec(ctx, "update webhook_delivery set failures = $2, next_attempt_at = now() + $3::interval, claimed_until = null where id = $1",
		x.id, failures, wait); err != nil {
		return fmt.Errorf("delay delivery: %w", err)
	}
	return nil
}

// noteFailure remembers since when an endpoint has taken nothing, and disables it
// when that is too long.
func (s *Service) noteFailure(ctx context.Context, u *unit, x reported) error {
	if !x.own {
		return nil
	}
	if x.failing == nil {
		x.failing = &u.now
		if _, err := u.tx.Exec(ctx, "update webhook_endpoint set failing_since = now() where id = $1 and failing_since is null", x.endpoint); err != nil {
			return fmt.Errorf("update endpoint: %w", err)
		}
	}
	if s.cfg.HookPatience > 0 && u.now.Sub(*x.failing) >= s.cfg.HookPatience {
		return s.disable(ctx, u, x, "failing")
	}
	return nil
}

// disable ends deliveries to an endpoint until its owner enables it, and tells the
// account.
func (s *Service) disable(ctx context.Context, u *unit, x reported, reason string) error {
	tag, err := u.tx.Exec(ctx, "update webhook_endpoint set disabled_reason = $2, disabled_at = now() where id = $1 and disabled_reason = ''", x.endpoint, reason)
	if err != nil {
		return fmt.Errorf("disable endpoint: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return nil
	}
	text := "the webhook endpoint " + x.endpoint + " answered 410 Gone and gets no more events until it is enabled"
	if reason == "failing" {
		text = "the webhook endpoint " + x.endpoint + " has taken nothing since " + cmp.Or(x.failing, &u.now).UTC().Format(time.RFC3339) + " and gets no more events until it is enabled"
	}
	s.log.WarnContext(ctx, "webhook endpoint disabled", "endpoint_id", x.endpoint, "account_id", x.account, "reason", reason)
	return u.notify(ctx, fmt.Sprintf("%s-disabled-%d", x.endpoint, u.now.UnixMilli()), &eventv1.AccountNotice{AccountId: x.account, Text: text,
		About: &eventv1.AccountNotice_Webhook{Webhook: &eventv1.WebhookDisabled{EndpointId: x.endpoint, Reason: reason, FailingSince: stamp(x.failing)}}})
}

// logAttempt keeps what was sent and answered. A second report of one attempt
// changes nothing.
func logAttempt(ctx context.Context, tx pgx.Tx, r *webhookv1.ReportDeliveryRequest) error {
	o := r.GetOutcome()
	headers, err := json.Marshal(o.GetRequestHeaders())
	if err != nil {
		return fmt.Errorf("marshal headers: %w", err)
	}
	if _, err := tx.Exec(ctx, `insert into webhook_attempt (delivery_id, number, at, duration_ms, url, request_headers, request_body, status, response_body, error)
		values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing`,
		r.GetId(), r.GetAttempt(), o.GetAt().AsTime(), o.GetDurationMs(), o.GetUrl(), headers, o.GetRequestBody(), o.GetStatus(), o.GetResponseBody(), o.GetError()); err != nil {
		return fmt.Errorf("insert attempt: %w", err)
	}
	return nil
}
