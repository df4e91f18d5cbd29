package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"reelway.dev/bench/stand"
	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/callbacktoken"
	"reelway.dev/pkg/catalog"
	"reelway.dev/pkg/provider/registry"
	"reelway.dev/pkg/rpc"
	"reelway.dev/pkg/run"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	"reelway.dev/services/dispatcher"
)

const key = "bench"

// replicaOf names what makes this process a replica: the ledger's address.
const replicaOf = "BENCH_REPLICA_OF"

var errNoReplica = errors.New("this process measures")

// replica is a dispatcher until it is told to end.
func replica(ctx context.Context) error {
	ledger := os.Getenv(replicaOf)
	if ledger == "" {
		return errNoReplica
	}
	cfg, reg, nats := &dispatcher.Config{}, &registry.Config{}, &bus.Config{}
	if err := run.Load(os.Environ(), nil, cfg, reg, nats); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	b, shut, err := bus.Connect(ctx, *nats, "bench")
	if err != nil {
		return err
	}
	defer shut()
	conn, err := rpc.Dial(ledger)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	providers, err := registry.Open(*reg)
	if err != nil {
		return err
	}
	tokens, err := callbacktoken.New("http://127.0.0.1:1", []byte("a secret of thirty-two bytes and more"))
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "reelway-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	files, err := bucket.Open(ctx, bucket.Config{URL: "file://" + filepath.ToSlash(dir), PublicURL: "http://127.0.0.1:1", Secret: "a secret of thirty-two bytes and more"})
	if err != nil {
		return err
	}
	defer func() { _ = files.Close() }()
	d, err := dispatcher.New(*cfg, dispatcher.Deps{Bus: b, Jobs: ledgerv1.NewJobServiceClient(conn), Providers: providers.Adapters, Keys: providers.Keys,
		Model: catalog.Builtin().ProviderModel, Tokens: tokens, Files: files, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, c := range d.Components() {
		wg.Go(func() { _ = c.Run(ctx) })
	}
	wg.Wait()
	return nil
}

// result is what one replica did.
type result struct {
	rate, observed float64       // submits, and their observations, a second
	megabytes, cpu float64       // at rest
	each           time.Duration // of the replica's computing, for one submit
}

// submitAll opens jobs and has a replica submit them, beside before others that
// run already; then the replica is watched at rest.
func submitAll(ctx context.Context, s *stand.Stand, b *stand.Book, url string, jobs, workers int, rest time.Duration, before int, environ ...string) (r result, err error) {
	var left atomic.Int64
	left.Store(int64(jobs))
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for left.Add(-1) >= 0 && failed.Load() == nil {
				if _, err := b.Direct.OpenJob(ctx, stand.OpenRequest()); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	if e := failed.Load(); e != nil {
		return r, *e
	}
	// Every command is on the bus before anybody takes one.
	if err := until(ctx, func() (bool, error) {
		var n int
		err := b.Pool.QueryRow(ctx, "select count(*) from outbox").Scan(&n)
		return n == 0, err
	}); err != nil {
		return r, err
	}
	self, err := os.Executable()
	if err != nil {
		return r, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append([]string{replicaOf + "=" + b.Addr, "REELWAY_NATS_URL=" + s.NATS, "REELWAY_KLING_URL=" + url + "/kling", "REELWAY_KLING_KEY=" + key,
		"REELWAY_PROVIDER_RATE=1000000", "REELWAY_PROVIDER_CONCURRENCY=" + strconv.Itoa(workers)}, environ...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return r, fmt.Errorf("start replica: %w", err)
	}
	defer func() {
		err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
	}()
	sent, running := posted.Load(), func() (bool, error) {
		var m int
		err := b.Pool.QueryRow(ctx, "select count(*) from job where completed_at is null and state = 'running'").Scan(&m)
		return m >= before+jobs, err
	}
	submitted := func(n int) func() (bool, error) {
		return func() (bool, error) { return posted.Load() >= sent+int64(n), nil }
	}
	// From the first fifth on: what a process does at its start is not what it
	// does for its life.
	begun := time.Now()
	if err := until(ctx, submitted(jobs/5)); err != nil {
		return r, err
	}
	from, start := posted.Load(), time.Now()
	first, err := cpuOf(cmd.Process.Pid)
	if err != nil {
		return r, err
	}
	if err := until(ctx, submitted(jobs)); err != nil {
		return r, err
	}
	of := sent + int64(jobs) - from
	r.rate = float64(of) / time.Since(start).Seconds()
	spent, err := cpuOf(cmd.Process.Pid)
	if err != nil {
		return r, err
	}
	r.each = (spent - first) / time.Duration(of)
	if err := until(ctx, running); err != nil {
		return r, err
	}
	r.observed = float64(jobs) / time.Since(begun).Seconds()
	if rest == 0 {
		return r, nil
	}
	if spent, err = cpuOf(cmd.Process.Pid); err != nil {
		return r, err
	}
	<-time.After(rest)
	now, err := cpuOf(cmd.Process.Pid)
	if err != nil {
		return r, err
	}
	r.cpu = 100 * (now - spent).Seconds() / rest.Seconds()
	r.megabytes, err = rssOf(cmd.Process.Pid)
	return r, err
}

func until(ctx context.Context, ok func() (bool, error)) error {
	for deadline := time.Now().Add(5 * time.Minute); ; {
		done, err := ok()
		if done || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return errors.New("not within five minutes")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// cpuOf is what a process has computed, from /proc, where a tick is 10 ms.
func cpuOf(pid int) (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest)
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond, errors.Join(err1, err2)
}

// rssOf is a process's memory in megabytes.
func rssOf(pid int) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	return float64(pages*os.Getpagesize()) / 1e6, err
}

// bareSubmits posts tasks to the simulator as the adapter does, and nothing
// else.
func bareSubmits(ctx context.Context, url string, callers int) (perSecond float64, err error) {
	body, err := json.Marshal(map[string]any{"model_name": "kling-v2-6", "prompt": "a boat", "mode": "std", "duration": "5", "aspect_ratio": "16:9"})
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: callers}}
	defer client.CloseIdleConnections()
	out, err := stand.Compare(ctx, "Posting a task", []stand.Subject{{Name: "POST, one process", Callers: callers, Op: func(ctx context.Context, _ int) (int, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/kling/v1/videos/text2video", bytes.NewReader(body))
		if err != nil {
			return 0, err
		}
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := client.Do(req)
		if err != nil {
			return 0, err
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			return 0, fmt.Errorf("answered %d, %w", resp.StatusCode, err)
		}
		return 1, nil
	}}}, 1, time.Second)
	return out["POST, one process"].Rate, err
}
