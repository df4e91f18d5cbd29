package ledger

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/traffic"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type providerServer struct {
	ledgerv1.UnimplementedProviderServiceServer
	s *Service
}

// ListProviders shows how the providers stand: what runs is counted here, pauses
// are an operator's, the rest is what the dispatchers share.
func (g *providerServer) ListProviders(ctx context.Context, _ *ledgerv1.ListProvidersRequest) (*ledgerv1.ListProvidersResponse, error) {
	values, err := g.s.bus.Shared().All(ctx)
	if err != nil {
		f := fault.Wrap(err, fault.Unavailable, "what the dispatchers share cannot be read now")
		f.RetryAfter = time.Second
		return nil, f
	}
	v := view{now: time.Now(), state: traffic.Read(values), byName: map[string]*ledgerv1.Provider{}}
	v.settings()
	if err := v.count(ctx, g.s.pool); err != nil {
		return nil, err
	}
	v.traffic()
	sw, err := readSwitches(ctx, g.s.pool)
	if err != nil {
		return nil, err
	}
	v.pauses(sw)
	resp := &ledgerv1.ListProvidersResponse{}
	for _, p := range v.byName {
		for _, k := range p.Keys {
			slices.SortFunc(k.Closed, func(a, b *ledgerv1.ClosedModel) int { return cmp.Compare(a.GetModel(), b.GetModel()) })
		}
		slices.SortFunc(p.Models, func(a, b *ledgerv1.ProviderModel) int { return cmp.Compare(a.GetModel(), b.GetModel()) })
		resp.Providers = append(resp.Providers, p)
	}
	slices.SortFunc(resp.Providers, func(a, b *ledgerv1.Provider) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return resp, nil
}

// view puts an answer together.
type view struct {
	now    time.Time
	state  traffic.State
	byName map[string]*ledgerv1.Provider
}

func (v *view) provider(name string) *ledgerv1.Provider {
	if v.byName[name] == nil {
		v.byName[name] = &ledgerv1.Provider{Name: name}
	}
	return v.byName[name]
}

func (v *view) key(provider, id string) *ledgerv1.ProviderKey {
	p := v.provider(provider)
	for _, k := range p.Keys {
		if k.GetId() == id {
			return k
		}
	}
	// Known from its tasks alone: it was taken out of the settings.
	k := &ledgerv1.ProviderKey{Id: id, State: "gone"}
	p.Keys = append(p.Keys, k)
	return k
}

func (v *view) model(provider, name string) *ledgerv1.ProviderModel {
	p := v.provider(provider)
	for _, m := range p.Models {
		if m.GetModel() == name {
			return m
		}
	}
	m := &ledgerv1.ProviderModel{Model: name, Breaker: traffic.Closed}
	p.Models = append(p.Models, m)
	return m
}

// settings are what dispatchers announce.
func (v *view) settings() {
	for name, s := range v.state.Providers {
		p := v.provider(name)
		p.Rate, p.MaxRunning = s.Rate, int32(s.MaxRunning)
		for _, k := range s.Keys {
			state := "active"
			if k.Retiring {
				state = "retiring"
			}
			p.Keys = append(p.Keys, &ledgerv1.ProviderKey{Id: k.ID, State: state, Weight: int32(k.Weight), MaxRunning: int32(k.MaxRunning), DailyBudgetMicros: k.DailyBudget})
		}
	}
}

// count adds what runs, and what it cost today.
func (v *view) count(ctx context.Context, q querier) error {
	rows, err := q.Query(ctx, "select provider, model, key_id, count(*) from attempt where ended_at is null group by provider, model, key_id")
	if err != nil {
		return fmt.Errorf("count attempts: %w", err)
	}
	var provider, model, key string
	var n int32
	if _, err = pgx.ForEachRow(rows, []any{&provider, &model, &key, &n}, func() error {
		v.provider(provider).Running += n
		if key != "" {
			v.key(provider, key).Running += n
		}
		if model != "" {
			v.model(provider, model).Running += n
		}
		return nil
	}); err != nil {
		return fmt.Errorf("count attempts: %w", err)
	}
	rows, err = q.Query(ctx, "select provider, key_id, cost_micros from key_spend where day = (now() at time zone 'UTC')::date and cost_micros <> 0")
	if err != nil {
		return fmt.Errorf("read spending of keys: %w", err)
	}
	var micros int64
	if _, err = pgx.ForEachRow(rows, []any{&provider, &key, &micros}, func() error {
		v.key(provider, key).SpentTodayMicros = micros
		return nil
	}); err != nil {
		return fmt.Errorf("read spending of keys: %w", err)
	}
	return nil
}

// traffic adds what dispatchers have learned.
func (v *view) traffic() {
	for _, b := range v.state.Benches(v.now) {
		k := v.key(b.Provider, b.Key)
		if b.Model != "" {
			k.Closed = append(k.Closed, &ledgerv1.ClosedModel{Model: b.Model, Reason: b.Reason, Until: timestamppb.New(b.Until)})
			continue
		}
		k.State, k.Reason, k.BenchedUntil = "benched", b.Reason, timestamppb.New(b.Until)
	}
	for _, b := range v.state.Breakers() {
		m := v.model(b.Provider, b.Model)
		m.Breaker, m.Reason = b.At(v.now), b.Reason
		if m.GetBreaker() == traffic.Open {
			m.OpenUntil = timestamppb.New(b.Until)
		}
	}
	for _, h := range v.state.Healths() {
		m, sum := v.model(h.Provider, h.Model), h.Sum(v.now.Add(-traffic.HealthFor))
		m.Succeeded, m.Failed = int32(sum.OK), int32(sum.Failed)
		if sum.OK > 0 {
			m.MeanMs = sum.TookMillis / int64(sum.OK)
		}
	}
	for name := range v.byName {
		for _, r := range v.state.Rates(name) {
			if r.Model == "" || !r.Slowed(v.now) {
				continue
			}
			if m := v.model(name, r.Model); m.GetSlowedRate() == 0 || r.At(v.now) < m.GetSlowedRate() {
				m.SlowedRate = r.At(v.now)
			}
		}
	}
}
