package reelway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/id"
	"reelway.dev/pkg/money"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type ledgerCmd struct {
	Balance   ledgerBalanceCmd   `cmd:"" help:"Show what an account has available and held."`
	TopUp     ledgerTopUpCmd     `cmd:"" name:"top-up" help:"Add credits that were paid for."`
	Grant     ledgerGrantCmd     `cmd:"" help:"Give credits away, until a day or for good."`
	Grants    ledgerGrantsCmd    `cmd:"" help:"List an account's grants and what is left of them."`
	Refund    ledgerRefundCmd    `cmd:"" help:"Give back what a job cost, whole or in part."`
	Adjust    ledgerAdjustCmd    `cmd:"" help:"Correct an account's credits, up or down."`
	WriteOff  ledgerWriteOffCmd  `cmd:"" name:"write-off" help:"Book a provider's cost that no customer pays."`
	Reviews   ledgerReviewsCmd   `cmd:"" help:"List the tasks whose fate is unknown and whose possible cost is in suspense."`
	Settle    ledgerSettleCmd    `cmd:"" name:"settle-suspense" help:"Say what became of such a task."`
	Statement ledgerStatementCmd `cmd:"" help:"List every movement of an account in a month, with the running balance."`
	Margin    ledgerMarginCmd    `cmd:"" help:"Show what jobs earned beside what they cost."`
	Verify    ledgerVerifyCmd    `cmd:"" help:"Prove every invariant of the books on the live database. Exit code 1 when one is broken."`
}

// justified is what every movement of money has.
type justified struct {
	Reason string `required:"" help:"Why; goes into the books, the audit log and the account's statement."`
	Once   string `help:"A name for this movement, such as an invoice's or a ticket's number: the same name moves money once. Without one each call is a movement of its own." placeholder:"NAME"`
}

func (j justified) key() string { return first(j.Once, id.New("cli")) }

// availableNow answers with an account's available credits.
func (a *admin) availableNow(out io.Writer, account string, micros int64, more ...[]string) error {
	text := money.Format(micros)
	fields := map[string]string{"account_id": account, "available": text}
	rows := [][]string{{"account", account}, {"available", text}}
	for _, m := range more {
		fields[m[0]] = m[1]
		rows = append(rows, m)
	}
	return a.answer(out, fields, rows...)
}

type ledgerBalanceCmd struct {
	admin
	Account string `required:"" help:"The account's id." placeholder:"ID"`
}

// Run shows the balance.
func (c *ledgerBalanceCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		b, err := d.credit.GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: c.Account})
		if err != nil {
			return err
		}
		more := [][]string{{"held", money.Format(b.GetHeldMicros())}, {"granted", money.Format(b.GetGrantedMicros())}}
		if b.GetNextExpiryAt() != nil {
			more = append(more, []string{"next_expiry", money.Format(b.GetNextExpiryMicros()) + " at " + when(b.GetNextExpiryAt())})
		}
		return c.availableNow(out, c.Account, b.GetAvailableMicros(), more...)
	})
}

type ledgerTopUpCmd struct {
	admin
	Account string `required:"" help:"The account's id." placeholder:"ID"`
	Credits amount `required:"" help:"How many credits." placeholder:"DECIMAL"`
	justified
}

// Run adds the credits.
func (c *ledgerTopUpCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.credit.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: c.Account, AmountMicros: int64(c.Credits), IdempotencyKey: c.key(), Reason: c.Reason})
		if err != nil {
			return err
		}
		return c.availableNow(out, c.Account, r.GetAvailableMicros())
	})
}

type ledgerGrantCmd struct {
	admin
	Account string `required:"" help:"The account's id." placeholder:"ID"`
	Credits amount `required:"" help:"How many credits." placeholder:"DECIMAL"`
	Expires string `required:"" help:"When what is left is taken back: a day, at whose end in UTC; a time such as 2026-12-31T23:00:00Z; or never." placeholder:"YYYY-MM-DD|TIME|never"`
	justified
}

// expiry reads --expires.
func (c *ledgerGrantCmd) expiry() (*timestamppb.Timestamp, error) {
	if c.Expires == "never" {
		return nil, nil //nolint:nilnil // no time is what never is
	}
	if day, err := time.Parse(time.DateOnly, c.Expires); err == nil {
		return timestamppb.New(day.AddDate(0, 0, 1)), nil
	}
	t, err := time.Parse(time.RFC3339, c.Expires)
	if err != nil {
		return nil, errors.New("--expires must be a day such as 2026-12-31, a time such as 2026-12-31T23:00:00Z, or never")
	}
	return timestamppb.New(t), nil
}

// Validate reads the time before anything is asked.
func (c *ledgerGrantCmd) Validate() error {
	if _, err := c.expiry(); err != nil {
		return err
	}
	return c.admin.Validate()
}

// Run grants the credits.
func (c *ledgerGrantCmd) Run(ctx context.Context, out io.Writer) error {
	expires, err := c.expiry()
	if err != nil {
		return err
	}
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.credit.Grant(ctx, &ledgerv1.GrantRequest{AccountId: c.Account, AmountMicros: int64(c.Credits), ExpiresAt: expires,
			IdempotencyKey: c.key(), Reason: c.Reason})
		if err != nil {
			return err
		}
		return c.availableNow(out, c.Account, r.GetAvailableMicros(), []string{"grant", r.GetLotId()})
	})
}

type ledgerGrantsCmd struct {
	admin
	paging  `embed:""`
	Account string `required:"" help:"The account's id." placeholder:"ID"`
}

// Run lists one page.
func (c *ledgerGrantsCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.credit.ListGrants(ctx, &ledgerv1.ListGrantsRequest{AccountId: c.Account, After: c.After, Limit: c.Limit})
		if err != nil {
			return err
		}
		rows, last := [][]string{{"GRANT", "CREDITS", "LEFT", "HELD", "SPENT", "EXPIRED", "EXPIRES", "REASON"}}, ""
		for _, l := range r.GetLots() {
			last = l.GetId()
			rows = append(rows, []string{l.GetId(), money.Format(l.GetAmountMicros()), money.Format(l.GetRemainingMicros()), money.Format(l.GetDrawnMicros()),
				money.Format(l.GetSpentMicros()), money.Format(l.GetExpiredMicros()), first(when(l.GetExpiresAt()), "never"), l.GetReason()})
		}
		return c.answer(out, r, append(rows, more(r.GetHasMore(), last)...)...)
	})
}

type ledgerRefundCmd struct {
	admin
	Job     string `required:"" help:"The video's id." placeholder:"ID"`
	Credits amount `help:"How many credits; left out, all that is left to refund." placeholder:"DECIMAL"`
	justified
}

// Run refunds.
func (c *ledgerRefundCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.credit.Refund(ctx, &ledgerv1.RefundRequest{JobId: c.Job, AmountMicros: int64(c.Credits), IdempotencyKey: c.key(), Reason: c.Reason})
		if err != nil {
			return err
		}
		return c.availableNow(out, r.GetAccountId(), r.GetAvailableMicros(), []string{"refunded", money.Format(r.GetRefundedMicros())})
	})
}

// change is an amount of credits above or below 0, in micro-credits.
type change int64

// UnmarshalText reads decimal credits, exactly.
func (c *change) UnmarshalText(text []byte) error {
	micros, err := money.Parse(string(text))
	if err == nil && micros == 0 {
		err = errors.New("must not be 0")
	}
	*c = change(micros)
	return err
}

type ledgerAdjustCmd struct {
	admin
	Account string `required:"" help:"The account's id." placeholder:"ID"`
	Credits change `required:"" help:"How many credits more, or fewer: --credits=-1.5" placeholder:"DECIMAL"`
	justified
}

// Run adjusts.
func (c *ledgerAdjustCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.credit.Adjust(ctx, &ledgerv1.AdjustRequest{AccountId: c.Account, AmountMicros: int64(c.Credits), IdempotencyKey: c.key(), Reason: c.Reason})
		if err != nil {
			return err
		}
		return c.availableNow(out, c.Account, r.GetAvailableMicros())
	})
}

type ledgerWriteOffCmd struct {
	admin
	Job     string `required:"" help:"The video's id." placeholder:"ID"`
	Credits amount `required:"" help:"The cost, in credits." placeholder:"DECIMAL"`
	justified
}

// Run writes off.
func (c *ledgerWriteOffCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.credit.WriteOff(ctx, &ledgerv1.WriteOffRequest{JobId: c.Job, AmountMicros: int64(c.Credits), IdempotencyKey: c.key(), Reason: c.Reason})
		if err != nil {
			return err
		}
		total := money.Format(r.GetWrittenOffMicros())
		return c.answer(out, map[string]string{"account_id": r.GetAccountId(), "written_off": total},
			[]string{"account", r.GetAccountId()}, []string{"written off", total})
	})
}

type ledgerReviewsCmd struct {
	admin
	paging `embed:""`
	All    bool `help:"Settled ones as well."`
}

// Run lists one page.
func (c *ledgerReviewsCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.credit.ListReviews(ctx, &ledgerv1.ListReviewsRequest{All: c.All, After: c.After, Limit: c.Limit})
		if err != nil {
			return err
		}
		rows, last := [][]string{{"VIDEO", "ACCOUNT", "PROVIDER", "CREDITS", "SINCE", "OUTCOME", "SETTLED BY", "REASON"}}, ""
		for _, v := range r.GetReviews() {
			last = v.GetJobId()
			rows = append(rows, []string{v.GetJobId(), v.GetAccountId(), v.GetProvider(), money.Format(v.GetAmountMicros()), when(v.GetOpenedAt()),
				outcomeWord(v.GetOutcome()), v.GetActor(), v.GetReason()})
		}
		return c.answer(out, r, append(rows, more(r.GetHasMore(), last)...)...)
	})
}

func outcomeWord(o ledgerv1.Outcome) string {
	switch o {
	case ledgerv1.Outcome_OUTCOME_BILLED:
		return "billed"
	case ledgerv1.Outcome_OUTCOME_NOT_BILLED:
		return "not billed"
	}
	return "open"
}

type ledgerSettleCmd struct {
	admin
	Job    string `required:"" help:"The video's id." placeholder:"ID"`
	As     string `required:"" enum:"billed,not-billed" help:"billed: the provider asks for money, which is our loss; not-billed: it does not."`
	Reason string `required:"" help:"How it is known, such as the provider's invoice."`
}

// Run settles the suspense.
func (c *ledgerSettleCmd) Run(ctx context.Context, out io.Writer) error {
	outcome := ledgerv1.Outcome_OUTCOME_BILLED
	if c.As == "not-billed" {
		outcome = ledgerv1.Outcome_OUTCOME_NOT_BILLED
	}
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.credit.SettleSuspense(ctx, &ledgerv1.SettleSuspenseRequest{JobId: c.Job, Outcome: outcome, Reason: c.Reason})
		if err != nil {
			return err
		}
		v := r.GetReview()
		return c.answer(out, v, []string{"video", v.GetJobId()}, []string{"account", v.GetAccountId()}, []string{"credits", money.Format(v.GetAmountMicros())},
			[]string{"outcome", outcomeWord(v.GetOutcome())})
	})
}

type ledgerVerifyCmd struct {
	admin
	Timeout time.Duration `default:"1h" help:"How long the proof may take."`
}

// Run proves the books.
func (c *ledgerVerifyCmd) Run(ctx context.Context, out io.Writer) error {
	return c.within(ctx, c.Timeout, func(ctx context.Context, d doors) error {
		r, err := d.credit.Verify(ctx, &ledgerv1.VerifyRequest{})
		if err != nil {
			return err
		}
		var rows [][]string
		for _, v := range r.GetViolations() {
			rows = append(rows, []string{v})
		}
		for _, p := range r.GetProven() {
			rows = append(rows, []string{"proven: " + p})
		}
		if err := c.answer(out, r, rows...); err != nil {
			return err
		}
		if n := len(r.GetViolations()); n > 0 {
			return fmt.Errorf("the books are wrong in %d places; the first: %s", n, r.GetViolations()[0])
		}
		return nil
	})
}
