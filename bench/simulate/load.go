package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// accounts share the load; each has a key and a webhook endpoint.
const accounts = 16

// Load submits videos over REST at random moments, as many callers would, and
// takes the webhooks that tell of their ends.
type Load struct {
	d      *Deployment
	client *http.Client
	keys   []string
	stop   func()

	mu      sync.Mutex
	told    map[string]time.Time // job: when its webhook came
	posted  []time.Duration      // how long each submit took
	opened  map[string]bool
	failure error
}

// NewLoad makes the accounts.
func NewLoad(ctx context.Context, d *Deployment) (*Load, error) {
	l := &Load{d: d, told: map[string]time.Time{}, opened: map[string]bool{},
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 1024}}}
	url, stop, err := serve(ctx, http.HandlerFunc(l.receive))
	if err != nil {
		return nil, err
	}
	l.stop = func() { l.client.CloseIdleConnections(); stop() }
	accts, money := ledgerv1.NewAccountServiceClient(d.conn), ledgerv1.NewLedgerServiceClient(d.conn)
	for i := range accounts {
		id, key := "acct_load"+strconv.Itoa(i), fmt.Sprintf("rw_load_0123456789_%d", i)
		if _, err := accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "load", AccountId: id, Tier: "production"}); err != nil {
			return l, fmt.Errorf("create account: %w", err)
		}
		if _, err := accts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: id, Scopes: []string{"videos:read", "videos:write"}, ApiKey: key}); err != nil {
			return l, fmt.Errorf("create key: %w", err)
		}
		if _, err := money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: id, AmountMicros: 1 << 50, IdempotencyKey: id}); err != nil {
			return l, fmt.Errorf("top up: %w", err)
		}
		l.keys = append(l.keys, key)
		if err := l.post(ctx, key, "/v1/webhook_endpoints", map[string]any{"url": url}, nil); err != nil {
			return l, err
		}
	}
	return l, nil
}

// receive takes a webhook.
func (l *Load) receive(w http.ResponseWriter, r *http.Request) {
	var in struct{ Data struct{ ID, State string } }
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.told[in.Data.ID]; !ok && (in.Data.State == "succeeded" || in.Data.State == "failed") {
		l.told[in.Data.ID] = time.Now()
	}
}

func (l *Load) post(ctx context.Context, key, path string, body, answer any) (err error) {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+l.d.Intake+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	said, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("%s answered %d: %.300s", path, resp.StatusCode, said)
	}
	if err != nil || answer == nil {
		return err
	}
	return json.Unmarshal(said, answer)
}

func (l *Load) submit(ctx context.Context, prompt string) {
	began := time.Now()
	var v struct{ ID string }
	err := l.post(ctx, l.keys[rand.IntN(len(l.keys))], "/v1/videos",
		map[string]any{"model": "kling-v2-6", "prompt": prompt, "duration": 5, "resolution": "720p", "aspect_ratio": "16:9"}, &v)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failure = err
		return
	}
	l.posted = append(l.posted, time.Since(began))
	l.opened[v.ID] = true
}

// Stage is one stage's waits.
type Stage struct {
	Name     string
	P50, P99 time.Duration
}

// Run submits jobs at a rate for a while, waits until each has ended and its
// webhook came, and returns how many jobs that were and what they waited.
func (l *Load) Run(ctx context.Context, rate float64, length time.Duration, prompt string, render time.Duration) (int, []Stage, error) {
	l.reset()
	var wg sync.WaitGroup
	defer wg.Wait()
	next := time.Now()
	for end := next.Add(length); ; {
		next = next.Add(time.Duration(rand.ExpFloat64() / rate * float64(time.Second)))
		if next.After(end) {
			break
		}
		select {
		case <-ctx.Done():
			return 0, nil, ctx.Err()
		case <-time.After(time.Until(next)):
		}
		wg.Go(func() { l.submit(ctx, prompt) })
	}
	wg.Wait()
	return l.finish(ctx, render)
}

func (l *Load) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.posted, l.failure = nil, nil
	clear(l.opened)
	clear(l.told)
}

// finish waits for the ends of all jobs that were submitted.
func (l *Load) finish(ctx context.Context, render time.Duration) (int, []Stage, error) {
	if l.failure != nil {
		return 0, nil, l.failure
	}
	if err := eventually(ctx, "every webhook came", func() (bool, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.told) >= len(l.opened), nil
	}); err != nil {
		return 0, nil, err
	}
	stages, err := l.stages(ctx, render)
	return len(l.opened), stages, err
}

// stages reads from the ledger's rows when each thing happened.
func (l *Load) stages(ctx context.Context, render time.Duration) ([]Stage, error) {
	rows, err := l.d.Pool.Query(ctx, `select j.id, j.created_at, a.created_at, acc.observed_at, acc.created_at, ren.observed_at, ren.created_at, arc.observed_at, arc.created_at
		from job j join attempt a on a.job_id = j.id
		join observation acc on acc.job_id = j.id and acc.fact = 'accepted' and acc.source = 'submit'
		join observation ren on ren.job_id = j.id and ren.fact = 'rendered' and ren.verdict = 'applied'
		join observation arc on arc.job_id = j.id and arc.fact = 'archived'
		where j.id = any($1) and j.state = 'succeeded'`, slices.Collect(maps.Keys(l.opened)))
	if err != nil {
		return nil, fmt.Errorf("read jobs: %w", err)
	}
	var queue, submit, observe, store, tell, over []time.Duration
	var id string
	var opened, began, accepted, running, rendered, storing, archived, done time.Time
	n := 0
	if _, err := pgx.ForEachRow(rows, []any{&id, &opened, &began, &accepted, &running, &rendered, &storing, &archived, &done}, func() error {
		n++
		queue = append(queue, began.Sub(opened))
		submit = append(submit, accepted.Sub(began))
		observe = append(observe, storing.Sub(rendered))
		store = append(store, archived.Sub(storing))
		tell = append(tell, l.told[id].Sub(done))
		over = append(over, l.told[id].Sub(opened)-render)
		return nil
	}); err != nil {
		return nil, fmt.Errorf("read jobs: %w", err)
	}
	if n != len(l.opened) {
		return nil, fmt.Errorf("%d of %d jobs went the usual way", n, len(l.opened))
	}
	return []Stage{stageOf("accept", l.posted), stageOf("queue", queue), stageOf("submit", submit), stageOf("observe", observe),
		stageOf("store", store), stageOf("tell", tell), stageOf("all but the render", over)}, nil
}

func stageOf(name string, took []time.Duration) Stage {
	if len(took) == 0 {
		return Stage{Name: name}
	}
	slices.Sort(took)
	return Stage{name, took[len(took)/2], took[len(took)*99/100]}
}
