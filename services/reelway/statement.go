package reelway

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/encoding/protojson"

	"reelway.dev/pkg/money"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type ledgerStatementCmd struct {
	admin
	Account string `required:"" help:"The account's id." placeholder:"ID"`
	Month   string `required:"" help:"The month, in the account's time zone." placeholder:"YYYY-MM"`
	Format  string `enum:"table,csv,json" default:"table" help:"table, csv or json (a line for each movement)."`
}

// statementTimeout bounds a statement, which may have many pages.
const statementTimeout = 30 * time.Minute

// Run prints every movement as its page arrives and proves that they add up.
func (c *ledgerStatementCmd) Run(ctx context.Context, out io.Writer) error {
	var p statementPrinter = &tablePrinter{out: out}
	switch {
	case c.JSON || c.Format == "json":
		p = &jsonPrinter{out: json.NewEncoder(out)}
	case c.Format == "csv":
		p = &csvPrinter{out: csv.NewWriter(out)}
	}
	return c.within(ctx, statementTimeout, func(ctx context.Context, d doors) error {
		req := &ledgerv1.GetStatementRequest{AccountId: c.Account, Month: c.Month, Limit: 1000}
		var available, held int64
		for first := true; first || req.GetPage() != ""; first = false {
			r, err := d.credit.GetStatement(ctx, req)
			if err != nil {
				return err
			}
			if first {
				available, held = r.GetOpeningAvailableMicros(), r.GetOpeningHeldMicros()
				if err := p.open(r); err != nil {
					return err
				}
			}
			for _, m := range r.GetMovements() {
				available, held = available+m.GetAvailableChangeMicros(), held+m.GetHeldChangeMicros()
				if available != m.GetAvailableMicros() || held != m.GetHeldMicros() {
					return fmt.Errorf("the books are wrong: movement %d leaves %s and %s, the ones before it make %s and %s", m.GetId(),
						money.Format(m.GetAvailableMicros()), money.Format(m.GetHeldMicros()), money.Format(available), money.Format(held))
				}
				if err := p.movement(m); err != nil {
					return err
				}
			}
			if req.Page = r.GetNextPage(); req.GetPage() == "" {
				if available != r.GetClosingAvailableMicros() || held != r.GetClosingHeldMicros() {
					return fmt.Errorf("the books are wrong: the movements make %s and %s, the balance was %s and %s", money.Format(available), money.Format(held),
						money.Format(r.GetClosingAvailableMicros()), money.Format(r.GetClosingHeldMicros()))
				}
				return p.close(r)
			}
		}
		return nil
	})
}

// statementPrinter writes a statement piece by piece: it may be long.
type statementPrinter interface {
	open(r *ledgerv1.GetStatementResponse) error
	movement(m *ledgerv1.Movement) error
	close(r *ledgerv1.GetStatementResponse) error
}

// tablePrinter has columns of one width, whatever is still to come.
type tablePrinter struct{ out io.Writer }

const statementLine = "%-20s  %-12s  %18s  %18s  %18s  %18s  %-42s  %s"

func (p *tablePrinter) line(cells ...any) error {
	_, err := fmt.Fprintln(p.out, strings.TrimRight(fmt.Sprintf(statementLine, cells...), " "))
	return err
}

func (p *tablePrinter) open(r *ledgerv1.GetStatementResponse) error {
	if _, err := fmt.Fprintf(p.out, "Statement of %s for %s (%s)\n", r.GetAccountId(), r.GetMonth(), r.GetTimeZone()); err != nil {
		return err
	}
	if err := p.line("AT", "KIND", "AVAILABLE CHANGE", "HELD CHANGE", "AVAILABLE", "HELD", "VIDEO", "REASON"); err != nil {
		return err
	}
	return p.line(when(r.GetStartsAt()), "opening", "", "", money.Format(r.GetOpeningAvailableMicros()), money.Format(r.GetOpeningHeldMicros()), "", "")
}

func (p *tablePrinter) movement(m *ledgerv1.Movement) error {
	return p.line(when(m.GetAt()), m.GetKind(), signed(m.GetAvailableChangeMicros()), signed(m.GetHeldChangeMicros()),
		money.Format(m.GetAvailableMicros()), money.Format(m.GetHeldMicros()), m.GetJobId(), oneLine(m.GetReason()))
}

func (p *tablePrinter) close(r *ledgerv1.GetStatementResponse) error {
	return p.line(when(r.GetEndsAt()), "closing", "", "", money.Format(r.GetClosingAvailableMicros()), money.Format(r.GetClosingHeldMicros()), "", "")
}

// oneLine keeps a text from breaking the table, or the terminal.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return ' '
	}, text)
}

func signed(micros int64) string {
	switch {
	case micros == 0:
		return ""
	case micros > 0:
		return "+" + money.Format(micros)
	}
	return money.Format(micros)
}

type csvPrinter struct{ out *csv.Writer }

func (p *csvPrinter) open(*ledgerv1.GetStatementResponse) error {
	return p.out.Write([]string{"id", "at", "kind", "video_id", "reason", "actor", "available_change", "held_change", "available", "held"})
}

func (p *csvPrinter) movement(m *ledgerv1.Movement) error {
	return p.out.Write([]string{strconv.FormatInt(m.GetId(), 10), m.GetAt().AsTime().UTC().Format(time.RFC3339Nano), m.GetKind(), m.GetJobId(),
		noFormula(m.GetReason()), noFormula(m.GetActor()), money.Format(m.GetAvailableChangeMicros()), money.Format(m.GetHeldChangeMicros()),
		money.Format(m.GetAvailableMicros()), money.Format(m.GetHeldMicros())})
}

func (p *csvPrinter) close(*ledgerv1.GetStatementResponse) error {
	p.out.Flush()
	return p.out.Error()
}

// noFormula keeps a spreadsheet from reading a text as a formula.
func noFormula(text string) string {
	if strings.ContainsAny(text[:min(len(text), 1)], "=+-@\t\r") {
		return "'" + text
	}
	return text
}

// jsonPrinter writes a line for the opening, each movement and the closing.
type jsonPrinter struct{ out *json.Encoder }

func (p *jsonPrinter) edge(name string, r *ledgerv1.GetStatementResponse, available, held int64) error {
	return p.out.Encode(map[string]string{name + "_available": money.Format(available), name + "_held": money.Format(held),
		"account_id": r.GetAccountId(), "month": r.GetMonth(), "time_zone": r.GetTimeZone()})
}

func (p *jsonPrinter) open(r *ledgerv1.GetStatementResponse) error {
	return p.edge("opening", r, r.GetOpeningAvailableMicros(), r.GetOpeningHeldMicros())
}

func (p *jsonPrinter) movement(m *ledgerv1.Movement) error {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("write movement: %w", err)
	}
	return p.out.Encode(json.RawMessage(raw))
}

func (p *jsonPrinter) close(r *ledgerv1.GetStatementResponse) error {
	return p.edge("closing", r, r.GetClosingAvailableMicros(), r.GetClosingHeldMicros())
}

type ledgerMarginCmd struct {
	admin
	Month   string   `required:"" help:"The month, in UTC." placeholder:"YYYY-MM"`
	Account string   `help:"Only this account." placeholder:"ID"`
	By      []string `enum:"day,model,provider,account" default:"model,provider" help:"What makes a row: day, model, provider, account."`
}

// Run prints the margins.
func (c *ledgerMarginCmd) Run(ctx context.Context, out io.Writer) error {
	from, err := time.Parse("2006-01", c.Month)
	if err != nil {
		return fmt.Errorf("--month must be a month such as 2026-11")
	}
	return c.within(ctx, 5*time.Minute, func(ctx context.Context, d doors) error {
		r, err := d.credit.Margin(ctx, &ledgerv1.MarginRequest{FromDay: from.Format(time.DateOnly), ToDay: from.AddDate(0, 1, -1).Format(time.DateOnly),
			AccountId: c.Account, By: c.By})
		if err != nil {
			return err
		}
		rows := [][]string{{"DAY", "MODEL", "PROVIDER", "ACCOUNT", "JOBS", "SUCCEEDED", "CREDITS", "REFUNDED", "COST", "OF IT REPORTED", "NO COST KNOWN"}}
		for _, x := range r.GetRows() {
			var cost, reported []string
			for _, k := range x.GetCosts() {
				cost = append(cost, money.Format(k.GetMicros())+" "+k.GetCurrency())
				reported = append(reported, money.Format(k.GetReportedMicros()))
			}
			rows = append(rows, []string{first(x.GetDay(), "-"), first(x.GetModel(), "-"), first(x.GetProvider(), "-"), first(x.GetAccountId(), "-"),
				strconv.FormatInt(x.GetJobs(), 10), strconv.FormatInt(x.GetSucceeded(), 10), money.Format(x.GetRevenueMicros()), money.Format(x.GetRefundedMicros()),
				first(strings.Join(cost, " + "), "-"), first(strings.Join(reported, " + "), "-"), strconv.FormatInt(x.GetUncosted(), 10)})
		}
		return c.answer(out, r, rows...)
	})
}
