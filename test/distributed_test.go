package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/postgres"
)

// replica is one process of a service.
type replica struct {
	service string
	cmd     *exec.Cmd
	log     *lockedBuffer
	ops     string
	killed  bool
}

// distributed is every service as processes of its own, two replicas each, on a
// cluster of three NATS servers and one PostgreSQL, behind balancers as a
// Kubernetes service is one.
type distributed struct {
	*stack
	replicas []*replica
	nats     []*server.Server
}

// distribute starts an installation. Settings are given to the services that know
// them.
func distribute(t *testing.T, settings map[string][]string) *distributed {
	t.Helper()
	dir, err := os.MkdirTemp("", "reelway-apart-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/data", 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	pg, err := postgres.StartPrivate(ctx, dir+"/data/postgres", true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Stop(context.Background()) })
	web, shut := simulate(t, 400*time.Millisecond)
	t.Cleanup(shut)
	d := &distributed{stack: &stack{t: t, key: key, dir: dir, sim: web}, nats: natsNodes(t)}

	const each = 2
	doors := map[string]*pool{}
	door := func(name string) *pool {
		doors[name] = &pool{}
		for range each {
			doors[name].addrs = append(doors[name].addrs, freePort(t))
		}
		return doors[name]
	}
	intake, intakeGRPC, callback, notifier, ledger := door("intake"), door("intake-grpc"), door("callback"), door("notifier"), door("ledger")
	front := httptest.NewServer(d.front(doors))
	t.Cleanup(func() { front.CloseClientConnections(); front.Close() })
	d.base, d.grpc = front.URL, balance(t, intakeGRPC)

	var urls []string
	for _, n := range d.nats {
		urls = append(urls, n.ClientURL())
	}
	long := strings.Repeat("s", 40)
	nats := []string{"REELWAY_NATS_URL=" + strings.Join(urls, ","), "REELWAY_NATS_REPLICAS=3"}
	led := "REELWAY_LEDGER_ADDR=" + balance(t, ledger)
	files := []string{"REELWAY_BUCKET_URL=file://" + dir + "/data/bucket", "REELWAY_FILES_URL=" + front.URL, "REELWAY_FILES_SECRET=" + long}
	tokens := []string{"REELWAY_CALLBACK_URL=" + front.URL, "REELWAY_CALLBACK_SECRET=" + long}
	private := []string{"REELWAY_ALLOW_HTTP_URLS=true", "REELWAY_ALLOW_PRIVATE_URLS=true"}
	realtime, sealed := "REELWAY_REALTIME_SECRET="+long, "REELWAY_WEBHOOK_SECRET_KEY="+long
	begin := func(service string, env ...[]string) {
		r := &replica{service: service, ops: freePort(t), log: &lockedBuffer{}, cmd: exec.Command(buildService(t, service))}
		r.cmd.Stderr = r.log
		r.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "REELWAY_OPS_ADDR=" + r.ops}, nats...)
		for _, e := range append(env, settings[service]) {
			r.cmd.Env = append(r.cmd.Env, e...)
		}
		if err := r.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		d.replicas = append(d.replicas, r)
	}
	t.Cleanup(d.stopAll)
	for i := range each {
		begin("ledger", []string{"REELWAY_LEDGER_ADDR=" + ledger.addrs[i], "REELWAY_DATABASE_URL=" + pg.URL, sealed})
	}
	d.ready(time.Minute)
	for i := range each {
		begin("dispatcher", []string{led}, tokens, providers(web.URL), files)
		begin("archiver", files, private)
		begin("callback", []string{"REELWAY_CALLBACK_ADDR=" + callback.addrs[i]}, tokens, providers(web.URL))
		begin("notifier", []string{led, "REELWAY_NOTIFIER_ADDR=" + notifier.addrs[i], "REELWAY_GRPC_ADDR=" + freePort(t), realtime, sealed}, files, private)
		begin("intake", []string{led, "REELWAY_PROVIDERS=atlascloud,kling", "REELWAY_HTTP_ADDR=" + intake.addrs[i], "REELWAY_GRPC_ADDR=" + intakeGRPC.addrs[i], realtime}, files, private)
	}
	d.ready(time.Minute)
	return d
}

// stopAll has every process end well, however the others do.
func (d *distributed) stopAll() {
	for _, r := range d.replicas {
		_ = r.cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, r := range d.replicas {
		if err := r.cmd.Wait(); err != nil && !r.killed {
			d.t.Errorf("%s: %v", r.service, err)
		}
	}
	for _, r := range d.replicas {
		if d.t.Failed() {
			d.t.Logf("log of %s:\n%s", r.service, tail(r.log.String(), 3000))
		}
	}
}

// ready waits for every replica that lives.
func (d *distributed) ready(limit time.Duration) {
	d.t.Helper()
	for _, r := range d.replicas {
		if r.killed {
			continue
		}
		d.eventually(limit, r.service+" is ready", func() bool {
			resp, err := http.Get("http://" + r.ops + "/readyz")
			if err != nil {
				return false
			}
			_ = resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
}

// lose kills one replica of each service, and the NATS server that leads.
func (d *distributed) lose() {
	d.t.Helper()
	seen := map[string]bool{}
	for _, r := range d.replicas {
		if !seen[r.service] {
			seen[r.service], r.killed = true, true
			_ = r.cmd.Process.Signal(syscall.SIGKILL)
		}
	}
	for i, n := range d.nats {
		if n.JetStreamIsLeader() || i == len(d.nats)-1 {
			n.Shutdown()
			n.WaitForShutdown()
			return
		}
	}
}

// front is the one address of callers and providers.
func (d *distributed) front(doors map[string]*pool) http.Handler {
	proxies := map[string]http.Handler{}
	for _, name := range []string{"intake", "callback", "notifier"} {
		proxies[name] = &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: name}) },
			// A connection for each request: each goes to the next replica.
			Transport:     &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return doors[name].dial(ctx) }},
			FlushInterval: -1,
			ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/", proxies["intake"])
	mux.Handle("/v1/callbacks/", proxies["callback"])
	for _, path := range []string{"/v1/stream", "/v1/videos/{id}/events", "/v1/events"} {
		mux.Handle("GET "+path, proxies["notifier"])
	}
	return mux
}

// pool is the replicas of a door.
type pool struct {
	addrs []string
	next  atomic.Uint64
}

// dial connects to the next replica that takes it.
func (p *pool) dial(ctx context.Context) (net.Conn, error) {
	var errs []error
	first := p.next.Add(1)
	for i := range p.addrs {
		c, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", p.addrs[(first+uint64(i))%uint64(len(p.addrs))])
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// balance spreads connections over a pool, and returns its address.
func balance(t *testing.T, p *pool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = in.Close() }()
				out, err := p.dial(ctx)
				if err != nil {
					return
				}
				stop := context.AfterFunc(ctx, func() { _ = in.Close(); _ = out.Close() })
				defer stop()
				wg.Go(func() {
					_, _ = io.Copy(out, in)
					_ = out.Close()
				})
				_, _ = io.Copy(in, out)
			})
		}
	})
	return l.Addr().String()
}

// natsNodes starts three servers that know each other.
func natsNodes(t *testing.T) (out []*server.Server) {
	t.Helper()
	var routes []*url.URL
	for range 3 {
		routes = append(routes, &url.URL{Scheme: "nats", Host: freePort(t)})
	}
	for i, r := range routes {
		host, port, err := net.SplitHostPort(r.Host)
		if err != nil {
			t.Fatal(err)
		}
		o := &server.Options{ServerName: fmt.Sprint("node-", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, JetStreamMaxStore: bus.Reserved(), StoreDir: t.TempDir(),
			NoSigs: true, NoLog: true, Routes: routes, Cluster: server.ClusterOpts{Name: "reelway", Host: host}}
		if _, err := fmt.Sscan(port, &o.Cluster.Port); err != nil {
			t.Fatal(err)
		}
		n, err := server.NewServer(o)
		if err != nil {
			t.Fatal(err)
		}
		n.Start()
		t.Cleanup(func() { n.Shutdown(); n.WaitForShutdown() })
		out = append(out, n)
	}
	// Until the three have found together, no stream can be made.
	(&stack{t: t}).eventually(time.Minute, "the NATS cluster has its streams", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		_, shut, err := bus.Connect(ctx, bus.Config{URL: out[0].ClientURL(), Replicas: len(out)}, "ledger")
		if err != nil {
			return false
		}
		shut()
		return true
	})
	return out
}

// buildService builds a service's own binary, as its module alone.
func buildService(t *testing.T, name string) string {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	out := filepath.Join(filepath.Dir(binary), name)
	if _, err := os.Stat(out); err == nil {
		return out
	}
	cmd := exec.Command("go", "build", "-o", out, "./cmd/"+name)
	cmd.Dir = "../services/" + name
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, msg)
	}
	return out
}

// builds has each binary built once.
var builds sync.Mutex
