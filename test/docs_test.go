package test

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// block is a fenced block of a page. fence is what stands behind the fence, such
// as "sh no-run".
type block struct {
	fence, code string
}

// blocks are those of a page, in its order.
func blocks(t *testing.T, page string) (out []block) {
	t.Helper()
	raw, err := os.ReadFile("../" + page)
	if err != nil {
		t.Fatal(err)
	}
	var b *block
	for line := range strings.SplitSeq(string(raw), "\n") {
		fence, is := strings.CutPrefix(line, "```")
		switch {
		case is && b == nil:
			b = &block{fence: fence}
		case is:
			out, b = append(out, *b), nil
		case b != nil:
			b.code += line + "\n"
		}
	}
	if b != nil {
		t.Fatalf("%s: a block without an end", page)
	}
	return out
}

// notRun are the blocks of the pages that are not run, by their first lines, and
// why.
var notRun = map[string]string{
	"export REELWAY_URL=http://127.0.0.1:8080 REELWAY_API_KEY=rw_dev_example":                                               "the test's own address and key are in the environment",
	"REELWAY_DEV_API_KEY=rw_dev_example make up     # in one terminal":                                                      "the same; and it runs for ever",
	"make demo    # starts everything, submits a video, shows live progress, saves the MP4, prints what it cost":            "builds and runs everything, make test this test as well",
	`reelway webhooks create https://example.com/webhooks --account acct_… --event video.completed --header "X-Team: film"`: "a list of commands, which services/reelway tests",
	"reelway dead-letters list": "the same",
}

// What the manual says is run as it stands.
func TestSnippetsOfTheManual(t *testing.T) {
	t.Parallel()
	modules, err := filepath.Abs("sdk/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(modules + "/openai"); err != nil {
		t.Fatal("the client libraries are not installed: run `make setup-test`")
	}
	skipped := map[string]bool{}
	// The receivers in webhooks.md are run with TestWebhookReceiversOfTheManual, and
	// all of realtime.md with TestRealtimePage.
	for page, kinds := range map[string][]string{"README.md": {"sh"}, "docs/api.md": {"sh", "go", "js"}, "docs/webhooks.md": {"sh"}} {
		for _, b := range blocks(t, page) {
			if strings.HasSuffix(b.fence, " no-run") {
				first, _, _ := strings.Cut(b.code, "\n")
				skipped[first] = true
			}
		}
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			dir := t.TempDir()
			ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
			defer cancel()
			for from, to := range map[string]string{binary: ".bin/reelway", s.dir + "/data": ".data", modules: "node_modules"} {
				if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(to)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(from, filepath.Join(dir, to)); err != nil {
					t.Fatal(err)
				}
			}
			env := append(os.Environ(), "REELWAY_URL="+s.base, "REELWAY_API_KEY="+key, "REELWAY="+s.base, "KEY="+key, "REELWAY_SERVER="+s.grpc)
			exec := func(where, name string, args ...string) string {
				t.Helper()
				var out, complaints bytes.Buffer
				cmd := exec.CommandContext(ctx, name, args...)
				cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = where, env, &out, &complaints
				if err := cmd.Run(); err != nil {
					t.Errorf("%s: %v: %v\n%s\n%s", page, args, err, out.String(), complaints.String())
				}
				return out.String()
			}
			ran, last := map[string]int{}, ""
			for _, b := range blocks(t, page) {
				kind, how, _ := strings.Cut(b.fence, " ")
				switch {
				case kind == "json" && how == "output":
					sameFields(t, page, b.code, last)
					ran[kind]++
				case how != "" || !slices.Contains(kinds, kind):
				case kind == "sh": // with the variables of the blocks before
					last = exec(dir, "bash", "-euo", "pipefail", "-c", "[ ! -e .vars ] || . ./.vars\nset -a\n"+b.code+"export -p > .vars\n")
					ran[kind]++
				case kind == "go":
					source := filepath.Join(dir, "main.go")
					if err := os.WriteFile(source, []byte(b.code), 0o600); err != nil {
						t.Fatal(err)
					}
					exec(".", "go", "build", "-o", filepath.Join(dir, "program"), source)
					last = exec(dir, filepath.Join(dir, "program"))
					ran[kind]++
				case kind == "js":
					if err := os.WriteFile(filepath.Join(dir, "main.mjs"), []byte(b.code), 0o600); err != nil {
						t.Fatal(err)
					}
					last = exec(dir, "node", "main.mjs")
					ran[kind]++
				}
				if kind == "go" || kind == "js" {
					if !strings.Contains(last, " completed") && slices.Contains(kinds, kind) {
						t.Errorf("%s: the %s program lists no completed video: %q", page, kind, last)
					}
				}
			}
			for _, kind := range kinds {
				if ran[kind] == 0 {
					t.Errorf("%s has no block of %s", page, kind)
				}
			}
			if slices.Contains([]string{"README.md", "docs/api.md"}, page) {
				film, err := os.ReadFile(filepath.Join(dir, "boat.mp4"))
				if err != nil || len(film) < 1000 || string(film[4:8]) != "ftyp" {
					t.Errorf("%s: what was downloaded is no video: %d bytes, %v", page, len(film), err)
				}
			}
		})
	}
	if want, got := slices.Sorted(maps.Keys(notRun)), slices.Sorted(maps.Keys(skipped)); !reflect.DeepEqual(got, want) {
		t.Errorf("blocks that are not run:\n%q\nwant\n%q", got, want)
	}
}

// sameFields compares what a page shows with what came: the fields of objects,
// not their values.
func sameFields(t *testing.T, page, shown, came string) {
	t.Helper()
	var want, got any
	if err := json.Unmarshal([]byte(shown), &want); err != nil {
		t.Errorf("%s shows %s: %v", page, shown, err)
	}
	if err := json.Unmarshal([]byte(came), &got); err != nil {
		t.Errorf("%s: no JSON came: %s", page, came)
	}
	if w, g := fields(want), fields(got); !reflect.DeepEqual(w, g) {
		t.Errorf("%s shows the fields %v, and %v came", page, w, g)
	}
}

// fields are the names in an object and in the objects in it.
func fields(v any) (out []string) {
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			out = append(out, name)
			for _, inner := range fields(v[name]) {
				out = append(out, name+"."+inner)
			}
		}
	case []any:
		for _, x := range v[:min(len(v), 1)] {
			out = fields(x)
		}
	}
	return out
}

// Every request has its place in the manual, by its whole path.
func TestEveryRequestIsInTheManual(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var manual strings.Builder
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		manual.Write(text)
	}
	ops, _, _ := readContract(t)
	for _, op := range ops {
		if s := manual.String(); !strings.Contains(s, op.path+"`") && !strings.Contains(s, op.path+" ") && !strings.Contains(s, op.path+"?") {
			t.Errorf("no page tells of %s %s", op.method, op.path)
		}
	}
}
