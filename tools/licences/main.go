// Command licences writes docs/licences.md, the list of every module in the delivered
// programs with its licence, and fails when one may not be delivered, or cannot be
// told.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// allowed are licences that ask for no source of ours, whoever runs or sells it.
var allowed = []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0", "CC0-1.0", "Unlicense", "0BSD", "Zlib"}

func main() {
	root := flag.String("root", "../..", "the repository")
	check := flag.Bool("check", false, "change nothing, and fail when the list is not current")
	flag.Parse()
	if err := run(*root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run(root string, check bool) error {
	mains, err := filepath.Glob(filepath.Join(root, "services/*/cmd/*"))
	if err != nil {
		return fmt.Errorf("find programs: %w", err)
	}
	found := map[string][]string{}
	for _, dir := range mains {
		if err := list(dir, found); err != nil {
			return err
		}
	}
	var faults []error
	for _, path := range slices.Sorted(maps.Keys(found)) {
		if err := judge(path, found[path]); err != nil {
			faults = append(faults, err)
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	file, text := filepath.Join(root, "docs/licences.md"), document(found)
	if !check {
		return os.WriteFile(file, text, 0o644) //nolint:gosec // a public file
	}
	now, err := os.ReadFile(file) //nolint:gosec // of this repository
	if err != nil {
		return fmt.Errorf("read list: %w", err)
	}
	if !bytes.Equal(now, text) {
		return errors.New("docs/licences.md is not current: run make licences, and look at what it changes")
	}
	return nil
}

// list adds the modules of a program and what their licence files say.
func list(dir string, found map[string][]string) error {
	cmd := exec.Command("go", "list", "-deps", "-json=Dir,Standard,Root,Module", ".") //nolint:noctx // a developer's tool
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("list packages of %s: %w", dir, err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir      string
			Standard bool
			Root     string
			Module   *struct{ Path, Dir string }
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read packages of %s: %w", dir, err)
		}
		if p.Standard {
			found["Go's standard library"] = scan(p.Root, p.Root)
		} else if !strings.HasPrefix(p.Module.Path, "reelway.dev/") {
			found[p.Module.Path] = slices.Compact(slices.Sorted(slices.Values(append(found[p.Module.Path], scan(p.Dir, p.Module.Dir)...))))
		}
	}
}

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense|copyright)(\.|-|$)`)

var scanned = map[string][]string{} // licences by directory

// scan reads the licence files from a package's directory up to its module's.
func scan(dir, top string) (ids []string) {
	for ; ; dir = filepath.Dir(dir) {
		here, ok := scanned[dir]
		if !ok {
			here = read(dir)
			scanned[dir] = here
		}
		ids = append(ids, here...)
		if dir == top || dir == filepath.Dir(dir) {
			return slices.Compact(slices.Sorted(slices.Values(ids)))
		}
	}
}

func read(dir string) (ids []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name())) //nolint:gosec // of a module
		if err != nil {
			continue
		}
		ids = append(ids, classify(text)...)
	}
	return ids
}

// classify is the licences of a text; a text of which most is of none is "unknown".
func classify(text []byte) (ids []string) {
	c := licensecheck.Scan(text)
	for _, m := range c.Match {
		if !m.IsURL {
			ids = append(ids, m.ID)
		}
	}
	if c.Percent < 50 || len(ids) == 0 {
		ids = append(ids, "unknown")
	}
	return ids
}

// judge says why a module may not be delivered.
func judge(module string, ids []string) error {
	if len(ids) == 0 {
		return fmt.Errorf("%s has no licence file", module)
	}
	for _, id := range ids {
		if !slices.Contains(allowed, id) {
			return fmt.Errorf("%s has a licence that is not allowed: %s", module, strings.Join(ids, ", "))
		}
	}
	return nil
}

func document(found map[string][]string) []byte {
	var b bytes.Buffer
	b.WriteString("# Licences\n\nEvery module in the delivered programs, by `make licences`. CI fails when the list is\nnot current, or when one has another licence than " +
		strings.Join(allowed[:len(allowed)-1], ", ") + " or " + allowed[len(allowed)-1] + ".\nVersions are in the images' lists of contents.\n\n| module | licence |\n|---|---|\n")
	for _, path := range slices.Sorted(maps.Keys(found)) {
		fmt.Fprintf(&b, "| %s | %s |\n", path, strings.Join(found[path], ", "))
	}
	return b.Bytes()
}
