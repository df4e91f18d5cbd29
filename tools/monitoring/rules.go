package main

import (
	"errors"
	"fmt"
	"os"

	"gopkg.in/yaml.v3"
)

// rule is an alert or what is recorded, as Prometheus reads it.
type rule struct {
	Alert, Record, Expr string
	Labels, Annotations map[string]string
}

// rules are those of a manifest, and the plain file that it holds.
func rules(path string) (out []rule, plain []byte, err error) {
	text, err := os.ReadFile(path) //nolint:gosec // the operator's own
	if err != nil {
		return nil, nil, fmt.Errorf("read rules: %w", err)
	}
	var m struct{ Spec yaml.Node }
	if err := yaml.Unmarshal(text, &m); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	var spec struct {
		Groups []struct{ Rules []rule }
	}
	if err := m.Spec.Decode(&spec); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	for _, g := range spec.Groups {
		out = append(out, g.Rules...)
	}
	if len(out) == 0 {
		return nil, nil, errors.New(path + " has no rules")
	}
	plain, err = yaml.Marshal(&m.Spec)
	return out, plain, err
}
