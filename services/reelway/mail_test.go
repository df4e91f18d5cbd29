package reelway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/natstest"
	"reelway.dev/services/notifier/mail/smtptest"
	"reelway.dev/services/reelway"
)

// lettersTo waits for n letters to an address.
func lettersTo(t *testing.T, srv *smtptest.Server, to string, n int) []smtptest.Letter {
	t.Helper()
	var found []smtptest.Letter
	soon(t, fmt.Sprintf("letter %d to %s", n, to), func() bool {
		found = nil
		for _, l := range srv.Letters() {
			if l.To == to {
				found = append(found, l)
			}
		}
		return len(found) >= n
	})
	return found
}

// settled waits until e-mail has read and acknowledged every event.
func settled(t *testing.T, js jetstream.JetStream) {
	t.Helper()
	soon(t, "e-mail has read everything", func() bool {
		for _, name := range []string{"mail-notices", "mail-succeeded", "mail-failed", "mail-expired", "mail-needs_review"} {
			c, err := js.Consumer(t.Context(), bus.StreamEvents, name)
			if err != nil {
				return false
			}
			if i, err := c.Info(t.Context()); err != nil || i.NumPending > 0 || i.NumAckPending > 0 {
				return false
			}
		}
		return true
	})
}

// ask makes one REST request and reads its answer.
func ask(t *testing.T, s *reelway.Stack, method, path, body string, out any) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.HTTPURL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.APIKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// create submits a video and follows it to its end.
func create(t *testing.T, s *reelway.Stack, body string) string {
	t.Helper()
	var v struct{ ID string }
	if code := ask(t, s, http.MethodPost, "/v1/videos", body, &v); code != http.StatusOK {
		t.Fatalf("%s: %d", body, code)
	}
	watch(t, s, v.ID)
	return v.ID
}

//nolint:paralleltest // the telemetry is the process's
func TestPeopleAreWrittenTo(t *testing.T) {
	srv, err := smtptest.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	nats := natstest.NewServer(t)
	js, err := jetstream.New(nats.Connect())
	if err != nil {
		t.Fatal(err)
	}
	dir, logs := dataDir(t), &logBuffer{}
	env := []string{"REELWAY_NATS_URL=" + nats.URL(), "REELWAY_SMTP_URL=" + srv.URL(), "REELWAY_SMTP_CA=" + srv.CA, "REELWAY_MAIL_FROM=Acme <video@acme.example>", "REELWAY_SMTP_RETRY=50ms"}
	log := slog.New(slog.NewTextHandler(logs, nil))
	st, stop := startWith(t, dir, env, log)
	sh := shell{t, []string{"--server", st.GRPCAddr, "--key", st.AdminKey}}

	// Who has opted in, who has not, and where the owner is told of money.
	sh.table([]string{"users", "create", "ada", "--account", st.AccountID, "--email", "ada@example.com", "--notify"}, "e-mail   ada@example.com", "notify   yes")
	sh.table([]string{"users", "create", "bob", "--account", st.AccountID, "--email", "bob@example.com"}, "notify   no")
	sh.table([]string{"accounts", "set", st.AccountID, "--email", "owner@example.com"}, "e-mail     owner@example.com")
	sh.fails(1, "notify: needs an email", "users", "create", "cid", "--account", st.AccountID, "--notify")
	sh.fails(1, "email: must be an e-mail address", "accounts", "set", st.AccountID, "--email", "nowhere")
	sh.table([]string{"budgets", "set", "--account", st.AccountID, "--limit", "1.2", "--period", "total"})

	id := create(t, st, `{"model":"kling-v2-6","prompt":"a private prompt","user":"ada"}`)
	create(t, st, `{"model":"kling-v2-6","prompt":"a private prompt","user":"bob","notify_email":"eve@example.com"}`)
	create(t, st, `{"model":"kling-v2-6","prompt":"a private prompt [fault:policy]","user":"ada"}`)
	var refused struct {
		Error struct{ Fields []struct{ Name string } }
	}
	if code := ask(t, st, http.MethodPost, "/v1/videos", `{"model":"kling-v2-6","prompt":"p","notify_email":"eve@example.com\nBcc: x@example.com"}`, &refused); code != http.StatusBadRequest || len(refused.Error.Fields) != 1 || refused.Error.Fields[0].Name != "notify_email" {
		t.Errorf("%d %+v", code, refused)
	}

	// Ada is told of what was done and of what was not, and her link leads to the file.
	ada := lettersTo(t, srv, "ada@example.com", 2)
	slices.SortFunc(ada, func(a, b smtptest.Letter) int {
		return -strings.Compare(a.Header.Get("Subject"), b.Header.Get("Subject"))
	})
	if ada[0].Header.Get("Subject") != "Your video is ready" || ada[1].Header.Get("Subject") != "Your video could not be made" || !strings.Contains(ada[1].Text, "rules do not allow") {
		t.Errorf("%+v", ada)
	}
	_, link, _ := strings.Cut(ada[0].Text, "Watch the video: ")
	resp, err := http.Get(strings.Fields(link)[0])
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "video/mp4" || !strings.Contains(link, id) {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, link)
	}
	lettersTo(t, srv, "eve@example.com", 1)

	// One click, and Ada is written to no more, whatever the account says.
	click := strings.Trim(ada[0].Header.Get("List-Unsubscribe"), "<>")
	resp, err = http.PostForm(click, url.Values{"List-Unsubscribe": {"One-Click"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("unsubscribe: %d", resp.StatusCode)
	}
	sh.table([]string{"users", "set", "ada", "--account", st.AccountID, "--notify"}, "notify   unsubscribed")
	create(t, st, `{"model":"kling-v2-6","prompt":"p","user":"ada","notify_email":"ada@example.com"}`)
	money := lettersTo(t, srv, "owner@example.com", 1)
	if !strings.Contains(money[0].Header.Get("Subject"), "% of a budget are used") || !strings.Contains(money[0].Text, "1.200000 credits") {
		t.Errorf("%+v", money[0])
	}
	settled(t, js)
	lettersTo(t, srv, "ada@example.com", 2)
	before := len(srv.Letters())

	// All events come once more to a new process, as after a kill: nothing is
	// sent twice.
	stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, name := range []string{"mail-notices", "mail-succeeded", "mail-failed"} {
		if err := js.DeleteConsumer(ctx, bus.StreamEvents, name); err != nil {
			t.Fatal(err)
		}
	}
	st, stop = startWith(t, dir, env, log)
	defer stop()
	settled(t, js)
	create(t, st, `{"model":"kling-v2-6","prompt":"p","notify_email":"last@example.com"}`)
	lettersTo(t, srv, "last@example.com", 1)
	if after := srv.Letters(); len(after) < before+1 {
		t.Errorf("%d letters", len(after))
	} else {
		seen := map[string]bool{}
		for _, l := range after {
			name := l.Header.Get("Message-Id")
			if seen[name] {
				t.Errorf("sent twice: %s to %s", l.Header.Get("Subject"), l.To)
			}
			seen[name] = true
		}
		if n := len(lettersTo(t, srv, "ada@example.com", 2)); n != 2 {
			t.Errorf("%d letters to an address that unsubscribed after 2", n)
		}
	}

	// No address is in an event or in the log.
	if logs.count("example.com")+logs.count("private prompt") > 0 {
		t.Error("the log tells of people")
	}
	events, err := js.Stream(ctx, bus.StreamEvents)
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= events.CachedInfo().State.LastSeq; seq++ {
		m, err := events.GetMsg(ctx, seq)
		if err == nil && bytes.Contains(m.Data, []byte("example.com")) {
			t.Errorf("event %d holds an address", seq)
		}
	}
}
