package ledger

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/postgres"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Opened jobs wait in the table queue and leave it in a fair order, as many as
// a provider's dispatchers have room for: what lies in JetStream cannot be put
// in order any more. The order is start-time fair queueing (Goyal, Vin, Cheng:
// Start-time Fair Queueing, 1996): each account's jobs of one class follow each
// other at steps of virtual time, small where the account has weight, and none
// begins before the time that the queue has come to. A flood stands in a long
// row of its own, and whoever comes later with one job is next.

const (
	// window is how many submit commands of one provider lie on the bus.
	window = 256
	// share is how many of them each model may have whatever the others have: one
	// that has to wait, at its own limit or behind its open circuit, fills the
	// window and must not be in their way.
	share = 32
)

// fits reports whether there is room on the bus for one more command.
func fits(l bus.Lying, provider, model string) bool {
	return l.Of(provider) < window || l.OfModel(provider, model) < share
}

// step is the virtual time of one job, of an account of weight 1 in a class of
// factor 1.
const step = 1 << 20

// classFactors are the shares of the classes beside each other.
var classFactors = map[videov1.Priority]int64{
	videov1.Priority_PRIORITY_LOW: 1, videov1.Priority_PRIORITY_UNSPECIFIED: 4, videov1.Priority_PRIORITY_NORMAL: 4, videov1.Priority_PRIORITY_HIGH: 16,
}

// flow is a row of jobs that follow each other.
type flow struct {
	provider, account string
	class             int64
}

// lineOf is what waits for one model of a provider.
type lineOf struct{ provider, model string }

// turns gives out places in the queue. Each replica remembers its own: where
// there are several, every account has a row at each.
type turns struct {
	mu    sync.Mutex
	last  map[flow]int64
	clock map[string]int64 // by provider: the turn of the last job that left
	waits map[lineOf]int64 // the first turn of what waits
	lines map[lineOf]int64 // how far each has come; what was put back at its old turn takes none back
	limit int              // of flows, when those are forgotten that need no remembering
}

// maxFlows is how many flows are remembered before the first are forgotten:
// whoever is not ahead of the clock needs no remembering.
const maxFlows = 20_000

func (t *turns) next(provider, model, account string, p videov1.Priority, weight int32) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limit = max(t.limit, maxFlows); len(t.last) > t.limit {
		for f, turn := range t.last {
			if turn <= t.clock[f.provider] {
				delete(t.last, f)
			}
		}
		t.limit = 2 * len(t.last) // or each call would look at all of them
	}
	if t.last == nil {
		t.last, t.clock = map[flow]int64{}, map[string]int64{}
	}
	f := flow{provider, account, classFactors[p]}
	// Where a model has to wait the provider's others move the clock on: by it whoever
	// came now would be behind all that waits, one account's flood as well.
	now := t.clock[provider]
	if l := (lineOf{provider, model}); t.waits[l] > 0 {
		now = min(now, t.lines[l])
	}
	turn := max(now, t.last[f]) + step/(f.class*int64(max(weight, 1)))
	t.last[f] = turn
	return turn
}

// advance moves a provider's clock on; it never goes back.
func (t *turns) advance(provider string, turn int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.clock == nil {
		t.last, t.clock = map[flow]int64{}, map[string]int64{}
	}
	t.clock[provider] = max(t.clock[provider], turn)
}

// come notes how far lines have come.
func (t *turns) come(lines map[lineOf]int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lines == nil {
		t.lines = map[lineOf]int64{}
	}
	for l, turn := range lines {
		t.lines[l] = max(t.lines[l], turn)
	}
}

// wait notes the first turns of all that waits.
func (t *turns) wait(heads map[lineOf]int64) {
	t.come(heads)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waits = heads
}

// enqueue has a job wait for its turn.
func (u *unit) enqueue(j *record, turn int64) {
	j.Turn = &turn
	u.queued = append(u.queued, j)
}

func (u *unit) writeQueued(b *pgx.Batch) {
	if len(u.queued) > 0 {
		t := queueColumns(u.queued)
		column(&t, u.queued, func(j *record) string { return j.Model })
		b.Queue("insert into queue (provider, turn, job_id, model) select * from unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) on conflict do nothing", t.columns...)
	}
	if len(u.unqueued) > 0 {
		t := queueColumns(u.unqueued)
		b.Queue(unqueueSQL, t.columns...)
	}
}

const (
	unqueueSQL = `delete from queue q using unnest($1::text[], $2::bigint[], $3::text[]) as x (provider, turn, job)
		where q.provider = x.provider and q.turn = x.turn and q.job_id = x.job`
	// waitingSQL hops from model to model along the index, to the first that waits of each.
	waitingSQL = `with recursive m as (
			(select provider, model, turn from queue where provider > '' order by provider, model, turn limit 1)
			union all
			select x.* from m cross join lateral (
				select q.provider, q.model, q.turn from queue q where (q.provider, q.model) > (m.provider, m.model) order by q.provider, q.model, q.turn limit 1) x)
		select provider, model, turn from m`
	// nextTurnsSQL passes by what is paused and has nowhere else to go: on the bus it
	// would take the room of the provider's other models.
	nextTurnsSQL = `select x.* from unnest($2::text[], $3::int[]) as m (model, room) cross join lateral (
			select q.turn, q.job_id, coalesce(j.account_id, ''), coalesce(j.traceparent, ''), coalesce(j.model, ''), coalesce(j.state = 'queued', false), coalesce(j.attempt_count, 0)
			from queue q left join job j on j.id = q.job_id where q.provider = $1 and q.model = m.model
				and not exists (select from provider_pause p where p.provider = $1 and p.model in ('', j.model) and (p.until is null or p.until > now())
					and j.state = 'queued' and j.route + 1 >= j.routes and not j.restored)
			order by q.turn, q.job_id limit m.room) x
		order by x.turn, x.job_id`
	// aheadSQL counts to a limit: who is further back need not know exactly.
	aheadSQL = "select count(*) from (select from queue where provider = $1 and (turn, job_id) < ($2, $3) limit 10000) x"
)

func queueColumns(jobs []*record) table {
	var t table
	column(&t, jobs, func(j *record) string { return j.Provider })
	column(&t, jobs, func(j *record) int64 { return *j.Turn })
	column(&t, jobs, func(j *record) string { return j.ID })
	return t
}

// admitTurns lets jobs out of the queue as there is room.
func (s *Service) admitTurns(ctx context.Context) error {
	for ctx.Err() == nil {
		left, err := s.admitOnce(context.WithoutCancel(ctx))
		wait := time.Second // for the jobs of other replicas; ours wake us
		switch {
		case err != nil:
			s.log.WarnContext(ctx, "queue waits", "error", err.Error())
		case left:
			wait = 20 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-s.arrived:
		case <-time.After(wait):
		}
	}
	return nil
}

// admitOnce publishes the submit commands of those whose turn it is; left says
// that others wait for room.
func (s *Service) admitOnce(ctx context.Context) (left bool, _ error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var failed error
	err := postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		left, failed = false, nil
		if err := s.readClocks(ctx, tx); err != nil {
			return err
		}
		waiting, err := s.readWaiting(ctx, tx)
		if err != nil {
			return err
		}
		var mine bool
		if err := tx.QueryRow(ctx, "select pg_try_advisory_xact_lock(7233513)").Scan(&mine); err != nil || !mine {
			left = err == nil // another replica is at it, and may have looked before our job came
			return err
		}
		if len(waiting) == 0 {
			return nil
		}
		lying, err := s.bus.Commands(ctx)
		if err != nil {
			return err
		}
		for p, models := range waiting {
			more, err := s.admit1(ctx, tx, p, models, lying, &failed)
			if err != nil {
				return err
			}
			left = left || more
		}
		return nil
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return false, fmt.Errorf("admit jobs: %w", err)
	}
	return left, nil
}

func (s *Service) readClocks(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, "select provider, turn from queue_clock")
	if err != nil {
		return err
	}
	var p string
	var turn int64
	_, err = pgx.ForEachRow(rows, []any{&p, &turn}, func() error { s.turns.advance(p, turn); return nil })
	return err
}

// readWaiting are the models that jobs wait for, by provider.
func (s *Service) readWaiting(ctx context.Context, tx pgx.Tx) (map[string][]string, error) {
	rows, err := tx.Query(ctx, waitingSQL)
	if err != nil {
		return nil, err
	}
	models, heads := map[string][]string{}, map[lineOf]int64{}
	var l lineOf
	var turn int64
	_, err = pgx.ForEachRow(rows, []any{&l.provider, &l.model, &turn}, func() error {
		models[l.provider], heads[l] = append(models[l.provider], l.model), turn
		return nil
	})
	if err == nil {
		s.turns.wait(heads)
	}
	return models, err
}

// admit1 publishes the next jobs of one provider. What was published leaves the
// queue also when the rest failed.
func (s *Service) admit1(ctx context.Context, tx pgx.Tx, provider string, models []string, lying bus.Lying, failed *error) (left bool, _ error) {
	free := window - lying.Of(provider)
	rooms, own := make([]int, len(models)), map[string]int{}
	for i, m := range models {
		own[m] = share - lying.OfModel(provider, m)
		rooms[i] = max(free, own[m], 0)
	}
	rows, err := tx.Query(ctx, nextTurnsSQL, provider, models, rooms)
	if err != nil {
		return false, err
	}
	var next []*record
	var due []bus.Message
	var live []*record
	seen := map[string]int{}
	var turn int64
	var id, account, trace, model string
	var queued bool
	var attempts int
	if _, err := pgx.ForEachRow(rows, []any{&turn, &id, &account, &trace, &model, &queued, &attempts}, func() error {
		at := turn
		seen[model]++
		j := &record{ID: id, Provider: provider, Model: model, Account: account, Turn: &at}
		if !queued { // canceled, or begun by another command
			next = append(next, j)
			return nil
		}
		if free <= 0 && own[model] <= 0 {
			left = true
			return nil
		}
		free, own[model] = free-1, own[model]-1
		m, err := bus.NewMessage(bus.SubmitSubject(provider, model), fmt.Sprintf("%s-submit-%d", id, attempts+1), &eventv1.SubmitJob{JobId: id, AccountId: account, Provider: provider, Model: model})
		m.TraceParent = trace
		next, live, due = append(next, j), append(live, j), append(due, m)
		return err
	}); err != nil {
		return false, err
	}
	for i, m := range models {
		left = left || seen[m] >= rooms[i]
	}
	if len(next) == 0 {
		return left, nil
	}
	n, err := s.bus.PublishAll(ctx, due)
	if err != nil {
		*failed = err
		next = live[:n]
		if n == 0 {
			return left, nil
		}
	}
	t := queueColumns(next)
	last := *next[len(next)-1].Turn
	b := &pgx.Batch{}
	// It is the command that is silent from now on. Whoever is locked is looked at by another.
	b.Queue(`update job j set swept_at = now() from (select id from job where id = any($1) and state = 'queued' and swept_at < now() - $2::interval
			order by id for update skip locked) x where j.id = x.id`, t.columns[2], s.cfg.SweepAfter/2)
	b.Queue(unqueueSQL, t.columns...)
	b.Queue(`insert into queue_clock as c (provider, turn) values ($1, $2) on conflict (provider) do update set turn = greatest(c.turn, excluded.turn)`, provider, last)
	if err := tx.SendBatch(ctx, b).Close(); err != nil {
		return false, err
	}
	s.turns.advance(provider, last)
	passed := map[lineOf]int64{}
	for _, j := range next {
		passed[lineOf{provider, j.Model}] = *j.Turn
	}
	s.turns.come(passed)
	return left, nil
}

// position is how many jobs are ahead of one that waits; false when it does not.
func (s *Service) position(ctx context.Context, j *record) (int64, bool, error) {
	if j.Turn == nil {
		return 0, false, nil
	}
	var ahead int64
	var waits bool
	err := s.pool.QueryRow(ctx, "select exists (select from queue where provider = $1 and turn = $2 and job_id = $3), ("+aheadSQL+")",
		j.Provider, *j.Turn, j.ID).Scan(&waits, &ahead)
	if err != nil {
		return 0, false, fmt.Errorf("read queue: %w", err)
	}
	return ahead, waits, nil
}
