package intake

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// registerSwitches opens to operators what is switched for the whole
// installation. The ledger keeps and obeys it; only here is the catalogue known.
func (s *Service) registerSwitches(r grpc.ServiceRegistrar) {
	m, p := s.d.Maintenance, s.d.Providers
	s.open(r, ledgerv1.MaintenanceService_ServiceDesc,
		pass(s, ledgerv1.MaintenanceService_StartMaintenance_FullMethodName, m.StartMaintenance),
		pass(s, ledgerv1.MaintenanceService_EndMaintenance_FullMethodName, m.EndMaintenance),
		pass(s, ledgerv1.MaintenanceService_GetMaintenance_FullMethodName, m.GetMaintenance),
	)
	s.open(r, ledgerv1.ProviderService_ServiceDesc,
		pass(s, ledgerv1.ProviderService_ListProviders_FullMethodName, p.ListProviders),
		pass(s, ledgerv1.ProviderService_PauseProvider_FullMethodName, s.pauseProvider),
		pass(s, ledgerv1.ProviderService_ResumeProvider_FullMethodName, p.ResumeProvider),
	)
}

// pauseProvider passes a pause on, unless nothing on offer would heed it.
func (s *Service) pauseProvider(ctx context.Context, r *ledgerv1.PauseProviderRequest, opts ...grpc.CallOption) (*ledgerv1.PauseProviderResponse, error) {
	var providers, models []string
	for _, m := range s.d.Catalog.Models() {
		if !slices.Contains(providers, m.Provider) {
			providers = append(providers, m.Provider)
		}
		if m.Provider == r.GetProvider() {
			models = append(models, m.ID)
		}
	}
	slices.Sort(providers)
	switch {
	case len(models) == 0:
		return nil, fault.Invalid(fault.Field{Name: "provider", Message: fmt.Sprintf("%q is none whose models are on offer here: %s", r.GetProvider(), strings.Join(providers, ", "))})
	case r.GetModel() != "" && !slices.Contains(models, r.GetModel()):
		return nil, fault.Invalid(fault.Field{Name: "model", Message: fmt.Sprintf("%q is none of the models of %s: %s", r.GetModel(), r.GetProvider(), strings.Join(models, ", "))})
	}
	return s.d.Providers.PauseProvider(ctx, r, opts...)
}
