package ledger

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/job"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// routePlan is the ways in which a job may be made. A job that was opened for one
// model has none: its row says everything.
type routePlan struct{ *ledgerv1.Plan }

// ScanBytes implements pgtype.BytesScanner.
func (p *routePlan) ScanBytes(raw []byte) error {
	p.Plan = nil
	if raw == nil {
		return nil
	}
	p.Plan = &ledgerv1.Plan{}
	if err := proto.Unmarshal(raw, p.Plan); err != nil {
		return fmt.Errorf("decode plan: %w", err)
	}
	return nil
}

// bytes is what is stored; nil without routes.
func (p routePlan) bytes() ([]byte, error) {
	if len(p.GetRoutes()) == 0 {
		return nil, nil
	}
	raw, err := proto.Marshal(p.Plan)
	if err != nil {
		return nil, fmt.Errorf("encode plan: %w", err)
	}
	return raw, nil
}

// routeAt is one of the job's routes; nil when it has no such one.
func (j *record) routeAt(n int) *ledgerv1.Route {
	if rs := j.Plan.GetRoutes(); n >= 0 && n < len(rs) {
		return rs[n]
	}
	return nil
}

// priceAt is what the video costs when a route makes it, in micro-credits: at
// most the hold.
func (j *record) priceAt(n int) int64 {
	if r := j.routeAt(n); r != nil {
		return r.GetPriceMicros()
	}
	return j.Quote
}

// dearest is the hold for a request: the most that any of its routes costs.
func dearest(r *ledgerv1.OpenJobRequest) int64 {
	if len(r.GetPlan().GetRoutes()) == 0 {
		return r.GetQuoteMicros()
	}
	var most int64
	for _, x := range r.GetPlan().GetRoutes() {
		most = max(most, x.GetPriceMicros())
	}
	return most
}

// models are those that may make the video, each once.
func (j *record) models() []string {
	all := []string{j.Model}
	for _, x := range j.Plan.GetRoutes() {
		if m := x.GetParams().GetModel(); !slices.Contains(all, m) {
			all = append(all, m)
		}
	}
	return all
}

// tries is how many attempts the job's present route has had, and how many of
// them its provider had no time for.
func (j *record) tries() (all, limited int) {
	for _, a := range j.Attempts {
		if a.Route != j.Route {
			continue
		}
		all++
		var e videov1.VideoError
		if len(a.Error) > 0 && proto.Unmarshal(a.Error, &e) == nil && fault.Code(e.GetCode()) == fault.RateLimited {
			limited++
		}
	}
	return all, limited
}

// next is the route that a job may go on to: none when its end is wanted, and
// none where a task may exist and cost: after an attempt that was given up, and in
// what was lost by restoring a backup.
func (j *record) next() *ledgerv1.Route {
	if j.Cancel.At != nil || j.Restored || slices.ContainsFunc(j.Attempts, func(a *attempt) bool { return a.GivenUp }) {
		return nil
	}
	return j.routeAt(j.Route + 1)
}

// fallsBack reports whether a definite refusal or failure of the present route
// leads to the next one. Nobody may have been paid: a task of which the provider
// said that it succeeded, or that somebody canceled there, may cost.
func (j *record) fallsBack(e *videov1.VideoError) bool {
	if j.next() == nil {
		return false
	}
	switch fault.Code(e.GetCode()) {
	case fault.ContentPolicy:
		return j.Plan.GetFallbackOnPolicy()
	case fault.InvalidRequest, fault.PayloadTooLarge, fault.ProviderOutcomeUnknown:
		return false
	}
	return !slices.Contains(paidCodes, e.GetProviderCode())
}

// paidCodes are pkg/provider's codes of tasks that the provider may bill though
// there is no video to show: finished ones and, of older versions, canceled ones.
var paidCodes = []string{"empty_result", "unusable_result", "canceled"}

// limitedTries is how often a job is taken to a provider that has no time for
// it, in maximal attempts, where there is no other route: that is no fault of
// the job, and every refusal slows all of them down.
const limitedTries = 10

// reroute turns what a refusal or a failure means into what follows from it,
// once the present route's own attempts are used up. While there is another route
// a provider that is away gets fewer of them, and one that refuses our account,
// which time does not heal, a single one.
func (s *Service) reroute(j *record, m meaning) job.Input {
	in, e := m.in, m.verr
	if m.attempt == "canceled" {
		return in // whatever the provider calls it, it may bill what was done until then
	}
	if in == job.RefuseRetry {
		most := s.cfg.MaxAttempts
		if fault.Code(e.GetCode()) == fault.ProviderUnavailable && j.fallsBack(e) {
			most = min(most, s.cfg.RouteAttempts)
			if !e.GetRetryable() {
				most = 1
			}
		}
		all, limited := j.tries()
		used := all - limited
		if fault.Code(e.GetCode()) == fault.RateLimited {
			if used = all; j.next() == nil {
				most *= limitedTries
			}
		}
		if used >= most {
			in = job.Refuse
		}
	}
	if (in == job.Refuse || in == job.Fail) && j.fallsBack(e) {
		return job.FallBack
	}
	return in
}

// routeWaitedTooLong reports whether a queued job should try its next route: no
// attempt of it is open, so nothing is under way on the present one.
func (s *Service) routeWaitedTooLong(u *unit, j *record) bool {
	return j.State == job.Queued && s.cfg.RouteWait > 0 && u.now.Sub(j.SubmitAfter) > s.cfg.RouteWait && j.next() != nil
}

// leave has a queued job go on to its next route at once.
func (s *Service) leave(ctx context.Context, u *unit, j *record) error {
	left := j.Provider
	if err := u.follow(j, j.Route+1); err != nil {
		return err
	}
	j.SubmitAfter = u.now
	if _, err := u.advance(ctx, j, job.FallBack); err != nil {
		return err
	}
	s.fell.Add(ctx, 1, fellFrom(left, j.Provider))
	return u.command(ctx, j, fmt.Sprintf("%s-submit-v%d", j.ID, j.Version), 0)
}

func fellFrom(left, next string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("provider", left), attribute.String("next", next))
}

// follow puts a locked job on one of its routes: its provider, model, params and
// expected cost are that route's from now on.
func (u *unit) follow(j *record, n int) error {
	r := j.routeAt(n)
	if r == nil {
		return fmt.Errorf("%s has no route %d", j.ID, n)
	}
	params, err := proto.Marshal(r.GetParams())
	if err != nil {
		return fmt.Errorf("encode params: %w", err)
	}
	if j.Turn != nil {
		// It leaves the queue where it stood. Should its command be lost, its place
		// at the new provider is the first: it has had its turn.
		u.unqueued = append(u.unqueued, &record{ID: j.ID, Provider: j.Provider, Turn: j.Turn})
		j.Turn = new(int64)
	}
	j.Route, j.Provider, j.Model, j.Params = n, r.GetProvider(), r.GetParams().GetModel(), params
	j.Cost, j.CostCurrency, j.CostSource = 0, "", ""
	j.expect(r.GetCostMicros(), r.GetCostCurrency())
	if !slices.Contains(u.rerouted, j) {
		u.rerouted = append(u.rerouted, j)
	}
	u.change(j)
	return nil
}

func (u *unit) writeRerouted(b *pgx.Batch) {
	if len(u.rerouted) == 0 {
		return
	}
	var t table
	column(&t, u.rerouted, func(j *record) string { return j.ID })
	column(&t, u.rerouted, func(j *record) int { return j.Route })
	column(&t, u.rerouted, func(j *record) string { return j.Provider })
	column(&t, u.rerouted, func(j *record) string { return j.Model })
	column(&t, u.rerouted, func(j *record) []byte { return j.Params })
	column(&t, u.rerouted, func(j *record) *int64 { return j.Turn })
	b.Queue(`update job set route = x.route, provider = x.provider, model = x.model, params = x.params, turn = x.turn
		from unnest($1::text[], $2::int[], $3::text[], $4::text[], $5::bytea[], $6::bigint[]) as x (id, route, provider, model, params, turn)
		where job.id = x.id`, t.columns...)
}

// redactPlan removes what a caller wrote from every route.
func (j *record) redactPlan() {
	for _, r := range j.Plan.GetRoutes() {
		redactParams(r.GetParams())
	}
}

func redactParams(p *videov1.VideoParams) {
	p.Prompt, p.NegativePrompt, p.ImageUrl, p.EndImageUrl, p.VideoUrl, p.Seed = "", "", "", "", "", nil
}
