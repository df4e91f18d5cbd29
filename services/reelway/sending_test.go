package reelway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/callbacktoken"
	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/natstest"
	"reelway.dev/pkg/pgtest"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/run"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/dispatcher"
	"reelway.dev/services/ledger"
	"reelway.dev/services/simulator"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// sending is a ledger, a simulator and as many dispatchers as a test starts. No
// callback arrives: what the tests see comes by submits and polls.
type sending struct {
	t          *testing.T
	pool       *pgxpool.Pool
	bus        *bus.Bus
	jobs       ledgerv1.JobServiceClient
	providers  ledgerv1.ProviderServiceClient
	sim        *httptest.Server
	sink       *httptest.Server // takes the callbacks, and tells nobody
	keysFile   string
	logs       *logBuffer
	components *sync.WaitGroup
	live       context.Context
	acct       string
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), words)
}

const sendingModel = "kling-v2-6"

// newSending starts all but the dispatchers. Renders take as long as given.
func newSending(t *testing.T, render time.Duration, keys string) *sending {
	t.Helper()
	live, stop := context.WithCancel(context.Background())
	s := &sending{t: t, bus: natstest.Bus(t), pool: pgtest.New(t, ledger.Migrations()), logs: &logBuffer{}, components: &sync.WaitGroup{}, live: live,
		keysFile: filepath.Join(t.TempDir(), "keys.yaml")}
	s.writeKeys(keys)
	sim, err := simulator.New(simulator.Config{TimeScale: 1, Render: render, KlingAccess: "one,two,three", KlingSecret: "s", Key: "one,two,three", AtlasKey: "a"},
		simulator.Deps{Client: &http.Client{Timeout: time.Second}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.sim = httptest.NewServer(sim.Handler())
	s.sink = httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.sim.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	cfg := &ledger.Config{}
	if err := run.Load([]string{"REELWAY_SWEEP_INTERVAL=500ms", "REELWAY_SWEEP_AFTER=20s", "REELWAY_WATCH_AFTER=500ms", "REELWAY_MAX_ATTEMPTS=50"}, nil, cfg); err != nil {
		t.Fatal(err)
	}
	led, err := ledger.New(*cfg, ledger.Deps{Pool: s.pool, Bus: s.bus, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	mem, srv := bufconn.Listen(1<<20), rpc.NewServer()
	led.Register(srv)
	s.components.Go(func() { _ = srv.Serve(mem) })
	s.run(led.Components())
	conn, err := rpc.Dial("passthrough:ledger", grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return mem.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			s.logs.mu.Lock()
			text := s.logs.b.String()
			s.logs.mu.Unlock()
			t.Logf("the dispatchers' log ends:\n%s", text[max(len(text)-4000, 0):])
		}
		stop()
		s.sim.CloseClientConnections()
		sim.Close()
		_ = conn.Close()
		srv.Stop()
		s.components.Wait()
		s.sim.Close()
		s.sink.Close()
	})
	s.jobs, s.providers = ledgerv1.NewJobServiceClient(conn), ledgerv1.NewProviderServiceClient(conn)
	accounts, money := ledgerv1.NewAccountServiceClient(conn), ledgerv1.NewLedgerServiceClient(conn)
	a, err := accounts.CreateAccount(live, &ledgerv1.CreateAccountRequest{Name: "sending"})
	if err != nil {
		t.Fatal(err)
	}
	s.acct = a.GetAccountId()
	if _, err := money.TopUp(live, &ledgerv1.TopUpRequest{AccountId: s.acct, AmountMicros: 1 << 50, IdempotencyKey: "k"}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sending) run(components []run.Component) {
	for _, c := range components {
		s.components.Go(func() {
			if err := c.Run(s.live); err != nil {
				s.t.Errorf("%s: %v", c.Name, err)
			}
		})
	}
}

func (s *sending) writeKeys(text string) {
	s.t.Helper()
	if err := os.WriteFile(s.keysFile+".new", []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(s.keysFile+".new", s.keysFile); err != nil {
		s.t.Fatal(err)
	}
}

// dispatcher starts one more replica, with a connection of its own to each
// neighbour as a process has.
func (s *sending) dispatcher(environ ...string) {
	s.t.Helper()
	environ = append([]string{"REELWAY_KLING_URL=" + s.sim.URL + "/kling", "REELWAY_KLING_KEYS_FILE=" + s.keysFile, "REELWAY_KEYS_RELOAD=100ms",
		"REELWAY_POLL_INTERVAL=300ms", "REELWAY_SUBMIT_TIMEOUT=20s", "REELWAY_PROVIDER_RATE=1000"}, environ...)
	cfg, reg := &dispatcher.Config{}, &registry.Config{}
	if err := run.Load(environ, nil, cfg, reg); err != nil {
		s.t.Fatal(err)
	}
	providers, err := registry.Open(*reg)
	if err != nil {
		s.t.Fatal(err)
	}
	tokens, err := callbacktoken.New(s.sink.URL, []byte("a secret of thirty-two bytes and more"))
	if err != nil {
		s.t.Fatal(err)
	}
	files, err := bucket.Open(s.t.Context(), bucket.Config{URL: "file://" + filepath.ToSlash(s.t.TempDir()), PublicURL: s.sink.URL, Secret: "a secret of thirty-two bytes and more"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = files.Close() })
	log := slog.New(slog.NewTextHandler(s.logs, nil))
	d, err := dispatcher.New(*cfg, dispatcher.Deps{Bus: s.bus, Jobs: s.jobs, Providers: providers.Adapters, Keys: providers.Keys,
		Model: catalog.Builtin().ProviderModel, Tokens: tokens, Files: files, Logger: log, Now: time.Now})
	if err != nil {
		s.t.Fatal(err)
	}
	s.run(d.Components())
	s.run([]run.Component{providers.Component(log)})
}

// open opens n jobs.
func (s *sending) open(n int) {
	s.t.Helper()
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			_, err := s.jobs.OpenJob(s.live, &ledgerv1.OpenJobRequest{AccountId: s.acct, Provider: "kling", QuoteMicros: 1000, CostMicros: 1_000_000, CostCurrency: "USD",
				RequestHash: make([]byte, 32), Params: &videov1.VideoParams{Model: sendingModel, Prompt: "a lighthouse", DurationSeconds: 5, Resolution: "720p", AspectRatio: "16:9", Width: 1280, Height: 720}})
			if err != nil {
				s.t.Error(err)
			}
		})
	}
	wg.Wait()
}

type simTask struct {
	Key, Attempt, State string
	Created             time.Time
}

func (s *sending) tasks() []simTask {
	s.t.Helper()
	var out struct{ Tasks []simTask }
	s.admin(http.MethodGet, "/admin/tasks", nil, &out)
	return out.Tasks
}

func (s *sending) admin(method, path string, in, out any) {
	s.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequest(method, s.sim.URL+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || out != nil && json.Unmarshal(data, out) != nil {
		s.t.Fatalf("%s: %d %s %v", path, resp.StatusCode, data, err)
	}
}

// number reads one number from the ledger's database.
func (s *sending) number(sql string) (n int) {
	s.t.Helper()
	if err := s.pool.QueryRow(context.Background(), sql).Scan(&n); err != nil {
		s.t.Fatal(err)
	}
	return n
}

func (s *sending) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within a minute: %s", what)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-s.live.Done():
		}
	}
}

// kling is how the provider stands, as an operator is told.
func (s *sending) kling() *ledgerv1.Provider {
	s.t.Helper()
	r, err := s.providers.ListProviders(s.live, &ledgerv1.ListProvidersRequest{})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, p := range r.GetProviders() {
		if p.GetName() == "kling" {
			return p
		}
	}
	return &ledgerv1.Provider{}
}

const (
	rendered = "select count(*) from job where state in ('storing', 'succeeded')"
	attempts = "select count(*) from attempt"
)

// Two replicas keep to one limit on running tasks, and a full provider costs no
// job anything but time.
func TestReplicasShareTheRoomOfAProvider(t *testing.T) {
	t.Parallel()
	s := newSending(t, time.Second, "max_running: 3\nkeys: [{name: a, key: one, max_running: 2}, {name: b, key: two}]\n")
	s.dispatcher()
	s.dispatcher()
	watch, most, mostOfA := make(chan struct{}), 0, 0
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			running, ofA := 0, 0
			for _, x := range s.tasks() {
				if x.State == "queued" || x.State == "running" {
					running++
					if x.Key == simulator.Fingerprint("one") {
						ofA++
					}
				}
			}
			most, mostOfA = max(most, running), max(mostOfA, ofA)
			select {
			case <-watch:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	s.open(12)
	s.until("all rendered", func() bool { return s.number(rendered) == 12 })
	close(watch)
	watching.Wait()
	if most > 3 || mostOfA > 2 || most == 0 {
		t.Errorf("%d tasks at one time, %d of the first key; want at most 3 and 2", most, mostOfA)
	}
	if n := s.number(attempts); n != 12 || len(s.tasks()) != 12 {
		t.Errorf("%d attempts and %d tasks for 12 jobs", n, len(s.tasks()))
	}
}

// Two replicas keep to one rate.
func TestReplicasShareARate(t *testing.T) {
	t.Parallel()
	s := newSending(t, time.Minute, "rate: 10\nkeys: [{name: a, key: one}]\n")
	s.dispatcher()
	s.dispatcher()
	s.open(40)
	s.until("all accepted", func() bool { return len(s.tasks()) == 40 })
	ts := s.tasks()
	// A second's worth may come at once, and the rest by tens: never faster,
	// however slow this machine is.
	if span := ts[39].Created.Sub(ts[0].Created); span < 2500*time.Millisecond {
		t.Errorf("40 submits at 10 a second took %v", span)
	}
}

// A provider that answers 429 is sent less by all replicas, and more again later.
func TestAProviderThatIsTooBusyIsSentLess(t *testing.T) {
	t.Parallel()
	s := newSending(t, time.Minute, "rate: 100\nkeys: [{name: a, key: one}]\n")
	s.admin(http.MethodPost, "/admin/faults", map[string]any{"provider": "kling", "fault": "rate_limit", "count": 3}, nil)
	s.dispatcher()
	s.dispatcher()
	s.open(10)
	var slowest float64
	s.until("all accepted", func() bool {
		for _, m := range s.kling().GetModels() {
			if r := m.GetSlowedRate(); r > 0 && (slowest == 0 || r < slowest) {
				slowest = r
			}
		}
		return len(s.tasks()) == 10
	})
	if slowest == 0 || slowest > 60 {
		t.Errorf("the rate fell to %v of 100", slowest)
	}
	s.until("the rate recovered", func() bool {
		return slices.ContainsFunc(s.kling().GetModels(), func(m *ledgerv1.ProviderModel) bool {
			return m.GetModel() == sendingModel && (m.GetSlowedRate() == 0 || m.GetSlowedRate() > slowest)
		})
	})
	if n := s.number("select count(*) from job where state = 'failed'"); n > 0 {
		t.Errorf("%d jobs failed", n)
	}
}

// A provider that breaks opens its circuit; meanwhile jobs wait without
// attempts, one of them probes, and all go through once it is well again.
func TestACircuitOpensAndCloses(t *testing.T) {
	t.Parallel()
	s := newSending(t, time.Minute, "keys: [{name: a, key: one}]\n")
	s.admin(http.MethodPost, "/admin/faults", map[string]any{"provider": "kling", "fault": "error500", "count": 1 << 20}, nil)
	s.dispatcher("REELWAY_BREAKER_FAILURES=3", "REELWAY_BREAKER_COOLDOWN=1s", "REELWAY_PROVIDER_CONCURRENCY=4")
	s.dispatcher("REELWAY_BREAKER_FAILURES=3", "REELWAY_BREAKER_COOLDOWN=1s", "REELWAY_PROVIDER_CONCURRENCY=4")
	s.open(30)
	state := func(words ...string) func() bool {
		return func() bool {
			return slices.ContainsFunc(s.kling().GetModels(), func(m *ledgerv1.ProviderModel) bool {
				return m.GetModel() == sendingModel && slices.Contains(words, m.GetBreaker())
			})
		}
	}
	s.until("the circuit opened", state("open", "half-open"))
	s.until("probes failed", func() bool { return s.logs.count("probe=true") >= 2 })
	// Eight were under way when it opened, and each of their hands may take one
	// more before it hears of it; since then there was one probe at a time.
	if n, probes := s.number(attempts), s.logs.count("probe=true"); n > 2*8+2+probes+1 {
		t.Errorf("%d attempts with %d probes", n, probes)
	}
	s.admin(http.MethodPost, "/admin/faults", map[string]any{"provider": "kling", "fault": "error500", "count": 0}, nil)
	s.until("all accepted", func() bool { return len(s.tasks()) == 30 })
	s.until("the circuit closed", state("closed"))
}

// Keys are rotated under load: the old one serves its tasks to the end, the new
// one takes the others, and none is lost.
func TestKeysAreRotatedUnderLoad(t *testing.T) {
	t.Parallel()
	s := newSending(t, 2*time.Second, "keys: [{name: main, version: 1, key: one}]\n")
	s.dispatcher()
	s.dispatcher()
	s.open(10)
	s.until("the old key took some", func() bool { return len(s.tasks()) >= 5 })
	s.writeKeys("keys: [{name: main, version: 1, key: one, retiring: true}, {name: main, version: 2, key: two}]\n")
	s.until("both replicas read the new keys", func() bool { return s.logs.count("keys read anew") == 2 })
	s.until("the old key has the first", func() bool { return len(s.tasks()) == 10 })
	s.open(10)
	s.until("all rendered", func() bool { return s.number(rendered) == 20 })
	byKey := map[string]int{}
	for i, x := range s.tasks() {
		byKey[x.Key]++
		if i >= 10 && x.Key != simulator.Fingerprint("two") {
			t.Errorf("task %d went with key %q", i, x.Key)
		}
	}
	if n := s.number(attempts); n != 20 || byKey[simulator.Fingerprint("one")] < 5 || byKey[simulator.Fingerprint("one")]+byKey[simulator.Fingerprint("two")] != 20 {
		t.Errorf("%d attempts, tasks by key %v", n, byKey)
	}
	// A file with a fault changes nothing.
	s.writeKeys("keys: [{name: main, version: 2, key: two, colour: red}]\n")
	s.until("the fault is told", func() bool { return s.logs.count("keys file has a fault") == 2 })
	s.open(1)
	s.until("the last keys still work", func() bool { return len(s.tasks()) == 21 })
}

// A key whose account refuses us rests while others go on; its jobs go with
// them, and an operator is told once.
func TestARefusedKeyIsBenched(t *testing.T) {
	t.Parallel()
	s := newSending(t, time.Minute, "keys: [{name: a, key: one, weight: 1000}, {name: b, key: two}]\n")
	s.admin(http.MethodPost, "/admin/keys", map[string]any{"provider": "kling", "accept": []string{simulator.Fingerprint("two"), simulator.Fingerprint("three")}}, nil)
	s.dispatcher("REELWAY_PROVIDER_CONCURRENCY=4")
	s.dispatcher("REELWAY_PROVIDER_CONCURRENCY=4")
	s.open(20)
	s.until("all accepted", func() bool { return len(s.tasks()) == 20 })
	for _, x := range s.tasks() {
		if x.Key != simulator.Fingerprint("two") {
			t.Errorf("a task went with key %q", x.Key)
		}
	}
	if n := s.logs.count("key benched"); n != 1 {
		t.Errorf("%d alarms, want 1", n)
	}
	k := s.kling().GetKeys()
	if i := slices.IndexFunc(k, func(k *ledgerv1.ProviderKey) bool { return k.GetId() == "a" }); i < 0 || k[i].GetState() != "benched" || k[i].GetReason() == "" || k[i].GetBenchedUntil() == nil {
		t.Errorf("the operator is shown %v", k)
	}
	// Refused attempts cost the key's budget nothing.
	if n := s.number("select coalesce(sum(cost_micros), 0) from key_spend where key_id = 'a'"); n != 0 {
		t.Errorf("the benched key spent %d", n)
	}
}

// When every key is refused the circuit opens; a new key in the file ends the
// wait.
func TestANewKeyEndsTheWait(t *testing.T) {
	t.Parallel()
	s := newSending(t, time.Minute, "keys: [{name: a, key: one}]\n")
	s.admin(http.MethodPost, "/admin/keys", map[string]any{"provider": "kling", "accept": []string{simulator.Fingerprint("two"), simulator.Fingerprint("three")}}, nil)
	s.dispatcher("REELWAY_PROVIDER_CONCURRENCY=2", "REELWAY_BREAKER_COOLDOWN=500ms")
	s.open(6)
	s.until("the circuit opened", func() bool { return s.logs.count("circuit opened") > 0 })
	s.writeKeys("keys: [{name: a, version: 2, key: three}]\n")
	s.until("all accepted", func() bool { return len(s.tasks()) == 6 })
	if n := s.number(attempts); n > 3+6 { // those under way as the circuit opened, and each job's own
		t.Errorf("%d attempts for 6 jobs", n)
	}
}

// A key's daily budget ends its tasks, not the jobs.
func TestABudgetOfAKey(t *testing.T) {
	t.Parallel()
	s := newSending(t, time.Minute, "keys: [{name: a, key: one, weight: 1000, daily_budget: 2.5}, {name: b, key: two}]\n")
	s.dispatcher()
	s.open(12)
	s.until("all accepted", func() bool { return len(s.tasks()) == 12 })
	byKey := map[string]int{}
	for _, x := range s.tasks() {
		byKey[x.Key]++
	}
	if byKey[simulator.Fingerprint("one")] > 2 || byKey[simulator.Fingerprint("one")]+byKey[simulator.Fingerprint("two")] != 12 {
		t.Errorf("tasks by key %v, want at most 2 of 1.00 in 2.50", byKey)
	}
	if text := fmt.Sprint(s.kling().GetKeys()); !strings.Contains(text, "daily_budget_micros:2500000") {
		t.Errorf("the operator is shown %s", text)
	}
}
