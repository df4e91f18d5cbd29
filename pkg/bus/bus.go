package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/mtls"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// HeaderType names the protobuf message that a bus message carries.
const HeaderType = "Reelway-Type"

// Bus publishes and consumes typed messages over one NATS connection. It is
// safe for concurrent use.
type Bus struct {
	nc *nats.Conn
	js jetstream.JetStream
	// finds says that the topology is somebody else's to make and to mend.
	finds bool

	mu     sync.Mutex
	kv     jetstream.KeyValue // the read model's
	shared jetstream.KeyValue // the providers'
	mended time.Time          // when the topology was last looked after
}

// New returns a Bus on nc, which stays the caller's to drain and close.
func New(nc *nats.Conn) (*Bus, error) {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(512), jetstream.WithPublishAsyncTimeout(15*time.Second))
	if err != nil {
		return nil, fmt.Errorf("open jetstream: %w", err)
	}
	return &Bus{nc: nc, js: js}, nil
}

// Config is how services reach NATS.
type Config struct {
	URL      string `env:"REELWAY_NATS_URL" envDefault:"nats://127.0.0.1:4222" desc:"NATS with JetStream"`
	Creds    string `env:"REELWAY_NATS_CREDS" desc:"path of a NATS credentials file"`
	CA       string `env:"REELWAY_NATS_CA" desc:"path of the certificates by which NATS's own is judged; the system's when empty"`
	TLSDir   string `env:"REELWAY_NATS_TLS_DIR" desc:"directory of tls.crt, tls.key and ca.crt: NATS is spoken to by TLS 1.3 alone, with this certificate, and judged by that CA; files are read anew when they change"`
	Replicas int    `env:"REELWAY_NATS_REPLICAS" min:"1" max:"5" envDefault:"1" desc:"replicas of each stream: 1 alone, 3 in a cluster"`
	Streams  string `env:"REELWAY_NATS_STREAMS" oneof:"make find" envDefault:"make" desc:"make the streams at the start and when they vanish, or find them there: for a NATS user that may not make any, beside a ledger that does"`
}

// Dial connects to NATS with the credentials and certificates of cfg, which are read
// anew for each connection. Errors say what an operator can do, and hold no password.
func (cfg Config) Dial(opts ...nats.Option) (*nats.Conn, error) {
	if cfg.Creds != "" {
		opts = append(opts, nats.UserCredentials(cfg.Creds))
	}
	ours := "none: REELWAY_NATS_TLS_DIR is not set"
	switch {
	case cfg.TLSDir != "" && cfg.CA != "":
		return nil, fmt.Errorf("REELWAY_NATS_CA and REELWAY_NATS_TLS_DIR are both set: the directory's %s judges NATS", mtls.CAFile)
	case cfg.TLSDir != "":
		files, err := mtls.Open(cfg.TLSDir)
		if err != nil {
			return nil, fmt.Errorf("REELWAY_NATS_TLS_DIR: %w", err)
		}
		ours = filepath.Join(cfg.TLSDir, mtls.CertFile)
		opts = append(opts, nats.Secure(&tls.Config{MinVersion: tls.VersionTLS13}), nats.ClientTLSConfig(
			func() (tls.Certificate, error) { return files.Certificate(), nil },
			func() (*x509.CertPool, error) { return files.Pool(), nil }))
	case cfg.CA != "":
		opts = append(opts, nats.RootCAs(cfg.CA))
	}
	var last string // why NATS is not reached is told when it changes, not at each attempt
	opts = append(opts, nats.ReconnectErrHandler(func(_ *nats.Conn, err error) {
		if err = mtls.Explain(err, ours); err != nil && err.Error() != last {
			last = err.Error()
			slog.Warn("NATS is not reached", "error", last)
		}
	}))
	nc, err := nats.Connect(cfg.URL, opts...)
	var u *url.Error
	if errors.As(err, &u) { // it repeats the URL, with its password
		return nil, fmt.Errorf("REELWAY_NATS_URL is no URL: %w", u.Err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", mtls.Explain(err, ours))
	}
	return nc, nil
}

// Connect reaches NATS, makes the topology unless it is to be found, and returns
// a Bus; close it with the function returned. A connection lost later is made
// again for ever. Answers come below _INBOX.<name>, so that each service's user
// may read its own alone.
func Connect(ctx context.Context, cfg Config, name string) (*Bus, func(), error) {
	nc, err := cfg.Dial(nats.Name(name), nats.CustomInboxPrefix("_INBOX."+name), nats.MaxReconnects(-1), nats.ReconnectJitter(100*time.Millisecond, time.Second))
	if err != nil {
		return nil, nil, err
	}
	b, err := New(nc)
	if err == nil && cfg.Streams == "find" {
		b.finds = true
	} else if err == nil {
		err = b.Ensure(ctx, cfg.Replicas)
	}
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return b, nc.Close, nil
}

// Ready reports, as a condition of readiness, whether NATS is connected.
func (b *Bus) Ready(context.Context) error {
	if !b.nc.IsConnected() {
		return ErrDown
	}
	return nil
}

// JetStream is the context underneath, for readers with needs of their own.
func (b *Bus) JetStream() jetstream.JetStream { return b.js }

func tracer() trace.Tracer { return otel.Tracer("reelway.dev/pkg/bus") }

// headerCarrier adapts nats.Header, whose keys keep their case, to W3C trace
// context, whose keys are lower case.
type headerCarrier nats.Header

func (h headerCarrier) Get(k string) string { return nats.Header(h).Get(k) }
func (h headerCarrier) Set(k, v string)     { nats.Header(h).Set(k, v) }
func (h headerCarrier) Keys() []string {
	keys := make([]string, 0, len(h))
	for k := range h {
		keys = append(keys, k)
	}
	return keys
}

// Message is one message to publish.
type Message struct {
	Subject string
	// ID is deterministic: a retry of the same fact has the same id.
	ID   string
	Type string
	Data []byte
	// TraceParent continues a trace begun earlier (the outbox); empty takes ctx's.
	TraceParent string
}

// NewMessage marshals m. It fails only for invalid UTF-8 in a string field.
func NewMessage(subject, id string, m proto.Message) (Message, error) {
	data, err := proto.Marshal(m)
	if err != nil {
		return Message{}, fmt.Errorf("marshal %s: %w", m.ProtoReflect().Descriptor().FullName(), err)
	}
	return Message{Subject: subject, ID: id, Type: string(m.ProtoReflect().Descriptor().FullName()), Data: data}, nil
}

// Publish sends m and returns after JetStream has acknowledged it. A duplicate
// inside DuplicateWindow is a success.
func (b *Bus) Publish(ctx context.Context, m Message) error {
	return b.publish(ctx, m, nil)
}

func (b *Bus) publish(ctx context.Context, m Message, extra nats.Header) error {
	msg, span := m.prepare(ctx, extra)
	defer span.End()
	if _, err := b.js.PublishMsg(ctx, msg); err != nil {
		span.SetStatus(codes.Error, err.Error())
		return fmt.Errorf("publish %s: %w", subjectRoot(m.Subject), err)
	}
	return nil
}

// ErrTooLarge says that the bus will never take a message of this size.
var ErrTooLarge = errors.New("message is larger than the bus takes")

// PublishAll sends messages in their order without waiting between them, and
// returns how many of the first ones JetStream has acknowledged; with fewer
// than all, the error says why. Messages after the first failure may have
// arrived nevertheless: sent again, they are duplicates.
func (b *Bus) PublishAll(ctx context.Context, ms []Message) (int, error) {
	var acks []jetstream.PubAckFuture
	var failed error
	for _, m := range ms {
		msg, span := m.prepare(ctx, nil)
		ack, err := b.js.PublishMsgAsync(msg, jetstream.WithStallWait(5*time.Second))
		if errors.Is(err, nats.ErrMaxPayload) {
			err = ErrTooLarge
		}
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
			failed = fmt.Errorf("publish %s: %w", subjectRoot(m.Subject), err)
		}
		span.End()
		if failed != nil {
			break
		}
		acks = append(acks, ack)
	}
	for i, ack := range acks {
		select {
		case <-ack.Ok():
		case err := <-ack.Err():
			return i, fmt.Errorf("publish %s: %w", subjectRoot(ms[i].Subject), err)
		case <-ctx.Done():
			return i, ctx.Err()
		}
	}
	return len(acks), failed
}

// prepare makes the message to send, with a span that its reader continues.
func (m Message) prepare(ctx context.Context, extra nats.Header) (*nats.Msg, trace.Span) {
	if m.TraceParent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": m.TraceParent})
	}
	ctx, span := tracer().Start(ctx, "publish "+subjectRoot(m.Subject), trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(attribute.String("messaging.system", "nats"), attribute.String("messaging.destination.name", subjectRoot(m.Subject)),
			attribute.String("messaging.operation.name", "publish"), attribute.String("messaging.operation.type", "send"),
			attribute.Int("messaging.message.body.size", len(m.Data))))
	if m.ID != "" {
		span.SetAttributes(attribute.String("messaging.message.id", m.ID))
	}
	msg := nats.NewMsg(m.Subject)
	msg.Data = m.Data
	for k, v := range extra {
		msg.Header[k] = v
	}
	msg.Header.Set(HeaderType, m.Type)
	if m.ID != "" {
		msg.Header.Set(nats.MsgIdHdr, m.ID)
	}
	propagation.TraceContext{}.Inject(ctx, headerCarrier(msg.Header))
	return msg, span
}

// subjectRoot is a subject's first two tokens, a name of low cardinality.
func subjectRoot(s string) string {
	dots := 0
	for i, r := range s {
		if r == '.' {
			if dots++; dots == 2 || s[:i] == "job" || s[:i] == "observed" {
				return s[:i]
			}
		}
	}
	return s
}

// Lying is how many submit commands lie on the bus: those that nobody has taken
// yet, and those that somebody works on. Models whose names differ only in what a
// subject cannot hold are counted together.
type Lying struct{ of, ofModel map[string]int }

// Of is how many are a provider's.
func (l Lying) Of(provider string) int { return l.of[token(provider)] }

// OfModel is how many of those are for a model.
func (l Lying) OfModel(provider, model string) int { return l.ofModel[SubmitSubject(provider, model)] }

// Commands counts the submit commands on the bus.
func (b *Bus) Commands(ctx context.Context) (Lying, error) {
	st, err := b.js.Stream(ctx, StreamJobs)
	if err != nil {
		return Lying{}, fmt.Errorf("open jobs: %w", err)
	}
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(submitRoot+">"))
	if err != nil {
		return Lying{}, fmt.Errorf("count commands: %w", err)
	}
	l := Lying{map[string]int{}, map[string]int{}}
	for subject, n := range info.State.Subjects {
		provider, _, _ := strings.Cut(strings.TrimPrefix(subject, submitRoot), ".")
		l.of[provider] += int(n)
		l.ofModel[subject] = int(n)
	}
	return l, nil
}

// PublishObservation publishes what was seen of an attempt and returns after
// JetStream has it. The same fact from another source is another message: the
// ledger applies it once, and learns who told it.
func (b *Bus) PublishObservation(ctx context.Context, o *eventv1.Observation) error {
	m, err := NewMessage(ObservedSubject(o.GetProvider(), o.GetJobId()), o.GetId()+"-"+o.GetSource(), o)
	if err != nil {
		return err
	}
	return b.Publish(ctx, m)
}

func scheduleSubject(provider, attemptID string) string {
	return "watchdog.schedule." + token(provider) + "." + token(attemptID)
}

// SchedulePoll asks for a poll of an attempt at a time (past means now). An
// attempt has one schedule: a later call replaces it.
func (b *Bus) SchedulePoll(ctx context.Context, p *eventv1.PollAttempt, at time.Time) error {
	m, err := NewMessage(scheduleSubject(p.GetProvider(), p.GetAttemptId()), "", p)
	if err != nil {
		return err
	}
	if !at.After(time.Now()) {
		// At once, and not by a schedule: one that is made next, for later, would
		// take its place before it fires.
		m.Subject = "watchdog.due." + token(p.GetProvider())
		return b.Publish(ctx, m)
	}
	// RFC 3339 with a fraction: the client's own option rounds to seconds.
	return b.publish(ctx, m, nats.Header{
		"Nats-Schedule":        []string{"@at " + at.UTC().Format(time.RFC3339Nano)},
		"Nats-Schedule-Target": []string{"watchdog.due." + token(p.GetProvider())},
	})
}

// CancelPoll removes an attempt's schedule, if it has one.
func (b *Bus) CancelPoll(ctx context.Context, provider, attemptID string) error {
	s, err := b.js.Stream(ctx, StreamWatchdog)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", StreamWatchdog, err)
	}
	if err := s.Purge(ctx, jetstream.WithPurgeSubject(scheduleSubject(provider, attemptID))); err != nil {
		return fmt.Errorf("cancel poll: %w", err)
	}
	return nil
}

// statusTimeout bounds one read or write of the read model: it saves a trip to
// Postgres, so nobody waits for it longer than for Postgres itself.
const statusTimeout = 300 * time.Millisecond

// ErrDown says that NATS is not connected: nothing was sent.
var ErrDown = errors.New("NATS is not connected")

func (b *Bus) status(ctx context.Context) (jetstream.KeyValue, error) {
	if !b.nc.IsConnected() {
		return nil, fmt.Errorf("open bucket %s: %w", StatusBucket, ErrDown)
	}
	b.mu.Lock()
	kv := b.kv
	b.mu.Unlock()
	if kv != nil {
		return kv, nil
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	kv, err := b.js.KeyValue(ctx, StatusBucket)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", StatusBucket, err)
	}
	b.mu.Lock()
	b.kv = kv
	b.mu.Unlock()
	return kv, nil
}

// PutStatus writes a job into the read model, unless what is there is newer
// (by version, then progress): the projection may see events twice or late. It
// fails at once when NATS is not connected; a bucket that has vanished is made
// again, for the caller's next try.
func (b *Bus) PutStatus(ctx context.Context, v *videov1.Video) error {
	kv, err := b.status(ctx)
	if err != nil {
		return err
	}
	data, err := proto.Marshal(v)
	if err != nil {
		return fmt.Errorf("marshal status: %w", err)
	}
	for {
		again, err := putStatus(ctx, kv, token(v.GetId()), v, data)
		if err == nil {
			return nil
		}
		if noStream(err) {
			b.mend(ctx)
		}
		if !again || ctx.Err() != nil {
			return fmt.Errorf("write status: %w", err)
		}
	}
}

// putStatus tries once; again says that another writer was faster.
func putStatus(ctx context.Context, kv jetstream.KeyValue, key string, v *videov1.Video, data []byte) (again bool, err error) {
	entry, err := getStatus(ctx, kv, key)
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	switch {
	case notFound(err):
		_, err = kv.Create(ctx, key, data)
	case err == nil:
		var old videov1.Video
		if proto.Unmarshal(entry.Value(), &old) == nil &&
			(old.GetVersion() > v.GetVersion() || old.GetVersion() == v.GetVersion() && old.GetProgress() > v.GetProgress()) {
			return false, nil
		}
		_, err = kv.Update(ctx, key, data, entry.Revision())
	}
	return isConflict(err), err
}

func getStatus(ctx context.Context, kv jetstream.KeyValue, key string) (jetstream.KeyValueEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	return kv.Get(ctx, key)
}

// Status reads a job from the read model; false when it is not there (any
// more) and Postgres must be asked. It fails at once when NATS is not
// connected, and within a moment when it does not answer.
func (b *Bus) Status(ctx context.Context, jobID string) (*videov1.Video, bool, error) {
	kv, err := b.status(ctx)
	if err != nil {
		return nil, false, err
	}
	entry, err := getStatus(ctx, kv, token(jobID))
	if notFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read status: %w", err)
	}
	var v videov1.Video
	if err := proto.Unmarshal(entry.Value(), &v); err != nil {
		return nil, false, fmt.Errorf("unmarshal status %s: %w", strconv.Quote(jobID), err)
	}
	return &v, true, nil
}

// Forget removes what the bus still holds of a job: its entry in the read model
// and its events. It is for jobs that are final and erased.
func (b *Bus) Forget(ctx context.Context, accountID, jobID string) error {
	kv, err := b.status(ctx)
	if err != nil {
		return err
	}
	if err := kv.Purge(ctx, token(jobID)); err != nil && !notFound(err) {
		return fmt.Errorf("forget status: %w", err)
	}
	s, err := b.js.Stream(ctx, StreamEvents)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", StreamEvents, err)
	}
	if err := s.Purge(ctx, jetstream.WithPurgeSubject("job."+token(accountID)+"."+token(jobID)+".>")); err != nil {
		return fmt.Errorf("forget events: %w", err)
	}
	return nil
}
