package reelway

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"reelway.dev/pkg/bucket"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/postgres"
	"reelway.dev/services/ledger"
)

// oldestPostgres is the oldest version that Reelway is tested on.
const oldestPostgres = 150000

func (c *checkup) database(ctx context.Context) []Check {
	const reach = "postgres"
	url := c.DatabaseURL
	if url == "" {
		var running bool
		if url, running = postgres.Running(filepath.Join(c.DataDir, "postgres")); !running {
			return []Check{skip(reach, "REELWAY_DATABASE_URL is empty and no all-in-one runs on %s, whose PostgreSQL starts and ends with it", c.DataDir)}
		}
	}
	pool, err := postgres.Open(ctx, url, 2)
	if err != nil {
		return []Check{fail(reach, "check REELWAY_DATABASE_URL, that the server runs, and that it lets this machine and user in", "%v", err)}
	}
	defer pool.Close()
	st, err := postgres.Inspect(ctx, pool, ledger.Migrations())
	if err != nil {
		return []Check{fail(reach, "let the user read its own schema", "%v", err)}
	}
	c.clocks.tell("postgres", st.Ahead)
	out := []Check{ok(reach, "PostgreSQL %s", postgres.Version(st.Version))}
	if st.Version < oldestPostgres {
		out[0] = warn(reach, "upgrade PostgreSQL", "PostgreSQL %s is older than %s, which is the oldest that is tested", postgres.Version(st.Version), postgres.Version(oldestPostgres))
	}
	const migrations = "postgres.migrations"
	switch {
	case len(st.Changed) > 0:
		out = append(out, fail(migrations, "run the version that this database belongs to; the ledger refuses to start on it", "applied with another text: %s", strings.Join(st.Changed, " ")))
	case len(st.Missing) > 0:
		out = append(out, warn(migrations, "start the ledger of this version: it applies them while the old one goes on", "not applied: %s", strings.Join(st.Missing, " ")))
	case len(st.Newer) > 0:
		out = append(out, warn(migrations, "this program is older than the database; that works, but upgrade it", "of a newer version: %s", strings.Join(st.Newer, " ")))
	default:
		out = append(out, ok(migrations, "all are applied"))
	}
	return out
}

// A consumer with more waiting than this is behind, not busy.
const lagWarn = 1000

func (c *checkup) broker(ctx context.Context) []Check {
	const reach = "nats"
	if c.NATSURL == "" {
		return []Check{skip(reach, "REELWAY_NATS_URL is empty: NATS is inside the all-in-one, whose /readyz tells of it")}
	}
	cfg := c.bus
	cfg.URL = c.NATSURL
	nc, err := cfg.Dial(nats.Name("reelway doctor"), nats.CustomInboxPrefix("_INBOX.doctor"), nats.Timeout(5*time.Second), nats.NoReconnect())
	if err != nil {
		return []Check{fail(reach, "check REELWAY_NATS_URL, REELWAY_NATS_CREDS and the certificates, and that the server runs", "%v", err)}
	}
	defer nc.Close()
	b, err := bus.New(nc)
	if err != nil {
		return []Check{fail(reach, "", "%v", err)}
	}
	srv, err := b.Server(ctx)
	if err != nil {
		return []Check{fail(reach, "start the server with JetStream (-js), and enable it for this account", "NATS %s: %v", srv.Version, err)}
	}
	out := []Check{ok(reach, "NATS %s with JetStream, round trip %s", srv.Version, srv.RTT.Round(10*time.Microsecond))}
	if !since(srv.Version, 2, 12) {
		out[0] = fail(reach, "upgrade NATS", "NATS %s is older than 2.12, which has the schedules and counters that Reelway uses", srv.Version)
	}
	found, err := b.Inspect(ctx, max(c.bus.Replicas, 1), c.consumers()...)
	if err != nil {
		return append(out, fail("nats.streams", "allow the account to read its streams and consumers", "%v", err))
	}
	for _, f := range found {
		out = append(out, judge(f))
	}
	return out
}

// judge is the verdict on a stream or a consumer.
func judge(f bus.Finding) Check {
	name, consumer := "nats."+f.Name, strings.Contains(f.Name, "/")
	switch {
	case f.Missing && consumer:
		return warn(name, "start the service that reads by it, once", "there is none")
	case f.Missing:
		return fail(name, "start any service: it makes what is missing; the ledger publishes again what was lost", "there is none")
	case len(f.Differs) > 0:
		return fail(name, "restart a service, which corrects what can be changed; otherwise delete it: the ledger publishes again what was lost", "%s", strings.Join(f.Differs, "; "))
	case f.Name == bus.StreamDead && f.Waiting > 0:
		return warn(name, "look at the messages (nats stream view DEAD): each is something that no service could handle", "%d dead letters", f.Waiting)
	case consumer && f.Waiting > lagWarn:
		return warn(name, "look whether the service runs and its neighbours answer; add replicas", "%d messages wait", f.Waiting)
	case consumer:
		return ok(name, "%d messages wait", f.Waiting)
	}
	return ok(name, "%d messages", f.Waiting)
}

// consumers are all that the services of this installation read by.
func (c *checkup) consumers() []bus.Consumer {
	out := []bus.Consumer{bus.ObservationConsumer, bus.ArchiveConsumer, bus.DeleteConsumer, bus.ProjectionConsumer}
	for _, name := range slices.Sorted(maps.Keys(c.open.Keys)) {
		out = append(out, bus.SubmitConsumer(name), bus.PollConsumer(name))
	}
	return out
}

// since reports whether a version is major.minor or later.
func since(version string, major, minor int) bool {
	a, rest, _ := strings.Cut(version, ".")
	b, _, _ := strings.Cut(rest, ".")
	x, err1 := strconv.Atoi(a)
	y, err2 := strconv.Atoi(b)
	return err1 == nil && err2 == nil && (x > major || x == major && y >= minor)
}

func (c *checkup) storage(ctx context.Context) []Check {
	const name = "bucket"
	cfg := c.Bucket
	if cfg.URL == "" {
		cfg.URL = "file://" + filepath.ToSlash(filepath.Join(c.DataDir, "bucket"))
	}
	if path, folder := strings.CutPrefix(cfg.URL, "file://"); folder {
		if !exists(filepath.FromSlash(path)) {
			return []Check{skip(name, "the folder %s is made at the first start", path)}
		}
		// Whoever signs reads: the secret of the check is its own.
		cfg.PublicURL, cfg.Secret = first(cfg.PublicURL, c.PublicURL, "http://localhost"), rand.Text()+rand.Text()
	}
	files, err := bucket.Open(ctx, cfg)
	if err != nil {
		return []Check{fail(name, "correct REELWAY_BUCKET_URL; docs/storage.md has its parameters", "%v", err)}
	}
	defer func() { _ = files.Close() }()
	var out []Check
	clock := &dated{tell: func(ahead time.Duration) { c.clocks.tell("bucket", ahead) }}
	for _, s := range files.Check(ctx, &http.Client{Timeout: 15 * time.Second, Transport: clock}) {
		if s.Err != nil {
			out = append(out, fail(name+"."+s.Name, s.Fix, "%v", s.Err))
		} else {
			out = append(out, ok(name+"."+s.Name, "%s", first(s.Detail, "works")))
		}
	}
	return out
}

// dated is a client that reads the clock of who answers, to the second.
type dated struct{ tell func(ahead time.Duration) }

// RoundTrip implements http.RoundTripper.
func (d *dated) RoundTrip(r *http.Request) (*http.Response, error) {
	sent := time.Now()
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if t, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		// It was written between sent and now, and is cut to the second: no more
		// than that is told.
		d.tell(max(time.Until(t), 0) + min(t.Add(time.Second).Sub(sent), 0))
	}
	return resp, nil
}

// bare is an address without what may be secret in it.
func bare(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "an address that is no URL"
	}
	return fmt.Sprintf("%s://%s", u.Scheme, u.Host)
}
