package providertest

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Complete fails for each row of an adapter's error tables that no answer in
// testdata proves: a status that none has, or a code that is in no body.
func Complete(t testing.TB, statuses []int, codes []string) {
	t.Helper()
	var seen []int
	var bodies strings.Builder
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, file := range files {
		for _, r := range read(t, file) {
			seen = append(seen, r.Status)
			bodies.Write(r.Body)
		}
	}
	for _, status := range statuses {
		if !slices.Contains(seen, status) {
			t.Errorf("no recorded answer has status %d", status)
		}
	}
	for _, code := range codes {
		if !strings.Contains(strings.ToLower(bodies.String()), strings.ToLower(code)) {
			t.Errorf("no recorded answer holds %s", code)
		}
	}
}
