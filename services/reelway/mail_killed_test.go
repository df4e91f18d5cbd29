package reelway_test

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"reelway.dev/services/notifier/mail/smtptest"
	"reelway.dev/services/reelway"
)

var upURL = regexp.MustCompile(`REST, SSE, WebSocket +(http\S+)`)

// up runs `reelway up` as a process that can be killed.
func up(t *testing.T, env ...string) (*reelway.Stack, *exec.Cmd) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "up")
	cmd.Env = append(append(os.Environ(), "AS_REELWAY_COMMAND=1"), env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &reelway.Stack{}
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "Stop with") {
		if m := upURL.FindStringSubmatch(lines.Text()); m != nil {
			s.HTTPURL = m[1]
		}
	}
	if s.HTTPURL == "" {
		t.Fatal("reelway up did not come up")
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return s, cmd
}

// The process is killed while a letter is being handed over: it goes out all the
// same, once.
func TestALetterOutlivesAKill(t *testing.T) {
	t.Parallel()
	srv, err := smtptest.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	srv.Answer(func(string) error {
		once.Do(func() {
			close(held)
			<-release
		})
		return nil
	})
	const key = "rw_dev_for_a_test_of_mail"
	env := []string{"REELWAY_HTTP_ADDR=127.0.0.1:0", "REELWAY_GRPC_ADDR=127.0.0.1:0", "REELWAY_OPS_ADDR=127.0.0.1:0", "REELWAY_SIMULATOR_ADDR=127.0.0.1:0", "REELWAY_VARIANTS=off",
		"REELWAY_SIMULATOR_RENDER=400ms", "REELWAY_DATA_DIR=" + dataDir(t), "REELWAY_DEV_API_KEY=" + key, "REELWAY_LOG_LEVEL=error",
		"REELWAY_SMTP_URL=" + srv.URL(), "REELWAY_SMTP_CA=" + srv.CA, "REELWAY_MAIL_FROM=video@acme.example", "REELWAY_SMTP_TIMEOUT=5s", "REELWAY_SMTP_RETRY=50ms"}
	submit := func(s *reelway.Stack, to string) {
		t.Helper()
		s.APIKey = key
		var v struct{ ID string }
		if code := ask(t, s, http.MethodPost, "/v1/videos", `{"model":"kling-v2-6","prompt":"p","notify_email":"`+to+`"}`, &v); code != http.StatusOK {
			t.Fatal(code)
		}
	}
	s, cmd := up(t, env...)
	submit(s, "eve@example.com")
	<-held
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	close(release)
	s, cmd = up(t, env...)
	defer func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	lettersTo(t, srv, "eve@example.com", 1)
	submit(s, "last@example.com")
	lettersTo(t, srv, "last@example.com", 1)
	if n := len(lettersTo(t, srv, "eve@example.com", 1)); n != 1 {
		t.Errorf("%d letters", n)
	}
}
