package reelway

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type keysCmd struct {
	Create keyCreateCmd `cmd:"" help:"Create a key and print it, this once."`
	List   keyListCmd   `cmd:"" help:"List an account's keys, the latest first."`
	Rotate keyRotateCmd `cmd:"" help:"Replace a key by a new one, printed this once; the old one works for a while."`
	Revoke keyRevokeCmd `cmd:"" help:"End a key, everywhere within a second."`
	Limit  keyLimitCmd  `cmd:"" help:"Show a key's ceilings, or change those that are given."`
}

// span is a length of time that may be said in days: 90d, 36h, 15m, 0.
type span time.Duration

// UnmarshalText reads a span; it is not negative.
func (s *span) UnmarshalText(text []byte) error {
	bad := errors.New("must be a length of time such as 90d, 36h or 15m")
	if days, ok := strings.CutSuffix(string(text), "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return bad
		}
		*s = span(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	d, err := time.ParseDuration(string(text))
	if err != nil || d < 0 {
		return bad
	}
	*s = span(d)
	return nil
}

type keyCreateCmd struct {
	admin
	Account   string   `required:"" help:"The account's id." placeholder:"ID"`
	Scopes    []string `required:"" help:"What it may do: videos:write, videos:read, billing:read; or admin, which is everything on every account."`
	Name      string   `help:"What it is for."`
	ExpiresIn *span    `help:"When it ends by itself, such as 90d; never when left out." placeholder:"SPAN"`
}

// Run creates the key.
func (c *keyCreateCmd) Run(ctx context.Context, out io.Writer) error {
	q := &ledgerv1.CreateAPIKeyRequest{AccountId: c.Account, Scopes: c.Scopes, Name: c.Name}
	if c.ExpiresIn != nil {
		q.ExpiresAt = timestamppb.New(time.Now().Add(time.Duration(*c.ExpiresIn)))
	}
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.CreateAPIKey(ctx, q)
		if err != nil {
			return err
		}
		return c.answer(out, secretJSON{r.GetApiKey()}, []string{"key", r.GetKeyId()}, []string{"secret", r.GetApiKey()}, []string{"", "Keep it now: it is shown this once."})
	})
}

// secretJSON is a new key's secret, for scripts.
type secretJSON struct {
	APIKey string `json:"api_key"`
}

type keyListCmd struct {
	admin
	paging  `embed:""`
	Account string `required:"" help:"The account's id." placeholder:"ID"`
}

// Run lists one page.
func (c *keyListCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.ListAPIKeys(ctx, &ledgerv1.ListAPIKeysRequest{AccountId: c.Account, After: c.After, Limit: c.Limit})
		if err != nil {
			return err
		}
		rows, last := [][]string{{"KEY", "NAME", "SCOPES", "STATUS", "LAST USED", "CREATED"}}, ""
		for _, k := range r.GetApiKeys() {
			last = k.GetId()
			rows = append(rows, []string{k.GetId(), first(k.GetName(), "-"), strings.Join(k.GetScopes(), ","), keyStatus(k, time.Now()), first(when(k.GetLastUsedAt()), "never"), when(k.GetCreatedAt())})
		}
		return c.answer(out, r, append(rows, more(r.GetHasMore(), last)...)...)
	})
}

func keyStatus(k *ledgerv1.APIKey, now time.Time) string {
	switch {
	case k.GetRevokedAt() != nil:
		return "revoked " + when(k.GetRevokedAt())
	case k.GetExpiresAt() == nil:
		return "active"
	case !k.GetExpiresAt().AsTime().After(now):
		return "ended " + when(k.GetExpiresAt())
	}
	return "until " + when(k.GetExpiresAt())
}

type keyRotateCmd struct {
	admin
	ID      string `arg:"" help:"The key's id."`
	Overlap span   `default:"24h" help:"How long the old key goes on working; 0 ends it at once." placeholder:"SPAN"`
}

// Run rotates the key.
func (c *keyRotateCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.RotateAPIKey(ctx, &ledgerv1.RotateAPIKeyRequest{KeyId: c.ID, Overlap: durationpb.New(time.Duration(c.Overlap))})
		if err != nil {
			return err
		}
		return c.answer(out, secretJSON{r.GetApiKey()}, []string{"key", r.GetKeyId()}, []string{"secret", r.GetApiKey()},
			[]string{"", "Keep it now: it is shown this once."}, []string{"old key", keyStatus(r.GetRotated(), time.Now())})
	})
}

type keyRevokeCmd struct {
	admin
	ID string `arg:"" help:"The key's id."`
}

// Run revokes the key.
func (c *keyRevokeCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.accounts.RevokeAPIKey(ctx, &ledgerv1.RevokeAPIKeyRequest{KeyId: c.ID})
		if err != nil {
			return err
		}
		k := r.GetApiKey()
		return c.answer(out, k, []string{"key", k.GetId()}, []string{"account", k.GetAccountId()}, []string{"status", keyStatus(k, time.Now())})
	})
}
