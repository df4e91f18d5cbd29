package main

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
)

// line is a series of a panel, with the name that its legend gives it.
type line struct {
	name   string
	points []promql.FPoint
}

// reader answers the queries of panels as Prometheus does, over a span of a
// recording.
type reader struct {
	engine   *promql.Engine
	db       storage.Queryable
	recorded []rule
	from, to time.Time
}

// newReader knows the recording rules, whose results no recording holds.
func newReader(db storage.Queryable, recorded []rule, from, to time.Time) *reader {
	return &reader{db: db, recorded: recorded, from: from, to: to, engine: promql.NewEngine(promql.EngineOpts{
		MaxSamples: 50_000_000, Timeout: time.Minute, EnableAtModifier: true, EnableNegativeOffset: true, Parser: parser.NewParser(parser.Options{})})}
}

var legendLabel = regexp.MustCompile(`\{\{(\w+)\}\}`)

// lines are what a panel shows, by name; what has no value anywhere is left out.
func (r *reader) lines(ctx context.Context, p panel) ([]line, error) {
	var out []line
	for _, q := range p.queries {
		// As Grafana has it: four scrapes.
		expr := strings.ReplaceAll(q.expr, "$__rate_interval", (4 * scrapeEvery).String())
		for _, rule := range r.recorded {
			if rule.Record != "" {
				expr = strings.ReplaceAll(expr, rule.Record, "("+rule.Expr+")")
			}
		}
		query, err := r.engine.NewRangeQuery(ctx, r.db, nil, expr, r.from, r.to, scrapeEvery)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.title, err)
		}
		result := query.Exec(ctx)
		matrix, err := result.Matrix()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.title, err)
		}
		for _, series := range matrix {
			points := slices.DeleteFunc(slices.Clone(series.Floats), func(f promql.FPoint) bool { return math.IsNaN(f.F) || math.IsInf(f.F, 0) })
			if len(points) > 0 {
				out = append(out, line{legend(q, series.Metric), points})
			}
		}
		query.Close()
	}
	slices.SortStableFunc(out, func(a, b line) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

func legend(q query, of labels.Labels) string {
	return strings.TrimSpace(legendLabel.ReplaceAllStringFunc(q.legend, func(s string) string {
		return of.Get(strings.Trim(s, "{}"))
	}))
}
