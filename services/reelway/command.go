package reelway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"reelway.dev/pkg/run"
)

type flags struct {
	HTTPAddr      string `help:"Address of REST, SSE, WebSocket and callbacks." placeholder:"ADDR"`
	GRPCAddr      string `name:"grpc-addr" help:"Address of gRPC." placeholder:"ADDR"`
	OpsAddr       string `help:"Address of health and metrics." placeholder:"ADDR"`
	SimulatorAddr string `help:"Address of the simulated providers." placeholder:"ADDR"`
	DataDir       string `help:"Where everything is kept." placeholder:"DIR"`
	DatabaseURL   string `help:"A PostgreSQL to use instead of a private one." placeholder:"URL"`
	NATSURL       string `name:"nats-url" help:"A NATS with JetStream to use instead of the embedded one." placeholder:"URL"`
	DevAPIKey     string `name:"dev-api-key" help:"The development API key." placeholder:"KEY"`
	TimeScale     string `help:"How many times faster than life the simulator renders." placeholder:"N"`
}

// environ is the process's environment with the flags on top: a flag is only
// another way to write a variable.
func (f *flags) environ() []string {
	env := os.Environ()
	for name, v := range map[string]string{"HTTP_ADDR": f.HTTPAddr, "GRPC_ADDR": f.GRPCAddr, "OPS_ADDR": f.OpsAddr, "SIMULATOR_ADDR": f.SimulatorAddr,
		"DATA_DIR": f.DataDir, "DATABASE_URL": f.DatabaseURL, "NATS_URL": f.NATSURL, "DEV_API_KEY": f.DevAPIKey, "SIMULATOR_TIME_SCALE": f.TimeScale} {
		if v != "" {
			env = append(env, "REELWAY_"+name+"="+v)
		}
	}
	return env
}

type cli struct {
	Up       upCmd       `cmd:"" help:"Run all of Reelway in this process until Ctrl-C."`
	Demo     demoCmd     `cmd:"" help:"Start Reelway, submit a video, watch it live, save the MP4 and print what it cost."`
	Settings settingsCmd `cmd:"" help:"List every environment variable with its default."`
	Doctor   doctorCmd   `cmd:"" help:"Check everything that Reelway needs: database, NATS, bucket, provider keys, callbacks, clock. Exit code 1 when a check fails."`

	Submit     submitCmd     `cmd:"" help:"Submit a video; with --watch, wait for it and save the file."`
	Jobs       jobsCmd       `cmd:"" help:"List your videos, the latest first."`
	Show       showCmd       `cmd:"" help:"Show a video: its state, its file, its attempts, webhooks and money."`
	Cancel     cancelCmd     `cmd:"" help:"Cancel videos: at once while no provider has begun them, else at the provider, where it can."`
	Watch      watchCmd      `cmd:"" help:"Watch a video to its end."`
	Quote      quoteCmd      `cmd:"" help:"Say what a video would cost."`
	Balance    balanceCmd    `cmd:"" help:"Show what you may spend, and what is held."`
	Usage      usageCmd      `cmd:"" help:"Show what you used, by day, model, user or key."`
	Profiles   profilesCmd   `cmd:"" help:"Servers and keys of yours: list, set, use."`
	Completion completionCmd `cmd:"" help:"Print the script that lets a shell complete commands."`

	Accounts    accountsCmd    `cmd:"" help:"Accounts of a running Reelway: create, list, show, set, top up, suspend, resume."`
	Keys        keysCmd        `cmd:"" help:"API keys of an account: create, list, rotate, revoke, limit."`
	Budgets     budgetsCmd     `cmd:"" help:"Budgets of an account, its keys, users and models: set, list, delete."`
	Users       usersCmd       `cmd:"" help:"End users of an account: create, list."`
	Ledger      ledgerCmd      `cmd:"" help:"The books: balances, top-ups, grants, refunds, statements, margins, and their proof."`
	Providers   providersCmd   `cmd:"" help:"How the providers stand; match their invoices, certify their adapters."`
	Webhooks    webhooksCmd    `cmd:"" help:"Webhook endpoints of an account: create, list, update, rotate, test, deliveries, replay."`
	DeadLetters deadLettersCmd `cmd:"" help:"Messages that consumers gave up on: list, show, replay, drop."`
	Inspect     inspectCmd     `cmd:"" help:"Show one job of whichever account: how it stands, what happened in order, and what may be done."`
	Maintenance maintenanceCmd `cmd:"" help:"Refuse new videos while what was accepted goes on: on, off, status."`
	Restored    restoredCmd    `cmd:"" help:"After a backup was restored, before anything runs on it: have what was queued looked for before it is submitted."`
	Audit       auditCmd       `cmd:"" help:"What administrators did, the latest first."`
	Models      modelsCmd      `cmd:"" help:"The catalogue: list what is offered, check files of models, import a provider's list."`
}

func (c *cli) parser(options ...kong.Option) (*kong.Kong, error) {
	return kong.New(c, append(options, kong.Name("reelway"), kong.UsageOnError(),
		kong.Description("The self-hosted gateway between a product and all AI video providers."))...)
}

// Main runs the command line and returns the exit code: 0 done, 1 failed, 2
// wrong usage, and what docs/cli.md tells of verbs for people.
func Main(args []string, stdout, stderr io.Writer) int {
	// A reader that went away (a pipe to head) must not kill us before we drain.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c cli
	code := -1
	parser, err := c.parser(kong.Writers(stdout, stderr), kong.Exit(func(n int) { code = n }))
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "reelway:", err)
		return 1
	}
	if len(args) > 0 && args[0] == completeWord {
		complete(parser.Model.Node, args[1:], stdout)
		return 0
	}
	k, err := parser.Parse(args)
	if code >= 0 {
		return code // --help has been printed
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "reelway:", err)
		return 2
	}
	k.BindTo(ctx, (*context.Context)(nil))
	k.BindTo(stdout, (*io.Writer)(nil))
	k.Bind(&console{in: os.Stdin, out: stdout, err: stderr})
	if err := k.Run(); err != nil {
		for _, line := range strings.Split(err.Error(), "\n") {
			_, _ = fmt.Fprintln(stderr, "reelway:", line)
		}
		return exitCode(err)
	}
	return 0
}

type settingsCmd struct{}

// Run prints the settings.
func (settingsCmd) Run(out io.Writer) error {
	for _, s := range Describe() {
		if _, err := fmt.Fprintf(out, "%-40s %-24s %s\n", s.Name, s.Default, s.Description); err != nil {
			return err
		}
	}
	return nil
}

type upCmd struct {
	flags `embed:""`
}

// Run runs the stack in the foreground.
func (u *upCmd) Run(ctx context.Context, out io.Writer) error {
	set, err := Load(u.environ())
	if err != nil {
		return err
	}
	log, err := run.NewLogger(os.Stderr, set.Process.LogLevel)
	if err != nil {
		return err
	}
	return Run(ctx, set, log, func(s *Stack) { s.print(out, set.DataDir) })
}

func (s *Stack) print(out io.Writer, dir string) {
	dir, _ = filepath.Abs(dir)
	_, _ = fmt.Fprintf(out, `Reelway is up.
  REST, SSE, WebSocket  %s
  gRPC                  %s
  health, metrics       %s
  simulated providers   %s
  data                  %s
  API key               %s
  admin key             %s
Stop with Ctrl-C.
`, s.HTTPURL, s.GRPCAddr, s.OpsURL, first(s.SimURL, "off: real keys are set"), dir, s.APIKey, s.AdminKey)
}

type demoCmd struct {
	flags  `embed:""`
	Model  string `default:"seedance-2.0" help:"The model."`
	Prompt string `default:"A paper boat sails down a rainy street at night" help:"What to show."`
	Out    string `default:"." help:"Where the MP4 is saved." type:"path"`
}

// Run starts a stack of its own, plays the main job through its public doors,
// and stops it.
func (d *demoCmd) Run(ctx context.Context, out io.Writer) error {
	set, err := Load(d.environ())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(set.DataDir, 0o711); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(set.DataDir, "demo.log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer func() { _ = file.Close() }()
	log, err := run.NewLogger(file, set.Process.LogLevel)
	if err != nil {
		return err
	}
	outer := ctx
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	played := errors.New("interrupted")
	done := make(chan struct{})
	err = Run(ctx, set, log, func(s *Stack) {
		defer close(done)
		defer stop()
		played = play(ctx, s, d, out)
	})
	if err != nil {
		return err
	}
	<-done
	if played != nil && outer.Err() != nil {
		return errors.New("interrupted")
	}
	return played
}
