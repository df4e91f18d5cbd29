package ledger_test

import (
	"slices"
	"testing"
	"time"

	"reelway.dev/pkg/bus"
	"reelway.dev/pkg/fault"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	"reelway.dev/services/ledger"
)

func (x *bundle) realtime(t *testing.T) ledgerv1.RealtimeServiceClient {
	t.Helper()
	_, conn := serve(t, ledger.Config{}, x.pool, x.bus, []string{})
	return ledgerv1.NewRealtimeServiceClient(conn)
}

// A token ends by its own revocation, and with the key that it was made with;
// another account can end none. What is past is swept.
func TestRealtimeTokensEnd(t *testing.T) {
	t.Parallel()
	x := setup(t, 0)
	r := x.realtime(t)
	live, revoked, expired := x.key(t, "videos:read").GetKeyId(), x.key(t, "videos:read").GetKeyId(), x.key(t, "videos:read").GetKeyId()
	ended := func(refs ...*ledgerv1.RealtimeTokenRef) []string {
		t.Helper()
		resp, err := r.ListEndedRealtimeTokens(t.Context(), &ledgerv1.ListEndedRealtimeTokensRequest{Tokens: refs})
		if err != nil {
			t.Fatal(err)
		}
		return slices.Sorted(slices.Values(resp.GetTokenIds()))
	}
	ref := func(token, key string) *ledgerv1.RealtimeTokenRef {
		return &ledgerv1.RealtimeTokenRef{TokenId: token, AccountId: x.acct, KeyId: key}
	}
	all := []*ledgerv1.RealtimeTokenRef{ref("rtok_1", live), ref("rtok_2", live), ref("rtok_3", revoked), ref("rtok_4", expired), ref("rtok_5", "key_unknown"),
		{TokenId: "rtok_6", AccountId: "acct_other", KeyId: live}}
	if got := ended(all...); !slices.Equal(got, []string{"rtok_5", "rtok_6"}) {
		t.Errorf("ended from the start: %v", got)
	}
	heard := make(chan *eventv1.AccessChanged, 64)
	go func() {
		_ = bus.Listen(t.Context(), x.bus, bus.AccessChangedSubject, func(m *eventv1.AccessChanged) { heard <- m })
	}()
	other, err := x.accts.CreateAccount(t.Context(), &ledgerv1.CreateAccountRequest{Name: "other"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the revocation is told of", func() bool { // once it listens
		for range 2 {
			if _, err := r.RevokeRealtimeToken(t.Context(), &ledgerv1.RevokeRealtimeTokenRequest{AccountId: x.acct, TokenId: "rtok_1"}); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case m := <-heard:
			return m.GetAccountId() == x.acct && m.GetTokenId() == "rtok_1"
		case <-time.After(10 * time.Millisecond):
			return false
		}
	})
	if _, err := r.RevokeRealtimeToken(t.Context(), &ledgerv1.RevokeRealtimeTokenRequest{AccountId: other.GetAccountId(), TokenId: "rtok_2"}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.accts.RevokeAPIKey(t.Context(), &ledgerv1.RevokeAPIKeyRequest{KeyId: revoked}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.pool.Exec(t.Context(), "update api_key set expires_at = now() where id = $1", expired); err != nil {
		t.Fatal(err)
	}
	if got := ended(all...); !slices.Equal(got, []string{"rtok_1", "rtok_3", "rtok_4", "rtok_5", "rtok_6"}) {
		t.Errorf("ended: %v", got)
	}
	_, err = r.RevokeRealtimeToken(t.Context(), &ledgerv1.RevokeRealtimeTokenRequest{AccountId: "acct_none", TokenId: "rtok_1"})
	if fault.FromStatus(err).Code != fault.NotFound {
		t.Error(err)
	}
	if _, err := x.pool.Exec(t.Context(), "update realtime_revocation set ends_at = now() - interval '1 second'"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.RevokeRealtimeToken(t.Context(), &ledgerv1.RevokeRealtimeTokenRequest{AccountId: x.acct, TokenId: "rtok_7"}); err != nil {
		t.Fatal(err)
	}
	if n := x.number(t, "select count(*) from realtime_revocation"); n != 1 {
		t.Errorf("%d revocations are kept", n)
	}
}

func TestUnfinishedJobs(t *testing.T) {
	t.Parallel()
	x := setup(t, 100*price)
	r := x.realtime(t)
	var want []string
	for i := range 5 {
		v, err := x.open(string(rune('a' + i)))
		if err != nil {
			t.Fatal(err)
		}
		switch i {
		case 1:
			if _, err := x.jobs.CancelJob(t.Context(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: v.GetId()}); err != nil {
				t.Fatal(err)
			}
			continue
		case 2:
			if _, err := x.pool.Exec(t.Context(), "update job set end_user = 'alice' where id = $1", v.GetId()); err != nil {
				t.Fatal(err)
			}
		}
		want = append(want, v.GetId())
	}
	list := func(q *ledgerv1.ListUnfinishedJobsRequest) (ids []string) {
		t.Helper()
		for {
			resp, err := r.ListUnfinishedJobs(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range resp.GetVideos() {
				ids = append(ids, v.GetId())
				q.After = v.GetId()
			}
			if !resp.GetHasMore() {
				return ids
			}
		}
	}
	if got := list(&ledgerv1.ListUnfinishedJobsRequest{AccountId: x.acct, Limit: 2}); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := list(&ledgerv1.ListUnfinishedJobsRequest{AccountId: x.acct, User: "alice", Limit: 100}); !slices.Equal(got, want[1:2]) {
		t.Errorf("alice's: %v", got)
	}
	if got := list(&ledgerv1.ListUnfinishedJobsRequest{AccountId: "acct_other", Limit: 100}); got != nil {
		t.Errorf("another account's: %v", got)
	}
}
