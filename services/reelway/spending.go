package reelway

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"reelway.dev/pkg/money"
)

type balanceCmd struct{ caller }

// Help implements kong.HelpProvider.
func (*balanceCmd) Help() string {
	return `Needs a key of scope billing:read.

Examples:

    reelway balance
    reelway balance --json | jq -r .available`
}

// Run prints the balance.
func (b *balanceCmd) Run(ctx context.Context, io *console) error {
	return b.do(ctx, callTimeout, func(ctx context.Context, cl client) error {
		var raw json.RawMessage
		if err := cl.call(ctx, http.MethodGet, "/v1/balance", nil, &raw); err != nil {
			return err
		}
		var a struct{ Available, Held, Granted string }
		if err := json.Unmarshal(raw, &a); err != nil {
			return fmt.Errorf("read balance: %w", err)
		}
		return b.answer(io.out, raw, []string{"available", a.Available}, []string{"held", a.Held}, []string{"of it granted", cmp.Or(a.Granted, money.Format(0))})
	})
}

type usageCmd struct {
	caller
	From  string   `help:"The first UTC day; 29 days before the last when left out." placeholder:"YYYY-MM-DD"`
	To    string   `help:"The last UTC day; today when left out." placeholder:"YYYY-MM-DD"`
	By    []string `enum:"day,model,provider,api_key,user,none" default:"day" help:"What makes a row: day, model, provider, api_key, user; or none for one sum."`
	Model string   `help:"Only this model." placeholder:"ID"`
	User  *string  `help:"Only this user of yours; empty: only videos without one." placeholder:"ID"`
	After string   `help:"Go on here, as the page before says." placeholder:"NEXT"`
	Limit int      `short:"n" default:"1000" help:"Rows at the most, 1 to 5000."`
}

// Help implements kong.HelpProvider.
func (*usageCmd) Help() string {
	return `Needs a key of scope billing:read.

Examples:

    reelway usage
    reelway usage --by model --from 2026-11-01 --to 2026-11-30
    reelway usage --by user,model --json | jq -r '.data[] | [.user, .spend] | @tsv'`
}

// Run prints one page.
func (u *usageCmd) Run(ctx context.Context, io *console) error {
	q := url.Values{"limit": {strconv.Itoa(u.Limit)}, "group_by": {strings.Join(u.By, ",")}}
	for name, v := range map[string]string{"from": u.From, "to": u.To, "model": u.Model, "after": u.After} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if u.User != nil {
		q.Set("user", *u.User)
	}
	return u.do(ctx, callTimeout, func(ctx context.Context, cl client) error {
		var raw json.RawMessage
		if err := cl.call(ctx, http.MethodGet, "/v1/usage?"+q.Encode(), nil, &raw); err != nil {
			return err
		}
		var a struct {
			Data []struct {
				Day, Model, Provider, User, Spend string
				APIKey                            string `json:"api_key"`
				Jobs, Succeeded, Seconds          int64
				Rate                              float64 `json:"success_rate"`
			}
			From, To string
			Next     *string
		}
		if err := json.Unmarshal(raw, &a); err != nil {
			return fmt.Errorf("read usage: %w", err)
		}
		var head []string
		for _, by := range u.By {
			if by != "none" {
				head = append(head, map[string]string{"day": "DAY", "model": "MODEL", "provider": "PROVIDER", "api_key": "API KEY", "user": "USER"}[by])
			}
		}
		rows := [][]string{append(head, "VIDEOS", "SUCCEEDED", "SECONDS", "CREDITS", "SUCCESS")}
		for _, x := range a.Data {
			var row []string
			for _, by := range u.By {
				if by != "none" {
					row = append(row, cmp.Or(map[string]string{"day": x.Day, "model": x.Model, "provider": x.Provider, "api_key": x.APIKey, "user": x.User}[by], "-"))
				}
			}
			rows = append(rows, append(row, fmt.Sprint(x.Jobs), fmt.Sprint(x.Succeeded), fmt.Sprint(x.Seconds), x.Spend, fmt.Sprintf("%.1f %%", 100*x.Rate)))
		}
		if err := u.answer(io.out, raw, rows...); err != nil {
			return err
		}
		if !u.JSON {
			say(io.err, "from %s to %s", a.From, a.To)
			if a.Next != nil {
				say(io.err, "more: --after %s", *a.Next)
			}
		}
		return nil
	})
}
