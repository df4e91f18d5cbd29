package ledger

import (
	"testing"
	"time"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func TestPeriodBounds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, zone string
		period     period
		at         string // UTC
		start, end string // UTC
	}{
		{"a day", "UTC", daily, "2026-11-25T12:00:00Z", "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z"},
		{"its first moment", "UTC", daily, "2026-11-25T00:00:00Z", "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z"},
		{"its last", "UTC", daily, "2026-11-25T23:59:59.999999Z", "2026-11-25T00:00:00Z", "2026-11-26T00:00:00Z"},
		{"still yesterday in New York", "America/New_York", daily, "2026-11-25T04:59:59Z", "2026-11-24T05:00:00Z", "2026-11-25T05:00:00Z"},
		{"already tomorrow in Auckland", "Pacific/Auckland", daily, "2026-11-25T11:00:00Z", "2026-11-25T11:00:00Z", "2026-11-26T11:00:00Z"},
		{"half an hour off", "Asia/Kolkata", daily, "2026-11-25T18:30:00Z", "2026-11-25T18:30:00Z", "2026-11-26T18:30:00Z"},

		{"23 hours in New York", "America/New_York", daily, "2026-03-08T12:00:00Z", "2026-03-08T05:00:00Z", "2026-03-09T04:00:00Z"},
		{"25 hours in New York", "America/New_York", daily, "2026-11-01T05:30:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"},
		{"its hour that comes twice", "America/New_York", daily, "2026-11-01T06:30:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"},
		{"23 hours in Berlin", "Europe/Berlin", daily, "2026-03-29T01:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"},
		{"25 hours in Berlin", "Europe/Berlin", daily, "2026-10-25T01:30:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"},

		{"a week begins on Monday", "UTC", weekly, "2026-11-25T12:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"},
		{"and ends on Sunday", "UTC", weekly, "2026-11-29T23:59:59Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"},
		{"a Monday", "Europe/Berlin", weekly, "2026-11-22T23:00:00Z", "2026-11-22T23:00:00Z", "2026-11-29T23:00:00Z"},
		{"a week of 167 hours", "Europe/Berlin", weekly, "2026-03-25T12:00:00Z", "2026-03-22T23:00:00Z", "2026-03-29T22:00:00Z"},
		{"a week of 169 hours", "America/New_York", weekly, "2026-10-28T12:00:00Z", "2026-10-26T04:00:00Z", "2026-11-02T05:00:00Z"},
		{"a week over the new year", "UTC", weekly, "2026-12-31T12:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"},

		{"a month", "UTC", monthly, "2026-11-25T12:00:00Z", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z"},
		{"the last of January", "UTC", monthly, "2026-01-31T12:00:00Z", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"},
		{"a leap day", "UTC", monthly, "2028-02-29T23:59:59Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z"},
		{"December", "UTC", monthly, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"still October in New York", "America/New_York", monthly, "2026-11-01T03:59:59Z", "2026-10-01T04:00:00Z", "2026-11-01T04:00:00Z"},
		{"a month whose clocks go back", "America/New_York", monthly, "2026-11-01T04:00:00Z", "2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z"},
		{"already April in Berlin", "Europe/Berlin", monthly, "2026-03-31T22:00:00Z", "2026-03-31T22:00:00Z", "2026-04-30T22:00:00Z"},
		{"a month whose clocks go ahead", "Europe/Berlin", monthly, "2026-03-31T21:59:59Z", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z"},

		{"no midnight in Beirut", "Asia/Beirut", daily, "2022-03-26T22:00:00Z", "2022-03-26T22:00:00Z", "2022-03-27T21:00:00Z"},
		{"the day before it", "Asia/Beirut", daily, "2022-03-26T21:59:59Z", "2022-03-25T22:00:00Z", "2022-03-26T22:00:00Z"},
		{"midnight twice in Havana", "America/Havana", daily, "2022-11-06T04:30:00Z", "2022-11-06T04:00:00Z", "2022-11-07T05:00:00Z"},
		{"its second", "America/Havana", daily, "2022-11-06T05:30:00Z", "2022-11-06T04:00:00Z", "2022-11-07T05:00:00Z"},
		// At 00:01 of the 7th the clocks of St. John's went back to 23:01 of the 6th.
		{"a day that comes back", "America/St_Johns", daily, "2010-11-07T02:40:00Z", "2010-11-07T02:30:00Z", "2010-11-08T03:30:00Z"},
		{"a day that never was", "Pacific/Apia", daily, "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"},
		{"the day before that", "Pacific/Apia", daily, "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			at, err := time.Parse(time.RFC3339Nano, c.at)
			if err != nil {
				t.Fatal(err)
			}
			start, end := c.period.bounds(at, zone(t, c.zone))
			if got := start.UTC().Format(time.RFC3339); got != c.start {
				t.Errorf("begins %s, want %s", got, c.start)
			}
			if got := end.UTC().Format(time.RFC3339); got != c.end {
				t.Errorf("ends %s, want %s", got, c.end)
			}
		})
	}
	if start, end := total.bounds(time.Now(), time.UTC); start.Unix() != 0 || !end.IsZero() {
		t.Error("total:", start, end)
	}
}

// Every moment lies in one period, and where one ends the next begins.
func TestPeriodsFollowEachOther(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Beirut", "America/Havana", "America/St_Johns",
		"Pacific/Apia", "Africa/Cairo", "America/Sao_Paulo", "Asia/Kathmandu", "Africa/Casablanca"} {
		z := zone(t, name)
		for _, p := range []period{daily, weekly, monthly} {
			at := time.Date(2009, 1, 1, 0, 0, 0, 0, time.UTC)
			start, end := p.bounds(at, z)
			for at.Year() < 2013 {
				if at.Before(start) || !at.Before(end) {
					t.Fatalf("%s %s: %v is not in [%v, %v)", name, p, at, start, end)
				}
				at = at.Add(20 * time.Minute)
				s, e := p.bounds(at, z)
				if !s.Equal(start) && !s.Equal(end) {
					t.Fatalf("%s %s: after [%v, %v) comes [%v, %v)", name, p, start, end, s, e)
				}
				start, end = s, e
			}
		}
	}
}
