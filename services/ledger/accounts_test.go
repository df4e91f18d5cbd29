package ledger_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/money"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

// refused checks the code and a part of the message of a fault.
func refused(t *testing.T, err error, code fault.Code, message string) {
	t.Helper()
	if f := fault.FromStatus(err); f == nil || f.Code != code || !strings.Contains(f.Message, message) {
		t.Errorf("%v; want %s: …%s…", err, code, message)
	}
}

// frozen is a clock that stands: what it lets an authenticator remember never
// goes stale, so only a broadcast makes it forget.
func frozen() time.Time { return time.Unix(1_800_000_000, 0) }

// key makes a key of the bundle's account.
func (x *bundle) key(t *testing.T, scopes ...string) *ledgerv1.CreateAPIKeyResponse {
	t.Helper()
	r, err := x.accts.CreateAPIKey(t.Context(), &ledgerv1.CreateAPIKeyRequest{AccountId: x.acct, Scopes: scopes})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// works reports whether the ledger takes a key.
func (x *bundle) works(t *testing.T, key string) bool {
	t.Helper()
	_, err := auth.New(x.accts, time.Now).Authenticate(t.Context(), key)
	var f *fault.Error
	if err != nil && (!errors.As(err, &f) || f.Code != fault.Unauthenticated) {
		t.Fatal(err)
	}
	return err == nil
}

func (x *bundle) audit(t *testing.T, r *ledgerv1.ListAuditEntriesRequest) []*ledgerv1.AuditEntry {
	t.Helper()
	resp, err := x.accts.ListAuditEntries(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetEntries()
}

func TestEveryActionIsInTheAuditLogOnce(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	ctx := auth.Actor{KeyID: "key_ops", RequestID: "req_7"}.Outgoing(t.Context())
	a, err := x.accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "Acme", AccountId: "acct_acme", Tier: "staging", TimeZone: "Europe/Vienna"})
	if err != nil {
		t.Fatal(err)
	}
	id := a.GetAccountId()
	k, err := x.accts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: id, Scopes: []string{"videos:read"}, Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	next, err := x.accts.RotateAPIKey(ctx, &ledgerv1.RotateAPIKeyRequest{KeyId: k.GetKeyId()})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second changes nothing and leaves no entry
		for _, err := range []error{
			call(x.accts.UpdateAccount(ctx, &ledgerv1.UpdateAccountRequest{AccountId: id, Tier: proto.String("production")})),
			call(x.accts.UpdateAccount(ctx, &ledgerv1.UpdateAccountRequest{AccountId: id, CapResolution: proto.String("1080p"), Reason: "trade fair"})),
			call(x.accts.CreateEndUser(ctx, &ledgerv1.CreateEndUserRequest{AccountId: id, UserId: "ann@example.com"})),
			call(x.accts.RevokeAPIKey(ctx, &ledgerv1.RevokeAPIKeyRequest{KeyId: next.GetKeyId(), AccountId: id})),
			call(x.money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: id, AmountMicros: 5 * money.Micros, IdempotencyKey: "k"})),
			call(x.accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "Acme", AccountId: id, Tier: "production", TimeZone: "Europe/Vienna"})),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 2 {
		if _, err := x.accts.SuspendAccount(ctx, &ledgerv1.SuspendAccountRequest{AccountId: id, Reason: "unpaid"}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := x.accts.ResumeAccount(ctx, &ledgerv1.ResumeAccountRequest{AccountId: id, Reason: "paid"}); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, e := range x.audit(t, &ledgerv1.ListAuditEntriesRequest{AccountId: id}) {
		got = append(got, e.GetAction()+" "+e.GetTarget())
		if e.GetActor() != "key_ops" || e.GetRequestId() != "req_7" || e.GetAt().AsTime().IsZero() {
			t.Errorf("who and when are wrong: %v", e)
		}
		for _, secret := range []string{k.GetApiKey(), next.GetApiKey(), "ann@example.com"} {
			if strings.Contains(e.String(), secret) {
				t.Errorf("%s holds what it must not: %v", e.GetAction(), e)
			}
		}
		switch e.GetAction() {
		case "account.top_up":
			if e.GetDetails().AsMap()["credits"] != "5.000000" {
				t.Errorf("%v", e)
			}
		case "account.update":
			d := e.GetDetails().GetFields()
			if c := d["cap_resolution"]; c != nil && (d["reason"].GetStringValue() != "trade fair" || c.GetStructValue().GetFields()["to"].GetStringValue() != "1080p") {
				t.Errorf("%v", e)
			}
		}
	}
	slices.Reverse(got)
	want := []string{"account.create " + id, "api_key.create " + k.GetKeyId(), "api_key.rotate " + k.GetKeyId(), "account.update " + id, "account.update " + id,
		"end_user.create " + id, "api_key.revoke " + next.GetKeyId(), "account.top_up " + id, "account.suspend " + id, "account.resume " + id}
	if !slices.Equal(got, want) {
		t.Errorf("the log says\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if first := x.audit(t, &ledgerv1.ListAuditEntriesRequest{Actor: auth.Operator}); len(first) != 1 || first[0].GetAccountId() != x.acct {
		t.Errorf("what no key asked for: %v", first)
	}
	// Pages: no entry twice, none left out.
	var after string
	var paged int
	for {
		r, err := x.accts.ListAuditEntries(t.Context(), &ledgerv1.ListAuditEntriesRequest{AccountId: id, After: after, Limit: 3})
		if err != nil {
			t.Fatal(err)
		}
		paged += len(r.GetEntries())
		if !r.GetHasMore() {
			break
		}
		after = r.GetEntries()[len(r.GetEntries())-1].GetId()
	}
	if paged != len(want) {
		t.Errorf("%d entries by pages, want %d", paged, len(want))
	}
}

func call[T any](_ T, err error) error { return err }

func TestTheDatabaseKeepsTheAuditLog(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	for _, sql := range []string{"update audit_entry set actor = 'nobody'", "delete from audit_entry", "truncate audit_entry"} {
		if _, err := x.pool.Exec(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if n := len(x.audit(t, &ledgerv1.ListAuditEntriesRequest{})); n != 1 {
		t.Errorf("%d entries, want 1", n)
	}
}

func TestActionAndEntryCommitTogether(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	if _, err := x.pool.Exec(t.Context(), `alter table audit_entry add constraint broken check (action <> 'account.suspend')`); err != nil {
		t.Fatal(err)
	}
	if _, err := x.accts.SuspendAccount(t.Context(), &ledgerv1.SuspendAccountRequest{AccountId: x.acct, Reason: "r"}); err == nil {
		t.Fatal("an action without an entry was taken")
	}
	r, err := x.accts.GetAccount(t.Context(), &ledgerv1.GetAccountRequest{AccountId: x.acct})
	if err != nil || r.GetAccount().GetStatus() != ledgerv1.AccountStatus_ACCOUNT_STATUS_ACTIVE {
		t.Errorf("%v %v", r, err)
	}
}

func TestKeyEndsByItself(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	ends := time.Now().Add(700 * time.Millisecond)
	k, err := x.accts.CreateAPIKey(t.Context(), &ledgerv1.CreateAPIKeyRequest{AccountId: x.acct, Scopes: []string{"videos:read"}, ExpiresAt: timestamppb.New(ends)})
	if err != nil {
		t.Fatal(err)
	}
	if !x.works(t, k.GetApiKey()) && time.Now().Before(ends) {
		t.Error("the key does not work before its end")
	}
	eventually(t, "the key has ended", func() bool { return !x.works(t, k.GetApiKey()) })
	_, err = x.accts.RotateAPIKey(t.Context(), &ledgerv1.RotateAPIKeyRequest{KeyId: k.GetKeyId()})
	refused(t, err, fault.Conflict, "create a new one")
	_, err = x.accts.CreateAPIKey(t.Context(), &ledgerv1.CreateAPIKeyRequest{AccountId: x.acct, Scopes: []string{"videos:read"}, ApiKey: k.GetApiKey()})
	refused(t, err, fault.Conflict, "in use by another key")
}

func TestRotation(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	life := time.Now().Add(10 * 24 * time.Hour)
	old, err := x.accts.CreateAPIKey(t.Context(), &ledgerv1.CreateAPIKeyRequest{AccountId: x.acct, Name: "web", Scopes: []string{"videos:read", "videos:write"}, ExpiresAt: timestamppb.New(life)})
	if err != nil {
		t.Fatal(err)
	}
	const overlap = 700 * time.Millisecond
	next, err := x.accts.RotateAPIKey(t.Context(), &ledgerv1.RotateAPIKeyRequest{KeyId: old.GetKeyId(), Overlap: durationpb.New(overlap)})
	if err != nil {
		t.Fatal(err)
	}
	if ends := next.GetRotated().GetExpiresAt().AsTime(); !x.works(t, old.GetApiKey()) && time.Now().Before(ends) || !x.works(t, next.GetApiKey()) {
		t.Error("both keys have to work during the overlap")
	}
	_, err = x.accts.RotateAPIKey(t.Context(), &ledgerv1.RotateAPIKeyRequest{KeyId: old.GetKeyId()})
	refused(t, err, fault.Conflict, "rotate its successor "+next.GetKeyId())
	eventually(t, "the old key has ended", func() bool { return !x.works(t, old.GetApiKey()) })
	if !x.works(t, next.GetApiKey()) {
		t.Error("the successor ended with the old key")
	}
	l, err := x.accts.ListAPIKeys(t.Context(), &ledgerv1.ListAPIKeysRequest{AccountId: x.acct})
	if err != nil || len(l.GetApiKeys()) != 2 {
		t.Fatal(l, err)
	}
	k := l.GetApiKeys()[0]
	if k.GetId() != next.GetKeyId() || k.GetName() != "web" || !slices.Equal(k.GetScopes(), []string{"videos:read", "videos:write"}) ||
		k.GetExpiresAt().AsTime().Sub(life).Abs() > time.Minute || l.GetApiKeys()[1].GetSuccessorId() != next.GetKeyId() {
		t.Errorf("%v", l)
	}
	// Overlap 0 ends the key at once; none at all is a day, but never past the key's own end.
	at, err := x.accts.RotateAPIKey(t.Context(), &ledgerv1.RotateAPIKeyRequest{KeyId: next.GetKeyId(), Overlap: durationpb.New(0)})
	if err != nil || x.works(t, next.GetApiKey()) || !x.works(t, at.GetApiKey()) {
		t.Errorf("%v %v", at, err)
	}
	plain := x.key(t, "videos:read")
	day, err := x.accts.RotateAPIKey(t.Context(), &ledgerv1.RotateAPIKeyRequest{KeyId: plain.GetKeyId()})
	if err != nil || time.Until(day.GetRotated().GetExpiresAt().AsTime()).Round(time.Minute) != 24*time.Hour {
		t.Errorf("%v %v", day, err)
	}
	_, err = x.accts.RotateAPIKey(t.Context(), &ledgerv1.RotateAPIKeyRequest{KeyId: day.GetKeyId(), Overlap: durationpb.New(31 * 24 * time.Hour)})
	refused(t, err, fault.InvalidRequest, "overlap: ")
}

func TestTwoRotationsAtOnceMakeOneSuccessor(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	k := x.key(t, "videos:read")
	errs := make(chan error, 8)
	for range cap(errs) {
		go func() {
			errs <- call(x.accts.RotateAPIKey(context.Background(), &ledgerv1.RotateAPIKeyRequest{KeyId: k.GetKeyId()}))
		}()
	}
	made := 0
	for range cap(errs) {
		if err := <-errs; err != nil {
			refused(t, err, fault.Conflict, "rotated before")
			continue
		}
		made++
	}
	if made != 1 {
		t.Errorf("%d successors, want 1", made)
	}
}

// Each of two replicas has remembered the key, with clocks that stand still:
// only the broadcast can make them forget.
func TestRevocationReachesEveryReplicaWithinASecond(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	k := x.key(t, "videos:write")
	var replicas []*auth.Authenticator
	for range 2 {
		a := auth.New(x.accts, frozen)
		for _, c := range a.Components(x.bus) {
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- c.Run(ctx) }()
			t.Cleanup(func() {
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		}
		// Being made to forget proves that it listens.
		canary := x.key(t, "videos:read")
		if _, err := a.Authenticate(t.Context(), canary.GetApiKey()); err != nil {
			t.Fatal(err)
		}
		if _, err := x.accts.RevokeAPIKey(t.Context(), &ledgerv1.RevokeAPIKeyRequest{KeyId: canary.GetKeyId()}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the replica listens", func() bool {
			if err := x.bus.Broadcast(t.Context(), bus.AccessChangedSubject, &eventv1.AccessChanged{AccountId: x.acct}); err != nil {
				t.Fatal(err)
			}
			_, err := a.Authenticate(t.Context(), canary.GetApiKey())
			return err != nil
		})
		replicas = append(replicas, a)
	}
	for _, a := range replicas {
		if p, err := a.Authenticate(t.Context(), k.GetApiKey()); err != nil || p.AccountID != x.acct {
			t.Fatal(p, err)
		}
	}
	if _, err := x.accts.SuspendAccount(t.Context(), &ledgerv1.SuspendAccountRequest{AccountId: x.acct, Reason: "unpaid since May"}); err != nil {
		t.Fatal(err)
	}
	for _, a := range replicas {
		eventually(t, "suspension has arrived", func() bool {
			p, err := a.Authenticate(t.Context(), k.GetApiKey())
			if err != nil {
				t.Fatal(err)
			}
			err = p.Active()
			return err != nil && fault.From(err).Message == "the account is suspended: unpaid since May"
		})
	}
	if _, err := x.accts.RevokeAPIKey(t.Context(), &ledgerv1.RevokeAPIKeyRequest{KeyId: k.GetKeyId()}); err != nil {
		t.Fatal(err)
	}
	for _, a := range replicas {
		eventually(t, "revocation has arrived", func() bool {
			_, err := a.Authenticate(t.Context(), k.GetApiKey())
			return err != nil && fault.From(err).Code == fault.Unauthenticated
		})
	}
}

func TestLastUseIsNotedBehindTheAnswer(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	k := x.key(t, "videos:read")
	used := func() *timestamppb.Timestamp {
		l, err := x.accts.ListAPIKeys(t.Context(), &ledgerv1.ListAPIKeysRequest{AccountId: x.acct})
		if err != nil || len(l.GetApiKeys()) != 1 {
			t.Fatal(l, err)
		}
		return l.GetApiKeys()[0].GetLastUsedAt()
	}
	if used() != nil {
		t.Error("a new key was used")
	}
	if !x.works(t, k.GetApiKey()) {
		t.Fatal("the key does not work")
	}
	eventually(t, "use is noted", func() bool { return used() != nil })
	// Within the minute it stays; a minute later it moves.
	first := used().AsTime()
	if _, err := x.pool.Exec(t.Context(), "update api_key set last_used_at = last_used_at - interval '61 seconds'"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "use is noted again", func() bool { return x.works(t, k.GetApiKey()) && !used().AsTime().Before(first) })
	again := used().AsTime()
	if !x.works(t, k.GetApiKey()) || !used().AsTime().Equal(again) {
		t.Error("noted twice in a minute")
	}
}

func TestAccountsDoNotReachEachOther(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	other, err := x.accts.CreateAccount(t.Context(), &ledgerv1.CreateAccountRequest{Name: "other"})
	if err != nil {
		t.Fatal(err)
	}
	k := x.key(t, "videos:read")
	_, err = x.accts.CreateAPIKey(t.Context(), &ledgerv1.CreateAPIKeyRequest{AccountId: other.GetAccountId(), Scopes: []string{"videos:read"}, ApiKey: k.GetApiKey()})
	refused(t, err, fault.Conflict, "in use by another key")
	_, err = x.accts.CreateAPIKey(t.Context(), &ledgerv1.CreateAPIKeyRequest{AccountId: x.acct, Scopes: []string{"videos:read", "videos:write"}, ApiKey: k.GetApiKey()})
	refused(t, err, fault.Conflict, "in use by another key")
	_, err = x.accts.RevokeAPIKey(t.Context(), &ledgerv1.RevokeAPIKeyRequest{KeyId: k.GetKeyId(), AccountId: other.GetAccountId()})
	refused(t, err, fault.NotFound, "no such API key")
	_, err = x.accts.RotateAPIKey(t.Context(), &ledgerv1.RotateAPIKeyRequest{KeyId: k.GetKeyId(), AccountId: other.GetAccountId()})
	refused(t, err, fault.NotFound, "no such API key")
	if !x.works(t, k.GetApiKey()) {
		t.Error("another account ended the key")
	}
	for _, id := range []string{x.acct, other.GetAccountId()} {
		if _, err := x.accts.CreateEndUser(t.Context(), &ledgerv1.CreateEndUserRequest{AccountId: id, UserId: "u1", Name: "of " + id}); err != nil {
			t.Fatal(err)
		}
		l, err := x.accts.ListEndUsers(t.Context(), &ledgerv1.ListEndUsersRequest{AccountId: id})
		if err != nil || len(l.GetEndUsers()) != 1 || l.GetEndUsers()[0].GetName() != "of "+id {
			t.Errorf("%v %v", l, err)
		}
	}
	if l, err := x.accts.ListAPIKeys(t.Context(), &ledgerv1.ListAPIKeysRequest{AccountId: other.GetAccountId()}); err != nil || len(l.GetApiKeys()) != 0 {
		t.Errorf("%v %v", l, err)
	}
	_, err = x.accts.CreateEndUser(t.Context(), &ledgerv1.CreateEndUserRequest{AccountId: x.acct, UserId: "u1", Name: "another"})
	refused(t, err, fault.Conflict, "by another name")
}

func TestWrongRequestsNameTheField(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	ctx := t.Context()
	past := timestamppb.New(time.Now().Add(-time.Hour))
	for want, err := range map[string]error{
		"name: must be at least 1 characters":              call(x.accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{})),
		"name: must not hold control characters":           call(x.accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "a\x00b"})),
		"tier: must be development, staging or production": call(x.accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "a", Tier: "gold"})),
		"account_id: must be at most 64 letters":           call(x.accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "a", AccountId: "a.b"})),
		`time_zone: "Mars/Olympus" is not known`:           call(x.accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "a", TimeZone: "Mars/Olympus"})),
		`time_zone: "Local" is not known`:                  call(x.accts.UpdateAccount(ctx, &ledgerv1.UpdateAccountRequest{AccountId: x.acct, TimeZone: proto.String("Local")})),
		"reason: is required with cap_resolution":          call(x.accts.UpdateAccount(ctx, &ledgerv1.UpdateAccountRequest{AccountId: x.acct, CapResolution: proto.String("1080p")})),
		"cap_resolution: must be 480p, 720p":               call(x.accts.UpdateAccount(ctx, &ledgerv1.UpdateAccountRequest{AccountId: x.acct, CapResolution: proto.String("8k"), Reason: "r"})),
		"reason: must be at least 1 characters":            call(x.accts.SuspendAccount(ctx, &ledgerv1.SuspendAccountRequest{AccountId: x.acct})),
		"scopes: must contain at least 1 item":             call(x.accts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: x.acct})),
		"scopes[0]: must be videos:write, videos:read":     call(x.accts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: x.acct, Scopes: []string{"videos"}})),
		"api_key: must have 12 to 255 printable":           call(x.accts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: x.acct, Scopes: []string{"admin"}, ApiKey: "short"})),
		"expires_at: must be greater than now":             call(x.accts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: x.acct, Scopes: []string{"admin"}, ExpiresAt: past})),
		"key_id: must be a key's id":                       call(x.accts.RevokeAPIKey(ctx, &ledgerv1.RevokeAPIKeyRequest{KeyId: "a b"})),
		"user_id: must be at least 1 characters":           call(x.accts.CreateEndUser(ctx, &ledgerv1.CreateEndUserRequest{AccountId: x.acct})),
		"limit: must be greater":                           call(x.accts.ListAccounts(ctx, &ledgerv1.ListAccountsRequest{Limit: 101})),
	} {
		refused(t, err, fault.InvalidRequest, want)
	}
	for want, err := range map[string]error{
		"get":     call(x.accts.GetAccount(ctx, &ledgerv1.GetAccountRequest{AccountId: "acct_none"})),
		"update":  call(x.accts.UpdateAccount(ctx, &ledgerv1.UpdateAccountRequest{AccountId: "acct_none", Name: proto.String("n")})),
		"suspend": call(x.accts.SuspendAccount(ctx, &ledgerv1.SuspendAccountRequest{AccountId: "acct_none", Reason: "r"})),
		"key":     call(x.accts.CreateAPIKey(ctx, &ledgerv1.CreateAPIKeyRequest{AccountId: "acct_none", Scopes: []string{"admin"}})),
		"user":    call(x.accts.CreateEndUser(ctx, &ledgerv1.CreateEndUserRequest{AccountId: "acct_none", UserId: "u"})),
		"credits": call(x.money.TopUp(ctx, &ledgerv1.TopUpRequest{AccountId: "acct_none", AmountMicros: 1, IdempotencyKey: "k"})),
	} {
		t.Log(want)
		refused(t, err, fault.NotFound, "no such account")
	}
	_, err := x.accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "not test", AccountId: x.acct})
	refused(t, err, fault.Conflict, `is another account, named "test"`)
	_, err = x.accts.SuspendAccount(ctx, &ledgerv1.SuspendAccountRequest{AccountId: "acct_operator", Reason: "r"})
	refused(t, err, fault.Conflict, "cannot be suspended")
}

func TestAccountsArePaged(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	want := map[string]bool{x.acct: true}
	for range 6 {
		a, err := x.accts.CreateAccount(t.Context(), &ledgerv1.CreateAccountRequest{Name: "same name"})
		if err != nil {
			t.Fatal(err)
		}
		want[a.GetAccountId()] = true
	}
	got, after := map[string]bool{}, ""
	for {
		r, err := x.accts.ListAccounts(t.Context(), &ledgerv1.ListAccountsRequest{After: after, Limit: 3})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range r.GetAccounts() {
			if got[a.GetId()] {
				t.Errorf("%s twice", a.GetId())
			}
			got[a.GetId()], after = true, a.GetId()
		}
		if !r.GetHasMore() {
			break
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestProvisionKeepsWhatAnOperatorChanged(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	const dev, admin = "rw_dev_of_this_test", "rw_admin_of_this_test"
	provision := func() {
		t.Helper()
		if err := errors.Join(x.svc.Provision(t.Context(), "acct_development", dev, 7), x.svc.ProvisionOperator(t.Context(), admin)); err != nil {
			t.Fatal(err)
		}
	}
	provision()
	entries := len(x.audit(t, &ledgerv1.ListAuditEntriesRequest{}))
	provision()
	if n := len(x.audit(t, &ledgerv1.ListAuditEntriesRequest{})); n != entries || !x.works(t, dev) || !x.works(t, admin) {
		t.Errorf("%d entries after the second start, want %d", n, entries)
	}
	l, err := x.accts.ListAPIKeys(t.Context(), &ledgerv1.ListAPIKeysRequest{AccountId: "acct_development"})
	if err != nil || len(l.GetApiKeys()) != 1 || slices.Contains(l.GetApiKeys()[0].GetScopes(), auth.Admin) {
		t.Fatal(l, err)
	}
	if _, err := x.accts.RevokeAPIKey(t.Context(), &ledgerv1.RevokeAPIKeyRequest{KeyId: l.GetApiKeys()[0].GetId()}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.accts.UpdateAccount(t.Context(), &ledgerv1.UpdateAccountRequest{AccountId: "acct_development", Name: proto.String("ours")}); err != nil {
		t.Fatal(err)
	}
	provision()
	if a, err := x.accts.GetAccount(t.Context(), &ledgerv1.GetAccountRequest{AccountId: "acct_development"}); err != nil || a.GetAccount().GetName() != "ours" || x.works(t, dev) {
		t.Errorf("%v %v", a, err)
	}
	if err := x.svc.ProvisionOperator(t.Context(), "admin"); err == nil || !strings.Contains(err.Error(), "REELWAY_ADMIN_API_KEY") {
		t.Errorf("a short admin key: %v", err)
	}
}

// The actor is said by whoever may reach the ledger; an empty one is nobody.
func TestAnEmptyActorIsTheOperator(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "reelway-actor", "")
	if _, err := x.accts.CreateAccount(ctx, &ledgerv1.CreateAccountRequest{Name: "n"}); err != nil {
		t.Fatal(err)
	}
	if n := len(x.audit(t, &ledgerv1.ListAuditEntriesRequest{Actor: auth.Operator})); n != 2 {
		t.Errorf("%d entries, want 2", n)
	}
}
