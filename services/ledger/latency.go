package ledger

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

const (
	latencyOf   = 200 // a provider's last videos
	latencyFrom = 5   // of a model, or nothing is said of it
)

// latencySQL reads the end of an index for each provider, and the jobs of what
// it finds there.
const latencySQL = `select p.provider, j.model, percentile_cont(0.5) within group (order by x.ms)::bigint, percentile_cont(0.95) within group (order by x.ms)::bigint
	from unnest($1::text[]) as p (provider) cross join lateral (
		select a.job_id, extract(epoch from a.ended_at - a.created_at) * 1000 as ms from attempt a
		where a.provider = p.provider and a.state = 'succeeded' and a.created_at > now() - interval '1 day'
		order by a.created_at desc limit $2) x
	join job j on j.id = x.job_id
	where j.model <> '' group by 1, 2 having count(*) >= $3 order by 1, 2`

// ListLatencies tells how long the models of some providers take.
func (g *jobServer) ListLatencies(ctx context.Context, r *ledgerv1.ListLatenciesRequest) (*ledgerv1.ListLatenciesResponse, error) {
	rows, err := g.s.pool.Query(ctx, latencySQL, r.GetProviders(), latencyOf, latencyFrom)
	if err != nil {
		return nil, fmt.Errorf("read latencies: %w", err)
	}
	resp := &ledgerv1.ListLatenciesResponse{}
	var x ledgerv1.Latency
	if _, err := pgx.ForEachRow(rows, []any{&x.Provider, &x.Model, &x.TypicalMs, &x.SlowMs}, func() error {
		resp.Latencies = append(resp.Latencies, &ledgerv1.Latency{Provider: x.GetProvider(), Model: x.GetModel(), TypicalMs: x.GetTypicalMs(), SlowMs: x.GetSlowMs()})
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read latencies: %w", err)
	}
	return resp, nil
}
