package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Reading is where every counter stands at one moment. Counters only grow: what
// a run cost is the difference of two readings.
type Reading struct {
	At    time.Time
	CPU   map[string]time.Duration // of each process, and "load" for this one
	Sums  map[string]float64       // other counters
	Bytes map[string]float64       // memory at this moment
}

// Read reads all counters.
func (d *Deployment) Read(ctx context.Context) (*Reading, error) {
	r := &Reading{CPU: map[string]time.Duration{}, Sums: map[string]float64{}, Bytes: map[string]float64{}}
	if err := d.readDatabase(ctx, r); err != nil {
		return nil, err
	}
	if err := d.readNATS(ctx, r); err != nil {
		return nil, err
	}
	for name, pid := range d.pids {
		s, err := statOf(pid)
		if err != nil {
			return nil, err
		}
		if name == "postgres" {
			// A backend that ended is in its parent's account.
			s.cpu += s.waited
			children, err := childrenOf(pid)
			if err != nil {
				return nil, err
			}
			for _, c := range children {
				if x, err := statOf(c); err == nil { // it may just have ended
					s.cpu += x.cpu
				}
			}
			r.Sums["postgres.processes"] = float64(len(children))
		}
		r.CPU[name], r.Bytes[name] = s.cpu, s.memory
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return nil, fmt.Errorf("read own time: %w", err)
	}
	r.CPU["load"] = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	r.At = time.Now()
	return r, nil
}

type stat struct {
	dead        bool // and not yet waited for
	parent      int
	cpu, waited time.Duration
	memory      float64 // bytes, resident
}

// statOf reads /proc, where a tick is 10 ms.
func statOf(pid int) (s stat, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	_, rest, _ := bytes.Cut(data, []byte(") "))
	f := strings.Fields(string(rest))
	if len(f) < 22 {
		return s, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(f))
	}
	n := func(i int) int { v, _ := strconv.Atoi(f[i]); return v }
	const tick = 10 * time.Millisecond
	return stat{f[0] == "Z", n(1), time.Duration(n(11)+n(12)) * tick, time.Duration(n(13)+n(14)) * tick, float64(n(21) * os.Getpagesize())}, nil
}

func childrenOf(parent int) (pids []int, err error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			continue
		}
		if s, err := statOf(pid); err == nil && s.parent == parent {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func (d *Deployment) readDatabase(ctx context.Context, r *Reading) error {
	var wal, full, syncs, commits, ins, upd, del, size, conns float64
	if err := d.Pool.QueryRow(ctx, `select w.wal_bytes, w.wal_fpi, w.wal_sync, s.xact_commit, s.tup_inserted, s.tup_updated, s.tup_deleted,
			pg_database_size(current_database()), (select count(*) from pg_stat_activity where backend_type = 'client backend')
		from pg_stat_wal w, pg_stat_database s where s.datname = current_database()`).
		Scan(&wal, &full, &syncs, &commits, &ins, &upd, &del, &size, &conns); err != nil {
		return fmt.Errorf("read PostgreSQL's counters: %w", err)
	}
	for k, v := range map[string]float64{"postgres.wal": wal, "postgres.full_pages": full, "postgres.syncs": syncs, "postgres.commits": commits,
		"postgres.inserted": ins, "postgres.updated": upd, "postgres.deleted": del, "postgres.size": size} {
		r.Sums[k] = v
	}
	r.Bytes["postgres.connections"] = conns
	return nil
}

func (d *Deployment) readNATS(ctx context.Context, r *Reading) error {
	var page bytes.Buffer
	if status, err := get(ctx, d.Monitor+"/varz", &page); err != nil || status != http.StatusOK {
		return fmt.Errorf("ask NATS: %d %w", status, err)
	}
	var v struct {
		InMsgs   float64 `json:"in_msgs"`
		OutMsgs  float64 `json:"out_msgs"`
		InBytes  float64 `json:"in_bytes"`
		OutBytes float64 `json:"out_bytes"`
	}
	if err := json.Unmarshal(page.Bytes(), &v); err != nil {
		return fmt.Errorf("read NATS's page: %w", err)
	}
	r.Sums["nats.messages_in"], r.Sums["nats.messages_out"], r.Sums["nats.bytes_in"], r.Sums["nats.bytes_out"] = v.InMsgs, v.OutMsgs, v.InBytes, v.OutBytes
	nc, err := nats.Connect(d.NATS)
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	list := js.ListStreams(ctx)
	for s := range list.Info() {
		r.Sums["stream."+s.Config.Name] = float64(s.State.LastSeq)
		r.Bytes["stream."+s.Config.Name] = float64(s.State.Bytes)
	}
	return list.Err()
}
