package reelway

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/money"
	"reelway.dev/pkg/videojson"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

type accountsCmd struct {
	Create  accountCreateCmd  `cmd:"" help:"Create an account."`
	List    accountListCmd    `cmd:"" help:"List the accounts, the latest first."`
	Show    accountShowCmd    `cmd:"" help:"Show an account and its balance."`
	Set     accountSetCmd     `cmd:"" help:"Change an account's name, tier, time zone, highest resolution or place in the queue."`
	Suspend accountSuspendCmd `cmd:"" help:"Refuse an account's new videos; what runs goes on."`
	Resume  accountResumeCmd  `cmd:"" help:"End a suspension, or the pause of an account that spent too fast."`
}

// amount is an amount of credits above 0, in micro-credits.
type amount int64

// UnmarshalText reads decimal credits, exactly.
func (a *amount) UnmarshalText(text []byte) error {
	micros, err := money.Parse(string(text))
	if err != nil {
		return err
	}
	if micros <= 0 {
		return errors.New("must be above 0")
	}
	*a = amount(micros)
	return nil
}

type accountCreateCmd struct {
	admin
	Name     string `arg:"" help:"The account's name."`
	Credits  amount `help:"Its first credits." placeholder:"DECIMAL"`
	Tier     string `enum:"development,staging,production" default:"development" help:"development, staging or production: how high a resolution it may ask for."`
	TimeZone string `default:"UTC" help:"An IANA name: where its days and months begin." placeholder:"ZONE"`
}

// Run creates the account and then, when asked to, adds its first credits.
func (c *accountCreateCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: c.Name, Tier: c.Tier, TimeZone: c.TimeZone})
		if err != nil {
			return err
		}
		if c.Credits > 0 {
			if _, err := d.credit.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: r.GetAccountId(), AmountMicros: int64(c.Credits), IdempotencyKey: "first"}); err != nil {
				return fmt.Errorf("%s was created, but its credits were not added: %w; run: reelway ledger top-up --account %s --credits %s --reason first --once first",
					r.GetAccountId(), c.explain(err), r.GetAccountId(), money.Format(int64(c.Credits)))
			}
		}
		return c.answer(out, map[string]string{"account_id": r.GetAccountId()},
			[]string{"account", r.GetAccountId()}, []string{"name", c.Name}, []string{"tier", c.Tier}, []string{"time zone", c.TimeZone},
			[]string{"credits", money.Format(int64(c.Credits))})
	})
}

type accountListCmd struct {
	admin
	paging `embed:""`
}

// Run lists one page.
func (c *accountListCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.ListAccounts(ctx, &ledgerv1.ListAccountsRequest{After: c.After, Limit: c.Limit})
		if err != nil {
			return err
		}
		rows, last := [][]string{{"ACCOUNT", "NAME", "TIER", "STATUS", "CAP", "TIME ZONE", "CREATED"}}, ""
		for _, a := range r.GetAccounts() {
			last = a.GetId()
			rows = append(rows, []string{a.GetId(), a.GetName(), a.GetTier(), accountStatus(a), first(a.GetCapResolution(), "tier"), a.GetTimeZone(), when(a.GetCreatedAt())})
		}
		return c.answer(out, r, append(rows, more(r.GetHasMore(), last)...)...)
	})
}

func accountStatus(a *ledgerv1.Account) string {
	switch a.GetStatus() {
	case ledgerv1.AccountStatus_ACCOUNT_STATUS_SUSPENDED:
		return "suspended"
	case ledgerv1.AccountStatus_ACCOUNT_STATUS_PAUSED:
		return "paused"
	}
	return "active"
}

// accountRows is an account for people.
func accountRows(a *ledgerv1.Account) [][]string {
	rows := [][]string{{"account", a.GetId()}, {"name", a.GetName()}, {"tier", a.GetTier()}, {"status", accountStatus(a)}}
	if a.GetSuspendedReason() != "" {
		rows = append(rows, []string{"suspended", when(a.GetSuspendedAt()) + ": " + a.GetSuspendedReason()})
	}
	if a.GetPausedReason() != "" {
		rows = append(rows, []string{"paused", when(a.GetPausedAt()) + ": " + a.GetPausedReason()})
	}
	resolution := "as its tier"
	if a.GetCapResolution() != "" {
		resolution = a.GetCapResolution() + ": " + a.GetCapReason()
	}
	return append(rows, []string{"cap", resolution}, []string{"queue", fmt.Sprintf("weight %d, up to %s", a.GetQueueWeight(), videojson.Priority(a.GetTopPriority()))}, []string{"videos kept", keptFor(a)},
		[]string{"time zone", a.GetTimeZone()}, []string{"e-mail", first(a.GetEmail(), "-")}, []string{"created", when(a.GetCreatedAt())})
}

type accountShowCmd struct {
	admin
	ID string `arg:"" help:"The account's id."`
}

// Run shows the account and its balance.
func (c *accountShowCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.GetAccount(ctx, &ledgerv1.GetAccountRequest{AccountId: c.ID})
		if err != nil {
			return err
		}
		b, err := d.credit.GetBalance(ctx, &ledgerv1.GetBalanceRequest{AccountId: c.ID})
		if err != nil {
			return err
		}
		available, held := money.Format(b.GetAvailableMicros()), money.Format(b.GetHeldMicros())
		return c.answer(out, map[string]any{"account": messageJSON{r.GetAccount()}, "available": available, "held": held},
			append(accountRows(r.GetAccount()), []string{"available", available}, []string{"held", held})...)
	})
}

type accountSetCmd struct {
	admin
	ID       string  `arg:"" help:"The account's id."`
	Name     *string `help:"A new name."`
	Tier     *string `help:"development, staging or production."`
	TimeZone *string `help:"An IANA name." placeholder:"ZONE"`
	Cap      *string `help:"The highest resolution, instead of the tier's: 480p, 720p, 1080p, 2160p; or tier, to let the tier decide again. Needs --reason." placeholder:"RESOLUTION"`
	Weight   *int32  `help:"Its share of the queue beside other accounts, 1 to 100." placeholder:"N"`
	Priority *string `help:"The highest class of the queue that it may ask for: low, normal or high." placeholder:"CLASS"`
	Email    *string `help:"Where its owner is told of budgets and pauses; empty: nowhere." placeholder:"ADDRESS"`
	Retain   *keep   `name:"retain-videos" help:"How long its videos stay in the bucket, such as 720h; forever; or default, to let REELWAY_RETAIN_VIDEOS decide again." placeholder:"AGE"`
	Reason   string  `help:"Why; goes into the audit log."`
}

// Validate refuses to change nothing.
func (c *accountSetCmd) Validate() error {
	if c.Name == nil && c.Tier == nil && c.TimeZone == nil && c.Cap == nil && c.Weight == nil && c.Priority == nil && c.Retain == nil && c.Email == nil {
		return errors.New("nothing to set: give --name, --tier, --time-zone, --cap, --weight, --priority, --email or --retain-videos")
	}
	if c.Priority != nil {
		if p, ok := videojson.ParsePriority(*c.Priority); !ok || p == 0 {
			return errors.New("--priority must be low, normal or high")
		}
	}
	if c.Cap != nil && c.Reason == "" {
		return errors.New("--cap needs --reason")
	}
	return c.admin.Validate()
}

// Run changes what was given.
func (c *accountSetCmd) Run(ctx context.Context, out io.Writer) error {
	if c.Cap != nil && *c.Cap == "tier" {
		c.Cap = proto.String("")
	}
	var top *videov1.Priority
	if c.Priority != nil {
		p, _ := videojson.ParsePriority(*c.Priority)
		top = &p
	}
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.UpdateAccount(ctx, &ledgerv1.UpdateAccountRequest{AccountId: c.ID, Name: c.Name, Tier: c.Tier, TimeZone: c.TimeZone,
			CapResolution: c.Cap, QueueWeight: c.Weight, TopPriority: top, RetainVideos: c.Retain.own(), DefaultRetainVideos: c.Retain.common(), Email: c.Email, Reason: c.Reason})
		if err != nil {
			return err
		}
		return c.answer(out, r.GetAccount(), accountRows(r.GetAccount())...)
	})
}

type accountSuspendCmd struct {
	admin
	ID     string `arg:"" help:"The account's id."`
	Reason string `required:"" help:"Why. The account's callers read it."`
}

// Run suspends the account.
func (c *accountSuspendCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.SuspendAccount(ctx, &ledgerv1.SuspendAccountRequest{AccountId: c.ID, Reason: c.Reason})
		if err != nil {
			return err
		}
		return c.answer(out, r.GetAccount(), accountRows(r.GetAccount())...)
	})
}

type accountResumeCmd struct {
	admin
	ID     string `arg:"" help:"The account's id."`
	Reason string `required:"" help:"Why; goes into the audit log."`
}

// Run resumes the account.
func (c *accountResumeCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.ResumeAccount(ctx, &ledgerv1.ResumeAccountRequest{AccountId: c.ID, Reason: c.Reason})
		if err != nil {
			return err
		}
		return c.answer(out, r.GetAccount(), accountRows(r.GetAccount())...)
	})
}
