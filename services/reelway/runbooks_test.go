package reelway_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"reelway.dev/services/reelway"
)

// What runbooks and the pages of operators tell to type is what the command line takes.
func TestCommandsOfRunbooks(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"backup", "maintenance", "money", "observability", "rotation", "deploy", "doctor"} {
		pages = append(pages, "../../docs/"+name+".md")
	}
	command := regexp.MustCompile("(?m)`reelway ([a-z][^`]*)`|^ *reelway ([a-z][^#\n]*)")
	word := regexp.MustCompile(`"[^"]*"|\S+`)
	found := 0
	for _, page := range pages {
		text, err := os.ReadFile(page) //nolint:gosec // of the repository
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range command.FindAllStringSubmatch(string(text), -1) {
			var args []string
			named := true // a command is named, without what it needs
			for _, w := range word.FindAllString(m[1]+m[2], -1) {
				if w == "|" || w == ">" || w == "<" {
					break
				}
				w, _, _ = strings.Cut(strings.Trim(w, `"`), "|") // one of several
				args, named = append(args, w), named && !strings.HasPrefix(w, "-")
			}
			if named {
				args = append(args, "--help")
			}
			if err := reelway.Understood(args); err != nil {
				t.Errorf("%s: reelway %s: %v", page, m[1]+m[2], err)
			}
			found++
		}
	}
	if found < 40 {
		t.Errorf("%d commands were found", found)
	}
}
