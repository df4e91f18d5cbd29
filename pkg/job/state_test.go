package job_test

import (
	"os"
	"strings"
	"testing"

	"reelway.dev/pkg/job"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// The copies of the machine say the same as the table.
func TestCopiesAgree(t *testing.T) {
	t.Parallel()
	schema, err := os.ReadFile("../../services/ledger/migrations/0001_create_ledger.sql")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(videov1.VideoState_name) - 1; n != len(job.States()) {
		t.Errorf("the contract has %d states", n)
	}
	for _, s := range job.States() {
		if job.FromProto(s.Proto()) != s {
			t.Errorf("%s is not in the contract", s)
		}
		if !strings.Contains(string(schema), "'"+string(s)+"'") || !strings.Contains(string(doc), string(s)) {
			t.Errorf("%s is not in the schema or the docs", s)
		}
	}
	for _, tr := range job.Table {
		if !strings.Contains(string(doc), string(tr.On)) {
			t.Errorf("the docs do not know %s", tr.On)
		}
	}
}

// Every live state has a way out that needs nobody's help.
func TestNoStateIsATrap(t *testing.T) {
	t.Parallel()
	timeouts := map[job.State]job.Input{job.Queued: job.Expire, job.Submitting: job.TimeOut, job.Running: job.TimeOut, job.Storing: job.ArchiveFailed}
	for _, s := range job.States() {
		in, live := timeouts[s]
		if live == s.Terminal() {
			t.Errorf("%s: terminal is %v", s, s.Terminal())
		}
		if to, ok := job.Next(s, in); live && (!ok || !to.Terminal()) {
			t.Errorf("%s has no time-out", s)
		}
	}
}

func TestNextIsATableOfOneAnswer(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, tr := range job.Table {
		k := string(tr.From) + "/" + string(tr.On)
		if seen[k] || tr.Why == "" {
			t.Errorf("%s is there twice or has no reason", k)
		}
		seen[k] = true
	}
}
