package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

type beginCall = call[*ledgerv1.BeginAttemptRequest, *ledgerv1.BeginAttemptResponse]

// BeginAttempt commits the intent to submit, once per attempt, in one
// transaction with whatever other intents arrive meanwhile.
func (g *jobServer) BeginAttempt(ctx context.Context, r *ledgerv1.BeginAttemptRequest) (*ledgerv1.BeginAttemptResponse, error) {
	resp, err := g.s.begins.do(ctx, r)
	if err == nil && resp.GetGranted() {
		x := g.s.times.render(r.GetProvider(), resp.GetParams().GetModel())
		resp.TypicalMs, resp.SlowMs, resp.WebhookTrust = x.typical.Milliseconds(), x.slow.Milliseconds(), g.s.trustOf(ctx, r.GetProvider())
	}
	return resp, err
}

// begin judges a group of intents in the order of arrival.
func (s *Service) begin(ctx context.Context, group []*beginCall) error {
	sw, err := s.switched(ctx)
	if err != nil {
		return err
	}
	err = s.write(ctx, func(ctx context.Context, u *unit) error {
		ids := make([]string, len(group))
		for i, c := range group {
			c.resp, c.err = &ledgerv1.BeginAttemptResponse{}, nil
			ids[i] = c.req.GetJobId()
		}
		rooms, err := u.lockRooms(ctx, group)
		if err != nil {
			return err
		}
		jobs, err := u.lockJobs(ctx, ids, func(b *pgx.Batch) {
			for _, m := range rooms {
				m.count(b)
			}
		})
		if err != nil {
			return err
		}
		for _, c := range group {
			// Nobody would hear that it was granted, and the job would be looked for.
			if c.err = c.ctx.Err(); c.err != nil {
				continue
			}
			j := jobs[c.req.GetJobId()]
			if j == nil {
				c.err = notFound()
				continue
			}
			if err := s.beginOne(ctx, u, c, j, rooms[c.req.GetProvider()], sw); err != nil {
				return err
			}
		}
		return nil
	})
	s.wake()
	return err
}

// beginOne judges one intent. Its verdict is the call's; an error is the
// group's.
func (s *Service) beginOne(ctx context.Context, u *unit, c *beginCall, j *record, m *room, sw *switches) error {
	r, resp := c.req, c.resp
	resp.JobId, resp.AccountId = j.ID, j.Account
	params := &videov1.VideoParams{}
	if err := proto.Unmarshal(j.Params, params); err != nil {
		return err
	}
	// Another provider cannot tell what became of an open attempt: its "no such
	// task" would free the job for a second one.
	if a := j.current(); j.State == job.Submitting && a != nil && a.Provider == r.GetProvider() {
		if r.GetNonce() != 0 && a.Nonce == int64(r.GetNonce()) && a.State == "intended" {
			grant(resp, a, params) // the answer was lost, and nothing was sent
			return nil
		}
		resp.OpenAttemptId = a.ID
		return nil
	}
	if j.State != job.Queued || j.Provider != r.GetProvider() || j.SubmitAfter.After(u.now) {
		return nil
	}
	wait := func(full string) error {
		resp.Full, resp.FullReason, resp.RetryAfterMs = true, full, askAgainAfter(full).Milliseconds()
		return nil
	}
	keys, rests, err := u.besideSource(ctx, r, j.Provider, params.GetSourceTask())
	if err != nil {
		return err
	}
	longest := time.Duration(r.GetMaxRuntimeMs()) * time.Millisecond
	if j.Restored && r.GetUnavailableModel() == "" {
		// As after a crash between intent and submit: it is looked for by the id
		// that it had then, and submitted only when it is absent.
		key := ""
		if len(keys) > 0 {
			key = keys[0].GetKeyId()
		}
		a, err := s.intend(c.ctx, u, j, key, longest)
		if err != nil {
			return err
		}
		m.add(a)
		resp.OpenAttemptId = a.ID
		return nil
	}
	if sw.paused(j.Provider, j.Model) != nil {
		if sw.freeLater(j) {
			return s.leave(c.ctx, u, j)
		}
		return wait(fullPaused)
	}
	if away := r.GetUnavailableModel(); away != "" {
		if j.Model == away && j.next() != nil {
			return s.leave(c.ctx, u, j)
		}
		return wait(fullClosed)
	}
	if rests {
		return wait(fullSource)
	}
	key, full := m.choose(r, keys, j)
	if full != "" {
		return wait(full)
	}
	a, err := s.intend(c.ctx, u, j, key, longest)
	if err != nil {
		return err
	}
	a.Nonce = int64(r.GetNonce())
	m.add(a)
	grant(resp, a, params)
	return nil
}

func grant(resp *ledgerv1.BeginAttemptResponse, a *attempt, params *videov1.VideoParams) {
	resp.Granted, resp.AttemptId, resp.Number, resp.KeyId, resp.Params = true, a.ID, int32(a.Number), a.KeyID, params
}

// besideSource are the keys that may take a job: where it works on a task of its
// provider's, the one that made that, while it is there; another may be of an
// account that does not know the task. rests says that it has to be waited for.
func (u *unit) besideSource(ctx context.Context, r *ledgerv1.BeginAttemptRequest, provider, task string) (keys []*ledgerv1.KeyOffer, rests bool, _ error) {
	keys = r.GetKeys()
	if task == "" || len(keys)+len(r.GetRestingKeys()) < 2 {
		return keys, false, nil
	}
	var made string
	err := u.tx.QueryRow(ctx, "select key_id from attempt where provider = $1 and provider_task_id = $2", provider, task).Scan(&made)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, false, fmt.Errorf("read source's key: %w", err)
	}
	if i := slices.IndexFunc(keys, func(k *ledgerv1.KeyOffer) bool { return k.GetKeyId() == made }); i >= 0 {
		return keys[i : i+1], false, nil
	}
	return keys, slices.Contains(r.GetRestingKeys(), made), nil
}

// intend begins the job's next attempt, by a key, and gives it the longest time that
// its model or the settings allow. Its id follows from job and number: a database that
// was set back names the same attempt the same again.
func (s *Service) intend(ctx context.Context, u *unit, j *record, key string, longest time.Duration) (*attempt, error) {
	deadline := u.now.Add(max(s.cfg.MaxRuntime, longest))
	j.AttemptCount++
	a := &attempt{ID: id.Nth(id.Attempt, j.ID, j.AttemptCount), JobID: j.ID, Number: j.AttemptCount, Route: j.Route, Provider: j.Provider, State: "intended", CreatedAt: u.now,
		KeyID: key, Model: j.Model, Cost: j.Cost}
	j.AttemptID, j.DeadlineAt, j.Attempts = &a.ID, &deadline, append(j.Attempts, a)
	u.begun = append(u.begun, a)
	_, err := u.advance(ctx, j, job.Begin)
	return a, err
}

// Why there is no room for a job.
const (
	fullProvider = "provider"
	fullModel    = "model"
	fullKey      = "key"
	fullBudget   = "budget"
	fullClosed   = "closed"
	fullPaused   = "paused"
	fullSource   = "source_key"
)

// askAgainAfter is when to come again: a task may end at any moment, a day does
// not.
func askAgainAfter(full string) time.Duration {
	switch full {
	case fullBudget:
		return time.Minute
	case fullPaused:
		return 5 * time.Second
	}
	return time.Second
}

// room is what runs at one provider, as it was counted under the provider's
// lock. A nil room has no limits.
type room struct {
	provider string
	all      int32
	byModel  map[string]int32
	byKey    map[string]int32
	byBoth   map[[2]string]int32 // key, model
	spent    map[string]int64    // by key, today
}

// limits reports whether a request has any that must be counted for.
func limits(r *ledgerv1.BeginAttemptRequest) bool {
	return r.GetMaxRunning() > 0 || len(r.GetMaxRunningByModel()) > 0 || slices.ContainsFunc(r.GetKeys(), func(k *ledgerv1.KeyOffer) bool {
		return k.GetMaxRunning() > 0 || len(k.GetMaxRunningByModel()) > 0 || k.GetDailyBudgetMicros() > 0
	})
}

// lockRooms locks the providers of a group whose limits are to be kept, so that
// no two replicas give the last place away. It comes before all other locks.
func (u *unit) lockRooms(ctx context.Context, group []*beginCall) (map[string]*room, error) {
	rooms := map[string]*room{}
	for _, c := range group {
		if p := c.req.GetProvider(); rooms[p] == nil && limits(c.req) {
			rooms[p] = &room{provider: p, byModel: map[string]int32{}, byKey: map[string]int32{}, byBoth: map[[2]string]int32{}, spent: map[string]int64{}}
		}
	}
	for _, p := range slices.Sorted(maps.Keys(rooms)) {
		if _, err := u.tx.Exec(ctx, "select pg_advisory_xact_lock(hashtextextended('attempts at ' || $1, 0))", p); err != nil {
			return nil, fmt.Errorf("lock provider: %w", err)
		}
	}
	return rooms, nil
}

const (
	runningSQL = "select model, key_id, count(*) from attempt where provider = $1 and ended_at is null group by model, key_id"
	spentSQL   = "select key_id, cost_micros from key_spend where provider = $1 and day = (now() at time zone 'UTC')::date"
)

// count asks for what runs.
func (m *room) count(b *pgx.Batch) {
	b.Queue(runningSQL, m.provider).Query(func(rows pgx.Rows) error {
		var model, key string
		var n int32
		_, err := pgx.ForEachRow(rows, []any{&model, &key, &n}, func() error {
			m.all += n
			m.byModel[model] += n
			m.byKey[key] += n
			m.byBoth[[2]string{key, model}] += n
			return nil
		})
		return err
	})
	b.Queue(spentSQL, m.provider).Query(func(rows pgx.Rows) error {
		var key string
		var micros int64
		_, err := pgx.ForEachRow(rows, []any{&key, &micros}, func() error { m.spent[key] = micros; return nil })
		return err
	})
}

// add counts an attempt that is granted in this unit.
func (m *room) add(a *attempt) {
	if m == nil {
		return
	}
	m.all++
	m.byModel[a.Model]++
	m.byKey[a.KeyID]++
	m.byBoth[[2]string{a.KeyID, a.Model}]++
	m.spent[a.KeyID] += a.Cost
}

// choose is the first key with room for a job; full says what is in the way
// when there is none. Without keys on offer there may be room without a key.
func (m *room) choose(r *ledgerv1.BeginAttemptRequest, keys []*ledgerv1.KeyOffer, j *record) (key, full string) {
	if slices.Contains(r.GetClosedModels(), j.Model) {
		return "", fullClosed
	}
	if m == nil {
		if len(keys) > 0 {
			key = keys[0].GetKeyId()
		}
		return key, ""
	}
	over := func(n, limit int32) bool { return limit > 0 && n >= limit }
	switch {
	case over(m.all, r.GetMaxRunning()):
		return "", fullProvider
	case over(m.byModel[j.Model], r.GetMaxRunningByModel()[j.Model]):
		return "", fullModel
	}
	for _, k := range keys {
		id := k.GetKeyId()
		switch {
		case over(m.byKey[id], k.GetMaxRunning()):
			full = fullKey
		case over(m.byBoth[[2]string{id, j.Model}], k.GetMaxRunningByModel()[j.Model]):
			full = cmp.Or(full, fullModel)
		case k.GetDailyBudgetMicros() > 0 && m.spent[id]+j.Cost > k.GetDailyBudgetMicros():
			full = cmp.Or(full, fullBudget)
		default:
			return id, ""
		}
	}
	return "", full
}

// spend is what the attempts of a key cost on a day; refused ones give back.
type spend struct {
	provider, key string
	day           time.Time
}

// writeSpend books what begun attempts are expected to cost, and gives back what
// refused ones were. Rows are locked in one order.
func (u *unit) writeSpend(b *pgx.Batch) {
	sums := map[spend]int64{}
	sum := func(a *attempt, micros int64) {
		if a.KeyID != "" && micros != 0 {
			sums[spend{a.Provider, a.KeyID, a.CreatedAt.UTC().Truncate(24 * time.Hour)}] += micros
		}
	}
	for _, a := range u.begun {
		sum(a, a.Cost)
	}
	for _, a := range u.ended {
		if a.State == "refused" {
			sum(a, -a.Cost)
			a.Cost = 0
		}
	}
	if len(sums) == 0 {
		return
	}
	rows := slices.SortedFunc(maps.Keys(sums), func(a, b spend) int {
		return cmp.Or(cmp.Compare(a.provider, b.provider), cmp.Compare(a.key, b.key), a.day.Compare(b.day))
	})
	var t table
	column(&t, rows, func(s spend) string { return s.provider })
	column(&t, rows, func(s spend) string { return s.key })
	column(&t, rows, func(s spend) time.Time { return s.day })
	column(&t, rows, func(s spend) int64 { return sums[s] })
	b.Queue(`insert into key_spend as k (provider, key_id, day, cost_micros)
		select provider, key, day, micros from unnest($1::text[], $2::text[], $3::date[], $4::bigint[]) as x (provider, key, day, micros)
		on conflict (provider, key_id, day) do update set cost_micros = k.cost_micros + excluded.cost_micros`, t.columns...)
}
