package dispatcher

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/provider"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
)

const every = 10 * time.Second

// When to ask first: by how long the model takes, and by what webhooks are worth.
func TestFirstPoll(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		p    pace
		want time.Duration
	}{
		"nothing known":                   {pace{trust: 1}, 0},
		"nobody calls":                    {pace{}, every},
		"half of the calls come":          {pace{trust: .5}, 4 * every},
		"nobody calls, times known":       {pace{typical: 100 * time.Second, slow: 200 * time.Second}, 90 * time.Second},
		"all calls come, times known":     {pace{typical: 100 * time.Second, slow: 200 * time.Second, trust: 1}, 250 * time.Second},
		"half of the calls, times known":  {pace{typical: 100 * time.Second, slow: 200 * time.Second, trust: .5}, 170 * time.Second},
		"a model faster than polls begin": {pace{typical: time.Second, slow: 2 * time.Second}, every},
	} {
		if got := c.p.first(every); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// How long until the next: rarely before the task can be done, often while it is
// due, ever more rarely when it is overdue.
func TestNextPoll(t *testing.T) {
	t.Parallel()
	known := pace{typical: 100 * time.Second, slow: 200 * time.Second}
	for name, c := range map[string]struct {
		p     pace
		polls int32
		age   time.Duration
		want  time.Duration
	}{
		"long before":             {known, 1, 10 * time.Second, 60 * time.Second},
		"shortly before":          {known, 1, 70 * time.Second, 30 * time.Second},
		"just before":             {known, 1, 99 * time.Second, every},
		"due":                     {known, 40, 150 * time.Second, every},
		"overdue":                 {known, 3, 201 * time.Second, 22500 * time.Millisecond},
		"long overdue":            {known, 900, time.Hour, 60 * time.Second},
		"unknown, first":          {pace{}, 1, time.Second, every},
		"unknown, later":          {pace{}, 2, time.Minute, 15 * time.Second},
		"due, and webhooks come":  {pace{known.typical, known.slow, 1}, 1, 150 * time.Second, 2 * every},
		"long overdue, they come": {pace{known.typical, known.slow, 1}, 900, time.Hour, 120 * time.Second},
	} {
		if got := c.p.next(every, c.polls, c.age); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

type silent struct{ provider.Adapter }

type calling struct {
	provider.Adapter
	provider.WebhookParser
}

// A provider that calls nobody is never trusted; one of which nothing is known
// yet, fully.
func TestPaceOf(t *testing.T) {
	t.Parallel()
	a := &ledgerv1.GetAttemptResponse{TypicalMs: 2000, SlowMs: 1000, WebhookTrust: proto.Int32(40)}
	if p := paceOf(silent{}, a, a.WebhookTrust); p != (pace{2 * time.Second, 2 * time.Second, 0}) {
		t.Errorf("%+v", p)
	}
	if p := paceOf(calling{}, a, a.WebhookTrust); p.trust != .4 {
		t.Errorf("%+v", p)
	}
	if p := paceOf(calling{}, &ledgerv1.BeginAttemptResponse{}, nil); p != (pace{trust: 1}) {
		t.Errorf("%+v", p)
	}
}
