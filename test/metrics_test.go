package test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/otlptranslator"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

const metricsDoc = "../docs/metrics.md"

// described is a metric as docs/metrics.md has it.
type described struct{ name, kind, unit, labels, meaning string }

func (d described) row() string {
	return "| " + strings.Join([]string{"`" + d.name + "`", d.kind, d.unit, d.labels, d.meaning}, " | ") + " |"
}

// instruments are those that the sources make, by their names in Prometheus.
func instruments(t *testing.T) map[string]described {
	t.Helper()
	out := map[string]described{}
	kinds := map[string]string{"Counter": "counter", "Histogram": "histogram", "Gauge": "gauge", "ObservableGauge": "gauge", "ObservableCounter": "counter", "UpDownCounter": "gauge"}
	types := map[string]otlptranslator.MetricType{"counter": otlptranslator.MetricTypeMonotonicCounter, "histogram": otlptranslator.MetricTypeHistogram, "gauge": otlptranslator.MetricTypeGauge}
	namer := otlptranslator.MetricNamer{WithMetricSuffixes: true}
	for _, root := range []string{"../pkg", "../services"} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				kind := kinds[strings.TrimPrefix(strings.TrimPrefix(called(call), "Int64"), "Float64")]
				if kind == "" || len(call.Args) == 0 || !strings.HasPrefix(literal(call.Args[0]), "reelway.") {
					return true
				}
				d := described{name: literal(call.Args[0]), kind: kind}
				for _, a := range call.Args[1:] {
					opt, ok := a.(*ast.CallExpr)
					if !ok {
						continue
					}
					switch called(opt) {
					case "WithUnit":
						d.unit = literal(opt.Args[0])
					case "WithDescription":
						d.meaning = literal(opt.Args[0])
					}
				}
				otel := d.name
				if d.name, err = namer.Build(otlptranslator.Metric{Name: otel, Unit: d.unit, Type: types[kind]}); err != nil {
					t.Error(err)
				}
				if d.meaning == "" {
					t.Errorf("%s: %s says nothing of what it measures", path, otel)
				}
				d.unit = strings.NewReplacer("{", "", "}", "").Replace(d.unit)
				out[d.name] = d
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func called(c *ast.CallExpr) string {
	if s, ok := c.Fun.(*ast.SelectorExpr); ok {
		return s.Sel.Name
	}
	return ""
}

func literal(e ast.Expr) string {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return ""
	}
	s, _ := strconv.Unquote(l.Value) // the parser took it
	return s
}

// documented reads the tables of docs/metrics.md.
func documented(t *testing.T) map[string]described {
	t.Helper()
	text, err := os.ReadFile(metricsDoc)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]described{}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		f := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(f) != 5 {
			t.Errorf("a row of %d columns: %s", len(f), line)
			continue
		}
		d := described{strings.Trim(f[0], " `"), f[1], f[2], f[3], strings.TrimSpace(f[4])}
		if _, twice := out[d.name]; twice {
			t.Errorf("%s is documented twice", d.name)
		}
		out[d.name] = d
	}
	return out
}

// scrape reads /metrics of a stack.
func (s *stack) scrape() map[string]*dto.MetricFamily {
	s.t.Helper()
	resp, err := http.Get(s.ops + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%d %.300s %v", resp.StatusCode, text, err)
	}
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		s.t.Fatal(err)
	}
	return families
}

// labelsOf are a family's labels, without those that every metric has.
func labelsOf(f *dto.MetricFamily) []string {
	names := map[string]bool{}
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			if !strings.HasPrefix(l.GetName(), "otel_scope_") {
				names[l.GetName()] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// docs/metrics.md has every metric that a running stack shows and every one that
// the sources make, with the labels that it has there. -update writes it.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for i, m := range []string{"kling-v2-6", "seedance-2.0", "kling-v2-6"} {
		id := s.call(http.MethodPost, "/v1/videos", request(m, []string{"x", "x", "[fault:policy]"}[i])).video.ID
		_, _, _ = sse(t, s, id, "", 1000)
		s.await(60*time.Second, id)
	}
	made, docs, shown := instruments(t), documented(t), s.scrape()
	for name, f := range shown {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || name == "target_info" || name == "promhttp_metric_handler_errors_total" {
			continue // every Go process's
		}
		d, own := made[name]
		if !own && strings.HasPrefix(name, "reelway_") {
			t.Errorf("%s is shown, and the sources do not make it", name)
		}
		if old := docs[name]; !own {
			d = old
		}
		d.name, d.kind, d.labels = name, strings.ToLower(f.GetType().String()), docs[name].labels
		for _, l := range labelsOf(f) {
			if !slices.Contains(strings.Split(d.labels, ", "), l) {
				d.labels = strings.TrimPrefix(d.labels+", "+l, ", ") // some show on failures alone
			}
		}
		if own {
			made[name] = d
		}
		if got := docs[name]; got != d && !*update {
			t.Errorf("docs/metrics.md has\n%s\na running stack shows\n%s", got.row(), d.row())
		}
	}
	for name, d := range made {
		if shown[name] == nil {
			d.labels = docs[name].labels // it takes a fault to see them
			made[name] = d
		}
		if got := docs[name]; got != d && !*update {
			t.Errorf("docs/metrics.md has\n%s\nthe sources make\n%s", got.row(), d.row())
		}
	}
	for name := range docs {
		if _, own := made[name]; !own && shown[name] == nil {
			t.Errorf("docs/metrics.md has %s, which nothing shows", name)
		}
	}
	if *update {
		rewrite(t, made)
	}
}

// rewrite writes the table of our own metrics; the libraries' is written by hand.
func rewrite(t *testing.T, made map[string]described) {
	t.Helper()
	text, err := os.ReadFile(metricsDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(text), "<!-- own -->\n")
	_, after, ok2 := strings.Cut(rest, "<!-- end -->\n")
	if !ok1 || !ok2 {
		t.Fatal("docs/metrics.md has no place for the table")
	}
	var b strings.Builder
	_, _ = fmt.Fprint(&b, before, "<!-- own -->\n| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(made)) {
		_, _ = fmt.Fprintln(&b, made[name].row())
	}
	_, _ = fmt.Fprint(&b, "<!-- end -->\n", after)
	if err := os.WriteFile(metricsDoc, []byte(b.String()), 0o644); err != nil { //nolint:gosec // a page of the repository
		t.Fatal(err)
	}
}
