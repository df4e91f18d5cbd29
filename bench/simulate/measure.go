package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/bench/stand"
	"reelway.dev/pkg/bus"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// Plan is what -measure does.
type Plan struct {
	Light, Check float64       // jobs a second: what costs are taken from, and what the prediction is compared with
	Length       time.Duration // of each run
	Render       time.Duration // at the simulated provider
	Flood        int           // jobs that are submitted as fast as they are taken
	Large        int           // MB of a large video
}

// Measured is the run with which the prediction is compared.
type Measured struct {
	Rate   float64
	Render time.Duration
	Stages []Stage
	CPU    map[string]float64 // ms a second, of each process, what it computes at rest taken off
	Cores  int
}

// processes are what has a CPU cost of its own.
var processes = append(append([]string{}, services...), "nats", "postgres")

// base are the stages whose waits at light load are costs.
var base = []string{"accept", "queue", "submit", "observe", "store", "tell"}

// boat is what is asked for.
const boat = "A paper boat sails down a rainy street at night"

// Measure deploys everything, runs the plan and sets the costs.
func Measure(ctx context.Context, p Plan, c *Costs) (_ *Measured, err error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "reelway.dev/pkg").Output()
	if err != nil {
		return nil, fmt.Errorf("find the repository: %w", err)
	}
	d, err := Deploy(ctx, strings.TrimSuffix(strings.TrimSpace(string(out)), "/pkg"), p.Render)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	l, err := NewLoad(ctx, d)
	if l != nil {
		defer l.stop()
	}
	if err != nil {
		return nil, err
	}
	loads := loadAverage()
	if _, err := run(ctx, d, l, p, 20, 5*time.Second, boat, nil); err != nil { // warm
		return nil, err
	}
	idle, err := rest(ctx, d, 15*time.Second)
	if err != nil {
		return nil, err
	}
	light, err := run(ctx, d, l, p, p.Light, p.Length, boat, idle)
	if err != nil {
		return nil, err
	}
	large, err := run(ctx, d, l, p, p.Light/4, p.Length/2, fmt.Sprintf("%s [size:%dMB]", boat, p.Large), idle)
	if err != nil {
		return nil, err
	}
	check, err := run(ctx, d, l, p, p.Check, p.Length, boat, idle)
	if err != nil {
		return nil, err
	}
	flood, err := flooded(ctx, d, l, p, idle)
	if err != nil {
		return nil, err
	}
	relayed, err := relay(ctx, d, 50_000)
	if err != nil {
		return nil, err
	}
	c.Machine = fmt.Sprintf("%d cores shared by all processes and the load itself, loopback, %s, %s; load average before %s, after %s",
		runtime.NumCPU(), version(ctx, d), time.Now().UTC().Format(time.DateOnly), loads, loadAverage())
	p.set(c, idle, light, large, flood, relayed)
	stand.Say("%.0f jobs/s while as many as possible were submitted, %.0f messages/s by the relay\n", flood.rate, relayed)
	m := &Measured{Cores: runtime.NumCPU(), Rate: check.rate, Render: p.Render, Stages: check.stages, CPU: map[string]float64{}}
	for _, name := range processes {
		m.CPU[name] = ms(check.cpu[name]) * check.rate
	}
	return m, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// cost is what a run cost, for each of its jobs; of rest, for each second.
type cost struct {
	jobs   int
	rate   float64
	stages []Stage
	cpu    map[string]time.Duration
	sums   map[string]float64
	end    *Reading
}

func between(a, b *Reading, idle *cost, n float64) *cost {
	c := &cost{cpu: map[string]time.Duration{}, sums: map[string]float64{}, end: b}
	seconds := b.At.Sub(a.At).Seconds()
	for k, v := range b.CPU {
		x := v - a.CPU[k]
		if idle != nil {
			x -= time.Duration(float64(idle.cpu[k]) * seconds)
		}
		c.cpu[k] = time.Duration(float64(x) / n)
	}
	for k, v := range b.Sums {
		x := v - a.Sums[k]
		if idle != nil {
			x -= idle.sums[k] * seconds
		}
		c.sums[k] = x / n
	}
	return c
}

func rest(ctx context.Context, d *Deployment, length time.Duration) (*cost, error) {
	a, err := d.Read(ctx)
	if err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(length):
	}
	b, err := d.Read(ctx)
	if err != nil {
		return nil, err
	}
	return between(a, b, nil, b.At.Sub(a.At).Seconds()), nil
}

// run is one run of the load, from quiet to quiet.
func run(ctx context.Context, d *Deployment, l *Load, p Plan, rate float64, length time.Duration, prompt string, idle *cost) (*cost, error) {
	a, err := d.Read(ctx)
	if err != nil {
		return nil, err
	}
	jobs, stages, err := l.Run(ctx, rate, length, prompt, p.Render)
	if err != nil {
		return nil, err
	}
	b, err := d.quiet(ctx)
	if err != nil {
		return nil, err
	}
	c := between(a, b, idle, float64(jobs))
	c.jobs, c.stages, c.rate = jobs, stages, float64(jobs)/length.Seconds()
	return c, nil
}

// quiet waits until nothing is left to publish, and reads.
func (d *Deployment) quiet(ctx context.Context) (*Reading, error) {
	if err := eventually(ctx, "the outbox is empty", func() (bool, error) {
		var n int
		err := d.Pool.QueryRow(ctx, "select count(*) from outbox where publish_after <= now()").Scan(&n)
		return n == 0, err
	}); err != nil {
		return nil, err
	}
	// PostgreSQL counts a second late.
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(2 * time.Second):
	}
	return d.Read(ctx)
}

// flooded submits as fast as submits are taken, so that transactions fill.
func flooded(ctx context.Context, d *Deployment, l *Load, p Plan, idle *cost) (*cost, error) {
	a, err := d.Read(ctx)
	if err != nil {
		return nil, err
	}
	l.reset()
	began := time.Now()
	next := make(chan struct{}, p.Flood)
	for range p.Flood {
		next <- struct{}{}
	}
	close(next)
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for range next {
				l.submit(ctx, boat)
			}
		})
	}
	wg.Wait()
	jobs, stages, err := l.finish(ctx, p.Render)
	if err != nil {
		return nil, err
	}
	rate := float64(jobs) / (time.Since(began) - p.Render).Seconds()
	b, err := d.quiet(ctx)
	if err != nil {
		return nil, err
	}
	c := between(a, b, idle, float64(jobs))
	c.jobs, c.stages, c.rate = jobs, stages, rate
	return c, nil
}

// relay measures how fast one database's outbox is published: made-up events of
// jobs that nobody has.
func relay(ctx context.Context, d *Deployment, n int) (perSecond float64, err error) {
	data, err := proto.Marshal(&eventv1.JobEvent{OccurredAt: timestamppb.Now(), Video: &videov1.Video{Id: "video_none", State: videov1.VideoState_VIDEO_STATE_QUEUED, Params: &videov1.VideoParams{Model: "kling-v2-6", Prompt: boat}}})
	if err != nil {
		return 0, err
	}
	name := string((&eventv1.JobEvent{}).ProtoReflect().Descriptor().FullName())
	if _, err := d.Pool.Exec(ctx, `insert into outbox (message_id, subject, type, data) select 'made-up-' || g, $1, $2, $3 from generate_series(1, $4) g`,
		bus.EventSubject("acct_none", "video_none", "queued"), name, data, n); err != nil {
		return 0, fmt.Errorf("fill the outbox: %w", err)
	}
	began := time.Now()
	if err := eventually(ctx, "the outbox is empty", func() (bool, error) {
		var some bool
		err := d.Pool.QueryRow(ctx, "select exists (select from outbox where publish_after <= now())").Scan(&some)
		return !some, err
	}); err != nil {
		return 0, err
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(data), " ")
	return first
}

func version(ctx context.Context, d *Deployment) string {
	var v string
	if err := d.Pool.QueryRow(ctx, "select 'PostgreSQL ' || split_part(current_setting('server_version'), ' ', 1)").Scan(&v); err != nil {
		return "PostgreSQL"
	}
	return v
}

func (p Plan) set(c *Costs, idle, light, large, flood *cost, relayed float64) {
	at := fmt.Sprintf("%.0f jobs/s for %s, from quiet to quiet, what it computes at rest taken off", light.rate, p.Length)
	full := fmt.Sprintf("%d jobs as fast as they were taken (%.0f/s): transactions and batches fill", flood.jobs, flood.rate)
	for _, name := range processes {
		c.set(Cost{name + ".cpu", round(ms(light.cpu[name])), "ms/job", "/proc; " + at})
		c.set(Cost{name + ".cpu_full", round(ms(flood.cpu[name])), "ms/job", "/proc; " + full})
		c.set(Cost{name + ".idle", round(ms(idle.cpu[name])), "ms/s", "/proc; 15 s at rest"})
		if name != "postgres" { // whose memory is a setting
			c.set(Cost{name + ".memory", round(max(light.end.Bytes[name], flood.end.Bytes[name]) / (1 << 20)), "MB", "resident, after " + full})
		}
	}
	c.set(Cost{"load.cpu", round(ms(light.cpu["load"])), "ms/job", "getrusage; callers, their webhook endpoints and the simulated provider; " + at})
	c.set(Cost{"rate.light", round(light.rate), "jobs/s", "at which .cpu was measured"})
	c.set(Cost{"rate.full", round(flood.rate), "jobs/s", "at which .cpu_full was measured"})
	c.set(Cost{"archiver.cpu_mb", round(ms(large.cpu["archiver"]-light.cpu["archiver"]) / float64(p.Large)), "ms/MB", fmt.Sprintf("videos of %d MB beside small ones, into a folder; TLS and a bucket's client are not in it", p.Large)})
	for _, x := range []struct{ name, unit, how string }{
		{"postgres.inserted", "rows/job", "pg_stat_database; "}, {"postgres.updated", "rows/job", "pg_stat_database; "}, {"postgres.deleted", "rows/job", "pg_stat_database; "},
		{"postgres.commits", "1/job", "pg_stat_database; "}, {"postgres.syncs", "1/job", "pg_stat_wal; "},
		{"nats.messages_in", "1/job", "varz; "}, {"nats.messages_out", "1/job", "varz; "},
	} {
		c.set(Cost{x.name, round(light.sums[x.name]), x.unit, x.how + at})
		c.set(Cost{x.name + "_full", round(flood.sums[x.name]), x.unit, x.how + full})
	}
	for _, x := range []struct{ name, how string }{{"postgres.wal", "pg_stat_wal; "}, {"postgres.size", "pg_database_size; "}, {"nats.bytes_in", "varz; "}, {"nats.bytes_out", "varz; "}} {
		c.set(Cost{x.name, round(light.sums[x.name] / 1024), "KB/job", x.how + at})
		c.set(Cost{x.name + "_full", round(flood.sums[x.name] / 1024), "KB/job", x.how + full})
	}
	for _, s := range []string{bus.StreamJobs, bus.StreamObservations, bus.StreamEvents, bus.StreamWatchdog, "KV_" + bus.StatusBucket} {
		c.set(Cost{"stream." + s, round(light.sums["stream."+s]), "messages/job", "the stream's last sequence; " + at})
	}
	events := flood.end.Bytes["stream."+bus.StreamEvents] / max(flood.end.Sums["stream."+bus.StreamEvents], 1)
	c.set(Cost{"events.bytes", round(events), "bytes/message", "the stream's size over its messages"})
	kv := "stream.KV_" + bus.StatusBucket
	c.set(Cost{"status.bytes", round(flood.end.Bytes[kv] / max(flood.end.Sums[kv]/max(light.sums[kv], 1), 1)), "bytes/job", "the bucket's size over its jobs"})
	c.set(Cost{"postgres.connections", flood.end.Bytes["postgres.connections"], "", "pg_stat_activity, one ledger, after " + full})
	c.set(Cost{"relay.rate", round(relayed), "messages/s", "50,000 events put into the outbox at once; one replica publishes at a time"})
	for _, s := range light.stages {
		for _, name := range base {
			if s.Name == name {
				c.set(Cost{"wait." + name, round(ms(s.P50)), "ms", "median; " + at})
			}
		}
	}
}

// round keeps three digits.
func round(x float64) float64 {
	var y float64
	_, _ = fmt.Sscanf(fmt.Sprintf("%.3g", x), "%g", &y)
	return y
}
