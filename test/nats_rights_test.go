package test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"gopkg.in/yaml.v3"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/postgres"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/tlstest"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	"reelway.dev/services/simulator"
)

// natsCluster is NATS as deploy/k8s sets it up: three servers, or one, with its very
// files, TLS, a user for each service, every write synced. Ports and paths alone differ.
type natsCluster struct {
	t     *testing.T
	ca    string
	tls   string            // the ledger's certificate where clients show one, with the CA
	users map[string]string // passwords
	ports []string
	log   *natsLog
}

// natsLog keeps what was refused.
type natsLog struct {
	mu      sync.Mutex
	refused []string
}

func (l *natsLog) Noticef(string, ...any) {}
func (l *natsLog) Warnf(string, ...any)   {}
func (l *natsLog) Fatalf(string, ...any)  {}
func (l *natsLog) Debugf(string, ...any)  {}
func (l *natsLog) Tracef(string, ...any)  {}

// Errorf implements server.Logger.
func (l *natsLog) Errorf(format string, v ...any) {
	if text := fmt.Sprintf(format, v...); strings.Contains(text, "Violation") {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.refused = append(l.refused, text)
	}
}

func (l *natsLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.refused
	l.refused = nil
	return all
}

// startNATS starts a cluster of three, or one server alone, as the component
// nats-single makes it; with a CA as the component mtls makes it.
func startNATS(t *testing.T, servers int, ca *tlstest.CA) *natsCluster {
	t.Helper()
	c := &natsCluster{t: t, users: map[string]string{}, log: &natsLog{}}
	dir := t.TempDir()
	made, err := exec.Command("../deploy/k8s/secrets").Output()
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq(string(made), "\n---\n") {
		var secret struct {
			Metadata   struct{ Name string }
			StringData map[string]string `yaml:"stringData"`
			Data       map[string]string
		}
		if err := yaml.Unmarshal([]byte(doc), &secret); err != nil {
			t.Fatal(err)
		}
		if secret.Metadata.Name == "nats-users" {
			c.users = secret.StringData
		}
		if secret.Metadata.Name == "nats-tls" {
			for name, data := range secret.Data {
				plain, err := base64.StdEncoding.DecodeString(data)
				if err == nil {
					err = os.WriteFile(filepath.Join(dir, name), plain, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if ca != nil {
		ca.Issue(dir, time.Hour, "localhost")
		c.tls = ca.Dir("ledger")
	}
	c.ca = filepath.Join(dir, "ca.crt")
	routes := make([]string, servers)
	for i := range routes {
		c.ports = append(c.ports, portOf(t, freePort(t)))
		routes[i] = portOf(t, freePort(t))
	}
	for i := range routes {
		own := filepath.Join(dir, fmt.Sprint("nats-", i))
		if err := os.Mkdir(own, 0o700); err != nil {
			t.Fatal(err)
		}
		change := []string{"/etc/nats-tls", dir, "store_dir: /data", "store_dir: " + own + "/data", "$POD_NAME", fmt.Sprint("nats-", i), "$NATS_MAX_FILE", "45GB",
			"port: 4222", "host: 127.0.0.1, port: " + c.ports[i], "http_port: 8222", "", "port: 6222", "host: 127.0.0.1, port: " + routes[i]}
		for j, port := range routes {
			change = append(change, fmt.Sprintf("nats-%d.nats-peers:6222", j), "localhost:"+port)
		}
		for user, password := range c.users {
			change = append(change, "$NATS_"+strings.ToUpper(user)+"_PASSWORD", password)
		}
		for _, name := range []string{"nats.conf", "tls.conf", "cluster.conf", "accounts.conf"} {
			component := "nats"
			if ca != nil && name == "tls.conf" {
				component = "mtls"
			}
			if servers == 1 && name == "cluster.conf" {
				component = "nats-single"
			}
			text, err := os.ReadFile(filepath.Join("../deploy/k8s/components", component, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(own, name), []byte(strings.NewReplacer(change...).Replace(string(text))), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		opts, err := server.ProcessConfigFile(filepath.Join(own, "nats.conf"))
		if err != nil {
			t.Fatal(err)
		}
		opts.NoSigs = true
		srv, err := server.NewServer(opts)
		if err != nil {
			t.Fatal(err)
		}
		srv.SetLogger(c.log, false, false)
		if !opts.SyncAlways {
			t.Error("what is acknowledged is not synced")
		}
		go srv.Start()
		t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	}
	// A leader there is when streams can be made.
	(&stack{t: t}).eventually(time.Minute, "NATS has a leader", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		_, shut, err := bus.Connect(ctx, c.config("ledger", "make"), "ledger")
		if err != nil {
			return false
		}
		shut()
		return true
	})
	return c
}

func portOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// url leads to all servers, as the service's name does in a cluster.
func (c *natsCluster) url(user string) string {
	var urls []string
	for _, port := range c.ports {
		urls = append(urls, fmt.Sprintf("tls://%s:%s@localhost:%s", user, c.users[user], port))
	}
	return strings.Join(urls, ",")
}

func (c *natsCluster) config(user, streams string) bus.Config {
	if c.tls != "" {
		return bus.Config{URL: c.url(user), TLSDir: c.tls, Replicas: len(c.ports), Streams: streams}
	}
	return bus.Config{URL: c.url(user), CA: c.ca, Replicas: len(c.ports), Streams: streams}
}

// The main job on the services as processes, each with the rights alone that
// deploy/k8s gives it at NATS: nothing that they do is refused.
func TestServicesWithTheirRightsAlone(t *testing.T) {
	t.Parallel()
	cluster := startNATS(t, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "reelway-rights-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	pg, err := postgres.StartPrivate(ctx, dir+"/postgres", true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Stop(context.Background()) })
	sim, err := simulator.New(simulator.Config{TimeScale: 1, Render: 400 * time.Millisecond, AtlasKey: "atlas", KlingAccess: "access", KlingSecret: "a-secret-key-for-kling-of-32-bytes"},
		simulator.Deps{Client: &http.Client{Timeout: 5 * time.Second}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(sim.Handler())
	t.Cleanup(func() { web.CloseClientConnections(); sim.Close(); web.Close() })

	access := func(user, streams string) []string {
		env := []string{"REELWAY_NATS_URL=" + cluster.url(user), "REELWAY_NATS_CA=" + cluster.ca, "REELWAY_NATS_REPLICAS=3"}
		if streams != "" {
			env = append(env, "REELWAY_NATS_STREAMS="+streams)
		}
		return env
	}
	migrate := exec.CommandContext(ctx, buildService(t, "ledger"), "migrate")
	migrate.Env = append(access("ledger", ""), "REELWAY_DATABASE_URL="+pg.URL)
	if out, err := migrate.CombinedOutput(); err != nil || !strings.Contains(string(out), `"migrated"`) {
		t.Fatalf("migrate: %v\n%s", err, out)
	}
	ledgerAddr, intakeAddr, notifierAddr, callbackAddr := freePort(t), freePort(t), freePort(t), freePort(t)
	long := strings.Repeat("s", 40)
	led := "REELWAY_LEDGER_ADDR=" + ledgerAddr
	files := []string{"REELWAY_BUCKET_URL=file://" + dir + "/bucket", "REELWAY_FILES_URL=http://" + intakeAddr, "REELWAY_FILES_SECRET=" + long}
	providers := []string{"REELWAY_CALLBACK_URL=http://" + callbackAddr, "REELWAY_CALLBACK_SECRET=" + long,
		"REELWAY_ATLASCLOUD_URL=" + web.URL + "/atlascloud", "REELWAY_ATLASCLOUD_KEY=atlas", "REELWAY_KLING_URL=" + web.URL + "/kling",
		"REELWAY_KLING_ACCESS_KEY=access", "REELWAY_KLING_SECRET_KEY=a-secret-key-for-kling-of-32-bytes"}
	doors := map[string]string{}
	begin := func(service, streams string, env ...string) {
		t.Helper()
		ops := freePort(t)
		doors[service] = "http://" + ops
		cmd := exec.Command(buildService(t, service))
		log := &lockedBuffer{}
		cmd.Stderr = log
		cmd.Env = append(append([]string{"REELWAY_OPS_ADDR=" + ops}, access(service, streams)...), env...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v", service, err)
			}
			if t.Failed() {
				t.Logf("log of %s:\n%s", service, tail(log.String(), 3000))
			}
		})
		(&stack{t: t}).eventually(time.Minute, service+" is ready", func() bool {
			resp, err := http.Get("http://" + ops + "/readyz")
			if err != nil {
				return false
			}
			_ = resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
	}
	begin("ledger", "", led, "REELWAY_DATABASE_URL="+pg.URL)
	begin("dispatcher", "find", append(append([]string{led}, providers...), files...)...)
	begin("archiver", "find", append([]string{"REELWAY_ALLOW_HTTP_URLS=true", "REELWAY_ALLOW_PRIVATE_URLS=true"}, files...)...)
	begin("callback", "find", append([]string{"REELWAY_CALLBACK_ADDR=" + callbackAddr}, providers...)...)
	begin("notifier", "find", append([]string{led, "REELWAY_NOTIFIER_ADDR=" + notifierAddr, "REELWAY_GRPC_ADDR=" + freePort(t)}, files...)...)
	begin("intake", "find", append([]string{led, "REELWAY_PROVIDERS=atlascloud,kling", "REELWAY_HTTP_ADDR=" + intakeAddr, "REELWAY_GRPC_ADDR=" + freePort(t)}, files...)...)

	conn, err := rpc.Dial(ledgerAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	accounts, money := ledgerv1.NewAccountServiceClient(conn), ledgerv1.NewLedgerServiceClient(conn)
	a, err := accounts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	made, err := accounts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: a.GetAccountId(), Scopes: []string{"videos:read", "videos:write", "billing:read"}, ApiKey: key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: a.GetAccountId(), AmountMicros: 10 * atlas, IdempotencyKey: "k"}); err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t, key: key, base: "http://" + intakeAddr, sim: web}
	var ids []string
	for _, model := range []string{"seedance-2.0", "kling-v2-6", "seedance-2.0"} {
		ans := s.call(http.MethodPost, "/v1/videos", request(model, "x"))
		if ans.status != http.StatusOK {
			t.Fatalf("%d %s", ans.status, ans.raw)
		}
		ids = append(ids, ans.video.ID)
	}
	for _, id := range ids {
		if v := s.await(2*time.Minute, id); v.State != "succeeded" || len(s.tasks(id)) != 1 {
			t.Errorf("%s: %s with %d tasks", id, v.State, len(s.tasks(id)))
		}
	}
	watched := &stack{t: t, key: key, base: "http://" + notifierAddr, sim: web}
	if events, _, final := sse(t, watched, ids[0], "", 1); !final || events[0] != "succeeded 100" {
		t.Errorf("the notifier says %v", events)
	}
	if _, err := accounts.RevokeAPIKey(ctx, &ledgerv1.RevokeAPIKeyRequest{KeyId: made.GetKeyId()}); err != nil {
		t.Fatal(err)
	}
	s.eventually(time.Minute, "the key is refused", func() bool {
		return s.call(http.MethodGet, "/v1/videos/"+ids[0], "").status == http.StatusUnauthorized
	})
	// Measuring is allowed too.
	for service, ops := range doors {
		if (&stack{t: t, ops: ops}).metric("reelway_ready") != 1 {
			t.Errorf("%s is not ready by its metrics", service)
		}
	}
	if f := (&stack{t: t, ops: doors["ledger"]}).scrape()["reelway_bus_consumer_pending"]; len(f.GetMetric()) < 8 {
		t.Errorf("the ledger measures the consumers %v", f)
	}
	if refused := cluster.log.take(); len(refused) > 0 {
		t.Errorf("NATS refused %q", refused)
	}
}

// Development's single server waits for no others.
func TestOneNATSServer(t *testing.T) {
	t.Parallel()
	cluster := startNATS(t, 1, nil)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, shut, err := bus.Connect(ctx, cluster.config("callback", "find"), "callback")
	if err != nil {
		t.Fatal(err)
	}
	defer shut()
	if err := b.PublishObservation(ctx, &eventv1.Observation{Id: "o", Provider: "kling", JobId: "video_1"}); err != nil {
		t.Error(err)
	}
	if refused := cluster.log.take(); len(refused) > 0 {
		t.Errorf("NATS refused %q", refused)
	}
}

// What services seldom do at NATS is granted to them as well, and everything that
// is another's is refused.
func TestRightsAtNATS(t *testing.T) {
	t.Parallel()
	cluster := startNATS(t, 3, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	connect := func(user, streams string) *bus.Bus {
		t.Helper()
		b, shut, err := bus.Connect(ctx, cluster.config(user, streams), user)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(shut)
		return b
	}
	ledger, intake, dispatcher := connect("ledger", "make"), connect("intake", "find"), connect("dispatcher", "find")
	callback, archiver := connect("callback", "find"), connect("archiver", "find")
	counters, err := intake.Counters(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := counters.Add(ctx, 2, "key_1", "minute"); err != nil || n != 2 {
		t.Errorf("%d %v", n, err)
	}
	if n, err := counters.Value(ctx, "key_1", "minute"); err != nil || n != 2 {
		t.Errorf("%d %v", n, err)
	}
	if _, err := dispatcher.Shared().Change(ctx, func([]byte) ([]byte, error) { return []byte("v"), nil }, "kling", "rate"); err != nil {
		t.Error(err)
	}
	for name, b := range map[string]*bus.Bus{"dispatcher": dispatcher, "ledger": ledger} {
		if v, err := b.Shared().All(ctx); err != nil || string(v["kling.rate"]) != "v" {
			t.Errorf("%s: %v %v", name, v, err)
		}
	}
	poll := &eventv1.PollAttempt{JobId: "video_1", AttemptId: "attempt_1", Provider: "kling"}
	for name, b := range map[string]*bus.Bus{"callback": callback, "dispatcher": dispatcher, "ledger": ledger} {
		if err := errors.Join(b.SchedulePoll(ctx, poll, time.Now().Add(time.Hour)), b.SchedulePoll(ctx, poll, time.Now())); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := errors.Join(ledger.CancelPoll(ctx, "kling", "attempt_1"), ledger.Forget(ctx, "account_1", "video_1")); err != nil {
		t.Error(err)
	}
	if _, err := ledger.Commands(ctx); err != nil {
		t.Error(err)
	}
	// Whoever consumes may bury what it cannot read.
	var consumers sync.WaitGroup
	defer func() { cancel(); consumers.Wait() }()
	for name, x := range map[string]struct {
		by       *bus.Bus
		consumer bus.Consumer
		subject  string
	}{
		"submit":  {dispatcher, bus.SubmitConsumer("kling"), bus.SubmitSubject("kling", "kling-v2-6")},
		"poll":    {dispatcher, bus.PollConsumer("kling"), "watchdog.due.kling"},
		"observe": {ledger, bus.ObservationConsumer, bus.ObservedSubject("kling", "video_1")},
		"project": {ledger, bus.ProjectionConsumer, bus.EventSubject("account_1", "video_1", "storing")},
		"archive": {archiver, bus.ArchiveConsumer, bus.EventSubject("account_1", "video_1", "storing")},
		"delete":  {archiver, bus.DeleteConsumer, bus.DeleteSubject},
	} {
		if err := ledger.Publish(ctx, bus.Message{Subject: x.subject, Data: []byte("no protobuf")}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		consumers.Go(func() {
			_ = bus.Consume(ctx, x.by, x.consumer, 1, func(context.Context, *eventv1.Observation) error { return errors.New("not this") })
		})
	}
	(&stack{t: t}).eventually(time.Minute, "all six are buried", func() bool {
		st, err := ledger.JetStream().Stream(ctx, bus.StreamDead)
		return err == nil && st.CachedInfo().State.Msgs >= 6
	})
	if refused := cluster.log.take(); len(refused) > 0 {
		t.Errorf("NATS refused %q", refused)
	}

	// The matrix: what each may publish, of all that anyone may.
	subjects := map[string]string{ // with who may
		"jobs.submit.kling.kling-v2-6": "ledger", "job.account_1.video_1.succeeded": "ledger", "account.account_1.notice": "ledger", "artifacts.delete": "ledger",
		"access.changed": "ledger", "$KV.job_status.video_1": "ledger", "dead.OBSERVATIONS": "ledger", "dead.EVENTS": "ledger archiver notifier",
		"dead.JOBS": "dispatcher", "dead.WATCHDOG": "dispatcher", "dead.ARTIFACTS": "archiver",
		"observed.kling.video_1": "ledger dispatcher callback archiver", "watchdog.due.kling": "ledger dispatcher callback",
		"watchdog.schedule.kling.attempt_1": "ledger dispatcher callback", "limit.key_1": "intake", "$KV.providers.kling": "dispatcher",
		"$JS.API.STREAM.CREATE.JOBS": "ledger", "$JS.API.STREAM.UPDATE.EVENTS": "ledger", "$JS.API.STREAM.PURGE.EVENTS": "ledger",
		"$JS.API.STREAM.CREATE.OTHER": "", "$JS.API.STREAM.DELETE.JOBS": "", "$JS.API.STREAM.PURGE.JOBS": "", "$JS.API.STREAM.NAMES": "",
		"$JS.API.STREAM.MSG.GET.EVENTS": "", "$JS.API.DIRECT.GET.EVENTS": "", "$JS.API.DIRECT.GET.DEAD": "ledger", "$JS.API.STREAM.MSG.DELETE.DEAD": "ledger",
		"$JS.API.STREAM.MSG.DELETE.JOBS": "", "$JS.API.STREAM.SNAPSHOT.EVENTS": "", "$JS.API.STREAM.INFO.JOBS": "ledger doctor", "$JS.API.STREAM.INFO.EVENTS": "ledger notifier doctor",
		"$JS.API.CONSUMER.CREATE.JOBS.x.jobs.submit.kling.>": "dispatcher", "$JS.API.CONSUMER.CREATE.JOBS.x": "", "$JS.API.CONSUMER.CREATE.OBSERVATIONS.x": "",
		"$JS.API.CONSUMER.CREATE.OBSERVATIONS.x.observed.>": "", "$JS.API.CONSUMER.CREATE.OBSERVATIONS.ledger.observed.>": "ledger",
		"$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.x": "", "$JS.API.CONSUMER.CREATE.EVENTS.x": "notifier", "$JS.API.CONSUMER.CREATE.EVENTS.archiver.job.>": "",
		"$JS.API.CONSUMER.CREATE.EVENTS.archiver.job.*.*.storing": "archiver", "$JS.API.CONSUMER.CREATE.DEAD.x.dead.>": "",
		"$JS.API.CONSUMER.MSG.NEXT.EVENTS.archiver": "archiver", "$JS.API.CONSUMER.MSG.NEXT.EVENTS.x": "notifier", "$JS.API.CONSUMER.MSG.NEXT.JOBS.submit-kling": "dispatcher",
		"$JS.API.CONSUMER.MSG.NEXT.OBSERVATIONS.ledger": "ledger", "$JS.API.CONSUMER.DELETE.EVENTS.archiver": "", "$JS.API.CONSUMER.DELETE.EVENTS.projection": "",
		"$JS.API.CONSUMER.DELETE.OBSERVATIONS.ledger": "", "$JS.API.CONSUMER.DELETE.JOBS.submit-kling": "",
		"$JS.ACK.EVENTS.archiver.1.1.1.1.0": "archiver", "$JS.ACK.EVENTS.mail.1.1.1.1.0": "notifier", "$JS.ACK.EVENTS.projection.1.1.1.1.0": "ledger", "$JS.ACK.OBSERVATIONS.ledger.1.1.1.1.0": "ledger", "$JS.ACK.JOBS.submit-kling.1.1.1.1.0": "dispatcher",
		"$JS.API.CONSUMER.INFO.OBSERVATIONS.ledger": "doctor", "$JS.API.INFO": "ledger dispatcher doctor", "_INBOX.ledger.x": "", "$SYS.REQ.SERVER.PING": "", "other": "",
	}
	reads := map[string]string{"_INBOX.>": "", ">": "", "job.>": "", "observed.>": "", "jobs.>": "", "$KV.>": "", "$JS.ACK.>": "", "access.changed": "intake notifier"}
	for user := range cluster.users {
		reads["_INBOX."+user+".x"] = user
	}
	for user := range cluster.users {
		may := rights(t, cluster, user)
		for subject, who := range subjects {
			if want := strings.Contains(who, user); may(subject, false) != want {
				t.Errorf("%s may publish %s: %v", user, subject, !want)
			}
		}
		for subject, who := range reads {
			if want := strings.Contains(who, user); may(subject, true) != want {
				t.Errorf("%s may read %s: %v", user, subject, !want)
			}
		}
	}
}

// rights asks the server, by trying, whether a user may publish or read a subject.
func rights(t *testing.T, c *natsCluster, user string) func(subject string, read bool) bool {
	t.Helper()
	nc, err := nats.Connect(c.url(user), nats.RootCAs(c.ca), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return func(subject string, read bool) bool {
		t.Helper()
		if read {
			sub, err := nc.SubscribeSync(subject)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = sub.Unsubscribe() }()
		} else if err := nc.Publish(subject, nil); err != nil {
			t.Fatal(err)
		}
		if err := nc.FlushTimeout(time.Minute); err != nil {
			t.Fatal(err)
		}
		// The refusal comes before the answer to the flush, and names the subject.
		verb := "publish to"
		if read {
			verb = "subscription to"
		}
		last := nc.LastError()
		return last == nil || !strings.Contains(strings.ToLower(last.Error()), verb+` "`+strings.ToLower(subject)+`"`)
	}
}
