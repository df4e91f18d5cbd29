package ledger_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"reelway.dev/pkg/fault"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/ledger"
)

// other is the same ledger seen by another account with credits.
func (x *bundle) other(t *testing.T, credits int64) *bundle {
	t.Helper()
	a, err := x.accts.CreateAccount(t.Context(), &ledgerv1.CreateAccountRequest{Name: "other"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.money.TopUp(t.Context(), &ledgerv1.TopUpRequest{AccountId: a.GetAccountId(), AmountMicros: credits, IdempotencyKey: "first"}); err != nil {
		t.Fatal(err)
	}
	y := *x
	y.acct = a.GetAccountId()
	return &y
}

func (x *bundle) keep(t *testing.T, r *ledgerv1.UpdateAccountRequest) *ledgerv1.Account {
	t.Helper()
	r.AccountId = x.acct
	a, err := x.accts.UpdateAccount(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return a.GetAccount()
}

// stored is a job whose file is in the bucket.
func (x *bundle) stored(t *testing.T) *videov1.Video {
	t.Helper()
	id := x.openAs(t, "ann", "m")
	x.finish(t, id, "archived")
	return x.await(t, id, videov1.VideoState_VIDEO_STATE_SUCCEEDED)
}

func (x *bundle) hasFile(t *testing.T, id string) bool {
	t.Helper()
	return x.await(t, id, videov1.VideoState_VIDEO_STATE_SUCCEEDED).GetArtifact().GetKey() != ""
}

// An account's own age goes for what it has already, however much that is; other
// accounts keep theirs for ever as the operator's setting says.
func TestAnAccountsVideosGoSooner(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price)
	y := x.other(t, 10*price)
	x.archiver(t)
	for range 120 { // more than one batch, without a file
		id := x.openAs(t, "ann", "m")
		if _, err := x.jobs.CancelJob(context.Background(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: id}); err != nil {
			t.Fatal(err)
		}
	}
	old, others := x.stored(t), y.stored(t)
	if old.GetExpiresAt() != nil {
		t.Errorf("a video that is kept for ever expires at %v", old.GetExpiresAt())
	}
	if a := x.keep(t, &ledgerv1.UpdateAccountRequest{RetainVideos: durationpb.New(time.Hour)}); a.GetRetainVideos().AsDuration() != time.Hour {
		t.Errorf("%v", a)
	}
	fresh := x.stored(t)
	if e := fresh.GetExpiresAt(); !e.AsTime().Equal(fresh.GetCompletedAt().AsTime().Add(time.Hour)) {
		t.Errorf("a video of %v expires at %v, want an hour later", fresh.GetCompletedAt().AsTime(), e)
	}
	eventually(t, "watchers are told when it expires", func() bool {
		v, ok, err := x.bus.Status(context.Background(), fresh.GetId())
		return err == nil && ok && v.GetExpiresAt() != nil
	})
	if !x.hasFile(t, old.GetId()) {
		t.Error("a file went before its age")
	}
	x.keep(t, &ledgerv1.UpdateAccountRequest{RetainVideos: durationpb.New(time.Second)})
	eventually(t, "both files are gone", func() bool { return !x.hasFile(t, old.GetId()) && !x.hasFile(t, fresh.GetId()) })
	if v := y.await(t, others.GetId(), videov1.VideoState_VIDEO_STATE_SUCCEEDED); v.GetArtifact().GetKey() == "" || v.GetExpiresAt() != nil {
		t.Errorf("another account's video: %v", v)
	}
}

// An account's own age keeps what the operator's setting removes, until the
// account goes by the setting again.
func TestAnAccountsVideosStayLonger(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price, func(c *ledger.Config) { c.RetainVideos = time.Second })
	y := x.other(t, 10*price)
	x.archiver(t)
	x.keep(t, &ledgerv1.UpdateAccountRequest{RetainVideos: durationpb.New(0)})
	mine, others := x.stored(t), y.stored(t)
	eventually(t, "the other's file is gone", func() bool { return !y.hasFile(t, others.GetId()) })
	if v := x.await(t, mine.GetId(), videov1.VideoState_VIDEO_STATE_SUCCEEDED); v.GetArtifact().GetKey() == "" || v.GetExpiresAt() != nil {
		t.Errorf("a video that is kept for ever: %v", v)
	}
	x.keep(t, &ledgerv1.UpdateAccountRequest{RetainVideos: durationpb.New(0)}) // as it is: no entry
	if a := x.keep(t, &ledgerv1.UpdateAccountRequest{DefaultRetainVideos: true}); a.GetRetainVideos() != nil {
		t.Errorf("%v", a)
	}
	eventually(t, "the file is gone", func() bool { return !x.hasFile(t, mine.GetId()) })

	var told []string
	for _, e := range x.audit(t, &ledgerv1.ListAuditEntriesRequest{AccountId: x.acct}) {
		if e.GetAction() == "account.update" {
			c := e.GetDetails().GetFields()["retain_videos"].GetStructValue().GetFields()
			told = append(told, c["from"].GetStringValue()+" to "+c["to"].GetStringValue())
		}
	}
	if got := strings.Join(told, ", "); got != "for ever to default, default to for ever" {
		t.Errorf("the audit log says %s", got)
	}
	for field, r := range map[string]*ledgerv1.UpdateAccountRequest{
		"retain_videos":         {AccountId: x.acct, RetainVideos: durationpb.New(1500 * time.Millisecond)},
		"default_retain_videos": {AccountId: x.acct, RetainVideos: durationpb.New(time.Hour), DefaultRetainVideos: true},
	} {
		if _, err := x.accts.UpdateAccount(t.Context(), r); fault.FromStatus(err).Code != fault.InvalidRequest || !strings.Contains(err.Error(), field+":") {
			t.Errorf("%v: %v", r, err)
		}
	}
}
