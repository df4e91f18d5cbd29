// Package bus is the only place that knows JetStream: the streams, consumers
// and subjects as data, and typed publish, consume, schedule and dead-letter.
// It owns no fact: every stream can be deleted and rebuilt from Postgres.
package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// The streams and the KV buckets, with the owner of each message on them.
const (
	StreamJobs         = "JOBS"         // commands to dispatchers
	StreamObservations = "OBSERVATIONS" // facts for the ledger
	StreamEvents       = "EVENTS"       // the ledger's word, 72 h
	StreamWatchdog     = "WATCHDOG"     // schedules of polls
	StreamArtifacts    = "ARTIFACTS"    // commands to archivers
	StreamDead         = "DEAD"         // dead letters, 30 d
	StreamLimits       = "LIMITS"       // counters of requests, 3 min
	StatusBucket       = "job_status"   // the read model, 24 h
	ProviderBucket     = "providers"    // what dispatchers share of providers, 48 h
)

// DuplicateWindow is how long JetStream drops a repeated Nats-Msg-Id. It is an
// optimisation: every consumer is idempotent without it.
const DuplicateWindow = 5 * time.Minute

func streams(replicas int) []jetstream.StreamConfig {
	work := func(name string, subjects ...string) jetstream.StreamConfig {
		return jetstream.StreamConfig{
			Name: name, Subjects: subjects, Retention: jetstream.WorkQueuePolicy,
			Storage: jetstream.FileStorage, Replicas: replicas, Duplicates: DuplicateWindow,
			Discard: jetstream.DiscardNew, MaxBytes: 8 << 30, AllowDirect: true,
		}
	}
	watchdog := work(StreamWatchdog, "watchdog.>")
	watchdog.AllowMsgSchedules = true
	// A stream with schedules cannot refuse new messages; what it drops when
	// full is published again by the ledger's sweep.
	watchdog.Discard = jetstream.DiscardOld
	// The ledger repeats a deletion until it is reported: what is dropped when
	// this is full comes again, and it need not reserve much of the disk.
	artifacts := work(StreamArtifacts, "artifacts.>")
	artifacts.Discard, artifacts.MaxBytes = jetstream.DiscardOld, 256<<20
	return []jetstream.StreamConfig{
		work(StreamJobs, "jobs.>"),
		work(StreamObservations, "observed.>"),
		artifacts,
		watchdog,
		{
			Name: StreamEvents, Subjects: []string{"job.>", "account.*.notice"}, Retention: jetstream.LimitsPolicy,
			Storage: jetstream.FileStorage, Replicas: replicas, Duplicates: DuplicateWindow,
			MaxAge: 72 * time.Hour, MaxBytes: 8 << 30, AllowDirect: true,
		},
		{
			Name: StreamDead, Subjects: []string{"dead.>"}, Retention: jetstream.LimitsPolicy,
			Storage: jetstream.FileStorage, Replicas: replicas, Duplicates: DuplicateWindow,
			MaxAge: 30 * 24 * time.Hour, MaxBytes: 1 << 30, AllowDirect: true,
		},
		{
			// In memory: a counter that is lost lets a minute's requests through.
			Name: StreamLimits, Subjects: []string{"limit.>"}, Retention: jetstream.LimitsPolicy,
			Storage: jetstream.MemoryStorage, Replicas: replicas, AllowMsgCounter: true, MaxMsgsPerSubject: 1,
			Discard: jetstream.DiscardOld, MaxAge: 3 * time.Minute, MaxBytes: 64 << 20, AllowDirect: true,
		},
	}
}

func statusBucket(replicas int) jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{Bucket: StatusBucket, TTL: 24 * time.Hour, Storage: jetstream.FileStorage, Replicas: replicas, History: 1}
}

// buckets are the KV buckets. What dispatchers share is in memory: rates and
// breakers that are lost are learned again, and nobody waits for a disk.
func buckets(replicas int) []jetstream.KeyValueConfig {
	return []jetstream.KeyValueConfig{
		statusBucket(replicas),
		{Bucket: ProviderBucket, TTL: 48 * time.Hour, Storage: jetstream.MemoryStorage, Replicas: replicas, History: 1, MaxBytes: 16 << 20},
	}
}

// Consumer is a durable consumer as data: who reads what, how soon a message of
// a dead worker comes again (AckWait), how long a live one may work on it
// (Timeout), and how often it is tried before it is dead.
type Consumer struct {
	Stream     string
	Name       string
	Filter     string
	AckWait    time.Duration
	Timeout    time.Duration
	MaxDeliver int
}

// ackWait is every consumer's: work in hand is kept by heartbeats.
const ackWait = 20 * time.Second

// Observations and storing events have one consumer each; submits and polls
// have one per provider, so that each provider's lag scales and fails alone.
var (
	ObservationConsumer = Consumer{Stream: StreamObservations, Name: "ledger", Filter: "observed.>", AckWait: ackWait, Timeout: 30 * time.Second, MaxDeliver: 20}
	ArchiveConsumer     = Consumer{Stream: StreamEvents, Name: "archiver", Filter: "job.*.*.storing", AckWait: ackWait, Timeout: time.Minute, MaxDeliver: 20}
	DeleteConsumer      = Consumer{Stream: StreamArtifacts, Name: "archiver-delete", Filter: DeleteSubject, AckWait: ackWait, Timeout: time.Minute, MaxDeliver: 20}
	ProjectionConsumer  = Consumer{Stream: StreamEvents, Name: "projection", Filter: "job.>", AckWait: ackWait, Timeout: 30 * time.Second, MaxDeliver: 20}
)

// DeleteSubject is where commands to delete stored results are published.
const DeleteSubject = "artifacts.delete"

// SubmitConsumer reads the submit commands of one provider, of all its models.
func SubmitConsumer(provider string) Consumer {
	return Consumer{Stream: StreamJobs, Name: "submit-" + token(provider), Filter: submitRoot + token(provider) + ".>", AckWait: ackWait, Timeout: 3 * time.Minute, MaxDeliver: 1000}
}

// FormerSubmitConsumer reads what a ledger of the version before published, or still
// does, by one subject for all models of a provider. It is that version's consumer, so
// that dispatchers of both read beside each other; were it given the new subjects, it
// would pass over what was published to them before.
func FormerSubmitConsumer(provider string) Consumer {
	c := SubmitConsumer(provider)
	c.Name, c.Filter = "dispatcher-"+token(provider), submitRoot+token(provider)
	return c
}

// CancelConsumer reads the cancel commands of one provider.
func CancelConsumer(provider string) Consumer {
	return Consumer{Stream: StreamJobs, Name: "cancel-" + token(provider), Filter: CancelSubject(provider), AckWait: ackWait, Timeout: time.Minute, MaxDeliver: 1000}
}

// PollConsumer reads the polls that are due of one provider.
func PollConsumer(provider string) Consumer {
	return Consumer{Stream: StreamWatchdog, Name: "watchdog-" + token(provider), Filter: "watchdog.due." + token(provider), AckWait: ackWait, Timeout: time.Minute, MaxDeliver: 1000}
}

const submitRoot = "jobs.submit."

// SubmitSubject is where submit commands of a provider's model are published.
func SubmitSubject(provider, model string) string {
	return submitRoot + token(provider) + "." + token(model)
}

// CancelSubject is where cancel commands of a provider are published.
func CancelSubject(provider string) string { return "jobs.cancel." + token(provider) }

// ObservedSubject is where observations of a job are published.
func ObservedSubject(provider, jobID string) string {
	return "observed." + token(provider) + "." + token(jobID)
}

// EventSubject is where the ledger's events of a job are published.
func EventSubject(accountID, jobID, state string) string {
	return "job." + token(accountID) + "." + token(jobID) + "." + token(state)
}

// NoticeSubject is where the ledger's notices to an account are published. They
// lie in EVENTS beside the account's jobs, so that one cursor leads through both.
func NoticeSubject(accountID string) string { return "account." + token(accountID) + ".notice" }

// AccessChangedSubject is where the ledger tells that an account or one of its
// keys was changed. It is a broadcast, not a stream: whoever misses one relies
// on how briefly it remembers.
const AccessChangedSubject = "access.changed"

// token keeps ids from widening a subject: anything but [A-Za-z0-9_-] becomes
// an underscore. Ids are validated at the edges; this is the second belt.
func token(s string) string {
	if s == "" {
		return "_"
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-':
			return r
		}
		return '_'
	}, s)
}

// Ensure creates or updates every stream and KV bucket. It is safe to run
// from every service at every start. replicas is 1 embedded, 3 in a cluster.
func (b *Bus) Ensure(ctx context.Context, replicas int) error {
	for _, cfg := range streams(replicas) {
		if _, err := b.js.CreateOrUpdateStream(ctx, cfg); err != nil {
			return fmt.Errorf("ensure stream %s: %w", cfg.Name, err)
		}
	}
	for _, cfg := range buckets(replicas) {
		kv, err := b.js.CreateOrUpdateKeyValue(ctx, cfg)
		if err != nil {
			return fmt.Errorf("ensure bucket %s: %w", cfg.Bucket, err)
		}
		b.mu.Lock()
		if cfg.Bucket == StatusBucket {
			b.kv = kv
		} else {
			b.shared = kv
		}
		b.mu.Unlock()
	}
	return nil
}

// Reserved is how many bytes on disk the streams may take, all together, and the
// read model, which has no limit but its age: what a server must allow for, or it
// refuses to make them.
func Reserved() int64 {
	bytes := int64(8 << 30)
	for _, cfg := range streams(1) {
		if cfg.Storage == jetstream.FileStorage {
			bytes += cfg.MaxBytes
		}
	}
	return bytes
}

func (b *Bus) consumer(ctx context.Context, c Consumer) (jetstream.Consumer, error) {
	cons, err := b.js.CreateOrUpdateConsumer(ctx, c.Stream, jetstream.ConsumerConfig{
		Durable: c.Name, FilterSubject: c.Filter, AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: c.AckWait, MaxAckPending: 4096, MaxDeliver: -1,
	})
	if err != nil {
		return nil, fmt.Errorf("ensure consumer %s: %w", c.Name, err)
	}
	return cons, nil
}

func notFound(err error) bool {
	return errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrMsgNotFound)
}
