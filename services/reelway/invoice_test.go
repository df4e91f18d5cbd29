package reelway

import (
	"strings"
	"testing"
	"time"
)

// What exports look like: separators, marks, names, several lines of one task.
func TestInvoicesAreRead(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"plain":            "id,cost\nt1,0.5\nt2,1.25\n",
		"semicolons":       "Request ID;Amount (USD);Model\nt1;0.50;m\nt2;$1.25;m\n",
		"tabs and a mark":  "\ufefftask_id\ttotal_cost\tcurrency\nt1\t5e-1\tusd\nt2\t1.25\tUSD\n",
		"surest name wins": "id,prediction_id,price\nrow1,t1,.5\nrow2,t2,1.25\n",
		"lines of a task":  "created_at,id,cost\n2026-11-01,t1,0.25\n2026-11-30T23:59:59Z,t1,0.25\n1793000000,t2,1.250000\n,,\n",
		"quoted":           "\"id\",\"cost\"\n\"t1\",\"0.5\"\n\"t2\",\"1.25\"",
	} {
		v, err := readInvoice(strings.NewReader(text), columns{}, "usd")
		if name == "lines of a task" {
			first, last := time.Date(2026, 10, 26, 7, 33, 20, 0, time.UTC), time.Date(2026, 11, 30, 23, 59, 59, 0, time.UTC)
			if err != nil || v.Rows != 3 || v.Bills["t1"].Lines != 2 || !v.First.Equal(first) || !v.Last.Equal(last) {
				t.Errorf("%+v, %v", v, err)
			}
		}
		if err != nil || v.Currency != "USD" || len(v.Bills) != 2 || v.Bills["t1"].Micros != 500_000 || v.Bills["t2"].Micros != 1_250_000 {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
	}
	v, err := readInvoice(strings.NewReader("a,b,c\nx,t1,0.1234565\n"), columns{ID: "b", Cost: "c"}, "EUR")
	if err != nil || v.Bills["t1"].Micros != 123_457 || v.Currency != "EUR" {
		t.Errorf("%+v, %v", v, err)
	}
}

// What cannot be read is named, with its line and column.
func TestBadInvoicesAreNamed(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]struct {
		text  string
		names columns
	}{
		"header":                        {"", columns{}},
		"--id-column: no column looks":  {"a,cost\nx,1\n", columns{}},
		"--cost-column: there is no":    {"id,cost\nx,1\n", columns{Cost: "price"}},
		`line 3, cost: "free"`:          {"id,cost\nx,1\ny,free\n", columns{}},
		"line 2, cost":                  {"id,cost\nx,1/3\n", columns{}},
		`"1e999999999" is no amount`:    {"id,cost\nx,1e999999999\n", columns{}},
		`"1.234,56" is no amount`:       {"id;cost\nx;1.234,56\n", columns{}},
		"is too much money":             {"id,cost\nx,99999999999999\n", columns{}},
		"one currency at a time":        {"id,cost,currency\nx,1,USD\ny,1,EUR\n", columns{}},
		`line 2, date: "soon"`:          {"id,cost,date\nx,1,soon\n", columns{}},
		"line 3: wrong number of field": {"id,cost\nx,1\ny\n", columns{}},
	} {
		if v, err := readInvoice(strings.NewReader(c.text), c.names, "USD"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v; want …%s…", c.text, v, err, want)
		}
	}
}
