package ledger

import (
	"sync"
	"time"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// period says when a budget begins anew.
type period string

const (
	daily   period = "day"
	weekly  period = "week"
	monthly period = "month"
	total   period = "total"
)

// periods are the words of the contract.
var periods = map[ledgerv1.BudgetPeriod]period{
	ledgerv1.BudgetPeriod_BUDGET_PERIOD_DAY: daily, ledgerv1.BudgetPeriod_BUDGET_PERIOD_WEEK: weekly,
	ledgerv1.BudgetPeriod_BUDGET_PERIOD_MONTH: monthly, ledgerv1.BudgetPeriod_BUDGET_PERIOD_TOTAL: total,
}

// adjective is the period before the word budget.
func (p period) adjective() string {
	return map[period]string{daily: "daily", weekly: "weekly", monthly: "monthly", total: "total"}[p]
}

// bounds returns the period that holds at: start <= at < end. A total has one
// period, whose end is the zero time. The periods of a zone follow each other
// without a gap and without overlap, whatever its clocks do.
func (p period) bounds(at time.Time, zone *time.Location) (start, end time.Time) {
	if p == total {
		return time.Unix(0, 0).UTC(), time.Time{}
	}
	y, m, d := at.In(zone).Date()
	// Where clocks go back over midnight, a day's last hour comes again after
	// the next day has begun: the date alone does not tell the period.
	for _, shift := range []int{0, 1, -1} {
		if start, end = p.edge(y, m, d, shift, zone), p.edge(y, m, d, shift+1, zone); !at.Before(start) && at.Before(end) {
			break
		}
	}
	return start, end
}

// edge is where the period of a date begins, or the one that is n later.
func (p period) edge(y int, m time.Month, d, n int, zone *time.Location) time.Time {
	switch p {
	case weekly: // from Monday, as in ISO 8601
		weekday := int(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Weekday()+6) % 7
		return midnight(y, m, d-weekday+7*n, zone)
	case monthly:
		return midnight(y, m+time.Month(n), 1, zone)
	}
	return midnight(y, m, d+n, zone)
}

// midnight is the first moment of a date. Clocks may jump over it, or show it
// twice; then it is where they land, or the first of the two.
func midnight(y int, m time.Month, d int, zone *time.Location) time.Time {
	date := time.Date(y, m, d, 0, 0, 0, 0, time.UTC) // normalised
	t := time.Date(y, m, d, 0, 0, 0, 0, zone)
	since, until := t.ZoneBounds()
	switch wall := wallClock(t); {
	case wall.Before(date): // in the gap, read by the clock before it
		return until
	case wall.After(date): // in the gap, read by the clock after it
		return since
	case since.IsZero():
		return t
	}
	_, after := t.Zone()
	_, before := since.Add(-1).Zone()
	// The same wall clock by the offset that was in force before.
	if earlier := t.Add(time.Duration(after-before) * time.Second); before > after && earlier.Before(since) {
		return earlier
	}
	return t
}

// wallClock is what t's clock shows, as if it were UTC.
func wallClock(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// zones are the locations that were loaded: each costs a file.
var zones sync.Map

// location is a zone by its IANA name. One that is not known, which no account
// can be given, counts as UTC.
func location(name string) *time.Location {
	if z, ok := zones.Load(name); ok {
		if z, ok := z.(*time.Location); ok {
			return z
		}
	}
	z, err := time.LoadLocation(name)
	if err != nil {
		return time.UTC
	}
	zones.Store(name, z)
	return z
}
