package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats-server/v2/server"
	"google.golang.org/grpc"

	"reelway.dev/bench/stand"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/postgres"
	"reelway.dev/pkg/rpc"
	"reelway.dev/services/simulator"
)

// services are measured, each as a process of its own, as it is delivered.
var services = []string{"intake", "ledger", "dispatcher", "callback", "archiver", "notifier"}

// natsIn makes this program a NATS server with its store in that directory.
const natsIn = "BENCH_NATS_IN"

const (
	simKey    = "simulated"
	simSecret = "a-secret-key-for-kling-of-32-bytes"
	whsec     = "whsec_c2ltdWxhdGVkLWtsaW5nLXdlYmhvb2sta2V5"
)

// runNATS serves until it is told to end; the addresses for clients and for
// watching are written to standard output.
func runNATS(dir string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, HTTPHost: "127.0.0.1", HTTPPort: port,
		JetStream: true, JetStreamMaxStore: bus.Reserved(), StoreDir: dir, NoSigs: true, NoLog: true})
	if err != nil {
		return err
	}
	ns.Start()
	if !ns.ReadyForConnections(10 * time.Second) {
		return errors.New("NATS is not ready")
	}
	stand.Say("%s http://127.0.0.1:%d\n", ns.ClientURL(), port)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	<-ctx.Done()
	ns.Shutdown()
	ns.WaitForShutdown()
	return nil
}

// Deployment is everything as separate processes, with simulated providers.
type Deployment struct {
	Intake, Ledger string // addresses
	Monitor        string // NATS's own page
	NATS           string
	Pool           *pgxpool.Pool
	conn           *grpc.ClientConn
	pids           map[string]int
	end            []func() error
}

// Close stops everything and removes its files.
func (d *Deployment) Close() error {
	var errs []error
	for i := len(d.end) - 1; i >= 0; i-- {
		errs = append(errs, d.end[i]())
	}
	return errors.Join(errs...)
}

// Deploy builds the services' own binaries and starts one of each. A render
// takes the length given.
func Deploy(ctx context.Context, root string, render time.Duration) (_ *Deployment, err error) {
	d := &Deployment{pids: map[string]int{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	dir, err := os.MkdirTemp("", "reelway-simulate-")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	d.end = append(d.end, func() error { return os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the postgres user enters it
		return nil, fmt.Errorf("open directory: %w", err)
	}
	for _, s := range services {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, s), "./cmd/"+s)
		cmd.Dir = filepath.Join(root, "services", s)
		cmd.Env = append(os.Environ(), "GOWORK=off")
		if msg, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build %s: %w\n%s", s, err, msg)
		}
	}
	pg, err := postgres.StartPrivate(ctx, filepath.Join(dir, "postgres"), false)
	if err != nil {
		return nil, err
	}
	d.end = append(d.end, func() error { return pg.Stop(context.WithoutCancel(ctx)) })
	if d.pids["postgres"], err = postmaster(pg.Dir()); err != nil {
		return nil, err
	}
	if err := d.startNATS(ctx, filepath.Join(dir, "nats")); err != nil {
		return nil, err
	}
	sim, err := d.startSimulator(ctx, render)
	if err != nil {
		return nil, err
	}
	if err := d.startServices(ctx, dir, pg.URL, sim); err != nil {
		return nil, err
	}
	if d.Pool, err = postgres.Open(ctx, pg.URL, 2); err != nil {
		return nil, err
	}
	d.end = append(d.end, func() error { d.Pool.Close(); return nil })
	if d.conn, err = rpc.Dial(d.Ledger); err != nil {
		return nil, err
	}
	d.end = append(d.end, d.conn.Close)
	return d, nil
}

func postmaster(dir string) (int, error) {
	data, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strconv.Atoi(line)
}

func (d *Deployment) startNATS(ctx context.Context, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env, cmd.Stderr = []string{natsIn + "=" + dir}, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("read from NATS: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start NATS: %w", err)
	}
	d.stops("nats", cmd)
	if _, err := fmt.Fscan(out, &d.NATS, &d.Monitor); err != nil {
		return fmt.Errorf("read NATS's address: %w", err)
	}
	return nil
}

// stops has a process end in its turn.
func (d *Deployment) stops(name string, cmd *exec.Cmd) {
	d.pids[name] = cmd.Process.Pid
	d.end = append(d.end, func() error {
		_ = cmd.Process.Signal(syscall.SIGTERM) // or it has ended, which Wait tells
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("stop %s: %w", name, err)
		}
		return nil
	})
}

// startSimulator runs the providers in this process, which counts as load.
func (d *Deployment) startSimulator(ctx context.Context, render time.Duration) (string, error) {
	sim, err := simulator.New(simulator.Config{TimeScale: 1, Render: render, KlingAccess: simKey, KlingSecret: simSecret, WebhookSecret: whsec},
		simulator.Deps{Client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return "", err
	}
	url, stop, err := serve(ctx, sim.Handler())
	if err != nil {
		return "", err
	}
	d.end = append(d.end, func() error { sim.Close(); stop(); return nil })
	return url, nil
}

// serve serves on a port of its own until it is stopped.
func serve(ctx context.Context, h http.Handler) (url string, stop func(), err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("listen: %w", err)
	}
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: h}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	return "http://" + l.Addr().String(), func() { _ = srv.Close(); wg.Wait() }, nil
}

func freePort() (int, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a port: %w", err)
	}
	defer func() { _ = l.Close() }()
	a, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("a listener without a port")
	}
	return a.Port, nil
}

func (d *Deployment) startServices(ctx context.Context, dir, database, sim string) error {
	var addr [6]string
	for i := range addr {
		port, err := freePort()
		if err != nil {
			return err
		}
		addr[i] = "127.0.0.1:" + strconv.Itoa(port)
	}
	d.Ledger, d.Intake = addr[0], addr[1]
	long := strings.Repeat("s", 40)
	files := []string{"REELWAY_BUCKET_URL=file://" + dir + "/bucket", "REELWAY_FILES_URL=http://" + d.Intake, "REELWAY_FILES_SECRET=" + long}
	tokens := []string{"REELWAY_CALLBACK_URL=http://" + addr[2], "REELWAY_CALLBACK_SECRET=" + long}
	keys := []string{"REELWAY_KLING_URL=" + sim + "/kling", "REELWAY_KLING_ACCESS_KEY=" + simKey, "REELWAY_KLING_SECRET_KEY=" + simSecret, "REELWAY_KLING_WEBHOOK_SECRET=" + whsec}
	led := []string{"REELWAY_LEDGER_ADDR=" + d.Ledger}
	open := []string{"REELWAY_ALLOW_HTTP_URLS=true", "REELWAY_ALLOW_PRIVATE_URLS=true"}
	for _, s := range []struct {
		name string
		env  [][]string
	}{
		{"ledger", [][]string{led, {"REELWAY_DATABASE_URL=" + database, "REELWAY_SPIKE_FACTOR=0"}}},
		// Nothing but the machine is to be the limit.
		{"dispatcher", [][]string{led, tokens, keys, files, {"REELWAY_PROVIDER_RATE=100000", "REELWAY_PROVIDER_CONCURRENCY=256"}}},
		{"archiver", [][]string{files, open}},
		{"callback", [][]string{led, {"REELWAY_CALLBACK_ADDR=" + addr[2]}, tokens, keys}},
		{"notifier", [][]string{led, {"REELWAY_NOTIFIER_ADDR=" + addr[3], "REELWAY_GRPC_ADDR=" + addr[4]}, files, open}},
		{"intake", [][]string{led, {"REELWAY_PROVIDERS=kling", "REELWAY_HTTP_ADDR=" + d.Intake, "REELWAY_GRPC_ADDR=" + addr[5]}, files, open}},
	} {
		if err := d.start(ctx, dir, s.name, s.env); err != nil {
			return err
		}
	}
	return nil
}

func (d *Deployment) start(ctx context.Context, dir, name string, env [][]string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	ops := "127.0.0.1:" + strconv.Itoa(port)
	cmd := exec.CommandContext(ctx, filepath.Join(dir, name))
	cmd.Env = []string{"REELWAY_OPS_ADDR=" + ops, "REELWAY_NATS_URL=" + d.NATS, "REELWAY_LOG_LEVEL=warn"}
	for _, e := range env {
		cmd.Env = append(cmd.Env, e...)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	d.stops(name, cmd)
	return eventually(ctx, name+" is ready", func() (bool, error) {
		if st, err := statOf(cmd.Process.Pid); err == nil && st.dead {
			return false, fmt.Errorf("%s ended", name)
		}
		status, err := get(ctx, "http://"+ops+"/readyz", io.Discard)
		return err == nil && status == http.StatusOK, nil
	})
}

func get(ctx context.Context, url string, to io.Writer) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(to, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// eventually waits for a condition, for two minutes.
func eventually(ctx context.Context, what string, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := ok()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}
