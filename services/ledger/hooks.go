package ledger

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/seal"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// Webhook deliveries are rows that are committed with the change of state that
// they tell of: no event can be lost on its way to them, and none is told that
// did not happen.

// hookEvents are the events that states are told by. Queued is none: nothing
// has happened yet.
var hookEvents = map[job.State]string{
	job.Submitting: "video.progressed", job.Running: "video.progressed", job.Storing: "video.progressed",
	job.Succeeded: "video.completed", job.Failed: "video.failed", job.Canceled: "video.canceled",
	job.Expired: "video.expired", job.NeedsReview: "video.needs_review",
}

// finalEvents are told to an endpoint that names no events, and to a callback_url.
var finalEvents = []string{"video.completed", "video.failed", "video.canceled", "video.expired", "video.needs_review"}

// testEvent is the event of a test.
const testEvent = "webhook.test"

// hooks is what a unit has for webhooks.
type hooks struct {
	told      []hookEvent
	callbacks []callback
}

type hookEvent struct {
	job, account, state, event, traceparent string
	version                                 int64
}

type callback struct{ job, account, url string }

// hook has a job's new state delivered to whoever wants it.
func (u *unit) hook(ctx context.Context, j *record) {
	if event := hookEvents[j.State]; event != "" {
		u.told = append(u.told, hookEvent{j.ID, j.Account, string(j.State), event, traceparent(ctx), j.Version})
	}
}

// callBack has a job's end told to a URL of its own; empty means none.
func (u *unit) callBack(j *record, to string) {
	if to != "" {
		u.callbacks = append(u.callbacks, callback{j.ID, j.Account, to})
	}
}

const (
	tellEndpointsSQL = `insert into webhook_delivery (id, endpoint_id, account_id, lane, job_id, version, job_state, type, traceparent, occurred_at)
		select webhook_delivery_id(), e.id, x.account, e.id, x.job, x.version, x.state, x.event, x.trace, $7
		from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[]) as x (job, account, state, event, trace, version)
		join webhook_endpoint e on e.account_id = x.account and e.deleted_at is null and e.url <> '' and x.event = any(e.events)
		on conflict (endpoint_id, job_id, version) where job_id <> '' do nothing`
	tellCallbacksSQL = `with x as (
			delete from webhook_callback c using unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[]) as x (job, account, state, event, trace, version)
			where c.job_id = x.job returning x.*, c.host, c.url)
		insert into webhook_delivery (id, endpoint_id, account_id, lane, job_id, version, job_state, type, traceparent, occurred_at, url)
		select webhook_delivery_id(), e.id, x.account, e.id || '/' || x.host, x.job, x.version, x.state, x.event, x.trace, $7, x.url
		from x join webhook_endpoint e on e.account_id = x.account and e.deleted_at is null and e.url = ''
		on conflict (endpoint_id, job_id, version) where job_id <> '' do nothing`
	defaultEndpointSQL = `insert into webhook_endpoint (id, account_id, url, events, secret) values ($1, $2, '', $3, $4)
		on conflict (account_id) where url = '' and deleted_at is null do nothing`
	// redactDeliveriesSQL takes along what was sent of redacted jobs and answered to
	// it, and their own addresses, which may name a user. One that is still to be told
	// needs its address.
	redactDeliveriesSQL = `with erased as (
			update webhook_delivery set url = '` + erasedURL + `' where job_id = any($1) and job_id <> '' and url <> '' and state <> 'pending')
		update webhook_attempt a set request_body = '', response_body = '', url = '' from webhook_delivery d
		where d.id = a.delivery_id and d.job_id = any($1) and d.job_id <> ''`

	// erasedURL is a callback_url that was erased.
	erasedURL = "erased"
)

func (u *unit) writeHooks(b *pgx.Batch) {
	if len(u.callbacks) > 0 {
		var t table
		column(&t, u.callbacks, func(c callback) string { return c.job })
		column(&t, u.callbacks, func(c callback) string { return hostOf(c.url) })
		column(&t, u.callbacks, func(c callback) string { return c.url })
		b.Queue("insert into webhook_callback (job_id, host, url) select * from unnest($1::text[], $2::text[], $3::text[]) on conflict do nothing", t.columns...)
	}
	if len(u.told) == 0 {
		return
	}
	tell := func(sql string, told []hookEvent) {
		if len(told) == 0 {
			return
		}
		var t table
		column(&t, told, func(h hookEvent) string { return h.job })
		column(&t, told, func(h hookEvent) string { return h.account })
		column(&t, told, func(h hookEvent) string { return h.state })
		column(&t, told, func(h hookEvent) string { return h.event })
		column(&t, told, func(h hookEvent) string { return h.traceparent })
		column(&t, told, func(h hookEvent) int64 { return h.version })
		t.columns = append(t.columns, u.now)
		b.Queue(sql, t.columns...)
	}
	tell(tellEndpointsSQL, u.told)
	final := slices.DeleteFunc(slices.Clone(u.told), func(h hookEvent) bool { return !slices.Contains(finalEvents, h.event) })
	tell(tellCallbacksSQL, final)
}

// hostOf is the host and port of a URL.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Host)
}

// newHookSecret is a secret as Standard Webhooks writes it, of 32 random bytes.
func newHookSecret() string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails (crypto/rand since Go 1.24)
	return "whsec_" + base64.StdEncoding.EncodeToString(raw)
}

// executor is a transaction or a pool.
type executor interface {
	querier
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// defaultEndpoint makes an account's default endpoint, if there is none. Its first
// secret is seen by nobody: a rotation shows one.
func (s *Service) defaultEndpoint(ctx context.Context, q executor, account string) (string, error) {
	const find = "select id from webhook_endpoint where account_id = $1 and url = '' and deleted_at is null"
	var endpoint string
	err := q.QueryRow(ctx, find, account).Scan(&endpoint)
	if err == nil {
		return endpoint, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("read default endpoint: %w", err)
	}
	fresh := id.New(id.Endpoint)
	rows, err := q.Query(ctx, defaultEndpointSQL, fresh, account, finalEvents, s.seal.Seal([]byte(newHookSecret()), fresh))
	if err == nil {
		rows.Close()
		err = rows.Err()
	}
	if err == nil {
		err = q.QueryRow(ctx, find, account).Scan(&endpoint)
	}
	if err != nil {
		return "", ofAccount(fmt.Errorf("make default endpoint: %w", err))
	}
	return endpoint, nil
}

// expectCallback makes what a job's callback_url is signed with.
func (s *Service) expectCallback(ctx context.Context, r *ledgerv1.OpenJobRequest) error {
	if r.GetCallbackUrl() == "" {
		return nil
	}
	_, err := s.defaultEndpoint(ctx, s.pool, r.GetAccountId())
	return err
}

// prepareHooks checks the settings of webhooks, and takes the fixed key where none
// is given.
func (s *Service) prepareHooks() error {
	for _, d := range s.cfg.HookSchedule {
		if d <= 0 {
			return fmt.Errorf("REELWAY_WEBHOOK_SCHEDULE: %s is not above 0", d)
		}
	}
	if s.seal != nil {
		return nil
	}
	var err error
	s.seal, err = seal.Open(seal.Config{})
	return err
}
