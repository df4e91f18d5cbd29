package main

import (
	"math"
)

// Traffic is what comes in, and what the providers make of it.
type Traffic struct {
	Rate                              float64 // jobs a second, on average
	Burst, BurstEvery, BurstLength    float64 // how many times the rate, and when, in seconds
	Render, Spread                    float64 // seconds, log-normal: median and spread
	MB                                float64 // of a video
	Lost                              float64 // share of webhooks that never come
	WatchAfter                        float64 // seconds until the watchdog asks instead
	Watchers                          float64 // sockets open on each running job
	Providers                         int     // that share the jobs
	ProviderRate, ProviderConcurrency float64 // of each: submits a second and tasks at one time; 0: any number
	Answer                            float64 // seconds until a provider answers a submit
}

// Mean is how long a render takes on average.
func (t Traffic) Mean() float64 { return t.Render * math.Exp(t.Spread*t.Spread/2) }

// Layout is what is deployed.
type Layout struct {
	Cores    map[string]int // of each part, all replicas together; of postgres in one shard
	Replicas map[string]int
	Ledgers  int     // replicas on each shard
	Shards   int     // databases
	Copies   int     // archives under way, all replicas
	Link     float64 // MB/s into the archivers and on into the bucket
	Commit   float64 // seconds that a commit waits for disks and a standby
	OneHost  int     // everything shares that many cores, when above 0
	Sending  int     // submits under way to each provider, all replicas
	Simulate float64 // seconds
}

// From the code: transactions under way in one ledger, their size, a pass of the
// relay, commands of one provider on the bus.
const (
	ledgerWorkers = 2
	ledgerGroup   = 256
	relayBatch    = 512
	window        = 256
)

// How a job's costs at ledger and database fall on its steps. It was not
// measured: it is a guess by the rows that each step writes.
const (
	shareOpen    = 0.2
	shareBegin   = 0.1
	shareObserve = 0.1 // four times
	shareRelay   = 0.2 // all messages
	shareTell    = 0.1
	// Of a notifier's cost, what reading the events takes, which each replica does
	// for all. A guess as well.
	reading = 0.5
)

// Outcome is what the simulation came to.
type Outcome struct {
	Waits   map[string]*Waits
	Busy    map[string]float64 // share of the part's cores
	CPU     map[string]float64 // ms a second
	Done    float64            // jobs a second that ended
	Group   float64            // jobs in one transaction of the ledger
	Waiting int                // jobs between door and provider at the end
}

type shard struct {
	ledger, postgres     *Line
	open, begin, observe *Group
	relay                *Group
}

type pipeline struct {
	Clock
	Chance
	t     Traffic
	l     Layout
	cost  map[string]float64
	parts map[string]*Line
	shard []*shard

	rate     []float64 // when a provider takes its next submit
	places   []*Places // tasks at it
	sending  []*Places // submits to it
	window   []*Places // commands of it on the bus
	copies   *Places
	link     *Line
	known    map[string]float64 // each part's cost of a job
	messages float64
	out      *Outcome
	begun    float64
	inside   int
}

// costNames are the costs that the simulation needs.
func costNames() []string {
	names := []string{"archiver.cpu_mb", "relay.rate", "live.fanout", "load.cpu", "rate.light", "rate.full"}
	for _, p := range processes {
		names = append(names, p+".cpu", p+".cpu_full", p+".idle")
	}
	for _, s := range base {
		names = append(names, "wait."+s)
	}
	for _, s := range []string{"JOBS", "EVENTS", "WATCHDOG"} {
		names = append(names, "stream."+s)
	}
	return names
}

// Simulate runs the pipeline for l.Simulate seconds.
func Simulate(c *Costs, t Traffic, l Layout) (*Outcome, error) {
	cost, err := c.need(costNames()...)
	if err != nil {
		return nil, err
	}
	p := &pipeline{Chance: NewChance(1), t: t, l: l, cost: cost, parts: map[string]*Line{}, known: map[string]float64{}, copies: &Places{Free: l.Copies},
		out: &Outcome{Waits: map[string]*Waits{}, Busy: map[string]float64{}, CPU: map[string]float64{}}}
	p.link = &Line{c: &p.Clock, Servers: 1}
	p.messages = max(math.Round(cost["stream.EVENTS"]+cost["stream.JOBS"])-3, 0)
	for _, name := range append([]string{"all but the render"}, base...) {
		p.out.Waits[name] = &Waits{}
	}
	var host *Line
	if l.OneHost > 0 {
		host = &Line{c: &p.Clock, Servers: l.OneHost}
	}
	line := func(name string) *Line {
		if host != nil {
			return host
		}
		return &Line{c: &p.Clock, Servers: max(l.Cores[name], 1)}
	}
	for _, name := range []string{"intake", "dispatcher", "callback", "archiver", "notifier", "nats"} {
		p.parts[name] = line(name)
	}
	for range l.Shards {
		s := &shard{ledger: line("ledger"), postgres: line("postgres")}
		group := func(workers, limit int, share float64) *Group {
			return &Group{Workers: workers, Limit: limit, Do: func(n int, done func()) { p.transaction(s, share, n, done) }}
		}
		s.open, s.begin = group(ledgerWorkers*l.Ledgers, ledgerGroup, shareOpen), group(ledgerWorkers*l.Ledgers, ledgerGroup, shareBegin)
		s.observe = group(ledgerWorkers*l.Ledgers, ledgerGroup, shareObserve)
		s.relay = &Group{Workers: 1, Limit: relayBatch, Do: func(n int, done func()) { p.relay(s, n, done) }}
		p.shard = append(p.shard, s)
	}
	for range t.Providers {
		p.rate = append(p.rate, 0)
		running := math.MaxInt
		if t.ProviderConcurrency > 0 {
			running = int(t.ProviderConcurrency)
		}
		p.places, p.sending, p.window = append(p.places, &Places{Free: running}), append(p.sending, &Places{Free: l.Sending}), append(p.window, &Places{Free: window})
	}
	// What was rendering when the simulation began.
	for range int(t.Rate * t.Mean()) {
		j := &work{p: p, s: p.shard[p.IntN(len(p.shard))], provider: p.IntN(t.Providers), old: true}
		if p.places[j.provider].Free > 0 {
			p.places[j.provider].Free--
			p.After(p.Left(t.Render, t.Spread), j.rendered)
		}
	}
	p.arrive()
	p.begun = l.Simulate / 5
	p.Run(l.Simulate)
	p.sum()
	return p.out, nil
}

// transaction is n steps in one: the cost of a lone one, less what sharing saves.
func (p *pipeline) transaction(s *shard, share float64, n int, done func()) {
	ledger, postgres := p.grouped("ledger", share, n), p.grouped("postgres", share, n)
	s.ledger.Use(ledger, func() { s.postgres.Use(postgres, func() { p.After(p.l.Commit, done) }) })
}

// relay is one pass of a database's only relay. What it is known to take for each
// message, and does not compute, it waits for the bus.
func (p *pipeline) relay(s *shard, n int, done func()) {
	each := 1 / (p.messages + 3)
	computed := each / 1000 * (shareRelay*(p.cost["ledger.cpu_full"]+p.cost["postgres.cpu_full"]) + 0.5*p.cost["nats.cpu_full"])
	p.transaction(s, shareRelay*each, n, func() {
		// Half of the bus's work is counted here, the other half with the observations.
		p.parts["nats"].Use(p.grouped("nats", 0.5*each, n), func() {
			p.After(float64(n)*max(1/p.cost["relay.rate"]-computed, 0), done)
		})
	})
}

func (p *pipeline) grouped(part string, share float64, n int) float64 {
	lone, full := p.cost[part+".cpu"], min(p.cost[part+".cpu_full"], p.cost[part+".cpu"])
	work := share * (lone - full + full*float64(n)) / 1000
	p.out.CPU[part] += work
	return work
}

// each is what a job costs a part that does not group, in ms, at the rate that
// one replica has: the busier, the fewer times it is woken for each.
func (p *pipeline) each(part string) float64 {
	if v, ok := p.known[part]; ok {
		return v
	}
	v := perJob(p.cost, part, p.t.Rate/float64(max(p.l.Replicas[part], 1)))
	p.known[part] = v
	return v
}

// perJob reads between the two measured costs, by the logarithm of the rate.
func perJob(cost map[string]float64, part string, rate float64) float64 {
	light, busy := cost["rate.light"], cost["rate.full"]
	share := math.Log(min(max(rate, light), busy)/light) / math.Log(busy/light)
	return cost[part+".cpu"] + share*(cost[part+".cpu_full"]-cost[part+".cpu"])
}

// use computes at a part that does not group.
func (p *pipeline) use(part string, ms float64, done func()) {
	p.out.CPU[part] += ms / 1000
	p.parts[part].Use(ms/1000, done)
}

func (p *pipeline) arrive() {
	rate, mean := p.t.Rate, 1.0
	if p.t.Burst > 1 {
		// The average stays what it is.
		mean = 1 + (p.t.Burst-1)*p.t.BurstLength/p.t.BurstEvery
		if math.Mod(p.Now, p.t.BurstEvery) < p.t.BurstLength {
			rate *= p.t.Burst
		}
	}
	p.After(p.About(mean/rate), func() {
		(&work{p: p, s: p.shard[p.IntN(len(p.shard))], provider: p.IntN(p.t.Providers)}).open()
		p.arrive()
	})
}

// work is a job on its way.
type work struct {
	p        *pipeline
	s        *shard
	provider int
	at       float64 // when it was opened
	step     float64 // when its step began
	held     float64 // of the whole, what the provider took
	old      bool    // opened before the simulation began
}

func (j *work) note(stage string, from float64) {
	if from >= j.p.begun {
		j.p.out.Waits[stage].Add(j.p.Now - from)
	}
}

// rest is what a measured wait has besides what is computed for it.
func (j *work) rest(stage string, computed float64) float64 {
	return max(j.p.cost["wait."+stage]-computed, 0) / 1000
}

// step of ledger and database, alone, in ms.
func (p *pipeline) lone(share float64) float64 {
	return share * (p.cost["ledger.cpu"] + p.cost["postgres.cpu"])
}

// outside is what callers and providers compute, a third at a time, where they
// are on the same machine.
func (p *pipeline) outside(done func()) {
	if p.l.OneHost == 0 {
		done()
		return
	}
	p.parts["intake"].Use(p.cost["load.cpu"]/3000, done)
}

func (j *work) open() {
	p := j.p
	j.at = p.Now
	p.inside++
	p.outside(j.accept)
}

func (j *work) accept() {
	p := j.p
	p.use("intake", p.each("intake"), func() {
		p.After(j.rest("accept", p.each("intake")+p.lone(shareOpen)+1000*p.l.Commit), func() {
			j.s.open.Join(func() {
				j.note("accept", j.at)
				for range int(p.messages) {
					j.s.relay.Join(func() {})
				}
				p.window[j.provider].Take(func() { j.s.relay.Join(j.take) })
			})
		})
	})
}

// take is a command in a dispatcher's hands.
func (j *work) take() {
	p := j.p
	p.sending[j.provider].Take(func() {
		wait := 0.0
		if p.t.ProviderRate > 0 {
			p.rate[j.provider] = max(p.rate[j.provider], p.Now) + 1/p.t.ProviderRate
			wait = p.rate[j.provider] - p.Now - 1/p.t.ProviderRate
		}
		p.After(wait, func() {
			p.places[j.provider].Take(func() { p.use("dispatcher", p.each("dispatcher"), j.begin) })
		})
	})
}

func (j *work) begin() {
	p := j.p
	computed := p.cost["nats.cpu"]/2/(p.messages+3) + p.each("dispatcher") + p.lone(shareBegin) + p.lone(shareRelay/(p.messages+3)) + 2000*p.l.Commit
	p.After(j.rest("queue", computed), func() {
		j.s.begin.Join(func() {
			j.note("queue", j.at)
			p.inside--
			j.step = p.Now
			p.outside(func() { p.After(j.rest("submit", p.cost["load.cpu"]/3)+p.t.Answer, j.submitted) })
		})
	})
}

func (j *work) submitted() {
	p := j.p
	p.use("nats", p.each("nats")/4, func() {})
	j.note("submit", j.step)
	p.sending[j.provider].Leave()
	p.window[j.provider].Leave()
	j.s.observe.Join(func() {}) // accepted
	render := p.LogNormal(p.t.Render, p.t.Spread)
	j.held = render
	p.After(render, j.rendered)
}

func (j *work) rendered() {
	p := j.p
	p.places[j.provider].Leave()
	j.step = p.Now
	j.s.observe.Join(func() {}) // running
	if p.Float64() < p.t.Lost {
		late := max(p.t.WatchAfter-j.held, 0)
		j.held += late
		p.After(late, func() {
			p.use("dispatcher", p.each("dispatcher")/2, func() { j.step = p.Now; j.observe("dispatcher", 0) })
		})
		return
	}
	j.observe("callback", p.each("callback"))
}

func (j *work) observe(part string, ms float64) {
	p := j.p
	p.use("nats", p.each("nats")/4, func() {})
	p.use(part, ms, func() {
		p.After(j.rest("observe", p.lone(shareObserve)+1000*p.l.Commit), func() {
			j.s.observe.Join(func() {
				j.note("observe", j.step)
				j.step = p.Now
				j.s.relay.Join(j.archive)
			})
		})
	})
}

func (j *work) archive() {
	p := j.p
	p.copies.Take(func() {
		p.link.Use(p.t.MB/p.l.Link, func() {
			computed := p.each("archiver") + p.t.MB*p.cost["archiver.cpu_mb"]
			p.use("archiver", computed, func() {
				p.After(j.rest("store", p.each("archiver")+p.lone(shareRelay/(p.messages+3))+1000*p.l.Commit), func() {
					p.copies.Leave()
					j.note("store", j.step)
					j.step = p.Now
					j.s.observe.Join(j.tell)
				})
			})
		})
	})
}

func (j *work) tell() {
	p := j.p
	j.step = p.Now
	j.s.relay.Join(func() {})
	ms := p.each("notifier") + reading*perJob(p.cost, "notifier", p.t.Rate)*float64(max(p.l.Replicas["notifier"], 1)-1) +
		p.t.Watchers*(p.cost["stream.EVENTS"]+progress(p.t))*p.cost["live.fanout"]
	// Deliveries are asked for at times: from none of that wait to twice its median.
	p.After(2*p.Float64()*j.rest("tell", p.each("notifier")+p.lone(shareTell)), func() {
		work := p.lone(shareTell) / 1000
		p.out.CPU["ledger"] += shareTell * p.cost["ledger.cpu"] / 1000
		p.out.CPU["postgres"] += shareTell * p.cost["postgres.cpu"] / 1000
		j.s.postgres.Use(work, func() {
			p.use("notifier", ms, func() { p.outside(j.told) })
		})
	})
}

func (j *work) told() {
	p := j.p
	j.note("tell", j.step)
	if p.Now >= p.begun {
		p.out.Done++
	}
	if !j.old && j.at >= p.begun {
		p.out.Waits["all but the render"].Add(p.Now - j.at - j.held)
	}
}

// sum makes shares and averages of what was counted.
func (p *pipeline) sum() {
	o := p.out
	o.Done /= p.Now - p.begun
	o.Waiting = p.inside
	runs, items := 0, 0
	for _, s := range p.shard {
		for _, g := range []*Group{s.open, s.begin, s.observe} {
			runs, items = runs+g.Runs, items+g.Items
		}
	}
	o.Group = float64(items) / float64(max(runs, 1))
	for part, seconds := range o.CPU {
		cores := float64(p.l.Cores[part])
		if part == "ledger" || part == "postgres" {
			cores *= float64(p.l.Shards)
		}
		if p.l.OneHost > 0 {
			cores = float64(p.l.OneHost)
		}
		o.CPU[part] = 1000 * seconds / p.Now
		o.Busy[part] = seconds / p.Now / max(cores, 1)
	}
}
