package ledger

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/job"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// renderTime is how long a provider took for its last videos.
type renderTime struct {
	typical, slow time.Duration // the half, and 95 of 100, took no longer
	perSecond     float64       // videos finished a second, lately; of the provider as a whole
	last          time.Time     // when the last of them was finished
}

// renderKey names a provider's model, or with no model the provider as a whole.
type renderKey struct{ provider, model string }

// renderTimes are what was measured lately. Each replica reads them anew now and
// then; they are for estimates only.
type renderTimes struct {
	mu sync.RWMutex
	of map[renderKey]renderTime
}

const (
	timesFrom = 300 // a provider's last renders
	timesMin  = 3   // renders of a model that make a measurement
	// timesSQL measures the providers that have work now, and of each the models.
	timesSQL = `select p.provider, coalesce(x.model, ''), percentile_disc(0.5) within group (order by took), percentile_disc(0.95) within group (order by took),
			(count(*) filter (where ended_at > now() - interval '5 minutes'))::float8 / greatest(least(300, extract(epoch from now() - min(ended_at))), 1)::float8,
			max(ended_at)
		from (select distinct provider from job where completed_at is null) p
		cross join lateral (
			select j.model, a.ended_at, extract(epoch from a.ended_at - a.created_at)::float8 as took
			from (select job_id, created_at, ended_at from attempt
				where provider = p.provider and state = 'succeeded' order by created_at desc limit $1) a
			join job j on j.id = a.job_id) x
		group by grouping sets ((p.provider), (p.provider, x.model)) having count(*) >= $2`
)

func (t *renderTimes) read(ctx context.Context, pool *pgxpool.Pool) error {
	rows, err := pool.Query(ctx, timesSQL, timesFrom, timesMin)
	if err != nil {
		return fmt.Errorf("read render times: %w", err)
	}
	now := map[renderKey]renderTime{}
	var k renderKey
	var typical, slow float64
	var x renderTime
	if _, err := pgx.ForEachRow(rows, []any{&k.provider, &k.model, &typical, &slow, &x.perSecond, &x.last}, func() error {
		x.typical, x.slow = time.Duration(typical*float64(time.Second)), time.Duration(slow*float64(time.Second))
		now[k] = x
		return nil
	}); err != nil {
		return fmt.Errorf("read render times: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = map[renderKey]renderTime{}
	}
	for k, x := range now {
		t.of[k] = x
	}
	return nil
}

// render is what is known of a model, else of its provider; zero when nothing is.
func (t *renderTimes) render(provider, model string) renderTime {
	t.mu.RLock()
	defer t.mu.RUnlock()
	all := t.of[renderKey{provider, ""}]
	x, ok := t.of[renderKey{provider, model}]
	if !ok {
		return all
	}
	x.perSecond = all.perSecond
	return x
}

// latencyFor is how long a measurement is told to those who choose models: one
// that was slow and is not chosen any more would never be measured again.
const latencyFor = 24 * time.Hour

// ListLatencies tells how long models take, as this replica measured it last.
func (g *jobServer) ListLatencies(context.Context, *ledgerv1.ListLatenciesRequest) (*ledgerv1.ListLatenciesResponse, error) {
	t := &g.s.times
	t.mu.RLock()
	defer t.mu.RUnlock()
	resp := &ledgerv1.ListLatenciesResponse{}
	for k, x := range t.of {
		if k.model != "" && time.Since(x.last) < latencyFor {
			resp.Latencies = append(resp.Latencies, &ledgerv1.Latency{Provider: k.provider, Model: k.model, TypicalMs: x.typical.Milliseconds(), SlowMs: x.slow.Milliseconds()})
		}
	}
	return resp, nil
}

// expect tells when a video is expected, where that can be told: from what its
// model took lately, and while it waits from how fast the queue moves.
func (t *renderTimes) expect(v *videov1.Video, j *record, now time.Time, ahead int64) {
	x := t.render(j.Provider, j.Model)
	if x.typical == 0 {
		return
	}
	at := now.Add(x.typical)
	switch a := j.current(); {
	case j.State == job.Queued && x.perSecond > 0:
		at = at.Add(time.Duration(float64(ahead) / x.perSecond * float64(time.Second)))
	case j.State == job.Queued, j.State == job.Submitting:
	case j.State == job.Running && a != nil:
		if at = a.CreatedAt.Add(x.typical); at.Before(now) {
			at = a.CreatedAt.Add(x.slow)
		}
		if at.Before(now) {
			return // later than nearly all: anybody's guess
		}
	default:
		return
	}
	v.EstimatedCompletionAt = timestamppb.New(at)
}
