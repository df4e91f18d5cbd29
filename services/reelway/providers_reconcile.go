package reelway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/money"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

type reconcileCmd struct {
	admin
	Provider string `required:"" help:"The provider's name, such as kling." placeholder:"NAME"`
	File     string `required:"" help:"The invoice or usage export: CSV with a header; - is the standard input." placeholder:"FILE"`
	columns  `embed:""`
	Unit     string        `name:"currency" default:"USD" help:"The currency, where no column tells it."`
	From     string        `help:"The first day (UTC) of which the invoice must name every task; the first line's day, or the first task's, when left out." placeholder:"YYYY-MM-DD"`
	To       string        `help:"The last such day." placeholder:"YYYY-MM-DD"`
	Timeout  time.Duration `default:"10m" help:"How long it may take."`
}

// findBatch is how many task ids are asked for at a time.
const findBatch = 1000

// finding is a task on which the two differ.
type finding struct {
	TaskID  string `json:"task_id"`
	Job     string `json:"job_id,omitempty"`
	Account string `json:"account_id,omitempty"`
	Model   string `json:"model,omitempty"`
	State   string `json:"state,omitempty"`
	// Billed and Expected are decimals in the invoice's currency; empty: unknown.
	Billed   string `json:"billed,omitempty"`
	Expected string `json:"expected,omitempty"`
	// Difference is billed less expected.
	Difference string `json:"difference,omitempty"`
	Reason     string `json:"reason,omitempty"`
}

// sums are in the invoice's currency, as decimals.
type sums struct {
	Billed       string `json:"billed"`
	Expected     string `json:"expected"` // of the matched tasks whose cost is known
	Orphans      string `json:"orphans"`
	Ghosts       string `json:"ghosts"`
	Differences  string `json:"differences"`
	Unpriced     string `json:"unpriced"` // billed for tasks of which no cost is known
	UnknownTasks int    `json:"attempts_without_task_id"`
}

// reconciliation is what an invoice and the ledger make of each other.
type reconciliation struct {
	Provider    string    `json:"provider"`
	Currency    string    `json:"currency"`
	From        string    `json:"from,omitempty"` // of the time in which ghosts were looked for
	To          string    `json:"to,omitempty"`   // exclusive
	Rows        int       `json:"rows"`
	Tasks       int       `json:"tasks"`
	Matched     int       `json:"matched"`
	Orphans     []finding `json:"orphans"`     // billed there, unknown here
	Ghosts      []finding `json:"ghosts"`      // made there for us, not billed
	Differences []finding `json:"differences"` // billed at another price
	Sums        sums      `json:"sums"`

	billed, expected, orphans, ghosts, difference, unpriced int64
}

// Run reconciles.
func (c *reconcileCmd) Run(ctx context.Context, out io.Writer) error {
	from, to, err := c.period()
	if err != nil {
		return err
	}
	v, err := c.read()
	if err != nil {
		return fmt.Errorf("--file: %w", err)
	}
	r := &reconciliation{Provider: c.Provider, Currency: v.Currency, Rows: v.Rows, Tasks: len(v.Bills), Orphans: []finding{}, Ghosts: []finding{}, Differences: []finding{}}
	err = c.within(ctx, c.Timeout, func(ctx context.Context, d doors) error {
		earliest, latest, err := r.match(ctx, d, v)
		if err != nil {
			return err
		}
		if !v.First.IsZero() {
			earliest, latest = v.First, v.Last
		}
		if from.IsZero() && !earliest.IsZero() {
			from = earliest.Truncate(24 * time.Hour)
		}
		if to.IsZero() && !latest.IsZero() {
			to = latest.Truncate(24*time.Hour).AddDate(0, 0, 1)
		}
		if from.IsZero() || to.IsZero() {
			return errors.New("the invoice has no times and no task of ours: name its days by --from and --to, or no ghost can be found")
		}
		return r.haunt(ctx, d, v, from, to)
	})
	if err != nil {
		return err
	}
	r.add()
	if err := c.answer(out, r, r.table()...); err != nil {
		return err
	}
	if n := len(r.Orphans) + len(r.Ghosts) + len(r.Differences); n > 0 {
		return fmt.Errorf("the invoice differs: %d orphans, %d ghosts, %d price differences", len(r.Orphans), len(r.Ghosts), len(r.Differences))
	}
	return nil
}

// Validate reads the days before anything is asked.
func (c *reconcileCmd) Validate() error {
	if _, _, err := c.period(); err != nil {
		return err
	}
	return c.admin.Validate()
}

// period reads the days; zero for those left out. The end is exclusive.
func (c *reconcileCmd) period() (from, to time.Time, err error) {
	if c.From != "" {
		if from, err = time.Parse(time.DateOnly, c.From); err != nil {
			return from, to, errors.New("--from must be a day such as 2026-11-01")
		}
	}
	if c.To != "" {
		if to, err = time.Parse(time.DateOnly, c.To); err != nil {
			return from, to, errors.New("--to must be a day such as 2026-11-30")
		}
		to = to.AddDate(0, 0, 1)
	}
	if !from.IsZero() && !to.IsZero() && !from.Before(to) {
		return from, to, errors.New("--to must not be before --from")
	}
	return from, to, nil
}

func (c *reconcileCmd) read() (*invoice, error) {
	if c.File == "-" {
		return readInvoice(os.Stdin, c.columns, c.Unit)
	}
	f, err := os.Open(c.File)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readInvoice(f, c.columns, c.Unit)
}

// match looks for every billed task, and returns when the first and the last
// that we know began.
func (r *reconciliation) match(ctx context.Context, d doors, v *invoice) (earliest, latest time.Time, err error) {
	ids := slices.Sorted(maps.Keys(v.Bills))
	for batch := range slices.Chunk(ids, findBatch) {
		found, err := d.credit.FindProviderTasks(ctx, &ledgerv1.FindProviderTasksRequest{Provider: r.Provider, ProviderTaskIds: batch})
		if err != nil {
			return earliest, latest, err
		}
		known := make(map[string]*ledgerv1.ProviderTask, len(batch))
		for _, t := range found.GetTasks() {
			known[t.GetProviderTaskId()] = t
			began := t.GetCreatedAt().AsTime()
			if earliest.IsZero() || began.Before(earliest) {
				earliest = began
			}
			if began.After(latest) {
				latest = began
			}
		}
		for _, id := range batch {
			r.compare(v.Bills[id], known[id], v.Currency)
		}
	}
	return earliest, latest, nil
}

// compare judges one billed task.
func (r *reconciliation) compare(b *bill, t *ledgerv1.ProviderTask, currency string) {
	r.billed += b.Micros
	l := finding{TaskID: b.ID, Billed: money.Format(b.Micros)}
	if t == nil {
		r.orphans += b.Micros
		r.Orphans = append(r.Orphans, l)
		return
	}
	r.Matched++
	l.Job, l.Account, l.Model, l.State = t.GetJobId(), t.GetAccountId(), t.GetModel(), t.GetState()
	switch {
	case t.GetCostCurrency() == "":
		r.unpriced += b.Micros
		return
	case t.GetCostCurrency() != currency && t.GetCostMicros() != 0:
		l.Expected = money.Format(t.GetCostMicros()) + " " + t.GetCostCurrency()
		l.Reason = "billed in " + currency + ", expected in " + t.GetCostCurrency()
		r.Differences = append(r.Differences, l)
		return
	}
	r.expected += t.GetCostMicros()
	if b.Micros == t.GetCostMicros() {
		return
	}
	r.difference += b.Micros - t.GetCostMicros()
	l.Expected, l.Difference = money.Format(t.GetCostMicros()), money.Format(b.Micros-t.GetCostMicros())
	l.Reason = "another price"
	switch {
	case t.GetState() != "succeeded":
		l.Reason = "billed although it " + map[string]string{"failed": "failed", "canceled": "was canceled", "refused": "was refused"}[t.GetState()]
	case b.Lines > 1:
		l.Reason = fmt.Sprintf("billed in %d lines", b.Lines)
	}
	r.Differences = append(r.Differences, l)
}

// haunt looks for tasks of a time that made a video and are on no line.
func (r *reconciliation) haunt(ctx context.Context, d doors, v *invoice, from, to time.Time) error {
	r.From, r.To = from.Format(time.RFC3339), to.Format(time.RFC3339)
	q := &ledgerv1.ListProviderTasksRequest{Provider: r.Provider, From: timestamppb.New(from), To: timestamppb.New(to)}
	for {
		page, err := d.credit.ListProviderTasks(ctx, q)
		if err != nil {
			return err
		}
		for _, t := range page.GetTasks() {
			q.After = t.GetAttemptId()
			switch {
			case t.GetProviderTaskId() == "":
				if t.GetState() == "uncertain" {
					r.Sums.UnknownTasks++
				}
			case t.GetState() == "succeeded" && v.Bills[t.GetProviderTaskId()] == nil:
				l := finding{TaskID: t.GetProviderTaskId(), Job: t.GetJobId(), Account: t.GetAccountId(), Model: t.GetModel(), State: t.GetState()}
				if t.GetCostCurrency() == v.Currency {
					r.ghosts += t.GetCostMicros()
					l.Expected = money.Format(t.GetCostMicros())
				} else if t.GetCostCurrency() != "" {
					l.Expected = money.Format(t.GetCostMicros()) + " " + t.GetCostCurrency()
				}
				r.Ghosts = append(r.Ghosts, l)
			}
		}
		if !page.GetHasMore() {
			return nil
		}
	}
}

func (r *reconciliation) add() {
	r.Sums.Billed, r.Sums.Expected, r.Sums.Orphans = money.Format(r.billed), money.Format(r.expected), money.Format(r.orphans)
	r.Sums.Ghosts, r.Sums.Differences, r.Sums.Unpriced = money.Format(r.ghosts), money.Format(r.difference), money.Format(r.unpriced)
}

// table is the findings and the sums.
func (r *reconciliation) table() [][]string {
	rows := [][]string{{"", "TASK", "VIDEO", "MODEL", "BILLED", "EXPECTED", "DIFFERENCE", "REASON"}}
	for kind, list := range map[string][]finding{"orphan": r.Orphans, "ghost": r.Ghosts, "price": r.Differences} {
		for _, l := range list {
			rows = append(rows, []string{kind, l.TaskID, l.Job, l.Model, l.Billed, l.Expected, l.Difference, l.Reason})
		}
	}
	slices.SortStableFunc(rows[1:], func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	if len(rows) == 1 {
		rows = nil
	}
	return append(rows,
		[]string{"provider", r.Provider},
		[]string{"from, to", r.From + ", " + r.To},
		[]string{"tasks", fmt.Sprintf("%d on %d lines, %d of them known", r.Tasks, r.Rows, r.Matched)},
		[]string{"billed", r.Sums.Billed + " " + r.Currency},
		[]string{"expected", r.Sums.Expected, "of the known tasks"},
		[]string{"orphans", r.Sums.Orphans, fmt.Sprintf("%d billed there, unknown here; %d attempts have no task id, and may be theirs", len(r.Orphans), r.Sums.UnknownTasks)},
		[]string{"ghosts", r.Sums.Ghosts, fmt.Sprintf("%d made for us, not billed", len(r.Ghosts))},
		[]string{"differences", r.Sums.Differences, fmt.Sprintf("%d at another price", len(r.Differences))},
		[]string{"unpriced", r.Sums.Unpriced, "billed for known tasks without a known cost"})
}
