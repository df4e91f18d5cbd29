package reelway

import (
	"io"
	"time"

	"github.com/alecthomas/kong"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// Doing is a state and how long it still takes, as a progress bar says it.
var Doing = doing

// NextCommands are what an operator may type about a job.
func NextCommands(r *ledgerv1.InspectJobResponse, now time.Time) (commands []string) {
	for _, s := range nextSteps(r, now) {
		commands = append(commands, s.command)
	}
	return commands
}

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
