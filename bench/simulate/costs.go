package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"

	"gopkg.in/yaml.v3"
)

// Cost is one number that was measured, and how.
type Cost struct {
	Name  string  `yaml:"name"`
	Value float64 `yaml:"value"`
	Unit  string  `yaml:"unit"`
	How   string  `yaml:"how"`
}

// Costs are what one job, or one moment, costs each part. The file is
// costs.yaml; `-measure` writes it again and leaves what it does not measure.
type Costs struct {
	Machine string `yaml:"machine"` // where and when, and what else ran there
	Costs   []Cost `yaml:"costs"`
}

// readCosts reads a file of costs; unknown fields are an error.
func readCosts(path string) (*Costs, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	c := &Costs{}
	if err := dec.Decode(c); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return c, nil
}

func (c *Costs) write(path string) error {
	var b bytes.Buffer
	b.WriteString("# What the load model counts with. `go run ./simulate -measure` in bench/ writes it.\n")
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(c); err != nil {
		return fmt.Errorf("write costs: %w", err)
	}
	return os.WriteFile(path, b.Bytes(), 0o644) //nolint:gosec // no secret
}

// set replaces the cost of that name, or adds it.
func (c *Costs) set(x Cost) {
	if i := slices.IndexFunc(c.Costs, func(y Cost) bool { return y.Name == x.Name }); i >= 0 {
		c.Costs[i] = x
		return
	}
	c.Costs = append(c.Costs, x)
}

// need are the values of names; one that is missing is an error.
func (c *Costs) need(names ...string) (map[string]float64, error) {
	out := map[string]float64{}
	for _, n := range names {
		i := slices.IndexFunc(c.Costs, func(x Cost) bool { return x.Name == n })
		if i < 0 {
			return nil, fmt.Errorf("the costs have no %s: run with -measure", n)
		}
		out[n] = c.Costs[i].Value
	}
	return out, nil
}
