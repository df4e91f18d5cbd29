package main

import (
	"math"
	"testing"
)

// Against Erlang's formula: the wait of a queue whose arrivals and works are
// exponential.
func TestLineWaitsAsErlangSays(t *testing.T) {
	t.Parallel()
	const servers, load = 4, 3.0 // mean works under way
	var c Clock
	r, l := NewChance(7), &Line{c: &c, Servers: servers}
	var waited, n float64
	var arrive func()
	arrive = func() {
		at, work := c.Now, r.About(1)
		l.Use(work, func() {
			waited += c.Now - at - work
			n++
		})
		c.After(r.About(1/load), arrive)
	}
	arrive()
	c.Run(400_000)
	var sum, term float64 = 0, 1
	for k := range servers {
		sum += term
		term *= load / float64(k+1)
	}
	late := term * servers / (servers - load)
	want := late / (sum + late) / (servers - load)
	if got := waited / n; math.Abs(got-want) > 0.03*want {
		t.Errorf("waited %.4f on average, %.4f by the formula", got, want)
	}
	if busy := l.Spent / c.Now; math.Abs(busy-load) > 0.03*load {
		t.Errorf("%.3f servers were busy, want %.1f", busy, load)
	}
}

func TestGroupTakesWhatWaits(t *testing.T) {
	t.Parallel()
	var c Clock
	var sizes []int
	g := &Group{Workers: 1, Limit: 3, Do: func(n int, done func()) {
		sizes = append(sizes, n)
		c.After(1, done)
	}}
	ended := 0
	for range 6 {
		g.Join(func() { ended++ })
	}
	c.Run(2.5)
	if len(sizes) != 3 || sizes[0] != 1 || sizes[1] != 3 || sizes[2] != 2 || ended != 4 {
		t.Errorf("groups of %v, %d ended after two of them", sizes, ended)
	}
	c.Run(3)
	if ended != 6 || g.Items != 6 || g.Runs != 3 {
		t.Errorf("%d of 6 ended, %d in %d groups", ended, g.Items, g.Runs)
	}
}

func TestPlacesAreNeverTooMany(t *testing.T) {
	t.Parallel()
	var c Clock
	p, held, most, served := &Places{Free: 2}, 0, 0, 0
	for range 10 {
		p.Take(func() {
			held++
			most = max(most, held)
			c.After(1, func() { held--; served++; p.Leave() })
		})
	}
	c.Run(10)
	if most != 2 || served != 10 || p.Free != 2 {
		t.Errorf("%d at a time, %d served, %d free", most, served, p.Free)
	}
}

// What renders at a random moment has on average E[S²]/2E[S] left.
func TestLeftOfARender(t *testing.T) {
	t.Parallel()
	const median, spread, n = 90, 0.4, 200_000
	r, sum := NewChance(3), 0.0
	for range n {
		sum += r.Left(median, spread)
	}
	want := median * math.Exp(1.5*spread*spread) / 2
	if got := sum / n; math.Abs(got-want) > 0.02*want {
		t.Errorf("%.2f left, want %.2f", got, want)
	}
}

// The file of costs that is kept has what the model needs, and the model lets
// out what comes in.
func TestKeptCostsSizeADeployment(t *testing.T) {
	t.Parallel()
	c, err := readCosts("costs.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Size(c, at(100))
	if err != nil {
		t.Fatal(err)
	}
	s.Layout.Simulate = 100
	o, err := Simulate(c, s.Traffic, s.Layout)
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(o.Done-100) > 5 || o.Waiting > 200 {
		t.Errorf("of 100 jobs/s %.1f end, %d wait for a provider", o.Done, o.Waiting)
	}
	// A provider that takes 20 a second holds up the rest, and nothing else is.
	s.Traffic.Providers, s.Traffic.ProviderRate = 1, 20
	if o, err = Simulate(c, s.Traffic, s.Layout); err != nil {
		t.Fatal(err)
	}
	if o.Waiting < 7000 || o.Waits["accept"].At(0.99) > 0.1 {
		t.Errorf("%d wait at a provider that takes a fifth; a submit takes %.0f ms", o.Waiting, 1000*o.Waits["accept"].At(0.99))
	}
}
