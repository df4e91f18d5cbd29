package reelway

import (
	"io"

	"github.com/alecthomas/kong"
)

// Doing is a state and how long it still takes, as a progress bar says it.
var Doing = doing

// Understood says what is wrong with arguments of the command line, for somebody who
// has a key.
func Understood(args []string) error {
	var c cli
	helped := false
	parser, err := c.parser(kong.Writers(io.Discard, io.Discard), kong.Exit(func(code int) { helped = code == 0 }),
		kong.Resolvers(kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
			if flag.Name == "key" {
				return "a-key", nil
			}
			return nil, nil //nolint:nilnil // it has no other
		})))
	if err == nil {
		_, err = parser.Parse(args)
	}
	if helped {
		return nil
	}
	return err
}
