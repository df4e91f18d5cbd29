package main

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Clock runs what is to happen, in the order of its time. Time is in seconds.
// It is for one goroutine.
type Clock struct {
	Now  float64
	heap []event
}

type event struct {
	at float64
	do func()
}

// After has something happen a while from now.
func (c *Clock) After(d float64, do func()) {
	h := append(c.heap, event{c.Now + d, do})
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) / 2
		if h[up].at <= h[i].at {
			break
		}
		h[up], h[i] = h[i], h[up]
		i = up
	}
	c.heap = h
}

// Run lets things happen until the end.
func (c *Clock) Run(end float64) {
	for len(c.heap) > 0 && c.heap[0].at <= end {
		h := c.heap
		e, last := h[0], len(h)-1
		h[0], h[last] = h[last], event{}
		h = h[:last]
		for i := 0; ; {
			down := 2*i + 1
			if down >= len(h) {
				break
			}
			if down+1 < len(h) && h[down+1].at < h[down].at {
				down++
			}
			if h[i].at <= h[down].at {
				break
			}
			h[i], h[down] = h[down], h[i]
			i = down
		}
		c.heap, c.Now = h, e.at
		e.do()
	}
	c.Now = end
}

// Line is first come, first served, by some servers that are alike: cores, a
// link, places in a worker pool.
type Line struct {
	c       *Clock
	Servers int
	busy    int
	waiting []demand
	head    int
	// Spent is what its servers worked, in seconds.
	Spent float64
	// Longest is how many waited at the most.
	Longest int
}

type demand struct {
	work float64
	done func()
}

// Use takes a server for an amount of work, then goes on.
func (l *Line) Use(work float64, done func()) {
	l.Spent += work
	if l.busy < l.Servers {
		l.busy++
		l.serve(demand{work, done})
		return
	}
	l.waiting = append(l.waiting, demand{work, done})
	l.Longest = max(l.Longest, len(l.waiting)-l.head)
}

func (l *Line) serve(d demand) {
	l.c.After(d.work, func() {
		l.next()
		d.done()
	})
}

func (l *Line) next() {
	if l.head == len(l.waiting) {
		l.busy--
		l.waiting, l.head = l.waiting[:0], 0
		return
	}
	d := l.waiting[l.head]
	l.waiting[l.head] = demand{}
	l.head++
	if l.head > 1024 && l.head*2 > len(l.waiting) {
		l.waiting, l.head = slices.Clone(l.waiting[l.head:]), 0
	}
	l.serve(d)
}

// Group takes what waits together, up to a limit, by some workers: the ledger's
// transactions. It never waits to fill.
type Group struct {
	Workers, Limit int
	// Do works on n together and calls done.
	Do      func(n int, done func())
	busy    int
	waiting []func()
	// Runs and Items are how often, and on how many all together.
	Runs, Items int
}

// Join hands in one, and goes on when the transaction it came into has ended.
func (g *Group) Join(done func()) {
	g.waiting = append(g.waiting, done)
	if g.busy < g.Workers {
		g.busy++
		g.work()
	}
}

func (g *Group) work() {
	n := min(len(g.waiting), g.Limit)
	if n == 0 {
		g.busy--
		return
	}
	taken := slices.Clone(g.waiting[:n])
	g.waiting = append(g.waiting[:0], g.waiting[n:]...)
	g.Runs++
	g.Items += n
	g.Do(n, func() {
		for _, done := range taken {
			done()
		}
		g.work()
	})
}

// Places are held for as long as something lasts: tasks at a provider.
type Places struct {
	Free    int
	waiting []func()
}

// Take goes on when there is a place.
func (p *Places) Take(begin func()) {
	if p.Free == 0 {
		p.waiting = append(p.waiting, begin)
		return
	}
	p.Free--
	begin()
}

// Leave gives a place back.
func (p *Places) Leave() {
	if len(p.waiting) == 0 {
		p.Free++
		return
	}
	next := p.waiting[0]
	p.waiting = p.waiting[1:]
	next()
}

// Waits are how long something took, over and over. They are in seconds.
type Waits struct{ all []float64 }

// Add notes one.
func (w *Waits) Add(d float64) { w.all = append(w.all, d) }

// At is the wait that a share of all stay below; 0 without any.
func (w *Waits) At(share float64) float64 {
	if len(w.all) == 0 {
		return 0
	}
	slices.Sort(w.all)
	return w.all[min(int(share*float64(len(w.all))), len(w.all)-1)]
}

// Chance makes the simulation's random numbers, the same in each run.
type Chance struct{ *rand.Rand }

// NewChance begins at a seed.
func NewChance(seed uint64) Chance { return Chance{rand.New(rand.NewPCG(seed, 1))} }

// About is exponential with a mean.
func (r Chance) About(mean float64) float64 { return r.ExpFloat64() * mean }

// LogNormal has a median and a spread, which is the standard deviation of its
// logarithm.
func (r Chance) LogNormal(median, spread float64) float64 {
	return median * math.Exp(spread*r.NormFloat64())
}

// Left is what is left of a log-normal duration that is met at a random moment:
// long ones are met more often.
func (r Chance) Left(median, spread float64) float64 {
	return r.LogNormal(median*math.Exp(spread*spread), spread) * r.Float64()
}
