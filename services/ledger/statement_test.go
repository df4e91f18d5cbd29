package ledger_test

import (
	"fmt"
	"testing"
	"time"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// statement reads a whole month in pages and proves that it adds up.
func (x *bundle) statement(t *testing.T, month string, limit int32) (movements []*ledgerv1.Movement, last *ledgerv1.GetStatementResponse) {
	t.Helper()
	req := &ledgerv1.GetStatementRequest{AccountId: x.acct, Month: month, Limit: limit}
	var available, held int64
	for first := true; ; first = false {
		r := must[*ledgerv1.GetStatementResponse](t)(x.money.GetStatement(t.Context(), req))
		if first {
			available, held = r.GetOpeningAvailableMicros(), r.GetOpeningHeldMicros()
		}
		for _, m := range r.GetMovements() {
			available, held = available+m.GetAvailableChangeMicros(), held+m.GetHeldChangeMicros()
			if m.GetAvailableMicros() != available || m.GetHeldMicros() != held {
				t.Errorf("movement %v; the ones before it make %d and %d", m, available, held)
			}
			if m.GetAt().AsTime().Before(r.GetStartsAt().AsTime()) || !m.GetAt().AsTime().Before(r.GetEndsAt().AsTime()) {
				t.Errorf("%v is not of %s", m, month)
			}
		}
		movements = append(movements, r.GetMovements()...)
		if r.GetClosingAvailableMicros() != available && r.GetNextPage() == "" || r.GetClosingHeldMicros() != held && r.GetNextPage() == "" {
			t.Errorf("closes with %d and %d; the movements make %d and %d", r.GetClosingAvailableMicros(), r.GetClosingHeldMicros(), available, held)
		}
		if req.Page = r.GetNextPage(); req.GetPage() == "" {
			return movements, r
		}
	}
}

func TestStatementOfAMonthInTheAccountsTimeZone(t *testing.T) {
	t.Parallel()
	x := setup(t, 0, still)
	x.exec(t, "update account set time_zone = 'Europe/Vienna' where id = $1", x.acct)
	for i := range 9 {
		must[*ledgerv1.TopUpResponse](t)(x.money.TopUp(t.Context(), &ledgerv1.TopUpRequest{AccountId: x.acct, AmountMicros: 1 << i, IdempotencyKey: fmt.Sprint(i)}))
	}
	// Summer time ends within October; months begin at 22:00 and 23:00 UTC.
	at := []string{"2026-09-30 21:59:59.999999", "2026-09-30 22:00:00", "2026-10-15 12:00:00", "2026-10-31 22:59:59.999999",
		"2026-10-31 23:00:00", "2026-11-10 00:00:00", "2026-11-30 22:59:59", "2026-11-30 23:00:00", "2027-02-01 00:00:00"}
	x.exec(t, "alter table posting disable trigger posting_is_append_only")
	for i, moment := range at {
		x.exec(t, "update posting set created_at = ($1 || 'Z')::timestamptz where amount_micros = $2", moment, 1<<i)
	}
	x.exec(t, "alter table posting enable trigger posting_is_append_only")
	for month, want := range map[string][3]int64{ // opening, closing, movements
		"2026-08": {0, 0, 0}, "2026-09": {0, 1, 1}, "2026-10": {1, 15, 3}, "2026-11": {15, 127, 3}, "2026-12": {127, 255, 1}, "2027-01": {255, 255, 0}, "2027-02": {255, 511, 1}, "2030-01": {511, 511, 0},
	} {
		for _, limit := range []int32{0, 1, 2} {
			movements, r := x.statement(t, month, limit)
			if r.GetOpeningAvailableMicros() != want[0] || r.GetClosingAvailableMicros() != want[1] || int64(len(movements)) != want[2] || r.GetTimeZone() != "Europe/Vienna" {
				t.Errorf("%s: %d movements, %v", month, len(movements), r)
			}
		}
	}
	for page, month := range map[string]string{"x": "2026-10", "1.2": "2026-10", "1.2.3 ": "2026-10"} {
		_, err := x.money.GetStatement(t.Context(), &ledgerv1.GetStatementRequest{AccountId: x.acct, Month: month, Page: page})
		refused(t, err, fault.InvalidRequest, "page")
	}
	for _, month := range []string{"", "2026-13", "2026-1", "26-01", "2026-10-01"} {
		_, err := x.money.GetStatement(t.Context(), &ledgerv1.GetStatementRequest{AccountId: x.acct, Month: month})
		refused(t, err, fault.InvalidRequest, "month")
	}
	_, err := x.money.GetStatement(t.Context(), &ledgerv1.GetStatementRequest{AccountId: "acct_none", Month: "2026-10"})
	refused(t, err, fault.NotFound, "no such account")
}

func TestStatementIsFixedByItsFirstPage(t *testing.T) {
	t.Parallel()
	x := setup(t, 100, still)
	x.succeeded(t, "a", 10, 5)
	job, attempt := x.started(t, "b", 20)
	x.see(t, job, attempt, "timed-out", timedOut()) // suspense is no business of the customer's
	month := time.Now().UTC().Format("2006-01")
	first := must[*ledgerv1.GetStatementResponse](t)(x.money.GetStatement(t.Context(), &ledgerv1.GetStatementRequest{AccountId: x.acct, Month: month, Limit: 3}))
	must[*ledgerv1.TopUpResponse](t)(x.money.TopUp(t.Context(), &ledgerv1.TopUpRequest{AccountId: x.acct, AmountMicros: 1000, IdempotencyKey: "later"}))
	rest := must[*ledgerv1.GetStatementResponse](t)(x.money.GetStatement(t.Context(), &ledgerv1.GetStatementRequest{AccountId: x.acct, Month: month, Page: first.GetNextPage()}))
	var kinds []string
	for _, m := range append(first.GetMovements(), rest.GetMovements()...) {
		kinds = append(kinds, m.GetKind())
	}
	if got := fmt.Sprint(kinds); got != "[top_up hold capture release hold release]" || rest.GetClosingAvailableMicros() != 95 {
		t.Errorf("%s, %v", got, rest)
	}
	// Another account's page reads nothing of this one.
	other := must[*ledgerv1.CreateAccountResponse](t)(x.accts.CreateAccount(t.Context(), &ledgerv1.CreateAccountRequest{Name: "other"})).GetAccountId()
	r := must[*ledgerv1.GetStatementResponse](t)(x.money.GetStatement(t.Context(), &ledgerv1.GetStatementRequest{AccountId: other, Month: month, Page: first.GetNextPage()}))
	if len(r.GetMovements()) != 0 || r.GetClosingAvailableMicros() != 0 {
		t.Errorf("%v", r)
	}
}
