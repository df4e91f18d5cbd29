package reelway

import (
	"context"
	"io"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// pauseOf is what a pause is of.
type pauseOf struct {
	Provider string `arg:"" help:"The provider's name."`
	Model    string `help:"One of its models alone." placeholder:"ID"`
}

// name is what is paused, for people.
func (p *pauseOf) name() string {
	if p.Model == "" {
		return p.Provider
	}
	return p.Provider + ", model " + p.Model
}

type providerPauseCmd struct {
	admin
	pauseOf `embed:""`
	Reason  string        `required:"" help:"Why. Callers whose videos are refused read it."`
	For     time.Duration `help:"How long, such as 2h: until then videos that nothing else can make are refused, and afterwards all is as before. Without it they wait in the queue, until providers resume." placeholder:"DURATION"`
}

// Run pauses.
func (c *providerPauseCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		req := &ledgerv1.PauseProviderRequest{Provider: c.Provider, Model: c.Model, Reason: c.Reason}
		if c.For != 0 {
			req.Until = timestamppb.New(time.Now().Add(c.For))
		}
		r, err := d.providers.PauseProvider(ctx, req)
		if err != nil {
			return err
		}
		return c.answer(out, r.GetPause(), []string{c.name(), pause(r.GetPause())})
	})
}

type providerResumeCmd struct {
	admin
	pauseOf `embed:""`
}

// Run resumes.
func (c *providerResumeCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.providers.ResumeProvider(ctx, &ledgerv1.ResumeProviderRequest{Provider: c.Provider, Model: c.Model})
		if err != nil {
			return err
		}
		return c.answer(out, r, []string{c.name(), "not paused"})
	})
}

// pause is a pause for people; empty without one.
func pause(p *ledgerv1.ProviderPause) string {
	if p == nil {
		return ""
	}
	text := "paused since " + when(p.GetSince())
	if p.GetUntil() != nil {
		text += " until " + when(p.GetUntil())
	}
	return text + ": " + p.GetReason()
}
