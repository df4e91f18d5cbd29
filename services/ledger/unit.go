package ledger

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/postgres"
)

// unit is what one transaction reads under locks and writes at its end: a few
// statements, however many jobs take part. Locks are taken in one order, jobs
// before balances and each sorted by id, so that no two units wait for each
// other.
type unit struct {
	tx   pgx.Tx
	keep time.Duration // how long results are kept, 0 for ever
	now  time.Time     // the database's clock, known after the first lock: replicas' clocks may differ

	balances map[string]*balance
	opened   []*record
	changed  []*record // distinct
	begun    []*attempt
	ended    []*attempt
	postings []posting
	messages []outgoing
	seen     []sighting
	freed    []idempotencyKey
	deferred []deferral
	reviews  []*review
	cancels  []*record // whose caller's wish to cancel changed
	purse
	spending spending
	byDay    map[usageKey]*usage // what ended, for usage
	byUser   map[usageKey]*usage
	removed  []removal // files to delete
	cleared  []string  // keys of files that are gone
	redacted []*record
	rerouted []*record // distinct
	queued   []*record // to wait for their turn
	unqueued []*record // over before it came
	needed   []jobUpload
	sources  []jobSource
	times    *renderTimes
	passages []passage              // to be measured once they are committed
	heard    *timestamppb.Timestamp // when the webhook came whose observation is being applied; nil for others
	hooks
}

// outgoing is a message for the outbox.
type outgoing struct {
	m           bus.Message
	traceparent string
	delay       time.Duration
}

// write runs fn in a transaction and then writes what it gathered. fn may be
// run again when the database asks for it.
func (s *Service) write(ctx context.Context, fn func(ctx context.Context, u *unit) error) error {
	var u *unit
	err := postgres.InTxLast(ctx, s.pool, func(tx pgx.Tx) (*pgx.Batch, error) {
		u = &unit{tx: tx, keep: s.cfg.RetainVideos, balances: map[string]*balance{}, times: &s.times}
		if err := fn(ctx, u); err != nil {
			return nil, err
		}
		return u.flush(ctx)
	})
	if err != nil {
		return fmt.Errorf("write unit: %w", err)
	}
	s.meters.measure(u.passages)
	return nil
}

const lockJobsSQL = "select now(), " + columns + " from job where id = any($1) order by id for update"

// lockJobs reads jobs for update, by id, with their attempts, and whatever else
// is asked in the same journey to the database.
func (u *unit) lockJobs(ctx context.Context, ids []string, also ...func(b *pgx.Batch)) (map[string]*record, error) {
	out := make(map[string]*record, len(ids))
	b := &pgx.Batch{}
	b.Queue(lockJobsSQL, ids).Query(func(rows pgx.Rows) error {
		jobs, err := u.collect(rows)
		for _, j := range jobs {
			out[j.ID] = j
		}
		return err
	})
	b.Queue(attemptsSQL, ids).Query(func(rows pgx.Rows) error { return collectAttempts(rows, out) })
	for _, f := range also {
		f(b)
	}
	if err := u.tx.SendBatch(ctx, b).Close(); err != nil {
		return nil, fmt.Errorf("lock jobs: %w", err)
	}
	return out, nil
}

// collect reads jobs that follow the clock.
func (u *unit) collect(rows pgx.Rows) ([]*record, error) {
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (*record, error) {
		var j record
		return &j, r.Scan(append([]any{&u.now}, j.fields()...)...)
	})
}

// queueBalances reads the balances of accounts for update; an account without
// one is absent.
func (u *unit) queueBalances(b *pgx.Batch, accounts map[string]bool) {
	b.Queue(`select now(), account_id, available_micros, held_micros, revenue_micros, funding_micros, promotional_micros,
			write_off_micros, provider_cost_micros, suspense_micros,
			guarded, hour_start, hour_micros, hour_usual_micros
		from balance where account_id = any($1) order by account_id for update`, slices.Sorted(maps.Keys(accounts))).Query(func(rows pgx.Rows) error {
		var id string
		amounts := make([]int64, len(books))
		into := []any{&u.now, &id}
		for i := range amounts {
			into = append(into, &amounts[i])
		}
		var guarded bool
		var h hour
		into = append(into, &guarded, &h.start, &h.spent, &h.usual)
		_, err := pgx.ForEachRow(rows, into, func() error {
			if u.balances[id] != nil {
				return nil // locked before, and perhaps changed since
			}
			bal := &balance{account: id, of: make(map[book]int64, len(books)), guarded: guarded, hour: h}
			for i, k := range books {
				bal.of[k] = amounts[i]
			}
			u.balances[id] = bal
			return nil
		})
		return err
	})
}

// tell puts a message into the outbox. It continues the trace of ctx.
func (u *unit) tell(ctx context.Context, m bus.Message, delay time.Duration) {
	u.messages = append(u.messages, outgoing{m, traceparent(ctx), delay})
}

func traceparent(ctx context.Context) string {
	c := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, c)
	return c["traceparent"]
}

// table is the rows of one insert or update, by column.
type table struct{ columns []any }

// column takes one value of each row.
func column[R, V any](t *table, rows []R, value func(R) V) {
	vs := make([]V, len(rows))
	for i, r := range rows {
		vs[i] = value(r)
	}
	t.columns = append(t.columns, vs)
}

// later does something with an account's money after all else is written, so
// that the balance, which everybody wants, is locked for as short as can be.
// What is left for later cannot be refused any more: it is for settling.
func (u *unit) later(account string, fn func(b *balance) error) {
	u.deferred = append(u.deferred, deferral{account, fn})
}

type deferral struct {
	account string
	fn      func(b *balance) error
}

// flush returns every statement to be sent, or the second part of them when
// balances are to be locked in between: the first is sent.
func (u *unit) flush(ctx context.Context) (*pgx.Batch, error) {
	b := &pgx.Batch{}
	u.writeFreed(b)
	u.writeOpened(b)
	u.writeAttempts(b)
	u.writeChanged(b)
	u.writeRerouted(b)
	u.writeCancels(b)
	u.writeRedacted(b)
	u.writeSeen(b)
	u.writeRemovals(b)
	u.writeMessages(b)
	u.writeSpending(b)
	u.writeQueued(b)
	u.writeNeeded(b)
	u.writeSources(b)
	u.writeHooks(b)
	if len(u.deferred) > 0 {
		accounts := map[string]bool{}
		for _, d := range u.deferred {
			accounts[d.account] = true
		}
		u.queueBalances(b, accounts)
		u.queueDraws(b)
		if err := u.send(ctx, b); err != nil {
			return nil, err
		}
		for _, d := range u.deferred {
			bal := u.balances[d.account]
			if bal == nil {
				return nil, fmt.Errorf("account %s has no balance", d.account)
			}
			if err := d.fn(bal); err != nil {
				return nil, err
			}
		}
		b = &pgx.Batch{}
	}
	u.writeUsage(b)
	u.writeReviews(b)
	u.writeLots(b)
	u.writePostings(b)
	u.writeBalances(b)
	u.writeSettled(b)
	return b, nil
}

func (u *unit) send(ctx context.Context, b *pgx.Batch) error {
	if b.Len() == 0 {
		return nil
	}
	if err := u.tx.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("write unit: %w", err)
	}
	return nil
}

func (u *unit) writePostings(b *pgx.Batch) {
	if len(u.postings) == 0 {
		return
	}
	var t table
	column(&t, u.postings, func(p posting) string { return p.key })
	column(&t, u.postings, func(p posting) string { return p.kind })
	column(&t, u.postings, func(p posting) string { return p.account })
	column(&t, u.postings, func(p posting) string { return p.job })
	column(&t, u.postings, func(p posting) string { return string(p.from) })
	column(&t, u.postings, func(p posting) string { return string(p.to) })
	column(&t, u.postings, func(p posting) int64 { return p.amount })
	column(&t, u.postings, func(p posting) int64 { return p.available })
	column(&t, u.postings, func(p posting) int64 { return p.held })
	column(&t, u.postings, func(p posting) string { return p.actor })
	column(&t, u.postings, func(p posting) string { return p.reason })
	column(&t, u.postings, func(p posting) []byte { return p.hash })
	b.Queue(`insert into posting (key, kind, account_id, job_id, source, destination, amount_micros, available_micros, held_micros,
			actor, reason, request_hash)
		select key, kind, account, nullif(job, ''), source, destination, amount, available, held, actor, reason, hash
		from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[],
			$10::text[], $11::text[], $12::bytea[])
			as x (key, kind, account, job, source, destination, amount, available, held, actor, reason, hash)`, t.columns...)
}

func (u *unit) writeBalances(b *pgx.Batch) {
	var changed []*balance
	for _, x := range u.balances {
		if x.changed {
			changed = append(changed, x)
		}
	}
	if len(changed) == 0 {
		return
	}
	slices.SortFunc(changed, func(a, b *balance) int { return strings.Compare(a.account, b.account) })
	var t table
	column(&t, changed, func(x *balance) string { return x.account })
	for _, k := range books {
		column(&t, changed, func(x *balance) int64 { return x.of[k] })
	}
	column(&t, changed, func(x *balance) time.Time { return x.hour.start })
	column(&t, changed, func(x *balance) int64 { return x.hour.spent })
	column(&t, changed, func(x *balance) *int64 { return x.hour.usual })
	b.Queue(`update balance b set available_micros = x.available, held_micros = x.held, revenue_micros = x.revenue, funding_micros = x.funding,
			promotional_micros = x.promotional, write_off_micros = x.write_off, provider_cost_micros = x.provider_cost, suspense_micros = x.suspense,
			hour_start = x.hour_start, hour_micros = x.hour_micros, hour_usual_micros = x.hour_usual
		from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
			$10::timestamptz[], $11::bigint[], $12::bigint[])
			as x (account_id, available, held, revenue, funding, promotional, write_off, provider_cost, suspense, hour_start, hour_micros, hour_usual)
		where b.account_id = x.account_id`, t.columns...)
}

func (u *unit) writeMessages(b *pgx.Batch) {
	if len(u.messages) == 0 {
		return
	}
	var t table
	column(&t, u.messages, func(x outgoing) string { return x.m.ID })
	column(&t, u.messages, func(x outgoing) string { return x.m.Subject })
	column(&t, u.messages, func(x outgoing) string { return x.m.Type })
	column(&t, u.messages, func(x outgoing) []byte { return x.m.Data })
	column(&t, u.messages, func(x outgoing) string { return x.traceparent })
	column(&t, u.messages, func(x outgoing) time.Duration { return x.delay })
	// The clock at the moment of writing, under the jobs' locks, keeps a job's
	// messages in order.
	b.Queue(`insert into outbox (message_id, subject, type, data, traceparent, publish_after)
		select id, subject, type, data, traceparent, clock_timestamp() + delay
		from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::interval[]) as x (id, subject, type, data, traceparent, delay)`,
		t.columns...)
}
