package main

import (
	"fmt"
	"maps"
	"math"

	"reelway.dev/bench/stand"
)

// Replica is the size of one replica of each part, in cores. Of PostgreSQL it is
// a database's.
var replica = map[string]int{"intake": 1, "ledger": 4, "dispatcher": 1, "callback": 1, "archiver": 1, "notifier": 1, "nats": 4, "postgres": 16}

const (
	// What a part may compute of its cores while a burst lasts.
	full = 0.8
	// What every part that is not alone in its work has at least.
	least = 2
	// How often replicas are added at the most.
	rounds = 4
	// MB/s that a pod's network takes in, and out again at the same time.
	link = 250.0
	// Sockets in one notifier: a gigabyte at what one of them takes is far more,
	// but all of them come back at once when it ends.
	sockets = 20_000
)

// at is what comes in at a rate. Renders, losses and sizes are assumptions; the
// rest of docs/scaling.md depends on them.
func at(rate float64) Traffic {
	return Traffic{Rate: rate, Burst: 2, BurstEvery: 20, BurstLength: 2, Render: 90, Spread: 0.4, MB: 8, Lost: 0.02, WatchAfter: 300, Watchers: 0.2,
		Providers: max(2, int(math.Ceil(rate/250))), Answer: 0.3}
}

// Sizing is a deployment for a rate, and what flows through it.
type Sizing struct {
	Traffic Traffic
	Layout  Layout
	Replica map[string]int // cores of one replica
	Flow    []Flow
}

// Flow is one number of a deployment.
type Flow struct {
	Name  string
	Value float64
	Unit  string
}

// sizes prints the tables.
func sizes(file string) error {
	c, err := readCosts(file)
	if err != nil {
		return err
	}
	for _, rate := range []float64{1, 100, 10_000} {
		s, err := Size(c, at(rate))
		if err != nil {
			return err
		}
		o, err := s.settle(c)
		if err != nil {
			return err
		}
		s.print(o)
	}
	return nil
}

// settle simulates, and adds replicas where more is computed than was reckoned:
// how much the ledger's transactions share comes out only there.
func (s *Sizing) settle(c *Costs) (*Outcome, error) {
	for round := 0; ; round++ {
		o, err := Simulate(c, s.Traffic, s.Layout)
		if err != nil {
			return nil, err
		}
		enough := true
		for part, n := range s.Layout.Replicas {
			if part == "postgres" || o.Busy[part]*s.Traffic.peak() <= full {
				continue
			}
			enough = false
			n = max(n+1, int(math.Ceil(float64(n)*o.Busy[part]*s.Traffic.peak()/full)))
			s.Layout.Replicas[part], s.Layout.Cores[part] = n, n*s.Replica[part]
			if part == "ledger" {
				s.Layout.Ledgers = n
			}
		}
		if enough || round == rounds {
			return o, nil
		}
	}
}

// peak is how many times the average comes in while a burst lasts.
func (t Traffic) peak() float64 { return t.Burst / (1 + (t.Burst-1)*t.BurstLength/t.BurstEvery) }

// Size says how many replicas a rate needs: so that no part computes more than
// its share while a burst lasts, and no single worker of a database is the limit.
func Size(c *Costs, t Traffic) (*Sizing, error) {
	cost, err := c.need(append(costNames(), "postgres.wal_full", "postgres.size_full", "postgres.inserted_full", "postgres.updated_full", "postgres.deleted_full", "nats.bytes_in_full",
		"nats.bytes_out_full", "events.bytes", "status.bytes", "stream.OBSERVATIONS", "stream.KV_job_status", "live.socket", "dispatcher.running")...)
	if err != nil {
		return nil, err
	}
	burst := t.Rate * t.peak()
	l := Layout{Cores: map[string]int{}, Replicas: map[string]int{}, Commit: 0.002, Link: 0, Simulate: math.Min(math.Max(200_000/t.Rate, 20), 2000)}
	messages := cost["stream.EVENTS"] + cost["stream.JOBS"] + progress(t)
	// One relay publishes all of a database's messages; and it may compute as much
	// as full groups allow.
	l.Shards = max(1, int(math.Ceil(burst*messages/(full*cost["relay.rate"]))), int(math.Ceil(burst*cost["postgres.cpu_full"]/1000/(full*float64(replica["postgres"])))))
	open := t.Rate * t.Mean() * t.Watchers
	sized := maps.Clone(replica)
	// Each notifier reads all events, and is large enough to do something besides.
	sized["notifier"] = max(1, int(math.Ceil(2*burst*reading*perJob(cost, "notifier", t.Rate)/1000/full)))
	for part, cores := range sized {
		n := 1
		for ; ; n++ {
			each := perJob(cost, part, t.Rate/float64(n))
			switch part {
			case "archiver":
				each += t.MB * cost["archiver.cpu_mb"]
			case "notifier":
				each += reading*perJob(cost, part, t.Rate)*float64(n-1) + t.Watchers*(cost["stream.EVENTS"]+progress(t))*cost["live.fanout"]
			}
			if burst*each/1000 <= full*float64(n*cores) {
				break
			}
		}
		switch part {
		case "archiver":
			n = max(n, int(math.Ceil(burst*t.MB/link)))
		case "notifier":
			n = max(n, int(math.Ceil(open/sockets)))
		case "nats":
			n = max(n, 3)
		case "postgres":
			n = 1
		case "ledger":
			n = max(least, int(math.Ceil(float64(n)/float64(l.Shards))))
			l.Ledgers = n
		}
		if part != "postgres" {
			n = max(n, least)
		}
		l.Replicas[part], l.Cores[part] = n, n*cores
	}
	l.Copies, l.Link, l.Sending = 8*l.Replicas["archiver"], link*float64(l.Replicas["archiver"]), 32*l.Replicas["dispatcher"]
	gb := func(bytes float64) float64 { return bytes / (1 << 30) }
	day := t.Rate * 86_400
	stored := (cost["stream.EVENTS"] + progress(t)) * cost["events.bytes"]
	s := &Sizing{Traffic: t, Layout: l, Replica: sized, Flow: []Flow{
		{"tasks at the providers", t.Rate * t.Mean(), ""},
		{"memory of these in dispatchers", t.Rate * t.Mean() * cost["dispatcher.running"] / 1024, "MB"},
		{"messages that the ledger publishes", t.Rate * messages, "/s"},
		{"bytes into NATS", t.Rate * (cost["nats.bytes_in_full"]*1024 + progress(t)*cost["events.bytes"]) / (1 << 20), "MB/s"},
		{"EVENTS in 72 hours", gb(3 * day * stored), "GB"},
		{"EVENTS reaches back, with 8 GB", float64(8<<30) / stored / t.Rate / 3600, "hours"},
		{"job_status in 24 hours", gb(day * cost["status.bytes"]), "GB"},
		{"ids remembered for 5 minutes", 300 * t.Rate * (messages + cost["stream.OBSERVATIONS"]) / 1e6, "million"},
		{"PostgreSQL's log", t.Rate * cost["postgres.wal_full"] / 1024, "MB/s"},
		{"PostgreSQL's rows written", t.Rate * (cost["postgres.inserted_full"] + cost["postgres.updated_full"] + cost["postgres.deleted_full"]), "/s"},
		{"PostgreSQL grows", gb(day * cost["postgres.size_full"] * 1024), "GB/day"},
		{"archive, in and out, each", t.Rate * t.MB, "MB/s"},
		{"archive grows", t.Rate * t.MB * 86_400 / 1e6, "TB/day"},
		{"sockets", open, ""},
		{"memory of sockets", open * cost["live.socket"] / (1 << 20), "GB"},
	}}
	return s, nil
}

// estimated is how many running jobs have their progress estimated.
const estimated = 2000

// progress is how many estimates of progress a job comes to: every 5 percent, as
// long as it is among the last that began.
func progress(t Traffic) float64 {
	return 19 * math.Min(1, estimated/(t.Rate*t.Mean()))
}

func (s *Sizing) print(o *Outcome) {
	t, l := s.Traffic, s.Layout
	stand.Say("\n%.0f jobs/s, %d providers, %d databases; bursts of %.1f times that for %.0f s every %.0f s\n\n%-14s %9s %7s %9s\n",
		t.Rate, t.Providers, l.Shards, t.peak(), t.BurstLength, t.BurstEvery, "", "replicas", "cores", "computing")
	for _, part := range processes {
		each := ""
		if part == "ledger" || part == "postgres" {
			each = fmt.Sprintf("each of %d", l.Shards)
		}
		stand.Say("%-14s %9d %7d %8.0f%% %s\n", part, l.Replicas[part], s.Replica[part], 100*o.Busy[part], each)
	}
	stand.Say("\n%-44s %10s %10s\n", "waits in ms", "p50", "p99")
	for _, name := range base {
		w := o.Waits[name]
		stand.Say("%-44s %10.0f %10.0f\n", name, 1000*w.At(0.5), 1000*w.At(0.99))
	}
	stand.Say("\n%-44s %10.1f\n%-44s %10.1f\n%-44s %10d\n", "jobs that end, /s", o.Done, "jobs in one transaction", o.Group, "PostgreSQL's connections, each database", 16*l.Ledgers)
	for _, f := range s.Flow {
		stand.Say("%-44s %10.4g %s\n", f.Name, f.Value, f.Unit)
	}
}
