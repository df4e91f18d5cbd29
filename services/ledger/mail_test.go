package ledger_test

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/ledger"
)

// post is the notifier's side of e-mail, at another replica's door.
type post struct {
	ledgerv1.MailServiceClient
	x *bundle
	t *testing.T
}

func mailOf(t *testing.T, x *bundle) post {
	t.Helper()
	_, conn := serve(t, ledger.Config{Workers: 1, Group: 1, Waiting: 1}, x.pool, x.bus, []string{})
	return post{ledgerv1.NewMailServiceClient(conn), x, t}
}

// begin claims letters and returns to whom.
func (p post) begin(event, job string, lease time.Duration, perHour int32) (to []string, r *ledgerv1.BeginMailResponse) {
	p.t.Helper()
	r, err := p.BeginMail(p.t.Context(), &ledgerv1.BeginMailRequest{EventId: event, AccountId: p.x.acct, JobId: job, PerHour: perHour, Lease: durationpb.New(lease)})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, l := range r.GetLetters() {
		to = append(to, l.GetAddress())
	}
	return to, r
}

func (p post) end(event, job, address string, o ledgerv1.MailOutcome) {
	p.t.Helper()
	who := sha256.Sum256([]byte(strings.ToLower(address)))
	if _, err := p.EndMail(p.t.Context(), &ledgerv1.EndMailRequest{EventId: event, AccountId: p.x.acct, JobId: job, Recipient: who[:], Outcome: o}); err != nil {
		p.t.Fatal(err)
	}
}

// ask opens a job of a user that is to be told to an address.
func (p post) ask(user, notify string) string {
	p.t.Helper()
	r, err := p.x.jobs.OpenJob(p.t.Context(), &ledgerv1.OpenJobRequest{AccountId: p.x.acct, Provider: "testprovider", User: user, NotifyEmail: notify,
		QuoteMicros: price, Params: &videov1.VideoParams{Model: "m", Prompt: "p"}})
	if err != nil {
		p.t.Fatal(err)
	}
	return r.GetVideo().GetId()
}

func (p post) count(sql string, args ...any) (n int) {
	p.t.Helper()
	if err := p.x.pool.QueryRow(p.t.Context(), sql, args...).Scan(&n); err != nil {
		p.t.Fatal(err)
	}
	return n
}

const sent = ledgerv1.MailOutcome_MAIL_OUTCOME_SENT

func TestOnlyWhoAskedIsWrittenTo(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price)
	p, ctx := mailOf(t, x), t.Context()
	for _, u := range []*ledgerv1.CreateEndUserRequest{
		{AccountId: x.acct, UserId: "ada", Email: "Ada@example.com", Notify: true},
		{AccountId: x.acct, UserId: "bob", Email: "bob@example.com"}, // has not opted in
		{AccountId: x.acct, UserId: "cid"},
	} {
		if _, err := x.accts.CreateEndUser(ctx, u); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range []struct {
		user, notify string
		want         string
	}{
		{"ada", "", "[Ada@example.com]"},
		{"bob", "", "[]"},
		{"cid", "", "[]"},
		{"", "", "[]"},
		{"nobody", "eve@example.com", "[eve@example.com]"},
		{"ada", "eve@example.com", "[Ada@example.com eve@example.com]"},
		{"bob", "bob@example.com", "[bob@example.com]"},
	} {
		job := p.ask(c.user, c.notify)
		to, _ := p.begin(fmt.Sprint("e", i), job, time.Minute, 100)
		slices.Sort(to)
		if fmt.Sprint(to) != c.want {
			t.Errorf("job of %q with %q: %v, not %s", c.user, c.notify, to, c.want)
		}
	}
	// The same address in another case is one letter.
	if to, _ := p.begin("case", p.ask("ada", "ADA@example.com"), time.Minute, 100); len(to) != 1 {
		t.Errorf("%v", to)
	}
	// Another account's job is not found, and a deleted one not written about.
	other := p.ask("", "eve@example.com")
	r, err := p.BeginMail(ctx, &ledgerv1.BeginMailRequest{EventId: "foreign", AccountId: "acct_other", JobId: other, PerHour: 1, Lease: durationpb.New(time.Minute)})
	if err != nil || len(r.GetLetters()) != 0 {
		t.Errorf("%v %v", r, err)
	}
	x.exec(t, "update job set deleted_at = now() where id = $1", other)
	if to, _ := p.begin("deleted", other, time.Minute, 100); to != nil {
		t.Errorf("deleted: %v", to)
	}
	// No event holds an address.
	var data []byte
	rows, err := x.pool.Query(ctx, "select data from outbox")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&data); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(strings.ToLower(string(data)), "example.com") {
			t.Error("an address is in an event")
		}
	}
}

func TestEachLetterIsSentOnce(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price)
	p := mailOf(t, x)
	job := p.ask("", "eve@example.com")
	// Of many at once one has it; the others are told to wait.
	var wg sync.WaitGroup
	var mu sync.Mutex
	letters, waits := 0, 0
	for range 8 {
		wg.Go(func() {
			to, r := p.begin("e", job, time.Minute, 100)
			mu.Lock()
			defer mu.Unlock()
			letters += len(to)
			if w := r.GetWait().AsDuration(); w > 0 && w <= time.Minute {
				waits++
			}
		})
	}
	wg.Wait()
	if letters != 1 || waits != 7 {
		t.Errorf("%d letters, %d wait", letters, waits)
	}
	// What was given back is claimed anew.
	p.end("e", job, "eve@example.com", ledgerv1.MailOutcome_MAIL_OUTCOME_DEFERRED)
	if to, _ := p.begin("e", job, time.Millisecond, 100); len(to) != 1 {
		t.Fatalf("deferred: %v", to)
	}
	// So is that of a claimer who died, once its lease is over.
	eventually(t, "taken over", func() bool { to, _ := p.begin("e", job, time.Minute, 100); return len(to) == 1 })
	p.end("e", job, "EVE@example.com", sent)
	if to, r := p.begin("e", job, time.Minute, 100); to != nil || r.GetWait() != nil {
		t.Errorf("sent, and claimed again: %v", r)
	}
	// Its address is forgotten with it.
	if n := p.count("select count(*) from job_mail"); n != 0 {
		t.Errorf("%d addresses are kept", n)
	}
	// One that is refused for good is not tried again.
	job = p.ask("", "mallory@example.com")
	p.begin("f", job, time.Minute, 100)
	p.end("f", job, "mallory@example.com", ledgerv1.MailOutcome_MAIL_OUTCOME_REFUSED)
	if to, r := p.begin("f", job, time.Minute, 100); to != nil || r.GetWait() != nil {
		t.Errorf("refused, and claimed again: %v", r)
	}
}

func TestAnAddressHasItsShareAnHour(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price)
	p := mailOf(t, x)
	for i := range 3 {
		job := p.ask("", "eve@example.com")
		to, r := p.begin(fmt.Sprint("e", i), job, time.Minute, 2)
		if i < 2 {
			if len(to) != 1 {
				t.Fatalf("letter %d: %v", i, r)
			}
			p.end(fmt.Sprint("e", i), job, "eve@example.com", sent)
			continue
		}
		if w := r.GetWait().AsDuration(); len(to) != 0 || w <= 50*time.Minute || w > time.Hour {
			t.Errorf("beyond its share: %v", r)
		}
		x.exec(t, "update mail set begun_at = begun_at - interval '1 hour' where event_id = 'e0'")
		if to, _ := p.begin(fmt.Sprint("e", i), job, time.Minute, 2); len(to) != 1 {
			t.Errorf("an hour later: %v", to)
		}
	}
	if to, _ := p.begin("other", p.ask("", "ada@example.com"), time.Minute, 1); len(to) != 1 {
		t.Error("another address waits too")
	}
}

func TestUnsubscribingLastsUntilItIsUndone(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price)
	p, ctx := mailOf(t, x), t.Context()
	if _, err := x.accts.CreateEndUser(ctx, &ledgerv1.CreateEndUserRequest{AccountId: x.acct, UserId: "ada", Email: "ada@example.com", Notify: true}); err != nil {
		t.Fatal(err)
	}
	who := sha256.Sum256([]byte("ada@example.com"))
	for range 2 {
		if _, err := p.Unsubscribe(ctx, &ledgerv1.UnsubscribeRequest{AccountId: x.acct, Recipient: who[:]}); err != nil {
			t.Fatal(err)
		}
	}
	if to, r := p.begin("e", p.ask("ada", "ada@example.com"), time.Minute, 100); to != nil || r.GetWait() != nil {
		t.Errorf("unsubscribed: %v", r)
	}
	update := func(r *ledgerv1.UpdateEndUserRequest) (*ledgerv1.EndUser, error) {
		r.AccountId, r.UserId = x.acct, "ada"
		got, err := x.accts.UpdateEndUser(ctx, r)
		return got.GetEndUser(), err
	}
	// Saying notify again undoes nothing.
	u, err := update(&ledgerv1.UpdateEndUserRequest{Notify: proto.Bool(true)})
	if err != nil || u.GetUnsubscribedAt() == nil || !u.GetNotify() {
		t.Errorf("%v %v", u, err)
	}
	if to, _ := p.begin("f", p.ask("ada", ""), time.Minute, 100); to != nil {
		t.Errorf("after notify: %v", to)
	}
	u, err = update(&ledgerv1.UpdateEndUserRequest{Resubscribe: true})
	if err != nil || u.GetUnsubscribedAt() != nil {
		t.Errorf("%v %v", u, err)
	}
	if to, _ := p.begin("g", p.ask("ada", ""), time.Minute, 100); len(to) != 1 {
		t.Errorf("after resubscribing: %v", to)
	}
	// Without an address there is nothing to opt in to.
	u, err = update(&ledgerv1.UpdateEndUserRequest{Email: proto.String("")})
	if err != nil || u.GetNotify() || u.GetEmail() != "" {
		t.Errorf("%v %v", u, err)
	}
	if _, err := update(&ledgerv1.UpdateEndUserRequest{Notify: proto.Bool(true)}); fault.FromStatus(err).Fields[0].Name != "notify" {
		t.Error(err)
	}
	if _, err := update(&ledgerv1.UpdateEndUserRequest{Email: proto.String("no address")}); fault.FromStatus(err).Code != fault.InvalidRequest {
		t.Error(err)
	}
	if _, err := x.accts.UpdateEndUser(ctx, &ledgerv1.UpdateEndUserRequest{AccountId: x.acct, UserId: "zoe"}); fault.FromStatus(err).Code != fault.NotFound {
		t.Error(err)
	}
	// The audit log tells what was done, and no address.
	done := 0
	for _, e := range x.audit(t, &ledgerv1.ListAuditEntriesRequest{AccountId: x.acct}) {
		if e.GetAction() == "end_user.update" {
			done++
		}
		if strings.Contains(e.String(), "example.com") {
			t.Errorf("%v", e)
		}
	}
	if done != 2 {
		t.Errorf("%d entries, not one for each change", done)
	}
}

func TestAnAccountIsWrittenToAtItsAddress(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	p, ctx := mailOf(t, x), t.Context()
	if to, _ := p.begin("notice/1", "", time.Minute, 100); to != nil {
		t.Errorf("without an address: %v", to)
	}
	set := func() {
		r, err := x.accts.UpdateAccount(ctx, &ledgerv1.UpdateAccountRequest{AccountId: x.acct, Email: proto.String("owner@example.com")})
		if err != nil || r.GetAccount().GetEmail() != "owner@example.com" {
			t.Fatal(r, err)
		}
	}
	set()
	if to, _ := p.begin("notice/1", "", time.Minute, 100); len(to) != 1 || to[0] != "owner@example.com" {
		t.Errorf("%v", to)
	}
	who := sha256.Sum256([]byte("owner@example.com"))
	if _, err := p.Unsubscribe(ctx, &ledgerv1.UnsubscribeRequest{AccountId: x.acct, Recipient: who[:]}); err != nil {
		t.Fatal(err)
	}
	if to, _ := p.begin("notice/2", "", time.Minute, 100); to != nil {
		t.Errorf("unsubscribed: %v", to)
	}
	set() // whoever sets it wants it
	if to, _ := p.begin("notice/3", "", time.Minute, 100); len(to) != 1 {
		t.Errorf("set anew: %v", to)
	}
	if _, err := x.accts.UpdateAccount(ctx, &ledgerv1.UpdateAccountRequest{AccountId: x.acct, Email: proto.String("@")}); fault.FromStatus(err).Code != fault.InvalidRequest {
		t.Error(err)
	}
	for _, e := range x.audit(t, &ledgerv1.ListAuditEntriesRequest{AccountId: x.acct}) {
		if strings.Contains(e.String(), "example.com") {
			t.Errorf("%v", e)
		}
	}
}

// An address is kept no longer than it is of use.
func TestAddressesAreForgotten(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price)
	p, ctx := mailOf(t, x), t.Context()
	live, over, erased := p.ask("", "live@example.com"), p.ask("", "over@example.com"), p.ask("zoe", "zoe@example.com")
	for _, job := range []string{over, erased} {
		x.observe(t, job, x.begin(t, job), "refused")
		x.await(t, job, videov1.VideoState_VIDEO_STATE_FAILED)
	}
	if _, err := x.erase.EraseUser(ctx, &ledgerv1.EraseUserRequest{AccountId: x.acct, User: "zoe", Reason: "asked"}); err != nil {
		t.Fatal(err)
	}
	if n := p.count("select count(*) from job_mail where job_id = $1", erased); n != 0 {
		t.Error("an erased user's address is kept")
	}
	p.begin("e", over, time.Minute, 100)
	if err := ledger.ForgetMail(ctx, x.svc, time.Hour); err != nil {
		t.Fatal(err)
	}
	if n := p.count("select (select count(*) from job_mail) + (select count(*) from mail)"); n != 3 {
		t.Errorf("%d rows are kept of 3 that are young", n)
	}
	x.exec(t, "update job_mail set created_at = created_at - interval '2 hours'")
	x.exec(t, "update job set completed_at = completed_at - interval '2 hours' where id = $1", over)
	x.exec(t, "update mail set begun_at = begun_at - interval '2 hours'")
	if err := ledger.ForgetMail(ctx, x.svc, time.Hour); err != nil {
		t.Fatal(err)
	}
	if p.count("select count(*) from mail") != 0 || p.count("select count(*) from job_mail where job_id = $1", live) != 1 || p.count("select count(*) from job_mail") != 1 {
		t.Error("the old are kept, or a live job's address is forgotten")
	}
}
