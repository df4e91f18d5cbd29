package mail_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/natstest"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/notifier/mail"
	"reelway.dev/services/notifier/mail/smtptest"
)

const (
	account = "acct_1"
	secret  = "0123456789abcdef0123456789abcdef"
)

// books stand for the ledger, which has tests of its own: they give out a letter
// until it has ended.
type books struct {
	ledgerv1.MailServiceClient
	ledgerv1.JobServiceClient
	mu           sync.Mutex
	to           map[string]string // by event
	ended        map[string]ledgerv1.MailOutcome
	wait         time.Duration // answered once
	lose         int           // ends that are not heard of
	begun        int
	unsubscribed []string
	video        *videov1.Video
}

func (b *books) BeginMail(_ context.Context, r *ledgerv1.BeginMailRequest, _ ...grpc.CallOption) (*ledgerv1.BeginMailResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begun++
	if b.wait > 0 {
		w := b.wait
		b.wait = 0
		return &ledgerv1.BeginMailResponse{Wait: durationpb.New(w)}, nil
	}
	who := bytes.Repeat([]byte{7}, 32)
	if o := b.ended[r.GetEventId()]; o == ledgerv1.MailOutcome_MAIL_OUTCOME_SENT || o == ledgerv1.MailOutcome_MAIL_OUTCOME_REFUSED || b.to[r.GetEventId()] == "" {
		return &ledgerv1.BeginMailResponse{}, nil
	}
	return &ledgerv1.BeginMailResponse{Letters: []*ledgerv1.Letter{{Address: b.to[r.GetEventId()], Recipient: who}}}, nil
}

func (b *books) EndMail(_ context.Context, r *ledgerv1.EndMailRequest, _ ...grpc.CallOption) (*ledgerv1.EndMailResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lose > 0 {
		b.lose--
		return nil, status.Error(codes.Unavailable, "away")
	}
	b.ended[r.GetEventId()] = r.GetOutcome()
	return &ledgerv1.EndMailResponse{}, nil
}

func (b *books) Unsubscribe(_ context.Context, r *ledgerv1.UnsubscribeRequest, _ ...grpc.CallOption) (*ledgerv1.UnsubscribeResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unsubscribed = append(b.unsubscribed, r.GetAccountId()+" "+hex.EncodeToString(r.GetRecipient()))
	return &ledgerv1.UnsubscribeResponse{}, nil
}

func (b *books) GetJob(_ context.Context, r *ledgerv1.GetJobRequest, _ ...grpc.CallOption) (*ledgerv1.GetJobResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.video == nil || r.GetJobId() != b.video.GetId() || r.GetAccountId() != account {
		return nil, status.Error(codes.NotFound, "no such video")
	}
	return &ledgerv1.GetJobResponse{Video: b.video}, nil
}

func (b *books) outcome(event string) ledgerv1.MailOutcome {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended[event]
}

type files struct{}

func (files) SignedURL(_ context.Context, key string) (string, time.Time, error) {
	return "https://files.example/" + key + "?signed", time.Now(), nil
}

// bundle is mail on a real JetStream and a real SMTP server.
type bundle struct {
	t     *testing.T
	bus   *bus.Bus
	smtp  *smtptest.Server
	books *books
	logs  *logs
	now   func() time.Time
}

// logs are safe to be written and read.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func setup(t *testing.T) *bundle {
	t.Helper()
	srv, err := smtptest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	return &bundle{t: t, bus: natstest.Bus(t), smtp: srv, logs: &logs{}, now: time.Now,
		books: &books{to: map[string]string{}, ended: map[string]ledgerv1.MailOutcome{}}}
}

func (x *bundle) config() mail.Config {
	return mail.Config{SMTPURL: x.smtp.URL(), SMTPCA: x.smtp.CA, From: "Acme Video <video@acme.example>", URL: "https://video.acme.example/", Secret: secret,
		LinkLife: 168 * time.Hour, PerHour: 20, MaxAge: time.Hour, Timeout: 30 * time.Second, Retry: 20 * time.Millisecond}
}

// run runs mail until the test's end.
func (x *bundle) run(cfg mail.Config) *mail.Service {
	x.t.Helper()
	s := x.open(cfg)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, c := range s.Components() {
		wg.Go(func() { _ = c.Run(ctx) })
	}
	x.t.Cleanup(func() { stop(); wg.Wait() })
	return s
}

func (x *bundle) open(cfg mail.Config) *mail.Service {
	x.t.Helper()
	s, err := mail.New(cfg, mail.Deps{Bus: x.bus, Ledger: x.books, Jobs: x.books, Files: files{}, Logger: slog.New(slog.NewTextHandler(x.logs, nil)), Now: func() time.Time { return x.now() }})
	if err != nil {
		x.t.Fatal(err)
	}
	return s
}

// end publishes the end of a job, of which ada@example.com is to be told.
func (x *bundle) end(v *videov1.Video, state string, at time.Time) {
	x.t.Helper()
	x.books.mu.Lock()
	x.books.to[v.GetId()+"/"+state] = "ada@example.com"
	x.books.mu.Unlock()
	m, err := bus.NewMessage(bus.EventSubject(account, v.GetId(), state), v.GetId()+state, &eventv1.JobEvent{Video: v, OccurredAt: timestamppb.New(at)})
	if err == nil {
		err = x.bus.Publish(x.t.Context(), m)
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *bundle) letters(n int) []smtptest.Letter {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(x.t.Context(), time.Minute)
	defer cancel()
	ls, err := x.smtp.Wait(ctx, n)
	if err != nil {
		x.t.Fatal(err, x.logs)
	}
	return ls
}

func (x *bundle) eventually(what string, ok func() bool) {
	x.t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			x.t.Fatalf("not in time: %s\n%s", what, x.logs)
		case <-tick.C:
		}
	}
}

func done(id string) *videov1.Video {
	return &videov1.Video{Id: id, AccountId: account, State: videov1.VideoState_VIDEO_STATE_SUCCEEDED, Params: &videov1.VideoParams{Model: "kling-v2-6", Prompt: "a secret prompt", DurationSeconds: 5},
		Artifact: &videov1.Artifact{Key: "k.mp4", Width: 1280, Height: 720, Thumbnail: &videov1.Variant{Key: "k.jpg"}}, CapturedMicros: 210_000}
}

func TestALetterHasBothFormsAndItsHeaders(t *testing.T) {
	t.Parallel()
	x := setup(t)
	x.run(x.config())
	x.end(done("video_1"), "succeeded", time.Now())
	l := x.letters(1)[0]
	if l.To != "ada@example.com" || l.Header.Get("To") != "<ada@example.com>" || l.Header.Get("From") != `"Acme Video" <video@acme.example>` || l.Header.Get("Subject") != "Your video is ready" {
		t.Errorf("%+v", l)
	}
	if id := l.Header.Get("Message-Id"); !strings.HasSuffix(id, "@acme.example>") || len(id) != len("<@acme.example>")+32 {
		t.Errorf("Message-ID %q", id)
	}
	if l.Header.Get("Auto-Submitted") != "auto-generated" || l.Header.Get("List-Unsubscribe-Post") != "List-Unsubscribe=One-Click" || l.Header.Get("Date") == "" {
		t.Errorf("%v", l.Header)
	}
	unsubscribe := strings.Trim(l.Header.Get("List-Unsubscribe"), "<>")
	if !strings.HasPrefix(unsubscribe, "https://video.acme.example/v1/mail/unsubscribe?account=acct_1&recipient=0707") {
		t.Errorf("List-Unsubscribe %q", unsubscribe)
	}
	html := strings.ReplaceAll(l.HTML, "&amp;", "&")
	for _, part := range []string{l.Text, html} {
		for _, want := range []string{"Your video is ready", "https://video.acme.example/v1/mail/videos/video_1/video?account=acct_1&token=", "7 days", "kling-v2-6", "5 s", "1280 × 720", unsubscribe} {
			if !strings.Contains(part, want) {
				t.Errorf("%q is not in\n%s", want, part)
			}
		}
		for _, private := range []string{"secret prompt", "0.21", "ada@example.com"} {
			if strings.Contains(part, private) {
				t.Errorf("%q is in\n%s", private, part)
			}
		}
	}
	x.eventually("noted", func() bool { return x.books.outcome("video_1/succeeded") == ledgerv1.MailOutcome_MAIL_OUTCOME_SENT })
}

func TestAFailureSaysWhatToDo(t *testing.T) {
	t.Parallel()
	x := setup(t)
	x.run(x.config())
	for state, want := range map[string]string{"failed": "change the description", "expired": "submit it again later", "needs_review": "It is still asked"} {
		v := done("video_" + state)
		v.Artifact, v.Error = nil, &videov1.VideoError{Code: "content_policy", Message: "the words 'a secret prompt' are not allowed"}
		v.State = map[string]videov1.VideoState{"failed": videov1.VideoState_VIDEO_STATE_FAILED, "expired": videov1.VideoState_VIDEO_STATE_EXPIRED, "needs_review": videov1.VideoState_VIDEO_STATE_NEEDS_REVIEW}[state]
		before := len(x.smtp.Letters())
		x.end(v, state, time.Now())
		l := x.letters(before + 1)[before]
		for _, part := range []string{l.Text, l.HTML} {
			if l.Header.Get("Subject") != "Your video could not be made" || !strings.Contains(part, want) || !strings.Contains(part, "Nothing is charged") {
				t.Errorf("%s: %s\n%s", state, l.Header.Get("Subject"), part)
			}
			if strings.Contains(part, "secret prompt") || strings.Contains(part, "/v1/mail/videos/") {
				t.Errorf("%s tells too much:\n%s", state, part)
			}
		}
	}
}

func TestAnAccountIsToldOfItsMoney(t *testing.T) {
	t.Parallel()
	x := setup(t)
	x.run(x.config())
	at := timestamppb.Now()
	usual := int64(1_000_000)
	notices := []*eventv1.AccountNotice{
		{AccountId: account, OccurredAt: at, Text: "80 % of <the budget> are used", About: &eventv1.AccountNotice_Budget{Budget: &eventv1.BudgetReached{
			BudgetId: "budget_1", Subject: "api_key", SubjectId: "key_1", Period: "month", Percent: 80, LimitMicros: 10_000_000, SpentMicros: 8_000_000, HeldMicros: 500_000, Hard: true}}},
		{AccountId: account, OccurredAt: at, Text: "the account was paused", About: &eventv1.AccountNotice_Paused{Paused: &eventv1.SpendingPaused{HourMicros: 30_000_000, LimitMicros: 10_000_000, UsualMicros: &usual}}},
	}
	wants := [][]string{{"80 % of a budget are used", "10.000000 credits", "8.000000 credits", "0.500000 credits", "api key key_1", "At 100 % videos that do not fit are refused"},
		{"Your account is paused", "the account was paused", "30.000000 credits", "until an operator resumes"}}
	for i, n := range notices {
		m, err := bus.NewMessage(bus.NoticeSubject(account), "notice", n)
		if err != nil {
			t.Fatal(err)
		}
		m.ID = wants[i][0]
		x.books.mu.Lock()
		x.books.to[mail.NoticeID(n)] = "owner@example.com"
		x.books.mu.Unlock()
		if err := x.bus.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		l := x.letters(i + 1)[i]
		if l.To != "owner@example.com" || l.Header.Get("Subject") != wants[i][0] {
			t.Errorf("%+v", l)
		}
		for _, part := range []string{l.Text, l.HTML} {
			for _, want := range wants[i] {
				if !strings.Contains(part, want) {
					t.Errorf("%q is not in\n%s", want, part)
				}
			}
		}
		if strings.Contains(l.HTML, "<the budget>") {
			t.Error("the text of a notice is not escaped")
		}
	}
	if mail.NoticeID(notices[0]) == mail.NoticeID(notices[1]) {
		t.Error("two notices have one id")
	}
}

// What a server does not take now is sent when it does; what it never takes is
// given up; and no log tells to whom.
func TestRefusals(t *testing.T) {
	t.Parallel()
	x := setup(t)
	var mu sync.Mutex
	tries := 0
	x.smtp.Answer(func(string) error {
		mu.Lock()
		defer mu.Unlock()
		if tries++; tries <= 3 {
			return smtptest.Refuse(451)
		}
		return nil
	})
	x.run(x.config())
	x.end(done("video_later"), "succeeded", time.Now())
	x.letters(1)
	x.eventually("the log says so", func() bool { return strings.Contains(x.logs.String(), "letters go out again") })
	x.smtp.Answer(func(string) error { return smtptest.Refuse(550) })
	x.end(done("video_never"), "succeeded", time.Now())
	x.eventually("refused", func() bool {
		return x.books.outcome("video_never/succeeded") == ledgerv1.MailOutcome_MAIL_OUTCOME_REFUSED
	})
	if n := len(x.smtp.Letters()); n != 1 {
		t.Errorf("%d letters", n)
	}
	if s := x.logs.String(); strings.Contains(s, "ada@") || !strings.Contains(s, "letter refused") || !strings.Contains(s, "letters wait") {
		t.Errorf("the log: %s", s)
	}
}

// Between the server's yes and our note lies the moment in which a letter can go
// out twice: both have one id.
func TestALetterThatWasNotNotedComesAgainByItsName(t *testing.T) {
	t.Parallel()
	x := setup(t)
	x.books.lose = 1
	x.run(x.config())
	x.end(done("video_1"), "succeeded", time.Now())
	ls := x.letters(2)
	if a, b := ls[0].Header.Get("Message-Id"), ls[1].Header.Get("Message-Id"); a != b || a == "" {
		t.Errorf("%q and %q", a, b)
	}
	x.eventually("noted", func() bool { return x.books.outcome("video_1/succeeded") == ledgerv1.MailOutcome_MAIL_OUTCOME_SENT })
}

func TestALetterWaitsForItsShareAndOldNewsAreDropped(t *testing.T) {
	t.Parallel()
	x := setup(t)
	x.books.wait = 50 * time.Millisecond
	x.run(x.config())
	x.end(done("video_old"), "succeeded", time.Now().Add(-2*time.Hour))
	x.end(done("video_new"), "succeeded", time.Now())
	x.eventually("sent", func() bool { return x.books.outcome("video_new/succeeded") == ledgerv1.MailOutcome_MAIL_OUTCOME_SENT })
	x.books.mu.Lock()
	defer x.books.mu.Unlock()
	if x.books.begun != 2 || x.books.ended["video_old/succeeded"] != 0 {
		t.Errorf("asked %d times, %v", x.books.begun, x.books.ended)
	}
}

// A wrong password, a server that is not the one it should be: nothing is sent,
// and nothing is lost.
func TestNothingIsSentWithoutTLSAndLogin(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*mail.Config, *smtptest.Server){
		"password":    func(c *mail.Config, s *smtptest.Server) { c.SMTPURL = s.URLAs(smtptest.User, "wrong") },
		"certificate": func(c *mail.Config, _ *smtptest.Server) { c.SMTPCA = "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := setup(t)
			cfg := x.config()
			change(&cfg, x.smtp)
			x.run(cfg)
			x.end(done("video_1"), "succeeded", time.Now())
			x.eventually("deferred", func() bool { return x.books.outcome("video_1/succeeded") == ledgerv1.MailOutcome_MAIL_OUTCOME_DEFERRED })
			if s := x.logs.String(); len(x.smtp.Letters()) != 0 || strings.Contains(s, "wrong") || strings.Contains(s, "ada@") {
				t.Errorf("%d letters, %s", len(x.smtp.Letters()), s)
			}
		})
	}
}

func TestTLSFromTheFirstByte(t *testing.T) {
	t.Parallel()
	x := setup(t)
	cfg := x.config()
	cfg.SMTPURL = x.smtp.SecureURL()
	x.run(cfg)
	x.end(done("video_1"), "succeeded", time.Now())
	if l := x.letters(1)[0]; l.Header.Get("Subject") != "Your video is ready" {
		t.Errorf("%+v", l)
	}
}

func TestSettingsAreJudged(t *testing.T) {
	t.Parallel()
	x := setup(t)
	for want, change := range map[string]func(*mail.Config){
		"REELWAY_MAIL_FROM":       func(c *mail.Config) { c.From = "Acme" },
		"REELWAY_SMTP_URL must":   func(c *mail.Config) { c.SMTPURL = "http://u:hunter2@host" },
		"REELWAY_SMTP_CA":         func(c *mail.Config) { c.SMTPCA = "none" },
		"REELWAY_MAIL_URL":        func(c *mail.Config) { c.URL = "" },
		"REELWAY_MAIL_SECRET":     func(c *mail.Config) { c.Secret = "short" },
		"REELWAY_SMTP_URL must b": func(c *mail.Config) { c.SMTPURL = "smtp://u:hunter2%@host" },
	} {
		cfg := x.config()
		change(&cfg)
		_, err := mail.New(cfg, mail.Deps{Bus: x.bus, Ledger: x.books, Jobs: x.books, Files: files{}, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", want, err)
		}
	}
	if off := x.open(mail.Config{}); len(off.Components()) != 0 {
		t.Error("mail without a server reads events")
	}
}

// page asks a door and reads its answer.
func page(t *testing.T, method, address string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader("List-Unsubscribe=One-Click"))
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(data)
}

func TestDoors(t *testing.T) {
	t.Parallel()
	x := setup(t)
	var mu sync.Mutex
	now := time.Now()
	x.now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	s := x.run(x.config())
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	v := done("video_1")
	x.books.video = v
	x.end(v, "succeeded", now)
	l := x.letters(1)[0]
	here := func(link string) string { return strings.Replace(link, "https://video.acme.example", srv.URL, 1) }
	_, link, _ := strings.Cut(l.Text, "Watch the video: ")
	watch := here(strings.Fields(link)[0])
	unsubscribe := here(strings.Trim(l.Header.Get("List-Unsubscribe"), "<>"))

	// The file's URL is signed when the link is opened.
	if code, h, _ := page(t, http.MethodGet, watch); code != http.StatusFound || h.Get("Location") != "https://files.example/k.mp4?signed" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %v", code, h)
	}
	// So is its picture's, which is in the letter where there is one.
	_, src, ok := strings.Cut(l.HTML, `<img src="`)
	src, _, _ = strings.Cut(src, `"`)
	if code, h, _ := page(t, http.MethodGet, here(strings.ReplaceAll(src, "&amp;", "&"))); !ok || code != http.StatusFound || h.Get("Location") != "https://files.example/k.jpg?signed" {
		t.Errorf("thumbnail %q: %d %v", src, code, h)
	}
	if code, _, _ := page(t, http.MethodGet, strings.Replace(watch, "/video?", "/thumbnail?", 1)); code != http.StatusForbidden {
		t.Errorf("the video's token opens its thumbnail: %d", code)
	}
	bare := done("video_2")
	bare.Artifact.Thumbnail = nil
	x.end(bare, "succeeded", now)
	if l := x.letters(2)[1]; strings.Contains(l.HTML, "<img") {
		t.Errorf("a picture of nothing:\n%s", l.HTML)
	}
	for name, change := range map[string]func(url.Values){
		"account": func(q url.Values) { q.Set("account", "acct_2") }, "until": func(q url.Values) { q.Set("until", "9999999999") },
		"token": func(q url.Values) { q.Set("token", "") }, "path": nil,
	} {
		u, err := url.Parse(watch)
		if err != nil {
			t.Fatal(err)
		}
		if change == nil {
			u.Path += "2"
		} else {
			q := u.Query()
			change(q)
			u.RawQuery = q.Encode()
		}
		if code, _, body := page(t, http.MethodGet, u.String()); code != http.StatusForbidden || !strings.Contains(body, "not valid") {
			t.Errorf("%s altered: %d %s", name, code, body)
		}
	}
	x.books.mu.Lock()
	x.books.video = nil
	x.books.mu.Unlock()
	if code, _, body := page(t, http.MethodGet, watch); code != http.StatusNotFound || !strings.Contains(body, "gone") {
		t.Errorf("deleted: %d %s", code, body)
	}
	mu.Lock()
	now = now.Add(169 * time.Hour)
	mu.Unlock()
	if code, _, body := page(t, http.MethodGet, watch); code != http.StatusGone || !strings.Contains(body, "expired") {
		t.Errorf("expired: %d %s", code, body)
	}

	// A GET, which scanners send too, asks; the POST does it. It never expires.
	subscribed := func() int { x.books.mu.Lock(); defer x.books.mu.Unlock(); return len(x.books.unsubscribed) }
	if code, _, body := page(t, http.MethodGet, unsubscribe); code != http.StatusOK || !strings.Contains(body, "<form method=\"post\">") || subscribed() != 0 {
		t.Errorf("asked: %d %s", code, body)
	}
	if code, _, _ := page(t, http.MethodPost, unsubscribe+"x"); code != http.StatusForbidden || subscribed() != 0 {
		t.Errorf("altered: %d", code)
	}
	// A letter's other link opens nothing here.
	w, err := url.Parse(watch)
	if err != nil {
		t.Fatal(err)
	}
	if code, _, _ := page(t, http.MethodPost, unsubscribe[:strings.Index(unsubscribe, "token=")]+"token="+w.Query().Get("token")); code != http.StatusForbidden {
		t.Errorf("another link's token: %d", code)
	}
	if code, _, body := page(t, http.MethodPost, unsubscribe); code != http.StatusOK || !strings.Contains(body, "You are unsubscribed") {
		t.Errorf("unsubscribed: %d %s", code, body)
	}
	x.books.mu.Lock()
	defer x.books.mu.Unlock()
	if len(x.books.unsubscribed) != 1 || x.books.unsubscribed[0] != account+" "+strings.Repeat("07", 32) {
		t.Errorf("%v", x.books.unsubscribed)
	}
}
