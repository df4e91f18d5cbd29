package reelway

import (
	"context"
	"io"
	"strconv"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type usersCmd struct {
	Create userCreateCmd `cmd:"" help:"Register one of an account's own users."`
	Set    userSetCmd    `cmd:"" help:"Change where an end user is written to, and whether."`
	List   userListCmd   `cmd:"" help:"List an account's end users by id."`
	Erase  userEraseCmd  `cmd:"" help:"Remove what is known of an end user: prompts, videos, the name. Postings remain."`
}

type userCreateCmd struct {
	admin
	ID      string `arg:"" help:"The user's id: what the account sends as user with its requests."`
	Account string `required:"" help:"The account's id." placeholder:"ID"`
	Name    string `help:"A name to show."`
	Email   string `help:"Where the user is written to." placeholder:"ADDRESS"`
	Notify  bool   `help:"The user wants e-mail when a video is done or has failed. Needs --email."`
}

// Run registers the user.
func (c *userCreateCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.CreateEndUser(ctx, &ledgerv1.CreateEndUserRequest{AccountId: c.Account, UserId: c.ID, Name: c.Name, Email: c.Email, Notify: c.Notify})
		if err != nil {
			return err
		}
		return c.answer(out, r.GetEndUser(), userRows(r.GetEndUser())...)
	})
}

type userListCmd struct {
	admin
	paging  `embed:""`
	Account string `required:"" help:"The account's id." placeholder:"ID"`
}

// Run lists one page.
func (c *userListCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.ListEndUsers(ctx, &ledgerv1.ListEndUsersRequest{AccountId: c.Account, After: c.After, Limit: c.Limit})
		if err != nil {
			return err
		}
		rows, last := [][]string{{"USER", "NAME", "E-MAIL", "NOTIFY", "CREATED"}}, ""
		for _, u := range r.GetEndUsers() {
			last = u.GetId()
			rows = append(rows, []string{u.GetId(), first(u.GetName(), "-"), first(u.GetEmail(), "-"), notified(u), when(u.GetCreatedAt())})
		}
		return c.answer(out, r, append(rows, more(r.GetHasMore(), last)...)...)
	})
}

type userEraseCmd struct {
	admin
	ID      string `arg:"" help:"The user's id: what the account sends as user with its requests."`
	Account string `required:"" help:"The account's id." placeholder:"ID"`
	Reason  string `required:"" help:"Why, for the audit log, without the user's name." placeholder:"TEXT"`
}

// Run erases the user, or goes on with it.
func (c *userEraseCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.privacy.EraseUser(ctx, &ledgerv1.EraseUserRequest{AccountId: c.Account, User: c.ID, Reason: c.Reason})
		if err != nil {
			return err
		}
		return c.answer(out, r, []string{"jobs", strconv.FormatInt(r.GetJobs(), 10)}, []string{"videos", strconv.FormatInt(r.GetVideos(), 10)},
			[]string{"token", first(r.GetToken(), "-")})
	})
}
