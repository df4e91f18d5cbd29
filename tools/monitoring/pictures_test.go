package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/tsdb"
)

// written is the text of a picture, which must be XML.
func written(t *testing.T, picture string) string {
	t.Helper()
	var out strings.Builder
	d := xml.NewDecoder(strings.NewReader(picture))
	for {
		token, err := d.Token()
		if token == nil {
			if err.Error() != "EOF" {
				t.Fatalf("no XML: %v", err)
			}
			return out.String()
		}
		if text, ok := token.(xml.CharData); ok {
			out.Write(text)
		}
	}
}

// The pictures of the docs show every panel that the dashboards have, are small, and
// are shown.
func TestPicturesAreCurrent(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(repository + "docs/observability.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range boards() {
		name := "images/dashboard-" + b.name + ".svg"
		picture, err := os.ReadFile(repository + "docs/" + name)
		if err != nil {
			t.Error(err)
			continue
		}
		if len(picture) > 300_000 || !strings.Contains(string(page), "]("+name+")") {
			t.Errorf("%s has %d bytes, or is not in docs/observability.md", name, len(picture))
		}
		text := written(t, string(picture))
		for _, r := range b.rows {
			for _, p := range r.panels {
				if !strings.Contains(text, strings.TrimSpace(p.title+": "+p.about)) {
					t.Errorf("%s does not show %q: make dashboard-pictures", name, p.title)
				}
			}
		}
	}
}

// A panel shows what Prometheus would answer: rates, what rules record, units, a
// legend; a number is red from its bound on; and what nothing is known of says so.
func TestDraw(t *testing.T) {
	t.Parallel()
	db, err := tsdb.Open(t.TempDir(), nil, nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	from := time.Now().Add(-5 * time.Minute).Truncate(time.Second)
	to := from
	for ; to.Before(from.Add(2 * time.Minute)); to = to.Add(scrapeEvery) {
		seconds := int(to.Sub(from).Seconds())
		text := fmt.Appendf(nil, `# TYPE http_server_request_duration_seconds_count counter
http_server_request_duration_seconds_count{http_request_method="POST",http_route="/v1/videos",http_response_status_code="200"} %d
http_server_request_duration_seconds_count{http_request_method="POST",http_route="/v1/videos",http_response_status_code="500"} %d
reelway_ledger_jobs_overdue 3
process_resident_memory_bytes 4194304
`, 3*seconds, seconds)
		if err := store(t.Context(), db, text, "text/plain", "pod:9100", to); err != nil {
			t.Fatal(err)
		}
	}
	recorded, _, err := rules(component + "rules/slo.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := newReader(db, recorded, from.Add(time.Minute), to.Add(-scrapeEvery))
	lines, err := r.lines(t.Context(), panel{queries: each("http_server_request_duration_seconds_count", "http_response_status_code")})
	if err != nil || len(lines) != 2 || lines[0].name != "200" || lines[1].name != "500" {
		t.Fatalf("%v %v", lines, err)
	}
	for i, want := range []float64{3, 1} {
		for _, f := range lines[i].points {
			if f.F < 0.99*want || f.F > 1.01*want {
				t.Errorf("%s is %v a second, not %v", lines[i].name, f.F, want)
			}
		}
		if n := len(lines[i].points); n != 12 {
			t.Errorf("%d points of a minute", n)
		}
	}
	picture, err := draw(t.Context(), overview(), r)
	if err != nil {
		t.Fatal(err)
	}
	text := written(t, picture)
	for _, want := range []string{"75 %", "reelway pod:9100", "2 MiB", "No data", "req/s"} {
		if !strings.Contains(text, want) {
			t.Errorf("the picture has no %q", want)
		}
	}
	if !strings.Contains(picture, `fill="#C4162A">3<`) {
		t.Error("lost jobs are not red")
	}
}
