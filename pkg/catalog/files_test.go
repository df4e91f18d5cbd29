package catalog_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"reelway.dev/pkg/catalog"
)

func all(string) bool { return true }

// entry is an operator's model of a price a second.
func entry(id, price string) string {
	return strings.Replace(strings.Trim(priced("{second: "+price+"}"), "[]"), "id: x", "id: "+id, 1)
}

func write(t *testing.T, name, text string) {
	t.Helper()
	// As a ConfigMap does: the new version comes whole.
	if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// Operators' files add models, replace them whole and remove them; a later file
// goes before an earlier one.
func TestOverride(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one.yaml"), filepath.Join(dir, "mounted")
	if err := os.Mkdir(two, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, one, "["+entry("mine", "10000")+", "+entry("seedance-2.0", "20000")+", {id: sora-2, disabled: true}]")
	write(t, filepath.Join(two, "b.yml"), "["+entry("mine", "40000")+"]")
	write(t, filepath.Join(two, "a.yaml"), "["+entry("mine", "30000")+"]")
	write(t, filepath.Join(two, ".hidden.yaml"), "this is not read")
	write(t, filepath.Join(two, "notes.txt"), "nor this")
	c, err := catalog.Open(catalog.Config{Files: []string{one, " " + two, ""}, Every: time.Hour}, all, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if n, want := len(c.Models()), len(catalog.Builtin().Models()); n != want {
		t.Errorf("%d models, want %d: one more, one less", n, want)
	}
	if m, _ := c.Model("mine"); m.Prices["720p"].Second != 40_000 || m.Name != "mine" {
		t.Errorf("mine is %+v", m)
	}
	if m := c.Models()[0]; m.ID != "seedance-2.0" || m.Provider != "p" || len(m.Ratios) != 1 {
		t.Errorf("seedance-2.0 is %+v", m)
	}
	if _, ok := c.Model("sora-2"); ok {
		t.Error("a disabled model is offered")
	}
	if c, err := catalog.Open(catalog.Config{}, all, slog.New(slog.DiscardHandler)); err != nil || len(c.Components()) != 0 {
		t.Errorf("without files: %v", err)
	}
}

// A bad file refuses the start with everything that is wrong with all of them.
func TestBadFilesRefuseTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one.yaml"), filepath.Join(dir, "two.yaml")
	write(t, one, "- {id: a, colour: red}")
	write(t, two, "["+entry("b", "-1")+"]")
	_, err := catalog.Open(catalog.Config{Files: []string{one, two, filepath.Join(dir, "none.yaml")}}, all, slog.New(slog.DiscardHandler))
	for _, want := range []string{"REELWAY_MODELS_FILES", one + `:1: model "a": colour`, one + `:1: model "a": durations`, two + `:1: model "b": prices.720p.second`, "none.yaml: no such file"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %s in %v", want, err)
		}
	}
	if models, err := catalog.Check(filepath.Join(dir, "none.yaml")); err == nil {
		t.Errorf("%d models", len(models))
	}
}

// A changed file is used without a restart; a faulty one, or none, leaves the
// last good one; the fault is logged once, however often it is seen.
func TestReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "v1"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "v1", "m.yaml"), "["+entry("mine", "10000")+"]")
	link := filepath.Join(dir, "data")
	if err := os.Symlink("v1", link); err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	c, err := catalog.Open(catalog.Config{Files: []string{link}, Every: 5 * time.Millisecond}, func(p string) bool { return p != "off" }, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Components()[0].Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	price := func() int64 {
		m, _ := c.Model("mine")
		return m.Prices["720p"].Second
	}
	// A mounted ConfigMap changes by its symlink.
	if err := os.Mkdir(filepath.Join(dir, "v2"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "v2", "m.yaml"), "["+entry("mine", "20000")+"]")
	if err := os.Symlink("v2", link+".new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".new", link); err != nil {
		t.Fatal(err)
	}
	until(t, "the new price", func() bool { return price() == 20_000 })

	write(t, filepath.Join(dir, "v2", "m.yaml"), "["+entry("mine", "nothing")+"]")
	until(t, "the fault is logged", func() bool { return strings.Contains(log.String(), "prices.720p.second: must be a whole number") })
	if price() != 20_000 {
		t.Errorf("a faulty file makes the price %d", price())
	}
	write(t, filepath.Join(dir, "v2", "m.yaml"), "["+entry("mine", "30000")+", "+strings.Replace(entry("other", "1"), "provider: p", "provider: off", 1)+"]")
	until(t, "the mended price", func() bool { return price() == 30_000 })
	if _, ok := c.Model("other"); ok || !strings.Contains(log.String(), "provider=off") {
		t.Errorf("a model of a provider that is off: %v, %s", ok, log.String())
	}
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	until(t, "the loss is logged", func() bool { return strings.Contains(log.String(), "no such file") })
	if price() != 30_000 {
		t.Errorf("without the file the price is %d", price())
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 2 {
		t.Errorf("%d errors are logged:\n%s", n, log.String())
	}
	if err := os.Symlink("v1", link); err != nil {
		t.Fatal(err)
	}
	until(t, "the first price again", func() bool { return price() == 10_000 })
}
