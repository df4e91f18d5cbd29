package reelway

import (
	"context"
	"errors"
	"io"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type userSetCmd struct {
	admin
	ID          string  `arg:"" help:"The user's id: what the account sends as user with its requests."`
	Account     string  `required:"" help:"The account's id." placeholder:"ID"`
	Email       *string `help:"Where the user is written to; empty: nowhere any more." placeholder:"ADDRESS"`
	Notify      *bool   `negatable:"" help:"The user wants e-mail when a video is done or has failed."`
	Resubscribe bool    `help:"The user asks for e-mail again after unsubscribing."`
}

// Help implements kong.HelpProvider.
func (*userSetCmd) Help() string {
	return `Who has unsubscribed is not written to again by --notify, but by --resubscribe alone.

Examples:

    reelway users set ada --account acct_… --email ada@example.com --notify
    reelway users set ada --account acct_… --no-notify`
}

// Validate refuses to change nothing.
func (c *userSetCmd) Validate() error {
	if c.Email == nil && c.Notify == nil && !c.Resubscribe {
		return errors.New("nothing to set: give --email, --notify, --no-notify or --resubscribe")
	}
	return c.admin.Validate()
}

// Run changes what was given.
func (c *userSetCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.UpdateEndUser(ctx, &ledgerv1.UpdateEndUserRequest{AccountId: c.Account, UserId: c.ID, Email: c.Email, Notify: c.Notify, Resubscribe: c.Resubscribe})
		if err != nil {
			return err
		}
		return c.answer(out, r.GetEndUser(), userRows(r.GetEndUser())...)
	})
}

// userRows is an end user for people.
func userRows(u *ledgerv1.EndUser) [][]string {
	return [][]string{{"user", u.GetId()}, {"account", u.GetAccountId()}, {"name", u.GetName()}, {"e-mail", first(u.GetEmail(), "-")}, {"notify", notified(u)}, {"created", when(u.GetCreatedAt())}}
}

// notified is whether a user is written to.
func notified(u *ledgerv1.EndUser) string {
	switch {
	case u.GetUnsubscribedAt() != nil:
		return "unsubscribed"
	case u.GetNotify():
		return "yes"
	}
	return "no"
}
