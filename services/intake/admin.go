package intake

import (
	"context"
	"fmt"
	"path"

	"google.golang.org/grpc"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/rpc"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// registerAdmin opens the ledger's services to operators: each method listed
// here, and no other, is passed on for a key of scope admin.
func (s *Service) registerAdmin(r grpc.ServiceRegistrar) {
	a, l, b, p, dead := s.d.Accounts, s.d.Ledger, s.d.Budgets, s.d.Privacy, s.d.DeadLetters
	s.open(r, ledgerv1.AccountService_ServiceDesc,
		pass(s, ledgerv1.AccountService_CreateAccount_FullMethodName, a.CreateAccount),
		pass(s, ledgerv1.AccountService_GetAccount_FullMethodName, a.GetAccount),
		pass(s, ledgerv1.AccountService_ListAccounts_FullMethodName, a.ListAccounts),
		pass(s, ledgerv1.AccountService_UpdateAccount_FullMethodName, a.UpdateAccount),
		pass(s, ledgerv1.AccountService_SuspendAccount_FullMethodName, a.SuspendAccount),
		pass(s, ledgerv1.AccountService_ResumeAccount_FullMethodName, a.ResumeAccount),
		pass(s, ledgerv1.AccountService_CreateEndUser_FullMethodName, a.CreateEndUser),
		pass(s, ledgerv1.AccountService_UpdateEndUser_FullMethodName, a.UpdateEndUser),
		pass(s, ledgerv1.AccountService_ListEndUsers_FullMethodName, a.ListEndUsers),
		pass(s, ledgerv1.AccountService_CreateAPIKey_FullMethodName, a.CreateAPIKey),
		pass(s, ledgerv1.AccountService_ListAPIKeys_FullMethodName, a.ListAPIKeys),
		pass(s, ledgerv1.AccountService_RotateAPIKey_FullMethodName, a.RotateAPIKey),
		pass(s, ledgerv1.AccountService_RevokeAPIKey_FullMethodName, a.RevokeAPIKey),
		pass(s, ledgerv1.AccountService_ListAuditEntries_FullMethodName, a.ListAuditEntries),
	)
	s.open(r, ledgerv1.PrivacyService_ServiceDesc, pass(s, ledgerv1.PrivacyService_EraseUser_FullMethodName, p.EraseUser))
	s.open(r, ledgerv1.LedgerService_ServiceDesc,
		pass(s, ledgerv1.LedgerService_TopUp_FullMethodName, l.TopUp),
		pass(s, ledgerv1.LedgerService_GetBalance_FullMethodName, l.GetBalance),
		pass(s, ledgerv1.LedgerService_Grant_FullMethodName, l.Grant),
		pass(s, ledgerv1.LedgerService_ListGrants_FullMethodName, l.ListGrants),
		pass(s, ledgerv1.LedgerService_Refund_FullMethodName, l.Refund),
		pass(s, ledgerv1.LedgerService_Adjust_FullMethodName, l.Adjust),
		pass(s, ledgerv1.LedgerService_WriteOff_FullMethodName, l.WriteOff),
		pass(s, ledgerv1.LedgerService_ListReviews_FullMethodName, l.ListReviews),
		pass(s, ledgerv1.LedgerService_SettleSuspense_FullMethodName, l.SettleSuspense),
		pass(s, ledgerv1.LedgerService_GetStatement_FullMethodName, l.GetStatement),
		pass(s, ledgerv1.LedgerService_Margin_FullMethodName, l.Margin),
		pass(s, ledgerv1.LedgerService_Verify_FullMethodName, l.Verify),
		pass(s, ledgerv1.LedgerService_FindProviderTasks_FullMethodName, l.FindProviderTasks),
		pass(s, ledgerv1.LedgerService_ListProviderTasks_FullMethodName, l.ListProviderTasks),
	)
	s.open(r, ledgerv1.BudgetService_ServiceDesc,
		pass(s, ledgerv1.BudgetService_SetBudget_FullMethodName, b.SetBudget),
		pass(s, ledgerv1.BudgetService_ListBudgets_FullMethodName, b.ListBudgets),
		pass(s, ledgerv1.BudgetService_DeleteBudget_FullMethodName, b.DeleteBudget),
		pass(s, ledgerv1.BudgetService_SetKeyLimits_FullMethodName, b.SetKeyLimits),
		pass(s, ledgerv1.BudgetService_GetKeyLimits_FullMethodName, b.GetKeyLimits),
	)
	s.open(r, ledgerv1.DeadLetterService_ServiceDesc,
		pass(s, ledgerv1.DeadLetterService_ListDeadLetters_FullMethodName, dead.ListDeadLetters),
		pass(s, ledgerv1.DeadLetterService_GetDeadLetter_FullMethodName, dead.GetDeadLetter),
		pass(s, ledgerv1.DeadLetterService_ReplayDeadLetter_FullMethodName, dead.ReplayDeadLetter),
		pass(s, ledgerv1.DeadLetterService_DropDeadLetter_FullMethodName, dead.DropDeadLetter),
	)
	s.open(r, ledgerv1.InspectionService_ServiceDesc, pass(s, ledgerv1.InspectionService_InspectJob_FullMethodName, s.d.Inspection.InspectJob))
	s.registerSwitches(r)
}

// open registers some of a service's methods. The others are unimplemented.
func (s *Service) open(r grpc.ServiceRegistrar, of grpc.ServiceDesc, methods ...grpc.MethodDesc) {
	r.RegisterService(&grpc.ServiceDesc{ServiceName: of.ServiceName, HandlerType: (*any)(nil), Methods: methods, Metadata: of.Metadata}, s)
}

// pass is a method that authenticates an operator and hands the request on to
// the ledger in their name. An admin key of a suspended account passes nothing.
func pass[Q, A any](s *Service, method string, call func(context.Context, *Q, ...grpc.CallOption) (*A, error)) grpc.MethodDesc {
	return served(method, func(ctx context.Context, q *Q) (*A, error) {
		p, err := s.who(ctx, auth.Admin)
		if err == nil {
			err = p.Active()
		}
		if err != nil {
			return nil, err
		}
		a, err := call(auth.Actor{KeyID: p.KeyID, RequestID: rpc.RequestID(ctx)}.Outgoing(ctx), q)
		if err != nil {
			return nil, fault.FromStatus(err)
		}
		return a, nil
	})
}

// served is a method that is answered by serve.
func served[Q, A any](method string, serve func(context.Context, *Q) (*A, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: path.Base(method), Handler: func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		q := new(Q)
		if err := decode(q); err != nil {
			return nil, err
		}
		if intercept == nil {
			return serve(ctx, q)
		}
		return intercept(ctx, q, &grpc.UnaryServerInfo{Server: srv, FullMethod: method}, func(ctx context.Context, req any) (any, error) {
			q, ok := req.(*Q)
			if !ok {
				return nil, fmt.Errorf("%s: request is a %T", method, req)
			}
			return serve(ctx, q)
		})
	}}
}
