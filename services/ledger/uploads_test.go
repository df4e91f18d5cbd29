package ledger_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/id"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// uploads are an account's files, as intake speaks of them.
type uploads struct {
	ledgerv1.UploadServiceClient
	x *bundle
}

func (u uploads) begin(t *testing.T, open time.Duration) (string, error) {
	t.Helper()
	name := id.New(id.Upload)
	r := &ledgerv1.BeginUploadRequest{AccountId: u.x.acct, Id: name, Key: "uploads/" + u.x.acct + "/" + name + ".png", ContentType: "image/png", SizeBytes: 7}
	if open > 0 {
		r.OpenFor = durationpb.New(open)
	}
	_, err := u.BeginUpload(t.Context(), r)
	return name, err
}

func (u uploads) ready(t *testing.T) string {
	t.Helper()
	name, err := u.begin(t, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := u.FinishUpload(t.Context(), &ledgerv1.FinishUploadRequest{AccountId: u.x.acct, Id: name, SizeBytes: 7, Sha256: bytes.Repeat([]byte{1}, 32), Width: 3, Height: 2})
	if err != nil || got.GetUpload().GetState() != videov1.UploadState_UPLOAD_STATE_READY || got.GetUpload().GetSha256() != strings.Repeat("01", 32) {
		t.Fatalf("%v %v", got, err)
	}
	return name
}

func (u uploads) drop(t *testing.T, name string) {
	t.Helper()
	if _, err := u.DropUpload(t.Context(), &ledgerv1.DropUploadRequest{AccountId: u.x.acct, Id: name}); err != nil {
		t.Fatal(err)
	}
}

// left is how many rows there are of an upload and its deletion.
func (u uploads) left(t *testing.T, name string) int {
	t.Helper()
	return u.x.number(t, "select (select count(*) from upload where id = $1) + (select count(*) from artifact_deletion where job_id = $1)", name)
}

func (u uploads) gone(t *testing.T, name string) {
	t.Helper()
	eventually(t, name+" is gone", func() bool { return u.left(t, name) == 0 })
}

func withUploads(t *testing.T, change ...func(*ledgerConfig)) uploads {
	t.Helper()
	cfg := ledgerConfig{UploadLife: time.Hour, UploadsUnused: 100, Waiting: 64, Group: 64}
	for _, f := range change {
		f(&cfg)
	}
	x := setup(t, 100*price)
	_, conn := serve(t, cfg, x.pool, x.bus, []string{}) // the door alone, with these settings
	return uploads{ledgerv1.NewUploadServiceClient(conn), x}
}

// job opens one that needs uploads.
func (u uploads) job(user string, names ...string) (*videov1.Video, error) {
	r, err := u.x.jobs.OpenJob(context.Background(), &ledgerv1.OpenJobRequest{AccountId: u.x.acct, Provider: "testprovider", QuoteMicros: price, User: user,
		RequestHash: make([]byte, 32), Params: &videov1.VideoParams{Model: "m", ImageUrl: "bucket:k"}, UploadIds: names})
	return r.GetVideo(), err
}

// An upload that was dropped is nobody's, and its file goes, but not while a job
// needs it.
func TestUploadsLastAsLongAsTheirJobs(t *testing.T) {
	t.Parallel()
	u := withUploads(t)
	a := u.x.archiver(t)
	unused, needed, after := u.ready(t), u.ready(t), u.ready(t)
	v, err := u.job("", needed, after)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{unused, needed} {
		u.drop(t, name)
		if _, err := u.FindUpload(t.Context(), &ledgerv1.FindUploadRequest{AccountId: u.x.acct, Id: name}); fault.FromStatus(err).Code != fault.NotFound {
			t.Errorf("a dropped upload: %v", err)
		}
		if _, err := u.DropUpload(t.Context(), &ledgerv1.DropUploadRequest{AccountId: u.x.acct, Id: name}); fault.FromStatus(err).Code != fault.NotFound {
			t.Errorf("dropped twice: %v", err)
		}
	}
	// The sweep has passed over the needed one: it goes by age.
	u.x.exec(t, "update upload set dropped_at = now() - interval '1 hour' where id = $1", needed)
	u.gone(t, unused)
	if n := u.x.number(t, "select count(*) from upload where id = $1", needed); n != 1 {
		t.Error("the file of a live job was deleted")
	}
	if _, err := u.x.jobs.CancelJob(t.Context(), &ledgerv1.CancelJobRequest{AccountId: u.x.acct, JobId: v.GetId()}); err != nil {
		t.Fatal(err)
	}
	u.gone(t, needed)
	if n := u.left(t, after); n != 1 {
		t.Error("an upload that nobody dropped is gone")
	}
	u.x.exec(t, "update upload set expires_at = now() - interval '1 second' where id = $1", after)
	u.gone(t, after)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range []string{unused, needed, after} {
		if n := a.asked["uploads/"+u.x.acct+"/"+name+".png"]; n != 1 {
			t.Errorf("the file of %s was to be deleted %d times, want once", name, n)
		}
	}
}

// What may still be written by a stranger is deleted only when it may not.
func TestAnOpenUploadIsDeletedWhenItsLinkHasEnded(t *testing.T) {
	t.Parallel()
	u := withUploads(t)
	u.x.archiver(t)
	open, err := u.begin(t, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	u.drop(t, open)
	closed := u.ready(t)
	u.drop(t, closed)
	u.x.exec(t, "update upload set dropped_at = now() - interval '1 hour' where id = $1", open) // before the other in the sweep's order
	u.gone(t, closed)
	if n := u.x.number(t, "select count(*) from upload where id = $1", open); n != 1 {
		t.Error("deleted while its link works")
	}
	u.x.exec(t, "update upload set open_until = now() - interval '1 second' where id = $1", open)
	u.gone(t, open)
}

// A job is refused for want of a file before anything is held for it.
func TestJobsNeedUploadsThatAreThere(t *testing.T) {
	t.Parallel()
	u := withUploads(t)
	pending, err := u.begin(t, 0)
	if err != nil {
		t.Fatal(err)
	}
	expired, dropped, others := u.ready(t), u.ready(t), u.ready(t)
	u.x.exec(t, "update upload set expires_at = now() - interval '1 second', open_until = now() + interval '1 hour' where id = $1", expired)
	u.drop(t, dropped)
	other := uploads{u.UploadServiceClient, u.x.other(t, 100*price)}
	for what, name := range map[string]string{"pending": pending, "expired": expired, "dropped": dropped, "absent": id.New(id.Upload)} {
		if _, err := u.job("", name); fault.FromStatus(err).Code != fault.InvalidRequest || fault.FromStatus(err).Fields[0].Name != "file_id" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := other.job("", others); fault.FromStatus(err).Code != fault.InvalidRequest {
		t.Errorf("another account's: %v", err)
	}
	for what, err := range map[string]error{
		"find":   second(other.FindUpload(t.Context(), &ledgerv1.FindUploadRequest{AccountId: other.x.acct, Id: others})),
		"drop":   second(other.DropUpload(t.Context(), &ledgerv1.DropUploadRequest{AccountId: other.x.acct, Id: others})),
		"finish": second(other.FinishUpload(t.Context(), &ledgerv1.FinishUploadRequest{AccountId: other.x.acct, Id: others, SizeBytes: 1, Sha256: make([]byte, 32)})),
	} {
		if fault.FromStatus(err).Code != fault.NotFound {
			t.Errorf("%s of another account's: %v", what, err)
		}
	}
	u.x.balance(t, 100*price, 0)
	if _, err := u.job("", others); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	list, err := u.ListUploads(t.Context(), &ledgerv1.ListUploadsRequest{AccountId: u.x.acct, Limit: 1})
	if err != nil || len(list.GetUploads()) != 1 || list.GetUploads()[0].GetId() != others || !list.GetHasMore() {
		t.Fatalf("%v %v", list, err)
	}
	list, err = u.ListUploads(t.Context(), &ledgerv1.ListUploadsRequest{AccountId: u.x.acct, After: others})
	if err != nil || len(list.GetUploads()) != 1 || list.GetUploads()[0].GetId() != pending || list.GetHasMore() {
		t.Errorf("%v %v", list, err)
	}
}

func second[A any](_ A, err error) error { return err }

// Nobody fills the bucket: uploads count until a job uses them, or their file is
// gone, however many are begun at the same time.
func TestUnusedUploadsAreLimited(t *testing.T) {
	t.Parallel()
	u := withUploads(t, func(c *ledgerConfig) { c.UploadsUnused = 3 })
	used := u.ready(t)
	if _, err := u.job("", used); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 10)
	for range cap(errs) {
		go func() {
			_, err := u.begin(t, time.Minute)
			errs <- err
		}()
	}
	taken := 0
	for range cap(errs) {
		switch err := <-errs; {
		case err == nil:
			taken++
		case fault.FromStatus(err).Code != fault.RateLimited || !fault.FromStatus(err).Retryable:
			t.Error(err)
		}
	}
	if taken != 3 {
		t.Errorf("%d were begun, want 3", taken)
	}
	list, err := u.ListUploads(t.Context(), &ledgerv1.ListUploadsRequest{AccountId: u.x.acct})
	if err != nil || len(list.GetUploads()) != 4 {
		t.Fatalf("%v %v", list, err)
	}
	u.drop(t, list.GetUploads()[0].GetId())
	if _, err := u.begin(t, 0); fault.FromStatus(err).Code != fault.RateLimited {
		t.Errorf("one whose link still works does not count: %v", err)
	}
}

// With an end user go the files that were sent for them.
func TestErasureDropsUploads(t *testing.T) {
	t.Parallel()
	u := withUploads(t)
	u.x.archiver(t)
	anns, bobs := u.ready(t), u.ready(t)
	for user, name := range map[string]string{"ann": anns, "bob": bobs} {
		v, err := u.job(user, name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.x.jobs.CancelJob(t.Context(), &ledgerv1.CancelJobRequest{AccountId: u.x.acct, JobId: v.GetId()}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := u.x.erase.EraseUser(t.Context(), &ledgerv1.EraseUserRequest{AccountId: u.x.acct, User: "ann", Reason: "asked for"}); err != nil {
		t.Fatal(err)
	}
	u.gone(t, anns)
	if n := u.left(t, bobs); n != 1 {
		t.Error("another user's file is gone")
	}
}
