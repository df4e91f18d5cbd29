package ledger_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	eventv1 "reelway.dev/proto/gen/reelway/event/v1"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
	"reelway.dev/services/ledger"
)

// filmed is a finished job, and the file that it has in the bucket.
func (x *bundle) filmed(t *testing.T, user string) (id, file string) {
	t.Helper()
	id = x.openAs(t, user, "m")
	attempt := x.begin(t, id)
	x.observe(t, id, attempt, "rendered")
	x.await(t, id, videov1.VideoState_VIDEO_STATE_STORING)
	file = "videos/" + id + ".mp4"
	x.publish(t, &eventv1.Observation{JobId: id, AttemptId: attempt, Provider: "testprovider", Id: attempt + "archived", Source: "test", ObservedAt: timestamppb.Now(),
		Fact: &eventv1.Observation_Archived{Archived: &eventv1.Archived{Artifact: &videov1.Artifact{Key: file, Sha256: "00"}}}})
	x.await(t, id, videov1.VideoState_VIDEO_STATE_SUCCEEDED)
	return id, file
}

// remix opens a job that works on the file of another one.
func (x *bundle) remix(user, source string) (string, error) {
	r, err := x.jobs.OpenJob(context.Background(), &ledgerv1.OpenJobRequest{AccountId: x.acct, Provider: "testprovider", QuoteMicros: price, User: user,
		RequestHash: make([]byte, 32), SourceId: source, Params: &videov1.VideoParams{Model: "m", SourceVideo: source, VideoUrl: "bucket:k"}})
	return r.GetVideo().GetId(), err
}

func (x *bundle) stop(t *testing.T, job string) {
	t.Helper()
	if _, err := x.jobs.CancelJob(context.Background(), &ledgerv1.CancelJobRequest{AccountId: x.acct, JobId: job}); err != nil {
		t.Fatal(err)
	}
}

func (x *bundle) delete(t *testing.T, job string) {
	t.Helper()
	if _, err := x.jobs.DeleteJob(context.Background(), &ledgerv1.DeleteJobRequest{AccountId: x.acct, JobId: job}); err != nil {
		t.Fatal(err)
	}
}

// times is how often a file was to be deleted.
func (a *archiver) times(file string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[file]
}

// A video that is deleted is gone for its owner at once, whoever deletes it and
// why; its file goes when no live job works on it any more, and once.
func TestASourceLastsAsLongAsItsJobs(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(t *testing.T, x *bundle, source string){
		"its owner": func(t *testing.T, x *bundle, source string) {
			x.delete(t, source)
			if _, err := x.jobs.GetJob(t.Context(), &ledgerv1.GetJobRequest{JobId: source, AccountId: x.acct}); fault.FromStatus(err).Code != fault.NotFound {
				t.Errorf("a deleted video: %v", err)
			}
		},
		"the account's age": func(t *testing.T, x *bundle, source string) {
			x.keep(t, &ledgerv1.UpdateAccountRequest{RetainVideos: durationpb.New(time.Second)})
			eventually(t, "the video has expired", func() bool { return !x.hasFile(t, source) })
		},
		"an erasure": func(t *testing.T, x *bundle, _ string) {
			r, err := x.erase.EraseUser(t.Context(), &ledgerv1.EraseUserRequest{AccountId: x.acct, User: "ann", Reason: "asked for"})
			if err != nil || r.GetVideos() != 2 {
				t.Errorf("%v %v", r, err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := setup(t, 10*price)
			a := x.archiver(t)
			source, file := x.filmed(t, "ann")
			unused, unusedFile := x.filmed(t, "ann")
			first, err := x.remix("bob", source)
			if err != nil {
				t.Fatal(err)
			}
			second, err := x.remix("", source)
			if err != nil {
				t.Fatal(err)
			}
			before, err := x.remix("bob", unused)
			if err != nil {
				t.Fatal(err)
			}
			x.stop(t, before)
			remove(t, x, source)
			if name == "its owner" {
				x.delete(t, unused)
			}
			if _, err := x.remix("", source); fault.FromStatus(err).Code != fault.NotFound && fault.FromStatus(err).Code != fault.Conflict {
				t.Errorf("a job on it: %v", err)
			}
			eventually(t, "the file that no job works on is deleted", func() bool {
				return a.times(unusedFile) > 0 && x.number(t, "select count(*) from artifact_deletion") == 1
			})
			x.stop(t, first)
			// The sweep has come by since then: what it does last was done for this one.
			x.delete(t, first)
			marker, markerFile := x.filmed(t, "carl")
			x.delete(t, marker)
			eventually(t, "a file that was deleted later is gone", func() bool { return a.times(markerFile) == 1 })
			if n := x.number(t, "select count(*) from artifact_deletion where key = $1 and asked_at = 'infinity'", file); n != 1 || a.times(file) != 0 {
				t.Errorf("the file of a live job's source: %d rows, to be deleted %d times", n, a.times(file))
			}
			x.stop(t, second)
			eventually(t, "nothing is left", func() bool {
				return x.number(t, "select (select count(*) from artifact_deletion) + (select count(*) from job_source)") == 0
			})
			for _, f := range []string{file, unusedFile} {
				if n := a.times(f); n != 1 {
					t.Errorf("%s was to be deleted %d times, want once", f, n)
				}
			}
		})
	}
}

// A job is refused for want of its source before anything is held for it.
func TestJobsNeedSourcesThatAreThere(t *testing.T) {
	t.Parallel()
	x := setup(t, 20*price)
	y := x.other(t, 10*price)
	x.archiver(t)
	there, _ := x.filmed(t, "")
	deleted, _ := x.filmed(t, "")
	x.delete(t, deleted)
	expired, _ := x.filmed(t, "")
	others, _ := y.filmed(t, "")
	failed := x.openAs(t, "", "m")
	x.finish(t, failed, "failed")
	live := x.openAs(t, "", "m")
	// As an account's age would, which would take the other as well.
	x.exec(t, "update job set artifact = '' where id = $1", expired)
	for what, c := range map[string]struct {
		source string
		code   fault.Code
		says   string
	}{
		"absent":          {"video_absent", fault.NotFound, "no such video"},
		"deleted":         {deleted, fault.NotFound, "no such video"},
		"another's":       {others, fault.NotFound, "no such video"},
		"not finished":    {live, fault.NotFound, "no such video"},
		"without a video": {failed, fault.NotFound, "no such video"},
		"expired":         {expired, fault.Conflict, "was removed"},
	} {
		_, err := x.remix("", c.source)
		if f := fault.FromStatus(err); f == nil || f.Code != c.code || len(f.Fields) != 1 || f.Fields[0].Name != "video" || !strings.Contains(f.Message, c.says) || f.Retryable {
			t.Errorf("%s: %v", what, err)
		}
	}
	x.balance(t, 16*price, price)
	if _, err := x.remix("", there); err != nil {
		t.Errorf("one that is there: %v", err)
	}
}

// Of a deletion and the opening of jobs at the same moment one comes first: either
// there is no job, or its file stays.
func TestASourceIsNeverDeletedUnderAJob(t *testing.T) {
	t.Parallel()
	const rounds, jobs = 20, 20 // enough for a group that is written ahead
	x := setup(t, 100_000*price, func(c *ledger.Config) { c.SweepInterval = 10 * time.Millisecond })
	a := x.archiver(t)
	live := map[string][]string{} // by file
	var mu sync.Mutex
	var all []string
	for range rounds {
		source, file := x.filmed(t, "")
		all = append(all, file)
		var wg sync.WaitGroup
		for i := range jobs + 1 {
			wg.Go(func() {
				if i == 0 {
					if _, err := x.jobs.DeleteJob(context.Background(), &ledgerv1.DeleteJobRequest{AccountId: x.acct, JobId: source}); err != nil {
						t.Error(err)
					}
					return
				}
				job, err := x.remix("", source)
				switch {
				case err == nil:
					mu.Lock()
					defer mu.Unlock()
					live[file] = append(live[file], job)
				case fault.FromStatus(err).Code != fault.NotFound:
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	t.Logf("jobs came first in %d of %d rounds", len(live), rounds)
	eventually(t, "what no job works on is deleted", func() bool {
		for _, f := range all {
			if len(live[f]) == 0 && a.times(f) == 0 {
				return false
			}
		}
		return true
	})
	for _, f := range all {
		if n := a.times(f); len(live[f]) > 0 && n > 0 {
			t.Errorf("%s is deleted while %v live", f, live[f])
		}
	}
	if n := x.number(t, "select count(*) from artifact_deletion where asked_at = 'infinity'"); n != len(live) {
		t.Errorf("%d files wait, want %d", n, len(live))
	}
	for _, ids := range live {
		for _, id := range ids {
			x.stop(t, id)
		}
	}
	eventually(t, "nothing is left", func() bool {
		return x.number(t, "select (select count(*) from artifact_deletion) + (select count(*) from job_source)") == 0
	})
	for _, f := range all {
		if n := a.times(f); n != 1 {
			t.Errorf("%s was to be deleted %d times, want once", f, n)
		}
	}
}

// A request is the one before by its content or by what it names, whatever became
// of its uploads.
func TestAReplayGoesByEitherHash(t *testing.T) {
	t.Parallel()
	x := setup(t, 10*price)
	hash := func(b byte) []byte { return append(make([]byte, 31), b) }
	r, err := x.jobs.OpenJob(t.Context(), &ledgerv1.OpenJobRequest{AccountId: x.acct, Provider: "testprovider", QuoteMicros: price, IdempotencyKey: "k", RequestHash: hash(1), NamedHash: hash(2),
		Params: &videov1.VideoParams{Model: "m"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.open("plain"); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		key             string
		content, naming []byte
		found           bool
	}{
		"its content":               {"k", hash(1), nil, true},
		"its names":                 {"k", hash(9), hash(2), true},
		"neither":                   {"k", hash(9), hash(8), false},
		"no names":                  {"k", hash(9), nil, false},
		"names where none were":     {"plain", hash(9), hash(2), false},
		"no names where none were":  {"plain", hash(9), nil, false},
		"another key":               {"l", hash(1), hash(2), false},
		"its names as its content":  {"k", hash(2), nil, false},
		"its content as its naming": {"k", hash(9), hash(1), false},
	} {
		got, err := x.jobs.ReplayJob(t.Context(), &ledgerv1.ReplayJobRequest{AccountId: x.acct, IdempotencyKey: c.key, RequestHash: c.content, NamedHash: c.naming})
		if c.found && got.GetVideo().GetId() != r.GetVideo().GetId() || !c.found && fault.FromStatus(err).Code != fault.NotFound {
			t.Errorf("%s: %v %v", what, got, err)
		}
	}
}
