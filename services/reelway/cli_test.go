package reelway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"reelway.dev/pkg/videojson"
	"reelway.dev/services/reelway"
)

// The test binary is the command when it is asked to: what a shell sees, streams
// and exit codes, is tested as a shell sees it.
func init() {
	if os.Getenv("AS_REELWAY_COMMAND") == "1" {
		os.Exit(reelway.Main(os.Args[1:], os.Stdout, os.Stderr))
	}
}

// person runs commands in an environment of its own.
type person struct {
	t   *testing.T
	env []string
	dir string
}

func newPerson(t *testing.T, env ...string) person {
	t.Helper()
	dir := t.TempDir()
	return person{t, append([]string{"AS_REELWAY_COMMAND=1", "HOME=" + dir, "XDG_CONFIG_HOME=" + filepath.Join(dir, "config"), "TERM=xterm"}, env...), dir}
}

func (p person) command(args ...string) *exec.Cmd {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	p.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env, cmd.Dir = p.env, p.dir
	return cmd
}

// said is what a command left.
type said struct {
	code     int
	out, err string
}

func (p person) run(stdin string, args ...string) said {
	p.t.Helper()
	cmd := p.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return said{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// must runs a command that has to succeed, and returns its output.
func (p person) must(args ...string) string {
	p.t.Helper()
	s := p.run("", args...)
	if s.code != 0 {
		p.t.Fatalf("%v: %+v", args, s)
	}
	return s.out
}

// fails checks a command's exit code and that nothing of its words is in its
// output.
func (p person) fails(code int, message string, args ...string) {
	p.t.Helper()
	s := p.run("", args...)
	if s.code != code || !strings.Contains(s.err, message) || s.out != "" {
		p.t.Errorf("%v: %+v; want %d and …%s…", args, s, code, message)
	}
}

var videoID = regexp.MustCompile(`^video_[0-9a-f-]{36}\n$`)

//nolint:paralleltest // the telemetry is the process's
func TestCommandsForPeople(t *testing.T) {
	st, stop := start(t, dataDir(t))
	defer stop()
	p := newPerson(t, "REELWAY_URL="+st.HTTPURL, "REELWAY_API_KEY="+st.APIKey)

	// A quote holds nothing.
	if s := p.run("", "quote", "A boat", "-m", "kling-v2-6", "--seconds", "5"); s.code != 0 || !strings.Contains(s.out, "0.210000") || !strings.Contains(s.err, "kling-v2-6, 5 s") {
		t.Errorf("quote: %+v", s)
	}
	if s := p.run("", "quote", "-m", "kling-v2-6", "--json"); s.code != 0 || s.err != "" || !strings.Contains(s.out, `"total":"0.210000"`) {
		t.Errorf("quote --json: %+v", s)
	}
	if out := p.must("balance"); !strings.Contains(out, "available      100.000000\nheld           0.000000") {
		t.Errorf("balance: %q", out)
	}

	// The prompt comes from stdin; the output is the id and nothing else.
	s := p.run("A paper boat\n in the rain", "submit", "-m", "kling-v2-6", "-s", "5", "--user", "ada", "--metadata", "order=1", "--once", "k1")
	if s.code != 0 || !videoID.MatchString(s.out) || !strings.Contains(s.err, "submitted video_") || !strings.Contains(s.err, "0.210000 credits are held") {
		t.Fatalf("submit: %+v", s)
	}
	id := strings.TrimSpace(s.out)
	// The same key and request are the same video, another request a refusal.
	if again := p.run("A paper boat\n in the rain", "submit", "-m", "kling-v2-6", "-s", "5", "--user", "ada", "--metadata", "order=1", "--once", "k1"); again.out != s.out {
		t.Errorf("again: %+v", again)
	}
	p.fails(4, "conflict: this Idempotency-Key was used before", "submit", "other", "-m", "kling-v2-6", "--once", "k1")

	// Watching to a pipe: changes on stderr without bar and colour, the state on stdout.
	s = p.run("", "watch", id)
	if s.code != 0 || s.out != "succeeded\n" || !strings.Contains(s.err, "100 %  succeeded") || strings.ContainsAny(s.err, "█\r\x1b") {
		t.Errorf("watch: %+v", s)
	}
	// Each change is a line of JSON.
	s = p.run("", "watch", id, "--json")
	var last struct{ ID, State string }
	lines := strings.Split(strings.TrimSpace(s.out), "\n")
	if json.Unmarshal([]byte(lines[len(lines)-1]), &last) != nil || last.ID != id || last.State != "succeeded" || s.err != "" {
		t.Errorf("watch --json: %+v", s)
	}

	out := p.must("show", id)
	for _, want := range []string{"prompt    A paper boat  in the rain", "user      ada", "quoted 0.210000, held 0.000000, captured 0.210000", "video/mp4", "works until", "submitted  0.210000 credits held", "attempt 1  begun at kling", "attempt 1  succeeded", "succeeded  0.210000 credits captured"} {
		if !strings.Contains(out, want) {
			t.Errorf("show: %q is not in\n%s", want, out)
		}
	}
	if i, j, k := strings.Index(out, "submitted  0."), strings.Index(out, "attempt 1  begun"), strings.Index(out, "credits captured"); i < 0 || i > j || j > k {
		t.Errorf("the timeline is not in order:\n%s", out)
	}

	// Submit, watch, save.
	dir := t.TempDir()
	s = p.run("", "submit", "A boat", "-m", "kling-v2-6", "--watch", "--out", dir)
	name := strings.TrimSpace(s.out)
	if st, err := os.Stat(name); s.code != 0 || err != nil || st.Size() < 1000 || filepath.Dir(name) != dir || !strings.Contains(s.err, "saved ") {
		t.Errorf("submit --watch: %+v, %v", s, err)
	}
	s = p.run("", "submit", "A boat", "-m", "kling-v2-6", "-w", "-o", filepath.Join(dir, "boat.mp4"), "--json")
	var done struct{ ID, State, File string }
	if s.code != 0 || json.Unmarshal([]byte(s.out), &done) != nil || done.State != "succeeded" || done.File != filepath.Join(dir, "boat.mp4") || strings.Count(s.out, "\n") != 1 {
		t.Errorf("submit --watch --json: %+v", s)
	}
	if _, err := os.Stat(done.File); err != nil {
		t.Error(err)
	}

	// Lists and their filters.
	if out := p.must("jobs"); strings.Count(out, "succeeded") != 3 || !strings.HasPrefix(out, "VIDEO ") || strings.Contains(out, "\x1b") {
		t.Errorf("jobs:\n%s", out)
	}
	if out := p.must("jobs", "--user", "ada", "--ids"); out != id+"\n" {
		t.Errorf("jobs --ids: %q", out)
	}
	if s := p.run("", "jobs", "-n", "1", "--oldest"); !strings.Contains(s.out, id) || !strings.Contains(s.err, "more: --after "+id) {
		t.Errorf("one page: %+v", s)
	}
	if out := p.must("jobs", "--state", "failed", "--json"); !strings.Contains(out, `"data":[]`) {
		t.Errorf("jobs --json: %s", out)
	}
	if s := p.run("", "usage", "--by", "model"); s.code != 0 || !strings.Contains(s.out, "kling-v2-6  3       3          15       0.630000  100.0 %") || !strings.Contains(s.err, "from ") {
		t.Errorf("usage: %+v", s)
	}

	// Exit codes.
	p.fails(4, "not_found: no such video", "show", "video_0")
	p.fails(4, id+": conflict: ", "cancel", id)
	p.fails(4, "notify_email: must be an e-mail address", "submit", "p", "-m", "kling-v2-6", "--notify-email", "Ada <ada@example.com>")
	p.fails(4, "max_cost: this video costs 0.210000", "submit", "p", "-m", "kling-v2-6", "--max-cost", "0.1")
	p.fails(2, "nothing to show", "submit", "-m", "kling-v2-6")
	p.fails(2, "missing flags: --model", "submit", "p")
	p.fails(2, "missing flags: --model", "submit", "p", "--remix", "https://v.example/a.mp4")
	p.fails(2, "can't be used together", "submit", "p", "--remix", "video_1", "--extend", "video_1")
	p.fails(4, "video: there is no such video", "submit", "p", "--extend", "video_absent")
	p.fails(4, "video_url: kling-v2-6 offers no extend", "submit", "p", "-m", "kling-v2-6", "--extend", "https://v.example/a.mp4")
	p.fails(4, "video_url: kling-v2-6 offers no video-to-video", "quote", "p", "-m", "kling-v2-6", "--remix", "https://v.example/a.mp4")
	p.fails(2, "is no HTTP address", "balance", "--url", st.GRPCAddr)
	p.fails(4, "unauthenticated: ", "balance", "--key", "wrong-key-of-12")
	nobody := newPerson(t)
	nobody.fails(2, "no API key for http://127.0.0.1:8080: set REELWAY_API_KEY", "balance")
	nobody.fails(5, "does not answer; is Reelway up", "balance", "--url", "http://"+closedPort(t), "--key", st.APIKey)
	s = nobody.run("", "submit", "p", "-m", "kling-v2-6", "--url", "http://"+closedPort(t), "--key", st.APIKey)
	if s.code != 5 || !regexp.MustCompile(`repeat the command with --once cli_[0-9a-f-]+: `).MatchString(s.err) {
		t.Errorf("unknown outcome: %+v", s)
	}
	// What the provider refuses by its rules.
	s = p.run("", "submit", "[fault:policy]", "-m", "kling-v2-6", "--watch")
	if s.code != 3 || s.out != "" || !strings.Contains(s.err, "the video failed: ") {
		t.Errorf("a failure: %+v", s)
	}
	// What no provider has begun can be canceled: here it waits for a minute.
	resp, err := http.Post(st.SimURL+"/admin/faults", "application/json", strings.NewReader(`{"provider":"kling","fault":"rate_limit","count":1000,"retry_after":60}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	id = strings.TrimSpace(p.must("submit", "A boat", "-m", "kling-v2-6"))
	soon(t, "canceled", func() bool { // while the provider is being asked, the wish is noted
		s = p.run("", "cancel", id)
		return s.code == 0 && s.out != id+"  submitting\n"
	})
	if s.out != id+"  canceled\n" || s.err != "" {
		t.Errorf("cancel: %+v", s)
	}
	if s := p.run("", "watch", id); s.code != 3 || s.out != "" || !strings.Contains(s.err, "the video canceled: canceled by the caller") {
		t.Errorf("watch of a canceled video: %+v", s)
	}
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// A terminal gets a bar, colours, and none of them when NO_COLOR is set.
//
//nolint:paralleltest // the telemetry is the process's
func TestATerminalGetsABarAndColours(t *testing.T) {
	st, stop := start(t, dataDir(t))
	defer stop()
	p := newPerson(t, "REELWAY_URL="+st.HTTPURL, "REELWAY_API_KEY="+st.APIKey)
	on := func(p person, args ...string) string {
		t.Helper()
		f, err := pty.Start(p.command(args...))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		data, err := io.ReadAll(f) // ends by EIO when the command does
		if err != nil && !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		return string(data)
	}
	out := on(p, "submit", "A boat", "-m", "kling-v2-6", "--watch")
	if !strings.Contains(out, "\r[") || !strings.Contains(out, strings.Repeat("█", 24)+"] 100 %  succeeded") || !strings.Contains(out, ".mp4") {
		t.Errorf("%q", out)
	}
	if out := on(p, "jobs"); !strings.Contains(out, "\x1b[32msucceeded\x1b[0m") {
		t.Errorf("%q", out)
	}
	plain := p
	plain.env = append(slices.Clone(p.env), "NO_COLOR=1")
	if out := on(plain, "jobs"); strings.Contains(out, "\x1b") || !strings.Contains(out, "succeeded") {
		t.Errorf("%q", out)
	}
}

// cutter is a proxy that cuts every connection off once.
type cutter struct {
	*httptest.Server
	mu   sync.Mutex
	cuts int
}

// A connection that breaks is made again, and Ctrl-C says how to go on.
//
//nolint:paralleltest // the telemetry is the process's
func TestAWatchOutlivesItsConnection(t *testing.T) {
	st, stop := start(t, dataDir(t))
	defer stop()
	to, err := url.Parse(st.HTTPURL)
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{}
	proxy := httputil.NewSingleHostReverseProxy(to)
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.cuts++
		cut := r.URL.Path == "/v1/stream" && c.cuts <= 3
		c.mu.Unlock()
		if cut {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	defer c.Close()
	p := newPerson(t, "REELWAY_URL="+st.HTTPURL, "REELWAY_API_KEY="+st.APIKey)
	id := strings.TrimSpace(p.must("submit", "A boat", "-m", "kling-v2-6"))
	if s := p.run("", "watch", id, "--url", c.URL, "--key", st.APIKey); s.code != 0 || s.out != "succeeded\n" {
		t.Errorf("%+v", s)
	}
	c.mu.Lock()
	if c.cuts < 4 {
		t.Errorf("%d connections", c.cuts)
	}
	c.mu.Unlock()

	// A server that never tells: the watch goes on until it is interrupted.
	silent := make(chan struct{}, 1)
	mute := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		silent <- struct{}{}
		<-r.Context().Done()
	}))
	defer mute.Close()
	cmd := p.command("watch", id, "--url", mute.URL, "--key", st.APIKey)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-silent
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 || !strings.Contains(errs.String(), "watch it again by: reelway watch "+id) {
		t.Errorf("interrupted: %d %s", code, errs.String())
	}
}

// keyed answers every request with the key that it came with.
func keyed(t *testing.T, name string) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"available":%q,"held":"0","granted":"0"}`, name+" "+r.Header.Get("Authorization"))
	}))
	t.Cleanup(srv.Close)
	return srv
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	a, b := keyed(t, "a"), keyed(t, "b")
	p := newPerson(t)
	p.fails(2, "there is no profile \"a\"", "profiles", "use", "a")
	p.fails(2, "--url: ", "profiles", "set", "a", "--url", "127.0.0.1:9090")
	if s := p.run("rw_key_of_a\n", "profiles", "set", "a", "--url", a.URL, "--key", "-"); s.code != 0 || s.out != "" {
		t.Fatalf("%+v", s)
	}
	file := filepath.Join(p.dir, "b.key")
	if err := os.WriteFile(file, []byte("rw_key_of_b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.must("profiles", "set", "b", "--url", b.URL, "--key-file", file)
	path := filepath.Join(p.dir, "config", "reelway", "config.yaml")
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	// The first is the current one; keys are not shown.
	if out := p.must("profiles", "list"); !strings.Contains(out, "*  a        "+a.URL+"  kept here") || !strings.Contains(out, "in "+file) || strings.Contains(out, "rw_key") {
		t.Errorf("%s", out)
	}
	balance := func(p person, want string, args ...string) {
		t.Helper()
		if out := p.must(append([]string{"balance"}, args...)...); !strings.Contains(out, want) {
			t.Errorf("%v: %q, not %q", args, out, want)
		}
	}
	balance(p, "a Bearer rw_key_of_a")
	balance(p, "b Bearer rw_key_of_b", "--profile", "b")
	p.must("profiles", "use", "b")
	balance(p, "b Bearer rw_key_of_b")
	balance(p, "b Bearer other", "--key", "other")
	// The environment is before the current profile, and a profile that is named
	// before the environment: no key goes where it does not belong.
	set := p
	set.env = append(slices.Clone(p.env), "REELWAY_URL="+a.URL, "REELWAY_API_KEY=from_env")
	balance(set, "a Bearer from_env")
	balance(set, "b Bearer rw_key_of_b", "--profile", "b")
	named := p
	named.env = append(slices.Clone(p.env), "REELWAY_PROFILE=a")
	balance(named, "a Bearer rw_key_of_a")
	p.fails(2, "no API key for "+a.URL, "balance", "--url", a.URL)
	p.fails(2, "there is no profile \"c\"", "balance", "--profile", "c")
	// Setting again changes what is given.
	p.must("profiles", "set", "b", "--url", a.URL)
	balance(p, "a Bearer rw_key_of_b")
	// A key that others may read is not used.
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	p.fails(1, "is open to other users; run: chmod 600", "balance")
	if err := os.WriteFile(path, []byte("actual: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.fails(1, "config.yaml cannot be read", "balance")
}

func TestHelpAndCompletion(t *testing.T) {
	t.Parallel()
	p := newPerson(t)
	// Every verb for people has examples.
	for _, verb := range []string{"submit", "jobs", "show", "cancel", "watch", "quote", "balance", "usage", "profiles list", "profiles set", "profiles use", "completion"} {
		if out := p.must(append(strings.Fields(verb), "--help")...); !strings.Contains(out, "Example") || !strings.Contains(out, "reelway "+verb) && verb != "completion" {
			t.Errorf("%s --help:\n%s", verb, out)
		}
	}
	for line, want := range map[string]string{
		"":                    "submit",
		"ca":                  "cancel",
		"profiles ":           "list\nset\nuse\n",
		"jobs --st":           "--state\n",
		"jobs --state ru":     "running\n",
		"jobs --state queued": "queued\n",
		"submit -m x --wat":   "--watch\n",
		"usage --by pro":      "provider\n",
		"completion ":         "bash\nzsh\nfish\n",
		"show --json vid":     "",
	} {
		out := p.must(append([]string{"__complete"}, strings.Split(line, " ")...)...)
		if want == "submit" || want == "cancel" {
			if !slices.Contains(strings.Split(out, "\n"), want) {
				t.Errorf("%q: %q", line, out)
			}
		} else if out != want {
			t.Errorf("%q: %q, not %q", line, out, want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := p.must("completion", shell); !strings.Contains(out, "reelway __complete") {
			t.Errorf("%s", out)
		}
	}
	// bash itself completes by the script.
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(p.dir, "reelway")
	self, err := filepath.Abs(os.Args[0])
	if err == nil {
		err = os.Symlink(self, link)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bash, "-c", `source <(reelway completion bash); COMP_WORDS=(reelway jobs --state su); COMP_CWORD=3; _reelway; echo "${COMPREPLY[*]}"`)
	cmd.Env = append(slices.Clone(p.env), "PATH="+p.dir+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "submitting succeeded\n" {
		t.Errorf("%q %v", out, err)
	}
}

// What became of a video's webhooks stands in its timeline; that they are of
// another version's server does not matter.
func TestShowTellsOfWebhooks(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v1/videos/video_1":
			_, _ = io.WriteString(w, `{"id":"video_1","state":"succeeded","status":"completed","created_at":1764000000,"completed_at":1764000060,"cost":{"captured":"0.210000","captured_micros":210000}}`)
		case r.URL.Path == "/v1/webhook_deliveries" && r.URL.Query().Get("video") == "video_1":
			_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"whd_2","endpoint":"whe_2","type":"video.completed","state":"pending","attempts":3,"occurred_at":1764000061,"next_attempt_at":1764003600},
				{"id":"whd_1","endpoint":"whe_1","type":"video.running","state":"delivered","attempts":1,"occurred_at":1764000001,"ended_at":1764000002}]}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer srv.Close()
	p := newPerson(t, "REELWAY_URL="+srv.URL, "REELWAY_API_KEY=rw_key_of_a_test")
	out := p.must("show", "video_1")
	last := -1
	for _, want := range []string{"submitted", "2025-11-24 16:00:02Z  webhook    video.running to whe_1: delivered, 1 attempts", "0.210000 credits captured", "webhook    video.completed to whe_2: pending, 3 attempts, the next at 2025-11-24 17:00:00Z"} {
		i := strings.Index(out, want)
		if i <= last {
			t.Errorf("%q is missing, or not in order:\n%s", want, out)
		}
		last = i
	}
	if out := p.must("show", "video_1", "--json"); !strings.Contains(out, `"webhook_deliveries":[{"id":"whd_2"`) {
		t.Errorf("%s", out)
	}
}

func TestAProgressBarSaysHowLong(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_764_000_000, 0)
	in := func(d time.Duration) *int64 { n := now.Add(d).Unix(); return &n }
	ahead := int64(3)
	for want, v := range map[string]videojson.Video{
		"running":                           {State: "running"},
		"running, about 45s left":           {State: "running", EstimatedAt: in(45 * time.Second)},
		"running, about 2m 5s left":         {State: "running", EstimatedAt: in(125 * time.Second)},
		"queued, 3 ahead, about 1h 3m left": {State: "queued", QueuePosition: &ahead, EstimatedAt: in(63 * time.Minute)},
		"storing, any moment":               {State: "storing", EstimatedAt: in(-time.Minute)},
		"succeeded":                         {State: "succeeded", Status: "completed", EstimatedAt: in(time.Minute)},
	} {
		if got := reelway.Doing(v, now); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
}
