package reelway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"reelway.dev/pkg/money"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type budgetsCmd struct {
	Set    budgetSetCmd    `cmd:"" help:"Make a budget, or change the one with the same subject and period."`
	List   budgetListCmd   `cmd:"" help:"List an account's budgets and what they count now."`
	Delete budgetDeleteCmd `cmd:"" help:"End a budget."`
}

// budgetSubjects and budgetPeriods are the contract's words for people.
var (
	budgetSubjects = map[ledgerv1.BudgetSubject]string{ledgerv1.BudgetSubject_BUDGET_SUBJECT_ACCOUNT: "account", ledgerv1.BudgetSubject_BUDGET_SUBJECT_API_KEY: "key",
		ledgerv1.BudgetSubject_BUDGET_SUBJECT_END_USER: "user", ledgerv1.BudgetSubject_BUDGET_SUBJECT_MODEL: "model"}
	budgetPeriods = map[string]ledgerv1.BudgetPeriod{"day": ledgerv1.BudgetPeriod_BUDGET_PERIOD_DAY, "week": ledgerv1.BudgetPeriod_BUDGET_PERIOD_WEEK,
		"month": ledgerv1.BudgetPeriod_BUDGET_PERIOD_MONTH, "total": ledgerv1.BudgetPeriod_BUDGET_PERIOD_TOTAL}
)

func budgetName(b *ledgerv1.Budget) string {
	return strings.TrimSpace(budgetSubjects[b.GetSubject()] + " " + b.GetSubjectId())
}

func budgetPeriod(b *ledgerv1.Budget) string {
	for name, p := range budgetPeriods {
		if p == b.GetPeriod() {
			return name
		}
	}
	return ""
}

func hardness(b *ledgerv1.Budget) string {
	if b.GetHard() {
		return "hard"
	}
	return "soft"
}

type budgetSetCmd struct {
	admin
	Account string `required:"" help:"The account's id." placeholder:"ID"`
	Limit   amount `required:"" help:"The most that may be spent in a period, in credits." placeholder:"DECIMAL"`
	Period  string `required:"" enum:"day,week,month,total" help:"day, week, month or total: when it begins anew, in the account's time zone."`
	APIKey  string `name:"api-key" help:"Of one API key only, or * for each one." placeholder:"ID"`
	User    string `help:"Of one end user only, or * for each one." placeholder:"ID"`
	Model   string `help:"Of one model only, or * for each one." placeholder:"ID"`
	Soft    bool   `help:"Give notice and refuse nothing."`
}

// Validate refuses two subjects.
func (c *budgetSetCmd) Validate() error {
	given := 0
	for _, s := range []string{c.APIKey, c.User, c.Model} {
		if s != "" {
			given++
		}
	}
	if given > 1 {
		return errors.New("give one of --api-key, --user and --model, or none for all of the account")
	}
	return c.admin.Validate()
}

// Run sets the budget.
func (c *budgetSetCmd) Run(ctx context.Context, out io.Writer) error {
	q := &ledgerv1.SetBudgetRequest{AccountId: c.Account, Subject: ledgerv1.BudgetSubject_BUDGET_SUBJECT_ACCOUNT, SubjectId: c.APIKey + c.User + c.Model,
		Period: budgetPeriods[c.Period], LimitMicros: int64(c.Limit), Hard: !c.Soft}
	switch {
	case c.APIKey != "":
		q.Subject = ledgerv1.BudgetSubject_BUDGET_SUBJECT_API_KEY
	case c.User != "":
		q.Subject = ledgerv1.BudgetSubject_BUDGET_SUBJECT_END_USER
	case c.Model != "":
		q.Subject = ledgerv1.BudgetSubject_BUDGET_SUBJECT_MODEL
	}
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.budgets.SetBudget(ctx, q)
		if err != nil {
			return err
		}
		return c.answer(out, r.GetBudget(), budgetRows(r.GetBudget())...)
	})
}

func budgetRows(b *ledgerv1.Budget) [][]string {
	return [][]string{{"budget", b.GetId()}, {"account", b.GetAccountId()}, {"of", budgetName(b)}, {"period", budgetPeriod(b)},
		{"limit", money.Format(b.GetLimitMicros())}, {"kind", hardness(b)}}
}

type budgetListCmd struct {
	admin
	paging  `embed:""`
	Account string `required:"" help:"The account's id." placeholder:"ID"`
}

// Run lists one page.
func (c *budgetListCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.budgets.ListBudgets(ctx, &ledgerv1.ListBudgetsRequest{AccountId: c.Account, After: c.After, Limit: c.Limit})
		if err != nil {
			return err
		}
		rows, last := [][]string{{"BUDGET", "OF", "PERIOD", "KIND", "LIMIT", "SPENT", "HELD", "RESETS"}}, ""
		for _, item := range r.GetBudgets() {
			b := item.GetBudget()
			last = b.GetId()
			head := []string{b.GetId(), budgetName(b), budgetPeriod(b), hardness(b), money.Format(b.GetLimitMicros())}
			if b.GetSubjectId() == "*" {
				rows = append(rows, head)
			}
			for _, u := range item.GetUses() {
				if b.GetSubjectId() == "*" {
					head = []string{"", "  " + u.GetSubjectId(), "", "", ""}
				}
				rows = append(rows, append(head, money.Format(u.GetSpentMicros()), money.Format(u.GetHeldMicros()), first(when(u.GetResetsAt()), "never")))
			}
		}
		return c.answer(out, r, append(rows, more(r.GetHasMore(), last)...)...)
	})
}

type budgetDeleteCmd struct {
	admin
	ID string `arg:"" help:"The budget's id."`
}

// Run deletes the budget.
func (c *budgetDeleteCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.budgets.DeleteBudget(ctx, &ledgerv1.DeleteBudgetRequest{BudgetId: c.ID})
		if err != nil {
			return err
		}
		return c.answer(out, r.GetBudget(), append([][]string{{"deleted", ""}}, budgetRows(r.GetBudget())...)...)
	})
}

type keyLimitCmd struct {
	admin
	ID         string `arg:"" help:"The key's id."`
	Concurrent *int32 `help:"Videos that may be under way at the same time; 0: any number." placeholder:"N"`
	PerMinute  *int32 `help:"Requests that it may make in a minute, over all replicas; 0: any number." placeholder:"N"`
}

// Run changes the ceilings that are given, and shows them all.
func (c *keyLimitCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.budgets.SetKeyLimits(ctx, &ledgerv1.SetKeyLimitsRequest{KeyId: c.ID, MaxConcurrent: c.Concurrent, RequestsPerMinute: c.PerMinute})
		if err != nil {
			return err
		}
		l := r.GetLimits()
		return c.answer(out, l, []string{"key", l.GetKeyId()}, []string{"videos at once", ceilingOf(l.GetMaxConcurrent())},
			[]string{"requests per minute", ceilingOf(l.GetRequestsPerMinute())})
	})
}

func ceilingOf(n int32) string {
	if n == 0 {
		return "no limit"
	}
	return fmt.Sprint(n)
}
