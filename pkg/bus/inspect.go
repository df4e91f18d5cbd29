package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Finding is what a server has of one stream, KV bucket or consumer.
type Finding struct {
	Name    string   // JOBS, KV_job_status, JOBS/submit-kling
	Missing bool     // it is not there
	Differs []string // "max_age is 1h0m0s, should be 72h0m0s"
	// Waiting is how many messages a consumer has still to acknowledge, or a
	// stream holds.
	Waiting uint64
}

// Inspect compares what the server has with what Ensure and the given consumers
// would make, and changes nothing. Consumers are made by the services that read
// by them: one that is missing has not run yet.
func (b *Bus) Inspect(ctx context.Context, replicas int, consumers ...Consumer) ([]Finding, error) {
	var out []Finding
	for _, want := range streams(replicas) {
		f, info, err := b.look(ctx, want.Name)
		if err != nil {
			return nil, err
		}
		if info != nil {
			f.Differs = differences(info.Config, want)
		}
		out = append(out, f)
	}
	for _, want := range buckets(replicas) {
		f, info, err := b.look(ctx, "KV_"+want.Bucket)
		if err != nil {
			return nil, err
		}
		if info != nil {
			f.Differs = compare([]setting{{"ttl", info.Config.MaxAge, want.TTL}, {"storage", info.Config.Storage, want.Storage}, {"replicas", info.Config.Replicas, want.Replicas}})
		}
		out = append(out, f)
	}
	for _, want := range consumers {
		f := Finding{Name: want.Stream + "/" + want.Name}
		c, err := b.js.Consumer(ctx, want.Stream, want.Name)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound):
			f.Missing = true
		case err != nil:
			return nil, fmt.Errorf("look at consumer %s: %w", f.Name, err)
		default:
			info := c.CachedInfo()
			f.Waiting = info.NumPending + uint64(max(info.NumAckPending, 0))
			f.Differs = compare([]setting{{"filter", info.Config.FilterSubject, want.Filter}, {"ack_wait", info.Config.AckWait, want.AckWait}, {"ack_policy", info.Config.AckPolicy, jetstream.AckExplicitPolicy}})
		}
		out = append(out, f)
	}
	return out, nil
}

// look reads a stream; info is nil when there is none.
func (b *Bus) look(ctx context.Context, name string) (Finding, *jetstream.StreamInfo, error) {
	f := Finding{Name: name}
	s, err := b.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		f.Missing = true
		return f, nil, nil
	}
	if err != nil {
		return f, nil, fmt.Errorf("look at stream %s: %w", name, err)
	}
	f.Waiting = s.CachedInfo().State.Msgs
	return f, s.CachedInfo(), nil
}

func differences(has, want jetstream.StreamConfig) []string {
	// The server writes -1 where no limit was asked for, and a window of its own.
	limit := func(n int64) int64 { return max(n, 0) }
	window := has.Duplicates
	if want.Duplicates == 0 {
		window = 0
	}
	return compare([]setting{
		{"subjects", join(has.Subjects), join(want.Subjects)},
		{"retention", has.Retention, want.Retention},
		{"storage", has.Storage, want.Storage},
		{"replicas", has.Replicas, want.Replicas},
		{"duplicate_window", window, want.Duplicates},
		{"max_age", has.MaxAge, want.MaxAge},
		{"max_bytes", limit(has.MaxBytes), limit(want.MaxBytes)},
		{"max_msgs_per_subject", limit(has.MaxMsgsPerSubject), limit(want.MaxMsgsPerSubject)},
		{"discard", has.Discard, want.Discard},
		{"allow_msg_schedules", has.AllowMsgSchedules, want.AllowMsgSchedules},
		{"allow_msg_counter", has.AllowMsgCounter, want.AllowMsgCounter},
	})
}

type setting struct {
	name      string
	has, want any
}

func compare(all []setting) (out []string) {
	for _, s := range all {
		if s.has != s.want {
			out = append(out, fmt.Sprintf("%s is %v, should be %v", s.name, s.has, s.want))
		}
	}
	return out
}

func join(subjects []string) string { return strings.Join(slices.Sorted(slices.Values(subjects)), " ") }

// Server is what a NATS server says of itself.
type Server struct {
	Version string
	RTT     time.Duration
	Memory  uint64 // bytes of JetStream's in use
	Storage uint64
}

// Server asks the server; an error says that JetStream is not to be had.
func (b *Bus) Server(ctx context.Context) (Server, error) {
	s := Server{Version: b.nc.ConnectedServerVersion()}
	var err error
	if s.RTT, err = b.nc.RTT(); err != nil {
		return s, fmt.Errorf("ask NATS: %w", err)
	}
	a, err := b.js.AccountInfo(ctx)
	if err != nil {
		return s, fmt.Errorf("ask for JetStream: %w", err)
	}
	s.Memory, s.Storage = a.Memory, a.Store
	return s, nil
}
