package reelway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/id"
	"reelway.dev/pkg/job"
	"reelway.dev/pkg/money"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

type inspectCmd struct {
	admin
	ID       string `arg:"" help:"A job's id (video_…) or an attempt's (att_…); with --provider, what that provider calls its task."`
	Provider string `help:"The provider whose task ID is; of one that is a path, its last part will do." placeholder:"NAME"`
}

// Help implements kong.HelpProvider.
func (*inspectCmd) Help() string {
	return `All that is known of one job, of whichever account: how it stands, what happened in
order, and what may be done. What the caller wrote is counted, never shown.

Examples:

    reelway inspect video_0198…
    reelway inspect att_0198…
    reelway inspect 8237460125 --provider kling
    reelway inspect video_0198… --json | jq .attempts`
}

// Validate wants an id that is one.
func (c *inspectCmd) Validate() error {
	if c.Provider == "" && !strings.HasPrefix(c.ID, id.Video+"_") && !strings.HasPrefix(c.ID, id.Attempt+"_") {
		return errors.New("the id of a job begins with video_, that of an attempt with att_; a provider's task needs --provider")
	}
	return c.admin.Validate()
}

func (c *inspectCmd) request() *ledgerv1.InspectJobRequest {
	switch {
	case c.Provider != "":
		return &ledgerv1.InspectJobRequest{By: &ledgerv1.InspectJobRequest_Task{Task: &ledgerv1.TaskName{Provider: c.Provider, ProviderTaskId: c.ID}}}
	case strings.HasPrefix(c.ID, id.Attempt+"_"):
		return &ledgerv1.InspectJobRequest{By: &ledgerv1.InspectJobRequest_AttemptId{AttemptId: c.ID}}
	}
	return &ledgerv1.InspectJobRequest{By: &ledgerv1.InspectJobRequest_JobId{JobId: c.ID}}
}

// Run shows the job.
func (c *inspectCmd) Run(ctx context.Context, out io.Writer) error {
	return c.do(ctx, func(ctx context.Context, d doors) error {
		r, err := d.inspect.InspectJob(ctx, c.request())
		if err != nil {
			return err
		}
		if c.JSON {
			return c.answer(out, r)
		}
		var steps [][]string
		for _, s := range nextSteps(r, time.Now()) {
			steps = append(steps, []string{"next", s.why}, []string{"", s.command})
		}
		if steps == nil {
			steps = [][]string{{"next", "nothing: it is over"}}
		}
		for i, part := range [][][]string{jobRows(r), story(r), steps} {
			if i > 0 {
				if _, err := fmt.Fprintln(out); err != nil {
					return err
				}
			}
			if err := printTable(out, part); err != nil {
				return err
			}
		}
		return nil
	})
}

// jobRows is how a job stands.
func jobRows(r *ledgerv1.InspectJobResponse) [][]string {
	j := r.GetJob()
	var rows [][]string
	add := func(name, text string) {
		if text != "" {
			rows = append(rows, []string{name, oneLine(text)})
		}
	}
	state := fmt.Sprintf("%s, version %d", job.FromProto(j.GetState()), j.GetVersion())
	if j.GetProgress() > 0 {
		state += fmt.Sprintf(", %d %%", j.GetProgress())
	}
	add("job", j.GetId())
	add("state", state)
	add("waits", waits(r.GetWaiting()))
	add("account", j.GetAccountId())
	add("key", j.GetApiKeyId())
	add("user", j.GetUser())
	add("model", j.GetModel()+" at "+j.GetProvider())
	add("routes", routeText(j))
	add("request", shape(j.GetRequest()))
	add("credits", creditText(j))
	if j.GetCostCurrency() != "" {
		add("cost", fmt.Sprintf("%s %s, %s", money.Format(j.GetCostMicros()), j.GetCostCurrency(), j.GetCostSource()))
	}
	add("error", errorText(j.GetError()))
	if a := j.GetArtifact(); a != nil {
		add("file", fmt.Sprintf("%s, %d bytes, %s, sha256 %s", first(a.GetKey(), "removed"), a.GetSizeBytes(), a.GetContentType(), a.GetSha256()))
	}
	if j.GetCompletedAt() == nil {
		add("changed", when(j.GetUpdatedAt()))
		add("republished", when(j.GetSweptAt()))
		add("deadline", when(j.GetDeadlineAt()))
	}
	if j.GetRestored() {
		add("restored", "it was in a database that was set back: its next attempt is looked for before it is made")
	}
	if j.GetLateResult() {
		add("late", "the provider has a task of it that nobody waited for, and may bill it")
	}
	add("callback", r.GetCallbackHost())
	if r.GetMailWaits() {
		add("e-mail", "an address waits for its letter")
	}
	add("trace", j.GetTraceId())
	if j.GetDeletedAt() != nil {
		add("removed", "by its owner, at "+when(j.GetDeletedAt())+"; attempts, observations and postings remain")
	}
	if m := r.GetMaintenance(); m != nil {
		add("maintenance", "since "+when(m.GetSince())+" new videos are refused: "+m.GetReason()+"; this job goes on")
	}
	return rows
}

// waits is what a queued job waits for; empty for another.
func waits(w *ledgerv1.Waiting) string {
	if w == nil {
		return ""
	}
	text := "its turn has come"
	if w.GetInQueue() {
		text = fmt.Sprintf("in the queue, %d ahead", w.GetAhead())
	}
	if w.GetPause() != nil {
		whose := "provider "
		if w.GetPauseOfModel() {
			whose = "model "
		}
		text += "; " + whose + pause(w.GetPause())
	}
	switch {
	case w.GetCircuitOpenUntil() != nil:
		text += "; circuit open until " + when(w.GetCircuitOpenUntil()) + ": " + w.GetCircuitReason()
	case w.GetCircuit() == "half-open":
		text += "; circuit half-open: " + w.GetCircuitReason()
	}
	return text
}

func routeText(j *ledgerv1.InspectedJob) string {
	if len(j.GetRoutes()) == 0 {
		return ""
	}
	var names []string
	for i, r := range j.GetRoutes() {
		name := r.GetModel() + " at " + r.GetProvider()
		if int32(i) == j.GetRoute() {
			name += " (present)"
		}
		names = append(names, name)
	}
	return first(j.GetAlias(), "a plan") + ": " + strings.Join(names, ", ")
}

// shape is what was asked for, without its contents.
func shape(q *ledgerv1.RequestShape) string {
	var parts []string
	for _, p := range []struct {
		is   bool
		text string
	}{{q.GetDurationSeconds() > 0, fmt.Sprintf("%d s", q.GetDurationSeconds())}, {q.GetResolution() != "", q.GetResolution()}, {q.GetAspectRatio() != "", q.GetAspectRatio()}, {q.GetAudio(), "sound"},
		{true, fmt.Sprintf("prompt of %d characters", q.GetPromptCharacters())},
		{q.GetNegativePromptCharacters() > 0, fmt.Sprintf("negative prompt of %d", q.GetNegativePromptCharacters())},
		{q.GetImage(), "image"}, {q.GetEndImage(), "end image"}, {q.GetVideo(), "made of a video"}, {q.GetSourceVideo() != "", q.GetSourceVideo()},
		{q.GetMetadataEntries() > 0, fmt.Sprintf("%d entries of metadata", q.GetMetadataEntries())}} {
		if p.is {
			parts = append(parts, p.text)
		}
	}
	return strings.Join(parts, ", ")
}

func creditText(j *ledgerv1.InspectedJob) string {
	text := money.Format(j.GetQuoteMicros()) + " quoted"
	if j.GetHoldState() != "captured" { // that says how much
		text += ", " + j.GetHoldState()
	}
	for _, p := range []struct {
		micros int64
		word   string
	}{{j.GetGrantedMicros(), "granted"}, {j.GetCapturedMicros(), "captured"}, {j.GetRefundedMicros(), "refunded"}} {
		if p.micros > 0 {
			text += ", " + money.Format(p.micros) + " " + p.word
		}
	}
	return text
}

func errorText(e *videov1.VideoError) string {
	if e == nil {
		return ""
	}
	code := e.GetCode()
	if e.GetProviderCode() != "" {
		code += " (" + e.GetProviderCode() + ")"
	}
	return joined(code, e.GetMessage())
}

// event is one thing that happened to a job.
type event struct {
	at        *timestamppb.Timestamp
	who, what string
}

// story is what happened to a job, in order, to the millisecond.
func story(r *ledgerv1.InspectJobResponse) [][]string {
	j := r.GetJob()
	all := []event{{j.GetCreatedAt(), "job", "opened"}}
	add := func(at *timestamppb.Timestamp, who string, what ...string) {
		if at != nil {
			all = append(all, event{at, who, joined(what...)})
		}
	}
	// What happened at the same moment is told in the order of cause and effect.
	name := map[string]string{}
	for _, a := range r.GetAttempts() {
		name[a.GetId()] = "attempt " + strconv.Itoa(int(a.GetNumber()))
		add(a.GetCreatedAt(), name[a.GetId()], attemptBegun(a))
	}
	for _, o := range r.GetObservations() {
		what := fmt.Sprintf("%s observed by %s, %s", o.GetFact(), o.GetSource(), o.GetVerdict())
		if d := o.GetRecordedAt().AsTime().Sub(o.GetObservedAt().AsTime()); d.Abs() >= time.Second {
			what += ", seen at " + precise(o.GetObservedAt())
		}
		add(o.GetRecordedAt(), first(name[o.GetAttemptId()], o.GetAttemptId()), what)
	}
	for _, a := range r.GetAttempts() {
		by := ""
		if a.GetVerdictSource() != "" {
			by = ", told by " + a.GetVerdictSource()
		}
		if a.GetGivenUp() {
			by = ", given up"
		}
		add(a.GetEndedAt(), name[a.GetId()], "over, "+a.GetState()+by, errorText(a.GetError()))
		add(a.GetWebhookAt(), name[a.GetId()], "the provider called after a poll had told it")
	}
	for _, p := range r.GetPostings() {
		what := fmt.Sprintf("%s %s, %s → %s", p.GetKind(), money.Format(p.GetAmountMicros()), p.GetSource(), p.GetDestination())
		if p.GetActor() != "" {
			what += ", by " + p.GetActor()
		}
		add(p.GetCreatedAt(), "money", what, p.GetReason())
	}
	refusal := ""
	if j.GetCancelRefused() != "" {
		refusal = "the provider does not: " + j.GetCancelRefused()
	}
	add(j.GetCancelRequestedAt(), "job", "cancel asked for", refusal)
	add(j.GetCompletedAt(), "job", string(job.FromProto(j.GetState())), errorText(j.GetError()))
	if v := r.GetReview(); v != nil {
		add(v.GetOpenedAt(), "review", "opened, "+money.Format(v.GetAmountMicros())+" in suspense")
		add(v.GetSettledAt(), "review", outcomeWord(v.GetOutcome())+", by "+v.GetActor(), v.GetReason())
	}
	for _, d := range r.GetDeliveries() {
		x := d.GetDelivery()
		add(x.GetOccurredAt(), "webhook", fmt.Sprintf("%s is to reach %s", x.GetType(), first(x.GetCallbackUrl(), x.GetEndpointId())))
		add(d.GetLastAttemptAt(), "webhook", fmt.Sprintf("%s to %s, %d tries, %s", x.GetType(), first(x.GetCallbackUrl(), x.GetEndpointId()), x.GetAttempts(), deliveryStands(d)))
	}
	for _, m := range r.GetMails() {
		add(m.GetBegunAt(), "e-mail", "a letter about "+m.GetAbout()+" begun")
		add(m.GetEndedAt(), "e-mail", m.GetState())
	}
	add(j.GetDeletedAt(), "job", "deleted by its owner")
	for _, f := range r.GetRemovals() {
		why := ", not reported gone yet"
		if f.GetAskedAt() == nil {
			why = ", kept while another video is made of it"
		}
		add(f.GetCreatedAt(), "file", "to be deleted", f.GetKey()+why)
	}
	add(j.GetRedactedAt(), "job", "prompt, addresses, metadata and words of errors removed")
	slices.SortStableFunc(all, func(a, b event) int { return cmp.Compare(a.at.AsTime().UnixNano(), b.at.AsTime().UnixNano()) })
	var rows [][]string
	for _, e := range all {
		rows = append(rows, []string{precise(e.at), e.who, e.what})
	}
	if len(r.GetObservations()) == 0 && j.GetCompletedAt() != nil && len(r.GetAttempts()) > 0 {
		rows = append(rows, []string{"", "", "observations of it are not kept any more"})
	}
	if r.GetCut() {
		rows = append(rows, []string{"", "", "there is more than is shown here"})
	}
	return rows
}

func attemptBegun(a *ledgerv1.InspectedAttempt) string {
	text := fmt.Sprintf("%s begun at %s, model %s", a.GetId(), a.GetProvider(), a.GetModel())
	if a.GetKeyId() != "" {
		text += ", key " + a.GetKeyId()
	}
	if a.GetProviderTaskId() != "" {
		text += ", task " + a.GetProviderTaskId()
	}
	if a.GetEndedAt() == nil {
		text += ", " + a.GetState()
	}
	return text
}

// deliveryStands is how a delivery stands after its last attempt.
func deliveryStands(d *ledgerv1.InspectedDelivery) string {
	x := d.GetDelivery()
	text := webhookState(x)
	if d.GetLastError() != "" {
		text += ", no answer: " + d.GetLastError()
	} else {
		text += fmt.Sprintf(", answered %d", d.GetLastStatus())
	}
	if d.GetEndpointDisabledReason() != "" {
		return text + ", endpoint disabled: " + d.GetEndpointDisabledReason()
	}
	if x.GetNextAttemptAt() != nil {
		text += ", the next at " + when(x.GetNextAttemptAt())
	}
	return text
}

// precise is a time in UTC to the millisecond.
func precise(t *timestamppb.Timestamp) string {
	return t.AsTime().UTC().Format("2006-01-02 15:04:05.000Z")
}
