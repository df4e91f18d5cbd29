package reelway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type auditCmd struct {
	admin
	paging  `embed:""`
	Account string `help:"Only what concerns this account." placeholder:"ID"`
	Actor   string `help:"Only what this admin key did; operator is the installation itself." placeholder:"KEY-ID"`
}

// Run lists one page.
func (c *auditCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.ListAuditEntries(ctx, &ledgerv1.ListAuditEntriesRequest{After: c.After, Limit: c.Limit, AccountId: c.Account, Actor: c.Actor})
		if err != nil {
			return err
		}
		rows, last := [][]string{{"AT", "ACTOR", "ACTION", "TARGET", "DETAILS"}}, ""
		for _, e := range r.GetEntries() {
			last = e.GetId()
			details, err := json.Marshal(e.GetDetails().AsMap()) // sorted by name
			if err != nil {
				return fmt.Errorf("write details: %w", err)
			}
			rows = append(rows, []string{when(e.GetAt()), e.GetActor(), e.GetAction(), e.GetTarget(), string(details)})
		}
		return c.answer(out, r, append(rows, more(r.GetHasMore(), last)...)...)
	})
}
