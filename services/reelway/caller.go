package reelway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// The exit codes. Operators' verbs know the first three.
const (
	exitFailed      = 1   // something went wrong here
	exitUsage       = 2   // the command was written wrongly
	exitNoVideo     = 3   // the video ended without a result
	exitRefused     = 4   // refused for good: the same again will be refused
	exitUnavailable = 5   // not reached, busy or too many requests: try again later
	exitInterrupted = 130 // Ctrl-C
)

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

// Error implements error.
func (e *exitError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *exitError) Unwrap() error { return e.err }

// exitCode is what a verb's error tells the shell.
func exitCode(err error) int {
	var own *exitError
	var refused *refusal
	var absent *absence
	switch {
	case errors.As(err, &own):
		return own.code
	case errors.As(err, &refused) && refused.final():
		return exitRefused
	case errors.As(err, &refused), errors.As(err, &absent):
		return exitUnavailable
	}
	return exitFailed
}

// console is where a verb for people reads and writes: results to out, all talk
// to err, so that a pipe gets results and nothing else.
type console struct {
	in       io.Reader
	out, err io.Writer
}

// terminal reports whether a stream is a person's.
func terminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// tint colours a word where out is a terminal that wants it (no-color.org). All
// codes have one width, so that columns stay columns.
func (c *console) tint(word string) string {
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || !terminal(c.out) {
		return word
	}
	code := "39"
	switch word {
	case "succeeded":
		code = "32"
	case "failed", "expired":
		code = "31"
	case "canceled", "needs_review":
		code = "33"
	case "queued", "submitting", "running", "storing":
		code = "36"
	}
	return "\x1b[" + code + "m" + word + "\x1b[0m"
}

// caller is what every verb for people has: which Reelway, by which key, and how
// to answer.
type caller struct {
	URL     string `name:"url" help:"The HTTP address of the Reelway (REELWAY_URL; http://127.0.0.1:8080)." placeholder:"URL"`
	Key     string `help:"An API key (REELWAY_API_KEY; REELWAY_API_KEY_FILE names a file). Better not given here, where other users of this machine see it." placeholder:"KEY"`
	Profile string `help:"A profile of reelway profiles, before what the environment says." placeholder:"NAME"`
	JSON    bool   `name:"json" help:"Print JSON and nothing else."`
}

const (
	urlVariable     = "REELWAY_URL"
	keyVariable     = "REELWAY_API_KEY"
	profileVariable = "REELWAY_PROFILE"
	localURL        = "http://127.0.0.1:8080"
)

// client finds the server and the key: flags first, then the profile that a flag
// names, then the environment, then the current profile. A profile's key goes to
// that profile's server alone, and the environment's not to one that a profile
// names.
func (c *caller) client() (client, error) {
	kept, err := loadProfiles()
	if err != nil {
		return client{}, err
	}
	var p profile
	if name := cmp.Or(c.Profile, os.Getenv(profileVariable), kept.Current); name != "" {
		var ok bool
		if p, ok = kept.Profiles[name]; !ok {
			return client{}, &exitError{exitUsage, fmt.Errorf("there is no profile %q; reelway profiles list shows them", name)}
		}
	}
	base, key := c.URL, c.Key
	if c.Profile == "" {
		base = cmp.Or(base, os.Getenv(urlVariable))
		if key == "" {
			if key, err = environmentKey(); err != nil {
				return client{}, err
			}
		}
	}
	own := cmp.Or(p.URL, localURL)
	if base = strings.TrimRight(cmp.Or(base, own), "/"); key == "" && base == strings.TrimRight(own, "/") {
		if key, err = p.secret(); err != nil {
			return client{}, err
		}
	}
	if err := checkURL(base); err != nil {
		return client{}, &exitError{exitUsage, err}
	}
	switch {
	case key == "":
		return client{}, &exitError{exitUsage, errors.New("no API key for " + base + ": set " + keyVariable + ", or make a profile by `reelway profiles set NAME --url URL --key-file FILE`")}
	case strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r > '~' }):
		return client{}, &exitError{exitUsage, errors.New("the API key holds characters that no key has")}
	}
	return client{base: base, key: key}, nil
}

func environmentKey() (string, error) {
	if key := os.Getenv(keyVariable); key != "" {
		return key, nil
	}
	path := os.Getenv(keyVariable + "_FILE")
	if path == "" {
		return "", nil
	}
	data, err := os.ReadFile(path) //nolint:gosec // the caller names the file
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", keyVariable, err)
	}
	return strings.TrimSpace(string(data)), nil
}

// checkURL refuses what is no HTTP address, gRPC's for one.
func checkURL(base string) error {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return fmt.Errorf("%q is no HTTP address; write it as %s", base, localURL)
	}
	return nil
}

// callTimeout bounds a verb that does not watch.
const callTimeout = 60 * time.Second

// do calls fn with the client, for at most limit, or for ever when it is 0.
func (c *caller) do(ctx context.Context, limit time.Duration, fn func(ctx context.Context, cl client) error) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	outer := ctx
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	if err = fn(ctx, cl); err != nil && outer.Err() != nil {
		return &exitError{exitInterrupted, errors.New("interrupted")}
	}
	return err
}

// answer prints a JSON document when asked to, else table.
func (c *caller) answer(out io.Writer, document any, table ...[]string) error {
	if !c.JSON {
		return printTable(out, table)
	}
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return enc.Encode(document)
}

// at is a moment in UTC to the second.
func at(unix int64) string { return time.Unix(unix, 0).UTC().Format("2006-01-02 15:04:05Z") }
