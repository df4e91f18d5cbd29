package reelway

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// completeWord is what shells call with the words of a line so far, the last one
// unfinished. It is not a command of the grammar: it has to see the words as they
// are.
const completeWord = "__complete"

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help implements kong.HelpProvider.
func (*completionCmd) Help() string {
	return `Examples:

    source <(reelway completion bash)       # now; in ~/.bashrc for always
    source <(reelway completion zsh)        # after compinit
    reelway completion fish >~/.config/fish/completions/reelway.fish`
}

// shells are the scripts: each asks the command itself, and falls back on files
// where it answers nothing.
var shells = map[string]string{
	"bash": `_reelway() {
  local IFS=$'\n'
  COMPREPLY=($(reelway __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _reelway reelway
`,
	"zsh": `_reelway() {
  local -a found
  found=("${(@f)$(reelway __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "$found" ]]; then compadd -a found; else _files; fi
}
compdef _reelway reelway
`,
	"fish": `complete -c reelway -f -a '(set -l w (commandline -opc) (commandline -ct); reelway __complete $w[2..] 2>/dev/null)'
complete -c reelway -n '__fish_contains_opt -s o out key-file data-dir' -F
`,
}

// Run prints the script.
func (c *completionCmd) Run(con *console) error {
	_, err := io.WriteString(con.out, shells[c.Shell])
	return err
}

// complete prints what may stand in the place of the last word, a line each.
func complete(app *kong.Node, words []string, out io.Writer) {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	for _, w := range proposals(app, words[:len(words)-1], last) {
		if strings.HasPrefix(w, last) {
			_, _ = fmt.Fprintln(out, w)
		}
	}
}

func proposals(node *kong.Node, before []string, last string) (out []string) {
	given := 0 // positional arguments
	for i := 0; i < len(before); i++ {
		w := before[i]
		if strings.HasPrefix(w, "-") {
			if f := flagOf(node, w); f != nil && !f.IsBool() && !strings.Contains(w, "=") {
				if i++; i == len(before) {
					return words(f.Enum) // the last word is its value
				}
			}
			continue
		}
		if child := childOf(node, w); child != nil {
			node = child
		} else {
			given++
		}
	}
	if strings.HasPrefix(last, "-") {
		for _, group := range node.AllFlags(true) {
			for _, f := range group {
				out = append(out, "--"+f.Name)
			}
		}
		slices.Sort(out)
		return out
	}
	for _, c := range node.Children {
		if !c.Hidden {
			out = append(out, c.Name)
		}
	}
	if len(out) == 0 && given < len(node.Positional) {
		return words(node.Positional[given].Enum)
	}
	return out
}

// words are those of an enum.
func words(enum string) []string {
	return slices.DeleteFunc(strings.Split(enum, ","), func(w string) bool { return w == "" })
}

// flagOf is the flag that a word names, of the command or of one above it.
func flagOf(node *kong.Node, word string) *kong.Flag {
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
	for _, group := range node.AllFlags(false) {
		for _, f := range group {
			if f.Name == name || f.Short != 0 && string(f.Short) == name {
				return f
			}
		}
	}
	return nil
}

func childOf(node *kong.Node, word string) *kong.Node {
	for _, c := range node.Children {
		if c.Name == word || slices.Contains(c.Aliases, word) {
			return c
		}
	}
	return nil
}
