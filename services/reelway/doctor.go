package reelway

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/run"
)

// Verdict is what a check found.
type Verdict string

// The verdicts. Warn works and wants a look; Skip could not be looked at.
const (
	OK   Verdict = "ok"
	Warn Verdict = "warn"
	Fail Verdict = "fail"
	Skip Verdict = "skip"
)

// Check is one thing that Reelway needs, and how it stands.
type Check struct {
	Name    string  `json:"name"` // postgres.migrations
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"`
	Fix     string  `json:"fix,omitempty"` // what to do, unless all is well
}

func ok(name, format string, a ...any) Check {
	return Check{name, OK, fmt.Sprintf(format, a...), ""}
}

func skip(name, format string, a ...any) Check {
	return Check{name, Skip, "not checked: " + fmt.Sprintf(format, a...), ""}
}

func warn(name, fix, format string, a ...any) Check {
	return Check{name, Warn, fmt.Sprintf(format, a...), fix}
}

func fail(name, fix, format string, a ...any) Check {
	return Check{name, Fail, fmt.Sprintf(format, a...), fix}
}

// checkTime bounds the checks of one neighbour: one that hangs has failed.
const checkTime = 30 * time.Second

// checkup is the settings that a doctor reads: the all-in-one's and the
// services', which mean the same by the same name.
type checkup struct {
	*Settings
	bus    bus.Config
	open   registry.Providers
	faults error // of the providers' settings
	clocks clocks
}

// clocks gathers what neighbours' clocks say.
type clocks struct {
	mu    sync.Mutex
	ahead map[string]time.Duration // of this machine's
}

func (s *clocks) tell(who string, ahead time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ahead == nil {
		s.ahead = map[string]time.Duration{}
	}
	s.ahead[who] = ahead
}

// elsewhere are settings of single services' mains, which a doctor has no use
// for and finds in their environment all the same.
var elsewhere = []string{"REELWAY_LEDGER_ADDR", "REELWAY_CALLBACK_ADDR", "REELWAY_NOTIFIER_ADDR", "REELWAY_PROVIDERS", "REELWAY_ALLOW_HTTP_URLS",
	"REELWAY_CALLBACK_SECRET", "REELWAY_CALLBACK_SECRET_PREVIOUS", "REELWAY_DATABASE_CONNECTIONS", "REELWAY_TLS_DIR", "REELWAY_LEDGER_CALLERS", "REELWAY_POSTGRES_BIN", serverVariable}

// Diagnose checks everything that Reelway needs, with the settings of an
// environment, and changes nothing but an object in the bucket that it writes and
// deletes. The order of the checks is always the same; no secret is in them.
func Diagnose(ctx context.Context, environ []string) []Check {
	c := checkup{Settings: &Settings{}}
	if err := run.Load(environ, elsewhere, append(c.parts(), &c.bus)...); err != nil {
		return []Check{fail("settings", "correct the variables that are named; `reelway settings` lists all", "%s", strings.ReplaceAll(err.Error(), "\n", "; "))}
	}
	c.open, c.faults = registry.Open(c.Providers)
	steps := []func(context.Context) []Check{c.database, c.broker, c.storage, c.providers, c.callbacks}
	found := make([][]Check, len(steps))
	var wg sync.WaitGroup
	for i, step := range steps {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkTime)
			defer cancel()
			found[i] = step(ctx)
		})
	}
	wg.Wait()
	return slices.Concat([]Check{ok("settings", "all are known and in their limits")}, slices.Concat(found...), c.clock())
}

// A clock that is off spoils signatures: S3 and webhooks bear five minutes or
// more, but expiry and budgets are to the second.
const (
	clockWarn = time.Second
	clockFail = time.Minute
)

// clock compares this machine's clock with the neighbours' that were reached.
func (c *checkup) clock() []Check {
	const fix = "run an NTP client, such as chrony or systemd-timesyncd, on the machine whose clock is off"
	if len(c.clocks.ahead) == 0 {
		return []Check{skip("clock", "nobody with a clock was reached")}
	}
	var off time.Duration
	var told []string
	for who, ahead := range c.clocks.ahead {
		off = max(off, ahead.Abs())
		told = append(told, fmt.Sprintf("%s %+dms", who, ahead.Milliseconds()))
	}
	slices.Sort(told)
	text := strings.Join(told, ", ")
	switch {
	case off >= clockFail:
		return []Check{fail("clock", fix, "beside this machine's: %s", text)}
	case off >= clockWarn:
		return []Check{warn("clock", fix, "beside this machine's: %s", text)}
	}
	return []Check{ok("clock", "beside this machine's: %s", text)}
}

type doctorCmd struct {
	flags `embed:""`
	JSON  bool `name:"json" help:"Print JSON and nothing else."`
}

// Run prints what it finds. Its error, and so the exit code 1, says that a check
// failed.
func (d *doctorCmd) Run(ctx context.Context, out io.Writer) error {
	checks := Diagnose(ctx, d.environ())
	failed := 0
	for _, c := range checks {
		if c.Verdict == Fail {
			failed++
		}
	}
	if err := d.print(out, checks, failed == 0); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, len(checks))
	}
	return nil
}

func (d *doctorCmd) print(out io.Writer, checks []Check, healthy bool) error {
	if d.JSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(map[string]any{"ok": healthy, "checks": checks})
	}
	width := 0
	for _, c := range checks {
		width = max(width, len(c.Name))
	}
	for _, c := range checks {
		text := fmt.Sprintf("%-4s  %-*s  %s\n", c.Verdict, width, c.Name, c.Detail)
		if c.Fix != "" {
			text += strings.Repeat(" ", width+8) + "-> " + c.Fix + "\n"
		}
		if _, err := io.WriteString(out, text); err != nil {
			return err
		}
	}
	return nil
}

// publicURL is where callers reach this Reelway, as it would say itself; empty
// when that is this machine alone.
func (c *checkup) publicURL() string { return cmp.Or(c.CallbackURL, c.PublicURL) }

// exists reports whether a file or folder is there.
func exists(path string) bool { _, err := os.Stat(path); return err == nil }
