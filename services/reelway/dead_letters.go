package reelway

import (
	"context"
	"fmt"
	"io"
	"strconv"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type deadLettersCmd struct {
	List   deadLetterListCmd   `cmd:"" help:"List messages that a consumer gave up on, the oldest first."`
	Show   deadLetterShowCmd   `cmd:"" help:"Show one, with what it holds."`
	Replay deadLetterReplayCmd `cmd:"" help:"Publish one again where it was, and remove it here."`
	Drop   deadLetterDropCmd   `cmd:"" help:"Remove one for good."`
}

type deadLetterListCmd struct {
	admin
	After    uint64 `help:"Go on after this number, the last one of the page before." placeholder:"NUMBER"`
	Limit    int32  `default:"20" help:"Rows of a page, at most 100."`
	Consumer string `help:"Only of this consumer." placeholder:"NAME"`
}

// Run lists one page.
func (c *deadLetterListCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.dead.ListDeadLetters(ctx, &ledgerv1.ListDeadLettersRequest{After: c.After, Limit: c.Limit, Consumer: c.Consumer})
		if err != nil {
			return err
		}
		rows := [][]string{{"NUMBER", "DIED", "CONSUMER", "TYPE", "TRIES", "REASON"}}
		for _, l := range r.GetDeadLetters() {
			rows = append(rows, []string{strconv.FormatUint(l.GetId(), 10), when(l.GetDiedAt()), l.GetConsumer(), l.GetType(), strconv.FormatUint(l.GetDeliveries(), 10), brief(l.GetReason())})
		}
		return c.answer(out, r, append(rows, more(r.GetHasMore(), strconv.FormatUint(r.GetLast(), 10))...)...)
	})
}

func letterRows(l *ledgerv1.DeadLetter) [][]string {
	return [][]string{{"number", strconv.FormatUint(l.GetId(), 10)}, {"died", when(l.GetDiedAt())}, {"stream", l.GetStream()}, {"subject", oneLine(l.GetSubject())}, {"consumer", l.GetConsumer()},
		{"tries", strconv.FormatUint(l.GetDeliveries(), 10)}, {"type", l.GetType()}, {"size", fmt.Sprintf("%d bytes", l.GetSizeBytes())}, {"reason", oneLine(l.GetReason())}}
}

// oneLetter is which dead letter a verb is about.
type oneLetter struct {
	Number uint64 `arg:"" help:"The dead letter's number."`
}

type deadLetterShowCmd struct {
	admin
	oneLetter `embed:""`
}

// Run shows the dead letter.
func (c *deadLetterShowCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.dead.GetDeadLetter(ctx, &ledgerv1.GetDeadLetterRequest{Id: c.Number})
		if err != nil {
			return err
		}
		return c.answer(out, r, append(letterRows(r.GetDeadLetter()), []string{"message", first(oneLine(r.GetMessageJson()), "cannot be read")})...)
	})
}

type deadLetterReplayCmd struct {
	admin
	oneLetter `embed:""`
}

// Run replays the dead letter.
func (c *deadLetterReplayCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.dead.ReplayDeadLetter(ctx, &ledgerv1.ReplayDeadLetterRequest{Id: c.Number})
		if err != nil {
			return err
		}
		return c.answer(out, r.GetDeadLetter(), append([][]string{{"replayed", ""}}, letterRows(r.GetDeadLetter())...)...)
	})
}

type deadLetterDropCmd struct {
	admin
	oneLetter `embed:""`
}

// Run drops the dead letter.
func (c *deadLetterDropCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.dead.DropDeadLetter(ctx, &ledgerv1.DropDeadLetterRequest{Id: c.Number})
		if err != nil {
			return err
		}
		return c.answer(out, r.GetDeadLetter(), append([][]string{{"dropped", ""}}, letterRows(r.GetDeadLetter())...)...)
	})
}
