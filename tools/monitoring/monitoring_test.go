package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/promql/parser"
)

const repository = "../../"

func mustRules(t *testing.T, path string) ([]rule, []byte) {
	t.Helper()
	all, plain, err := rules(path)
	if err != nil {
		t.Fatal(err)
	}
	return all, plain
}

func manifests(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(component + "rules/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	return files
}

// exported are the metrics of docs/metrics.md, which a test of the running stack
// keeps true, by the names of their series, with their labels.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(repository + "docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{"up": nil, "go_goroutines": nil, "process_resident_memory_bytes": nil, "process_cpu_seconds_total": nil}
	for line := range strings.Lines(string(text)) {
		f := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| `") || len(f) != 5 {
			continue
		}
		name, labels := strings.Trim(f[0], "| `"), strings.Split(f[3], ", ")
		if f[1] != "histogram" {
			out[name] = labels
			continue
		}
		out[name+"_sum"], out[name+"_count"], out[name+"_bucket"] = labels, labels, append([]string{"le"}, labels...)
	}
	for _, path := range manifests(t) {
		all, _ := mustRules(t, path)
		for _, r := range all {
			if r.Record != "" {
				out[r.Record] = nil
			}
		}
	}
	return out
}

// judge refuses PromQL that Prometheus would not take, and what it says of
// metrics and labels that nothing exports.
func judge(t *testing.T, where, expr string, known map[string][]string) {
	t.Helper()
	e, err := parser.NewParser(parser.Options{}).ParseExpr(strings.ReplaceAll(expr, "$__rate_interval", "5m"))
	if err != nil {
		t.Errorf("%s: %v in %s", where, err, expr)
		return
	}
	scraped := []string{"job", "instance"}
	labels := slices.Clone(scraped)
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		if v, ok := n.(*parser.VectorSelector); ok {
			of, ok := known[v.Name]
			if !ok {
				t.Errorf("%s: nothing exports %q", where, v.Name)
			}
			labels = append(labels, of...)
			for _, m := range v.LabelMatchers {
				if m.Name != "__name__" && !slices.Contains(of, m.Name) && !slices.Contains(scraped, m.Name) {
					t.Errorf("%s: %s has no label %q", where, v.Name, m.Name)
				}
			}
		}
		return nil
	})
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		if a, ok := n.(*parser.AggregateExpr); ok {
			for _, l := range a.Grouping {
				if !slices.Contains(labels, l) {
					t.Errorf("%s: nothing has a label %q to group by", where, l)
				}
			}
		}
		return nil
	})
}

// Every dashboard is the one that the sources make, with an id of its own, and
// every query of it is about what Reelway exports.
func TestDashboards(t *testing.T) {
	t.Parallel()
	known, dir := exported(t), component+"dashboards/"
	names := map[string]bool{}
	for _, b := range boards() {
		names[b.name+".json"] = true
		want, err := b.json()
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(dir + b.name + ".json")
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s.json is not current; write it by make dashboards (%v)", b.name, err)
		}
		var d struct {
			UID    string
			Panels []struct {
				ID      int
				Type    string
				Targets []struct{ Expr, RefID string }
			}
		}
		if err := json.Unmarshal(want, &d); err != nil || d.UID != "reelway-"+b.name || len(d.Panels) < 10 {
			t.Errorf("%s: %v %q %d panels", b.name, err, d.UID, len(d.Panels))
		}
		for _, r := range b.rows {
			for _, p := range r.panels {
				for _, q := range p.queries {
					judge(t, b.name+": "+p.title, q.expr, known)
				}
			}
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !names[f.Name()] {
			t.Errorf("%s is nobody's dashboard", f.Name())
		}
	}
}

// Every rule is about what Reelway exports. Every alert says how bad it is and
// what it means, leads to its heading in a runbook, and has a test in which it
// fires and one in which it does not.
func TestRules(t *testing.T) {
	t.Parallel()
	known := exported(t)
	alerts := map[string]bool{}
	for _, path := range manifests(t) {
		all, _ := mustRules(t, path)
		tests, err := os.ReadFile("testdata/" + strings.TrimSuffix(filepath.Base(path), ".yaml") + ".test.yaml")
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			judge(t, r.Alert+r.Record, r.Expr, known)
			if r.Record != "" {
				continue
			}
			if alerts[r.Alert] {
				t.Errorf("%s is there twice", r.Alert)
			}
			alerts[r.Alert] = true
			if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s does not say how bad it is and what it means", r.Alert)
			}
			for _, name := range []string{r.Alert + " fires", r.Alert + " stays quiet"} {
				if !strings.Contains(string(tests), "name: "+name+"\n") {
					t.Errorf("no unit test %q", name)
				}
			}
			runbook(t, r)
		}
	}
	headings, err := filepath.Glob(repository + "docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range headings {
		for _, h := range sections(t, path) {
			if strings.HasPrefix(h.title, "Reelway") && !alerts[h.title] {
				t.Errorf("%s is about %s, which is no alert", path, h.title)
			}
		}
	}
	if len(alerts) < 25 {
		t.Errorf("%d alerts: %v", len(alerts), slices.Sorted(maps.Keys(alerts)))
	}
}

// section is a part of a runbook.
type section struct{ title, text string }

func sections(t *testing.T, path string) (out []section) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split("\n"+string(text), "\n## ")[1:] {
		title, rest, _ := strings.Cut(part, "\n")
		out = append(out, section{strings.TrimSpace(title), rest})
	}
	return out
}

// runbook judges the part of a runbook that an alert leads to.
func runbook(t *testing.T, r rule) {
	t.Helper()
	path, anchor, _ := strings.Cut(r.Annotations["runbook_url"], "#")
	if anchor != strings.ToLower(r.Alert) {
		t.Errorf("%s leads to %q", r.Alert, r.Annotations["runbook_url"])
		return
	}
	for _, s := range sections(t, repository+path) {
		if s.title != r.Alert {
			continue
		}
		for _, word := range []string{"**Symptom.**", "**Meaning.**", "**Check.**", "**Mend.**", "**Escalate.**", "**Tried.**"} {
			if !strings.Contains(s.text, word) {
				t.Errorf("%s: the runbook has no %s", r.Alert, word)
			}
		}
		return
	}
	t.Errorf("%s has no heading in %s", r.Alert, path)
}

// Prometheus's own tool takes the rules, and runs the unit tests of the alerts.
func TestPromtool(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var plains, tests []string
	for _, path := range manifests(t) {
		_, plain := mustRules(t, path)
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		text, err := os.ReadFile("testdata/" + name + ".test.yaml")
		if err != nil {
			t.Fatal(err)
		}
		for file, data := range map[string][]byte{name + ".rules.yaml": plain, name + ".test.yaml": text} {
			if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		plains, tests = append(plains, filepath.Join(dir, name+".rules.yaml")), append(tests, filepath.Join(dir, name+".test.yaml"))
	}
	promtool(t, append([]string{"check", "rules", "--lint-fatal"}, plains...)...)
	promtool(t, append([]string{"test", "rules"}, tests...)...)
}

// promtool is the one that REELWAY_PROMTOOL names, or that of go.mod, which takes
// minutes to build.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"go", "tool", "promtool"}, args...)
	if path := os.Getenv("REELWAY_PROMTOOL"); path != "" {
		args = append([]string{path}, args[3:]...)
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil { //nolint:gosec // the operator's own
		t.Errorf("%v: %v\n%s", args, err, out)
	}
}
