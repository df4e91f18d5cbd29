// Package route turns a caller's word for a model into the concrete ways of
// making the video: an alias is an ordered, weighted or priced list of models of
// the catalogue, with conditions. It is data and decides nothing later: which of
// the ways is taken, and what follows when one fails, is the ledger's.
package route

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/money"
)

//go:embed routes.yaml
var builtin []byte

// The ways to put an alias's fitting routes in order.
const (
	byOrder  = "order"  // as they are written
	byWeight = "weight" // drawn anew for each request
	byPrice  = "price"  // the cheapest first, for this very request
)

const (
	// usual is how many routes of an alias are kept where it does not say.
	usual = 4
	// most is how many there may be: each is an attempt, and a part of the job.
	most = 16
)

// Alias is one entry.
type Alias struct {
	Name        string `yaml:"alias"`
	Description string `yaml:"description"`
	Pick        string `yaml:"pick"`       // order (when empty), weight or price
	MaxRoutes   int    `yaml:"max_routes"` // how many of the fitting are kept; 0 is 4
	// FallbackOnPolicy lets another model judge what one refused by its content
	// policy.
	FallbackOnPolicy bool      `yaml:"fallback_on_policy"`
	Means            Means     `yaml:"means"`
	When             Condition `yaml:"when"` // holds for every route
	// Routes is empty for every model on offer, which only pick: price can order.
	Routes []Route `yaml:"routes"`
}

// Means is what an alias's name says of a request; a request that says
// otherwise is refused.
type Means struct {
	Duration    int32  `yaml:"duration"` // seconds
	Resolution  string `yaml:"resolution"`
	AspectRatio string `yaml:"aspect_ratio"`
}

// Route is a model that an alias may lead to.
type Route struct {
	Model  string    `yaml:"model"`
	Weight share     `yaml:"weight"` // with pick: weight; 1 when left out
	When   Condition `yaml:"when"`
}

// Condition says for which requests a route is; what is empty holds for all.
type Condition struct {
	Tiers       []string      `yaml:"tiers"`       // of the account
	Resolutions []string      `yaml:"resolutions"` // of the video
	Regions     []string      `yaml:"regions"`     // REELWAY_REGION
	MaxPrice    credits       `yaml:"max_price"`   // of the video, in credits
	MaxLatency  time.Duration `yaml:"max_latency"` // that 95 of 100 of the model's videos took; what is not known fits
	Needs       []string      `yaml:"needs"`       // what the model has to be able to do
}

// credits is micro-credits, written as decimal credits.
type credits int64

// UnmarshalYAML implements yaml.Unmarshaler.
func (c *credits) UnmarshalYAML(n *yaml.Node) error {
	micros, err := money.Parse(n.Value)
	if err != nil || micros <= 0 {
		return fmt.Errorf("line %d: %q is not credits above 0 with at most 6 decimals", n.Line, n.Value)
	}
	*c = credits(micros)
	return nil
}

// share is a route's weight beside the others'.
type share int

// UnmarshalYAML implements yaml.Unmarshaler. A weight of 0 is refused: whoever
// writes it wants no videos of the route, which is done by leaving it out.
func (w *share) UnmarshalYAML(n *yaml.Node) error {
	var x int
	if err := n.Decode(&x); err != nil || x < 1 || x > 1_000_000 {
		return fmt.Errorf("line %d: weight is %q; use 1 to 1000000, or leave the route out", n.Line, n.Value)
	}
	*w = share(x)
	return nil
}

// Models is the catalogue; *catalog.Catalog is one.
type Models interface {
	Model(id string) (catalog.Model, bool)
	Models() []catalog.Model
}

// Table is an immutable set of aliases.
type Table struct {
	aliases []Alias
}

// Aliases lists every alias in order.
func (t *Table) Aliases() []Alias { return slices.Clone(t.aliases) }

// NeedsLatency reports whether any condition has a ceiling of latency.
func (t *Table) NeedsLatency() bool {
	return slices.ContainsFunc(t.aliases, func(a Alias) bool {
		return a.When.MaxLatency > 0 || slices.ContainsFunc(a.Routes, func(r Route) bool { return r.When.MaxLatency > 0 })
	})
}

// Alias finds one by name.
func (t *Table) Alias(name string) (Alias, bool) {
	i := slices.IndexFunc(t.aliases, func(a Alias) bool { return a.Name == name })
	if i < 0 {
		return Alias{}, false
	}
	return t.aliases[i], true
}

var (
	nameForm       = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	resolutionForm = regexp.MustCompile(`^[1-9][0-9]{2,3}p$`)
	ratioForm      = regexp.MustCompile(`^[1-9][0-9]?:[1-9][0-9]?$`)
	tiers          = []string{"development", "staging", "production"}
)

// Parse reads the aliases that ship and, on top of them, an operator's YAML
// list: an alias of the same name replaces ours, and so does a model of the
// operator's. models are those on offer. The error names every fault.
func Parse(own []byte, models Models) (*Table, error) {
	known, ships := map[string]bool{}, catalog.Builtin()
	for _, m := range slices.Concat(ships.Models(), models.Models()) {
		known[m.ID] = true
	}
	t := &Table{}
	var errs []error
	for i, data := range [][]byte{builtin, own} {
		aliases, err := decode(data)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			aliases = slices.DeleteFunc(aliases, func(a Alias) bool {
				_, ours := ships.Model(a.Name)
				return known[a.Name] && !ours
			})
		}
		seen := map[string]bool{}
		for _, a := range aliases {
			errs = append(errs, a.check(known)...)
			if seen[a.Name] {
				errs = append(errs, fmt.Errorf("alias %q: is there twice", a.Name))
			}
			seen[a.Name] = true
			if i := slices.IndexFunc(t.aliases, func(b Alias) bool { return b.Name == a.Name }); i >= 0 {
				t.aliases[i] = a
			} else {
				t.aliases = append(t.aliases, a)
			}
		}
	}
	return t, errors.Join(errs...)
}

func decode(data []byte) ([]Alias, error) {
	var aliases []Alias
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&aliases); errors.Is(err, io.EOF) {
		return nil, nil // comments alone
	} else if err != nil {
		return nil, fmt.Errorf("parse routes: %w", err)
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("parse routes: another document begins, after a line of three dashes; a file is one list")
	}
	return aliases, nil
}

func (a *Alias) check(known map[string]bool) (errs []error) {
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("alias %q: "+format, append([]any{a.Name}, args...)...))
	}
	if !nameForm.MatchString(a.Name) {
		bad("alias must be 1 to 64 of a-z, 0-9, dot, dash and underscore")
	}
	if known[a.Name] {
		bad("alias is the name of a model")
	}
	if a.Pick == "" {
		a.Pick = byOrder
	}
	if !slices.Contains([]string{byOrder, byWeight, byPrice}, a.Pick) {
		bad("pick is %q; use order, weight or price", a.Pick)
	}
	if a.MaxRoutes < 0 || a.MaxRoutes > most {
		bad("max_routes is %d; use 1 to %d", a.MaxRoutes, most)
	}
	if a.MaxRoutes == 0 {
		a.MaxRoutes = usual
	}
	if a.Means.Duration < 0 || a.Means.Duration > 3600 {
		bad("means.duration is %d; use 1 to 3600 seconds", a.Means.Duration)
	}
	if r := a.Means.Resolution; r != "" && !resolutionForm.MatchString(r) {
		bad("means.resolution is %q; use for example 720p", r)
	}
	if r := a.Means.AspectRatio; r != "" && !ratioForm.MatchString(r) {
		bad("means.aspect_ratio is %q; use for example 16:9", r)
	}
	if len(a.Routes) == 0 && a.Pick != byPrice {
		bad("routes is empty, which stands for every model and needs pick: price")
	}
	a.When.check("when", bad)
	seen := map[string]bool{}
	for i := range a.Routes {
		r, at := &a.Routes[i], fmt.Sprintf("routes[%d]", i)
		if !known[r.Model] {
			bad("%s.model is %q, which is no model of the catalogue", at, r.Model)
		}
		if seen[r.Model] {
			bad("%s.model is %q, which is there twice", at, r.Model)
		}
		seen[r.Model] = true
		switch {
		case r.Weight > 0 && a.Pick != byWeight:
			bad("%s.weight has no meaning with pick: %s", at, a.Pick)
		case r.Weight == 0:
			r.Weight = 1
		}
		r.When.check(at+".when", bad)
	}
	return errs
}

func (c Condition) check(at string, bad func(format string, args ...any)) {
	for _, x := range c.Tiers {
		if !slices.Contains(tiers, x) {
			bad("%s.tiers holds %q; use %s", at, x, strings.Join(tiers, ", "))
		}
	}
	for _, x := range c.Resolutions {
		if !resolutionForm.MatchString(x) {
			bad("%s.resolutions holds %q; use for example 720p", at, x)
		}
	}
	for _, x := range c.Regions {
		if x == "" {
			bad("%s.regions holds an empty name", at)
		}
	}
	if c.MaxLatency < 0 {
		bad("%s.max_latency is below 0", at)
	}
	for _, x := range c.Needs {
		if can[x] == nil {
			bad("%s.needs holds %q; use %s", at, x, strings.Join(abilities(), ", "))
		}
	}
}
