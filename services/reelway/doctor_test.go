package reelway_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/natstest"
	"reelway.dev/pkg/pgtest"
	"reelway.dev/pkg/storetest"
	"reelway.dev/services/ledger"
	"reelway.dev/services/reelway"
)

// verdicts are a diagnosis by name; each that is not well says what to do.
func verdicts(t *testing.T, environ ...string) map[string]reelway.Check {
	t.Helper()
	out := map[string]reelway.Check{}
	for _, c := range reelway.Diagnose(t.Context(), environ) {
		if _, twice := out[c.Name]; twice {
			t.Errorf("%s is there twice", c.Name)
		}
		if (c.Verdict == reelway.Warn || c.Verdict == reelway.Fail) == (c.Fix == "") || c.Detail == "" {
			t.Errorf("%+v", c)
		}
		out[c.Name] = c
	}
	return out
}

func expect(t *testing.T, got map[string]reelway.Check, name string, want reelway.Verdict, detail string) {
	t.Helper()
	if c, there := got[name]; !there || c.Verdict != want || !strings.Contains(c.Detail, detail) {
		t.Errorf("%s: %+v, want %s with %q", name, c, want, detail)
	}
}

// provided is a provider's API: Atlas Cloud's, which knows one key and no task.
func provided(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet:
			t.Errorf("the doctor sent %s %s", r.Method, r.URL.Path)
		case r.Header.Get("Authorization") != "Bearer right":
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// A running installation is well, from the database to the callbacks; then each
// of its parts is spoiled, and the doctor names it.
func TestDoctor(t *testing.T) {
	t.Parallel()
	pool, broker, files, atlas := pgtest.New(t, ledger.Migrations()), natstest.NewServer(t), storetest.NewS3(t), provided(t)
	environ := []string{"REELWAY_HTTP_ADDR=127.0.0.1:0", "REELWAY_GRPC_ADDR=127.0.0.1:0", "REELWAY_OPS_ADDR=127.0.0.1:0", "REELWAY_DATA_DIR=" + dataDir(t),
		"REELWAY_DATABASE_URL=" + pool.Config().ConnString(), "REELWAY_NATS_URL=" + broker.URL(), "REELWAY_BUCKET_URL=" + files.URL,
		"REELWAY_ATLASCLOUD_URL=" + atlas, "REELWAY_ATLASCLOUD_KEY=right"}
	s, stop := launch(t, environ, slog.New(slog.DiscardHandler))
	t.Cleanup(stop)
	environ = append(environ, "REELWAY_PUBLIC_URL="+s.HTTPURL)
	var got map[string]reelway.Check
	soon(t, "every consumer is there", func() bool {
		got = verdicts(t, environ...)
		for name, c := range got {
			if c.Verdict == reelway.Fail || c.Verdict != reelway.OK && name != "callbacks" {
				return false
			}
		}
		return true
	})
	for name, detail := range map[string]string{"settings": "", "postgres": "PostgreSQL", "postgres.migrations": "all", "nats": "JetStream", "nats.JOBS": "", "nats.EVENTS": "", "nats.KV_job_status": "",
		"nats.OBSERVATIONS/ledger": "", "nats.JOBS/submit-atlascloud": "", "bucket.write": "", "bucket.signed_read": "", "bucket.unsigned_read": "refused", "bucket.delete": "",
		"provider.atlascloud.default": "404", "clock": "postgres"} {
		expect(t, got, name, reelway.OK, detail)
	}
	expect(t, got, "callbacks", reelway.Warn, "private")

	if _, err := pool.Exec(t.Context(), "delete from migration where name like '0015%'; insert into migration (name) values ('9999_of_tomorrow.sql')"); err != nil {
		t.Fatal(err)
	}
	js := broker.Bus().JetStream()
	jobs, err := js.Stream(t.Context(), bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	cfg := jobs.CachedInfo().Config
	cfg.MaxAge = 0
	if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), bus.StreamLimits); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "dead.ledger.x", nil); err != nil {
		t.Fatal(err)
	}
	files.Publish(t)
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(elsewhere.Close)
	got = verdicts(t, append(environ, "REELWAY_ATLASCLOUD_KEY=wr0ng", "REELWAY_PUBLIC_URL="+elsewhere.URL)...)
	expect(t, got, "postgres.migrations", reelway.Warn, "0015_retain_by_account.sql")
	expect(t, got, "nats.EVENTS", reelway.Fail, "max_age is 0s, should be 72h0m0s")
	expect(t, got, "nats.LIMITS", reelway.Fail, "there is none")
	expect(t, got, "nats.DEAD", reelway.Warn, "1 dead letters")
	expect(t, got, "bucket.unsigned_read", reelway.Fail, "anybody")
	expect(t, got, "provider.atlascloud.default", reelway.Fail, "refused with status 401")
	expect(t, got, "callbacks", reelway.Fail, "not as a Reelway does")
	for _, c := range got {
		if strings.Contains(c.Detail+c.Fix, "wr0ng") {
			t.Errorf("a key is in %+v", c)
		}
	}
	if _, err := js.Stream(t.Context(), bus.StreamLimits); err == nil || !strings.Contains(err.Error(), jetstream.ErrStreamNotFound.Error()) {
		t.Errorf("the doctor made what was missing: %v", err)
	}
}

// The private PostgreSQL of an all-in-one is found while it runs.
func TestDoctorOfAnAllInOne(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	_, stop := start(t, dir)
	got := verdicts(t, "REELWAY_DATA_DIR="+dir)
	expect(t, got, "postgres", reelway.OK, "PostgreSQL")
	expect(t, got, "postgres.migrations", reelway.OK, "all")
	expect(t, got, "bucket.delete", reelway.OK, "")
	stop()
	expect(t, verdicts(t, "REELWAY_DATA_DIR="+dir), "postgres", reelway.Skip, "no all-in-one runs")
}

// Nobody is there: each neighbour fails by itself, within its time.
func TestDoctorFindsNobody(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(nil)
	gone.Close()
	host := strings.TrimPrefix(gone.URL, "http://")
	storetest.Credentials(t)
	got := verdicts(t, "REELWAY_DATABASE_URL=postgres://"+host+"/none?connect_timeout=5", "REELWAY_NATS_URL=nats://"+host, "REELWAY_PUBLIC_URL="+gone.URL,
		"REELWAY_BUCKET_URL=gs://no such bucket", "REELWAY_ATLASCLOUD_URL="+gone.URL, "REELWAY_ATLASCLOUD_KEY=k")
	for _, name := range []string{"postgres", "nats", "bucket", "callbacks", "provider.atlascloud.default"} {
		expect(t, got, name, reelway.Fail, "")
	}
	expect(t, got, "clock", reelway.Skip, "nobody")
	got = verdicts(t, "REELWAY_NO_SUCH=1")
	if len(got) != 1 {
		t.Errorf("%v", got)
	}
	expect(t, got, "settings", reelway.Fail, "REELWAY_NO_SUCH")
}

// The doctor runs in any service's environment: it knows every setting there is.
func TestDoctorKnowsEverySetting(t *testing.T) {
	t.Parallel()
	tag := regexp.MustCompile(`env:"(REELWAY_[A-Z0-9_]+)"`)
	var environ []string
	for _, dir := range []string{"../../pkg", ".."} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range tag.FindAllSubmatch(text, -1) {
				environ = append(environ, string(m[1])+"=?")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(environ) < 100 {
		t.Fatalf("only %d settings were found", len(environ))
	}
	// Their values are refused, so nothing else is checked.
	c := verdicts(t, environ...)["settings"]
	for fault := range strings.SplitSeq(c.Detail, "; ") {
		if strings.Contains(fault, "no such setting") {
			t.Errorf("%s (settings of one service's main belong into the list in doctor.go)", fault)
		}
	}
}

// Before the first start nothing is wrong, and nothing is made. The command
// tells it to people and to programs, and fails when a check does.
func TestDoctorCommand(t *testing.T) { //nolint:paralleltest // it reads the process's environment
	dir := filepath.Join(t.TempDir(), "data")
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "REELWAY_") {
			t.Setenv(name, "")
			_ = os.Unsetenv(name)
		}
	}
	var out, errs bytes.Buffer
	if code := reelway.Main([]string{"doctor", "--data-dir", dir}, &out, &errs); code != 0 || errs.Len() > 0 {
		t.Errorf("code %d: %s%s", code, &out, &errs)
	}
	for _, want := range []string{"ok    settings", "skip  postgres", "skip  nats", "skip  bucket", "warn  providers", "-> set REELWAY_<PROVIDER>_KEY", "warn  callbacks"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the doctor made the data directory")
	}
	if err := os.MkdirAll(filepath.Join(dir, "bucket"), 0o700); err != nil {
		t.Fatal(err)
	}
	out.Reset()
	if code := reelway.Main([]string{"doctor", "--json", "--data-dir", dir, "--database-url", "postgres://127.0.0.1:1/none"}, &out, &errs); code != 1 || !strings.Contains(errs.String(), "1 of ") {
		t.Errorf("code %d: %s%s", code, &out, &errs)
	}
	var r struct {
		OK     bool
		Checks []reelway.Check
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.OK || len(r.Checks) < 9 {
		t.Errorf("%v %s", err, &out)
	}
	for _, c := range r.Checks {
		if strings.HasPrefix(c.Name, "bucket.") && c.Verdict != reelway.OK {
			t.Errorf("%+v", c)
		}
	}
}
