package ledger

import (
	"context"
	"time"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// PauseProvider has nothing new submitted to a provider, or of one of its models.
// The ledger knows no catalogue: whoever passes the request on has looked whether
// there is such a model.
func (g *providerServer) PauseProvider(ctx context.Context, r *ledgerv1.PauseProviderRequest) (*ledgerv1.PauseProviderResponse, error) {
	details := map[string]any{"reason": r.GetReason(), "model": r.GetModel()}
	var until *time.Time
	if r.GetUntil() != nil {
		at := r.GetUntil().AsTime()
		until, details["until"] = &at, at
	}
	err := g.s.turn(ctx, deed{action: "provider.pause", target: r.GetProvider(), details: details},
		`insert into provider_pause as p (provider, model, reason, until) values ($1, $2, $3, $4)
			on conflict (provider, model) do update set reason = excluded.reason, until = excluded.until,
				since = case when p.until <= now() then now() else p.since end
			where (p.reason, p.until) is distinct from (excluded.reason, excluded.until)`, r.GetProvider(), r.GetModel(), r.GetReason(), until)
	if err != nil {
		return nil, err
	}
	sw, err := readSwitches(ctx, g.s.pool)
	if err != nil {
		return nil, err
	}
	return &ledgerv1.PauseProviderResponse{Pause: sw.pauses[paused{r.GetProvider(), r.GetModel()}]}, nil
}

// ResumeProvider ends a pause.
func (g *providerServer) ResumeProvider(ctx context.Context, r *ledgerv1.ResumeProviderRequest) (*ledgerv1.ResumeProviderResponse, error) {
	err := g.s.turn(ctx, deed{action: "provider.resume", target: r.GetProvider(), details: map[string]any{"model": r.GetModel()}},
		"delete from provider_pause where provider = $1 and model = $2", r.GetProvider(), r.GetModel())
	if err != nil {
		return nil, err
	}
	return &ledgerv1.ResumeProviderResponse{}, nil
}

// pauses adds what operators have paused.
func (v *view) pauses(sw *switches) {
	for at, p := range sw.pauses {
		if at.model == "" {
			v.provider(at.provider).Pause = p
		} else {
			v.model(at.provider, at.model).Pause = p
		}
	}
}
