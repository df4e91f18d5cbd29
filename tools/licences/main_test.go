package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What may not be delivered, or cannot be told, is refused.
func TestJudge(t *testing.T) {
	t.Parallel()
	affero := []byte("This program is free software: you can redistribute it and/or modify it under the terms of the GNU Affero General Public License as published by the Free Software Foundation, either version 3 of the License, or (at your option) any later version.")
	for what, x := range map[string]struct {
		text []byte
		want string
	}{
		"Affero": {affero, "AGPL-3.0"}, "own words": {[]byte("You may look at this on Sundays."), "unknown"},
	} {
		err := judge("example.com/x", classify(x.text))
		if err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	dir := t.TempDir()
	if err := judge("example.com/x", scan(dir, dir)); err == nil || !strings.Contains(err.Error(), "no licence file") {
		t.Error(err)
	}
	dir = t.TempDir()
	own, err := os.ReadFile("../lint/go.mod")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "LICENSE"), own, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := judge("example.com/x", scan(dir, dir)); err == nil {
		t.Error("a file that is no licence was taken for one")
	}
}
