package intake

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/money"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

var month = regexp.MustCompile(`^[0-9]{4}-(0[1-9]|1[0-2])$`)

// getStatement answers with every movement of a month, as JSON or CSV. The
// pages of the ledger are passed on as they come: the answer is never whole in
// memory, however large the account.
func (s *Service) getStatement(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	q := r.URL.Query()
	var bad []fault.Field
	if !month.MatchString(q.Get("month")) {
		bad = append(bad, fault.Field{Name: "month", Message: "must be a month, such as 2026-11"})
	}
	format := q.Get("format")
	if format != "" && format != "json" && format != "csv" {
		bad = append(bad, fault.Field{Name: "format", Message: "must be json or csv"})
	}
	if len(bad) > 0 {
		return invalid(bad)
	}
	req := &ledgerv1.GetStatementRequest{AccountId: p.AccountID, Month: q.Get("month"), Limit: 1000}
	first, err := s.d.Ledger.GetStatement(r.Context(), req)
	if err != nil {
		return fault.FromStatus(err)
	}
	// From here on the status is sent. What breaks later breaks the connection off,
	// so that nobody takes a part for the whole.
	pages := func(yield func(*ledgerv1.GetStatementResponse) error) error {
		for page := first; ; {
			// A month may take longer than the time that one answer has.
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(30 * time.Second))
			if err := yield(page); err != nil {
				return err
			}
			if req.Page = page.GetNextPage(); req.GetPage() == "" {
				return nil
			}
			if page, err = s.d.Ledger.GetStatement(r.Context(), req); err != nil {
				return fmt.Errorf("read on: %w", err)
			}
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	if format == "csv" {
		w.Header().Set("Content-Type", "text/csv; charset=utf-8")
		w.Header().Set("Content-Disposition", `attachment; filename="statement-`+req.GetMonth()+`.csv"`)
		err = writeStatementCSV(w, pages)
	} else {
		w.Header().Set("Content-Type", "application/json")
		err = writeStatementJSON(w, first, pages)
	}
	if err != nil {
		s.d.Logger.WarnContext(r.Context(), "statement broken off", "account_id", p.AccountID, "month", req.GetMonth(), "error", err.Error())
		panic(http.ErrAbortHandler)
	}
	return nil
}

type statementPages = func(yield func(*ledgerv1.GetStatementResponse) error) error

// statementMovement is a movement in JSON.
type statementMovement struct {
	ID              int64  `json:"id"`
	At              string `json:"at"`
	Kind            string `json:"kind"`
	VideoID         string `json:"video_id,omitempty"`
	Reason          string `json:"reason,omitempty"`
	Available       string `json:"available"`
	AvailableChange string `json:"available_change"`
	Held            string `json:"held"`
	HeldChange      string `json:"held_change"`
}

func statementRow(m *ledgerv1.Movement) statementMovement {
	return statementMovement{ID: m.GetId(), At: m.GetAt().AsTime().UTC().Format(time.RFC3339Nano), Kind: m.GetKind(), VideoID: m.GetJobId(), Reason: m.GetReason(),
		Available: money.Format(m.GetAvailableMicros()), AvailableChange: money.Format(m.GetAvailableChangeMicros()),
		Held: money.Format(m.GetHeldMicros()), HeldChange: money.Format(m.GetHeldChangeMicros())}
}

func writeStatementJSON(w io.Writer, first *ledgerv1.GetStatementResponse, pages statementPages) error {
	head, err := json.Marshal(statementHead{Object: "statement", Month: first.GetMonth(), TimeZone: first.GetTimeZone(),
		StartsAt: first.GetStartsAt().AsTime().Format(time.RFC3339), EndsAt: first.GetEndsAt().AsTime().Format(time.RFC3339),
		Opening: statementBooks{Available: money.Format(first.GetOpeningAvailableMicros()), Held: money.Format(first.GetOpeningHeldMicros())},
		Closing: statementBooks{Available: money.Format(first.GetClosingAvailableMicros()), Held: money.Format(first.GetClosingHeldMicros())}})
	if err != nil {
		return fmt.Errorf("marshal statement: %w", err)
	}
	if _, err := fmt.Fprintf(w, `%s,"movements":[`, head[:len(head)-1]); err != nil {
		return err
	}
	comma := ""
	if err := pages(func(page *ledgerv1.GetStatementResponse) error {
		for _, m := range page.GetMovements() {
			row, err := json.Marshal(statementRow(m))
			if err != nil {
				return fmt.Errorf("marshal movement: %w", err)
			}
			if _, err := fmt.Fprintf(w, "%s%s", comma, row); err != nil {
				return err
			}
			comma = ","
		}
		return nil
	}); err != nil {
		return err
	}
	_, err = io.WriteString(w, "]}\n")
	return err
}

func writeStatementCSV(w io.Writer, pages statementPages) error {
	out := csv.NewWriter(w)
	// Errors stay in out until Flush.
	_ = out.Write([]string{"id", "at", "kind", "video_id", "reason", "available_change", "held_change", "available", "held"})
	return pages(func(page *ledgerv1.GetStatementResponse) error {
		for _, m := range page.GetMovements() {
			r := statementRow(m)
			_ = out.Write([]string{fmt.Sprint(r.ID), r.At, r.Kind, plain(r.VideoID), plain(r.Reason), r.AvailableChange, r.HeldChange, r.Available, r.Held})
		}
		out.Flush()
		return out.Error()
	})
}

// plain keeps a spreadsheet from reading a text as a formula. Amounts are
// numbers by their form and stay as they are.
func plain(text string) string {
	if strings.ContainsAny(text[:min(len(text), 1)], "=+-@\t\r") {
		return "'" + text
	}
	return text
}
