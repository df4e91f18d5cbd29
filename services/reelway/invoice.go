package reelway

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// columns name an invoice's columns; an empty one is looked for.
type columns struct {
	ID       string `name:"id-column" help:"The column of the provider's task ids; found by its name when left out." placeholder:"NAME"`
	Cost     string `name:"cost-column" help:"The column of what was asked for a line; found by its name when left out." placeholder:"NAME"`
	Currency string `name:"currency-column" help:"The column of the currency; found by its name when left out." placeholder:"NAME"`
	Time     string `name:"time-column" help:"The column of the time; found by its name when left out." placeholder:"NAME"`
}

// Names of columns in exports, without case and punctuation, the surest first.
var (
	idNames       = []string{"providertaskid", "taskid", "requestid", "predictionid", "generationid", "videoid", "operationid", "operation", "jobid", "task", "prediction", "generation", "id"}
	costNames     = []string{"totalcost", "costusd", "cost", "amountusd", "amount", "totalprice", "priceusd", "price", "charge", "charged", "billedamount", "billed", "total", "usd", "spend"}
	currencyNames = []string{"currency", "currencycode"}
	timeNames     = []string{"createdat", "created", "startedat", "starttime", "timestamp", "time", "date", "usagedate", "day", "completedat"}
)

// bill is what a provider asks for one task: the sum of its lines.
type bill struct {
	ID     string
	Micros int64 // millionths of the invoice's currency
	Lines  int
}

// invoice is a provider's invoice or usage export.
type invoice struct {
	Rows     int
	Currency string
	Bills    map[string]*bill
	// First and Last are the times of its lines; zero without a column of times.
	First, Last time.Time
}

// readInvoice reads a CSV with a header, separated by commas, semicolons or
// tabs. fallback is the currency where no column tells one.
func readInvoice(in io.Reader, names columns, fallback string) (*invoice, error) {
	buf := bufio.NewReaderSize(in, 64<<10)
	head, err := buf.Peek(64 << 10)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read: %w", err)
	}
	if strings.HasPrefix(string(head), "\ufeff") {
		_, _ = buf.Discard(len("\ufeff")) // it was peeked
	}
	first, _, _ := strings.Cut(string(head), "\n")
	r := csv.NewReader(buf)
	r.ReuseRecord = true
	r.Comma = slices.MaxFunc([]rune{',', ';', '\t'}, func(a, b rune) int {
		return cmp.Compare(strings.Count(first, string(a)), strings.Count(first, string(b)))
	})
	header, err := r.Read()
	if err != nil {
		return nil, fmt.Errorf("read the header: %w", err)
	}
	header = slices.Clone(header)
	id, err1 := find(header, "--id-column", names.ID, idNames, true)
	cost, err2 := find(header, "--cost-column", names.Cost, costNames, true)
	currency, err3 := find(header, "--currency-column", names.Currency, currencyNames, false)
	at, err4 := find(header, "--time-column", names.Time, timeNames, false)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, err
	}
	v := &invoice{Bills: map[string]*bill{}, Currency: strings.ToUpper(fallback)}
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return v, nil
		}
		if err != nil {
			return nil, err // it names the line
		}
		line, _ := r.FieldPos(0)
		task := strings.TrimSpace(row[id])
		if task == "" && strings.TrimSpace(row[cost]) == "" {
			continue // a line of space
		}
		micros, err := toMicros(row[cost])
		if err != nil {
			return nil, fmt.Errorf("line %d, %s: %w", line, header[cost], err)
		}
		if currency >= 0 && strings.TrimSpace(row[currency]) != "" {
			c := strings.ToUpper(strings.TrimSpace(row[currency]))
			if v.Rows > 0 && c != v.Currency {
				return nil, fmt.Errorf("line %d, %s: %s after %s; reconcile one currency at a time", line, header[currency], c, v.Currency)
			}
			v.Currency = c
		}
		if at >= 0 {
			when, err := readTime(row[at])
			if err != nil {
				return nil, fmt.Errorf("line %d, %s: %w", line, header[at], err)
			}
			if v.First.IsZero() || when.Before(v.First) {
				v.First = when
			}
			if when.After(v.Last) {
				v.Last = when
			}
		}
		v.Rows++
		b := v.Bills[task]
		if b == nil {
			task = strings.Clone(task)
			b = &bill{ID: task}
			v.Bills[task] = b
		}
		b.Micros += micros
		b.Lines++
	}
}

// find is the index of a column: the one that is named, or the first that a name
// of the list fits; -1 for none that need not be there.
func find(header []string, flag, name string, names []string, needed bool) (int, error) {
	if name != "" {
		if i := slices.Index(header, name); i >= 0 {
			return i, nil
		}
		return -1, fmt.Errorf("%s: there is no column %q; there are: %s", flag, name, strings.Join(header, ", "))
	}
	for _, n := range names {
		if i := slices.IndexFunc(header, func(h string) bool { return plain(h) == n }); i >= 0 {
			return i, nil
		}
	}
	if needed {
		return -1, fmt.Errorf("%s: no column looks like it; name one of: %s", flag, strings.Join(header, ", "))
	}
	return -1, nil
}

// plain is a name without case and punctuation.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name)
}

// toMicros reads an amount of money to the millionth, halves rounded up. A sign
// of currency may stand before it, and commas between thousands.
func toMicros(text string) (int64, error) {
	s := strings.NewReplacer(" ", "", "$", "", "€", "", "£", "").Replace(strings.TrimSpace(text))
	if strings.Contains(s, ".") || strings.Count(s, ",") > 1 {
		s = strings.ReplaceAll(s, ",", "")
	}
	_, exponent, _ := strings.Cut(strings.ToLower(s), "e")
	r, ok := new(big.Rat), false
	// 1e9999999 would fill the memory; 1.234,56 is a thousand times what is left
	// of it without its comma.
	swapped := strings.LastIndex(text, ",") > strings.Index(text, ".") && strings.Contains(text, ".")
	if len(s) <= 40 && len(exponent) <= 3 && !strings.Contains(s, "/") && !swapped {
		r, ok = r.SetString(s)
	}
	if !ok {
		return 0, fmt.Errorf("%q is no amount of money, such as 12.345678", text)
	}
	micros, err := strconv.ParseInt(r.Mul(r, big.NewRat(1_000_000, 1)).FloatString(0), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is too much money", text)
	}
	return micros, nil
}

// readTime reads the times that exports hold; those without a zone are UTC.
func readTime(text string) (time.Time, error) {
	text = strings.TrimSpace(text)
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 {
		if n > 1e11 {
			return time.UnixMilli(n).UTC(), nil
		}
		return time.Unix(n, 0).UTC(), nil
	}
	return time.Time{}, fmt.Errorf("%q is no time, such as 2026-11-30T12:00:00Z, or Unix seconds", text)
}
