// Command live measures the notifier: what an idle socket costs, how long one
// event takes to its watchers, and how long a provider's webhook takes to the
// socket that waits for it, through callback, bus, ledger and outbox. Watchers are
// a process of their own. Figures are printed beside the goals; the client's share
// of the two cores is in them.
package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"reelway.dev/bench/stand"
	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/callbacktoken"
	"reelway.dev/pkg/livetoken"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/run"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/callback"
	"reelway.dev/services/notifier"
)

const (
	apiKey  = "rw_bench_0123456789"
	webhook = "whsec_c2ltdWxhdGVkLWtsaW5nLXdlYmhvb2sta2V5"
)

func main() {
	sockets := flag.Int("sockets", 20_000, "idle sockets")
	watch := flag.Int("watchers", 5000, "watchers of one video")
	rate := flag.Int("rate", 200, "webhooks a second")
	length := flag.Duration("for", 10*time.Second, "how long webhooks come")
	flag.Parse()
	var err error
	if addr := os.Getenv(clientOf); addr != "" {
		err = runClient(addr)
	} else {
		err = measure(context.Background(), *sockets, *watch, *rate, *length)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// hall is a ledger, a notifier and a callback service, behind one door.
type hall struct {
	book   *stand.Book
	bus    *bus.Bus
	tokens *callbacktoken.Tokens
	addr   string
}

func measure(ctx context.Context, sockets, watch, rate int, length time.Duration) error {
	// The server needs some files besides.
	if most := raiseFiles() - 1000; sockets > most {
		stand.Say("this process may open only %d sockets: ulimit -n\n", most)
		sockets = most
	}
	s, err := stand.New(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	h, stop, err := build(ctx, s)
	if err != nil {
		return err
	}
	defer stop()
	jobs := max(sockets, rate*int(length.Seconds()))
	ids, err := h.running(ctx, jobs)
	if err != nil {
		return err
	}
	if err := h.latency(ctx, ids[:rate*int(length.Seconds())], rate); err != nil {
		return err
	}
	if err := h.fanOut(ctx, ids[len(ids)-1], watch); err != nil {
		return err
	}
	return h.idle(ctx, ids, sockets)
}

func build(ctx context.Context, s *stand.Stand) (h *hall, stop func(), err error) {
	h = &hall{}
	if h.book, err = s.Ledger(ctx, "live", true); err != nil {
		return nil, nil, err
	}
	if err := h.book.Fund(ctx); err != nil {
		return nil, nil, err
	}
	var ends []func()
	stop = func() {
		for _, end := range slices.Backward(ends) {
			end()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	b, shut, err := bus.Connect(ctx, bus.Config{URL: s.NATS, Replicas: 1}, "bench")
	if err != nil {
		return nil, stop, err
	}
	ends = append(ends, shut)
	conn, err := rpc.Dial(h.book.Addr)
	if err != nil {
		return nil, stop, err
	}
	ends = append(ends, func() { _ = conn.Close() })
	accounts := ledgerv1.NewAccountServiceClient(conn)
	if _, err := accounts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: stand.Account, Scopes: []string{auth.VideosRead}, ApiKey: apiKey}); err != nil {
		return nil, stop, fmt.Errorf("create key: %w", err)
	}
	log := slog.New(slog.DiscardHandler)
	var cfg notifier.Config
	var reg registry.Config
	if err := run.Load([]string{"REELWAY_KLING_ACCESS_KEY=a", "REELWAY_KLING_SECRET_KEY=a-secret-key-for-kling-of-32-bytes", "REELWAY_KLING_WEBHOOK_SECRET=" + webhook,
		"REELWAY_REALTIME_PER_KEY=1000000"}, nil, &cfg, &reg); err != nil {
		return nil, stop, err
	}
	tokens, err := livetoken.Open(livetoken.Config{})
	if err != nil {
		return nil, stop, err
	}
	authn := auth.New(accounts, time.Now)
	n, err := notifier.New(cfg, notifier.Deps{Bus: b, Jobs: ledgerv1.NewJobServiceClient(conn), Auth: authn, Files: files{}, Tokens: tokens,
		Realtime: ledgerv1.NewRealtimeServiceClient(conn), Logger: log})
	if err != nil {
		return nil, stop, err
	}
	providers, err := registry.Open(reg)
	if err != nil {
		return nil, stop, err
	}
	if h.tokens, err = callbacktoken.New("http://127.0.0.1:1", []byte("a secret of thirty-two bytes and more")); err != nil {
		return nil, stop, err
	}
	calls, err := callback.New(callback.Deps{Bus: b, Parsers: providers.Parsers, Tokens: h.tokens, Logger: log, Now: time.Now})
	if err != nil {
		return nil, stop, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, stop, fmt.Errorf("listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/callbacks/", calls.Handler())
	mux.Handle("/v1/stream", n.Handler())
	live, end := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	for _, c := range append(append(n.Components(), authn.Components(b)...), run.HTTP("http", l, mux)) {
		wg.Go(func() { _ = c.Run(live) })
	}
	ends = append(ends, func() { end(); wg.Wait() })
	h.bus, h.addr = b, l.Addr().String()
	return h, stop, nil
}

// files sign without a bucket.
type files struct{}

// SignedURL implements notifier.Signer.
func (files) SignedURL(_ context.Context, key string) (string, time.Time, error) {
	return "http://127.0.0.1:1/" + key, time.Now(), nil
}

// running makes n jobs whose renders a provider is at.
func (h *hall) running(ctx context.Context, n int) ([]string, error) {
	raw, err := proto.Marshal(stand.OpenRequest().GetParams())
	if err != nil {
		return nil, fmt.Errorf("marshal: %w", err)
	}
	// The deadline keeps them from being swept meanwhile.
	if _, err := h.book.Pool.Exec(ctx, `with made as (
			insert into job (id, state, account_id, provider, quote_micros, params, attempt_count, attempt_id, version, deadline_at, swept_at)
			select job_id_at(clock_timestamp()) || lpad(g::text, 9, '0'), 'running', $1, 'kling', $2, $3, 1, 'att_' || g, 3, now() + interval '2 hours', now() + interval '1 hour'
			from generate_series(1, $4) g returning id, attempt_id),
		tried as (insert into attempt (id, job_id, number, provider, state, provider_task_id) select attempt_id, id, 1, 'kling', 'accepted', 'task_' || attempt_id from made)
		insert into posting (key, kind, account_id, job_id, source, destination, amount_micros, available_micros, held_micros)
		select id || '/hold', 'hold', $1, id, 'available', 'held', $2, 0, 0 from made`, stand.Account, int64(stand.Quote), raw, n); err != nil {
		return nil, fmt.Errorf("make jobs: %w", err)
	}
	if _, err := h.book.Pool.Exec(ctx, `update balance set available_micros = available_micros - $2, held_micros = held_micros + $2 where account_id = $1`,
		stand.Account, int64(n)*stand.Quote); err != nil {
		return nil, fmt.Errorf("hold: %w", err)
	}
	rows, err := h.book.Pool.Query(ctx, "select id from job order by substr(attempt_id, 5)::int")
	if err != nil {
		return nil, fmt.Errorf("read jobs: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// idle compares the server's memory before and after the sockets opened.
func (h *hall) idle(ctx context.Context, ids []string, n int) error {
	w, err := startWatchers(ctx, h.addr)
	if err != nil {
		return err
	}
	defer w.stop()
	// What the first ones make grow is not theirs alone.
	if _, err := w.do(order{Open: 200, Subscribe: ids[:200]}); err != nil {
		return err
	}
	before := memory()
	if _, err := w.do(order{Open: n - 200}); err != nil {
		return err
	}
	connected := memory()
	if _, err := w.do(order{Subscribe: ids[:n]}); err != nil {
		return err
	}
	subscribed := memory()
	each := func(m, than footprint) string {
		return fmt.Sprintf("%5.1f KiB resident, %5.1f KiB heap and stacks", (m.resident-than.resident)/float64(n-200)/1024, (m.used-than.used)/float64(n-200)/1024)
	}
	stand.Say("\nAn idle socket of %d (goal: 16 KiB all told)\n%-32s%s\n%-32s%s\n", n, "open", each(connected, before), "open, with a video's watch", each(subscribed, before))
	return nil
}

type footprint struct{ resident, used float64 } // bytes

// memory is what the process has once the collector has been round.
func memory() footprint {
	for range 5 {
		runtime.GC()
		<-time.After(200 * time.Millisecond) // stacks shrink at the next collection
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f := footprint{used: float64(m.HeapAlloc + m.StackInuse)}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return f // not on Linux: the runtime's figures must do
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(v), " kB"))
			if err == nil {
				f.resident = float64(kib) * 1024
			}
		}
	}
	return f
}

// fanOut publishes events of one video and asks when the last watcher had each.
func (h *hall) fanOut(ctx context.Context, id string, n int) error {
	w, err := startWatchers(ctx, h.addr)
	if err != nil {
		return err
	}
	defer w.stop()
	if _, err := w.do(order{Open: n, Subscribe: slices.Repeat([]string{id}, n)}); err != nil {
		return err
	}
	var last, half, spent []time.Duration
	for k := range 21 {
		v := &videov1.Video{Id: id, AccountId: stand.Account, Version: 100 + int64(k), State: videov1.VideoState_VIDEO_STATE_RUNNING, Params: stand.OpenRequest().GetParams(), Provider: "kling"}
		m, err := bus.NewMessage(bus.EventSubject(stand.Account, id, "running"), fmt.Sprint("fan-", k), &eventv1.JobEvent{Video: v})
		if err != nil {
			return err
		}
		busy := cpu()
		began := time.Now().UnixNano()
		if err := h.bus.Publish(ctx, m); err != nil {
			return err
		}
		var all []came
		for len(all) < n {
			<-time.After(300 * time.Millisecond)
			if len(all) == 0 {
				busy = cpu() - busy // before their answers are read
			}
			more, err := w.do(order{Dump: true})
			if err != nil {
				return err
			}
			all = append(all, more...)
		}
		var at []int64
		for _, c := range all {
			at = append(at, c.At)
		}
		slices.Sort(at)
		if k > 0 { // the first warms up
			spent = append(spent, busy)
			last, half = append(last, time.Duration(at[n-1]-began)), append(half, time.Duration(at[n/2]-began))
		}
	}
	slices.Sort(last)
	slices.Sort(half)
	slices.Sort(spent)
	stand.Say("\nOne event to %d watchers (goal: the last within 50 ms), of %d\nhalf of them  median %8s\nthe last      median %8s  best %8s  worst %8s\nof the server's processor time, median %s\n", n, len(last),
		half[len(half)/2].Round(10*time.Microsecond), last[len(last)/2].Round(10*time.Microsecond), last[0].Round(10*time.Microsecond), last[len(last)-1].Round(10*time.Microsecond), spent[len(spent)/2].Round(10*time.Microsecond))
	return nil
}

// cpu is the processor time that this process has had.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// latency sends signed webhooks of finished renders at a steady rate and asks
// when the socket that watches each job was told.
func (h *hall) latency(ctx context.Context, ids []string, rate int) error {
	w, err := startWatchers(ctx, h.addr)
	if err != nil {
		return err
	}
	defer w.stop()
	if _, err := w.do(order{Open: len(ids), Subscribe: ids}); err != nil {
		return err
	}
	began := make([]int64, len(ids))
	errs := make([]error, len(ids))
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	var wg sync.WaitGroup
	for i := range ids {
		<-tick.C
		wg.Go(func() {
			began[i] = time.Now().UnixNano()
			errs[i] = h.call(ctx, client, ids[i], fmt.Sprint("att_", i+1))
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var took []time.Duration
	for deadline := time.Now().Add(time.Minute); len(took) < len(ids) && time.Now().Before(deadline); {
		<-time.After(300 * time.Millisecond)
		all, err := w.do(order{Dump: true})
		if err != nil {
			return err
		}
		for _, c := range all {
			var f struct{ Video struct{ State string } }
			if json.Unmarshal(c.Data, &f) == nil && f.Video.State == "storing" {
				took = append(took, time.Duration(c.At-began[c.Socket]))
			}
		}
	}
	if len(took) < len(ids) {
		return fmt.Errorf("%d of %d webhooks were told of", len(took), len(ids))
	}
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(10 * time.Microsecond) }
	stand.Say("\nWebhook in to WebSocket out at %d/s, %d of them (goal: p99 below 10 ms)\np50 %s  p90 %s  p99 %s  worst %s\n", rate, len(ids), at(0.5), at(0.9), at(0.99), at(1))
	return nil
}

// call is Kling's webhook, signed by Standard Webhooks.
func (h *hall) call(ctx context.Context, c *http.Client, id, attempt string) error {
	body := fmt.Sprintf(`{"task_id":"task_%s","task_status":"succeed","task_result":{"videos":[{"id":"v","url":"https://e.example/x.mp4","duration":"5"}]}}`, attempt)
	url := "http://" + h.addr + strings.TrimPrefix(h.tokens.URL("kling", id, attempt, ""), "http://127.0.0.1:1")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewBufferString(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	secret, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(webhook, "whsec_"))
	if err != nil {
		return fmt.Errorf("read secret: %w", err)
	}
	stamp := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("msg_" + attempt + "." + stamp + "." + body))
	req.Header.Set("Webhook-Id", "msg_"+attempt)
	req.Header.Set("Webhook-Timestamp", stamp)
	req.Header.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("send webhook: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the webhook of %s answers %d: %w", id, resp.StatusCode, err)
	}
	return nil
}
