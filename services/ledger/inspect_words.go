package ledger

import (
	"cmp"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/safehttp"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// inspected is a job and its attempts as an operator sees them: what the caller
// wrote is counted, not told.
func (j *record) inspected() (*ledgerv1.InspectedJob, []*ledgerv1.InspectedAttempt, error) {
	var p videov1.VideoParams
	if err := proto.Unmarshal(j.Params, &p); err != nil {
		return nil, nil, err
	}
	var metadata map[string]string
	if err := json.Unmarshal(j.Metadata, &metadata); err != nil {
		return nil, nil, err
	}
	h := j.hidden(&p, metadata)
	out := &ledgerv1.InspectedJob{Id: j.ID, State: j.State.Proto(), AccountId: j.Account, ApiKeyId: j.Key, User: j.User,
		Model: cmp.Or(j.Model, p.GetModel()), Provider: j.Provider, Alias: j.Plan.GetAlias(), Route: int32(j.Route),
		CreatedAt: timestamppb.New(j.CreatedAt), SubmitAfter: timestamppb.New(j.SubmitAfter), DeadlineAt: stamp(j.DeadlineAt), CompletedAt: stamp(j.CompletedAt),
		QuoteMicros: j.Quote, GrantedMicros: j.Granted, CapturedMicros: j.Captured, RefundedMicros: j.Refunded,
		CostMicros: j.Cost, CostCurrency: j.CostCurrency, CostSource: j.CostSource, Version: j.Version,
		Restored: j.Restored, LateResult: j.Late, CancelRequestedAt: stamp(j.Cancel.At), CancelRefused: j.Cancel.Refused, TraceId: traceID(j.Traceparent),
		Request: &ledgerv1.RequestShape{DurationSeconds: p.GetDurationSeconds(), Resolution: p.GetResolution(), AspectRatio: p.GetAspectRatio(), Audio: p.GetAudio(),
			ProviderModel: p.GetProviderModel(), PromptCharacters: characters(p.GetPrompt()), NegativePromptCharacters: characters(p.GetNegativePrompt()),
			Image: p.GetImageUrl() != "", EndImage: p.GetEndImageUrl() != "", Video: p.GetVideoUrl() != "" || p.GetSourceTask() != "",
			SourceVideo: p.GetSourceVideo(), MetadataEntries: int32(len(metadata))}}
	for _, r := range j.Plan.GetRoutes() {
		out.Routes = append(out.Routes, &ledgerv1.PlannedRoute{Provider: r.GetProvider(), Model: r.GetParams().GetModel(), PriceMicros: r.GetPriceMicros(),
			CostMicros: r.GetCostMicros(), CostCurrency: r.GetCostCurrency()})
	}
	if len(j.Artifact) > 0 {
		out.Artifact = &videov1.Artifact{}
		if err := proto.Unmarshal(j.Artifact, out.GetArtifact()); err != nil {
			return nil, nil, err
		}
	}
	var err error
	if out.Error, err = h.fault(j.Error); err != nil {
		return nil, nil, err
	}
	var attempts []*ledgerv1.InspectedAttempt
	for _, a := range j.Attempts {
		x := &ledgerv1.InspectedAttempt{Id: a.ID, Number: int32(a.Number), Provider: a.Provider, KeyId: a.KeyID, Model: cmp.Or(a.Model, out.GetModel()), Route: int32(a.Route),
			State: a.State, GivenUp: a.GivenUp, ProviderTaskId: a.TaskID, CostMicros: a.Cost, CostCurrency: j.costCurrency(a),
			CreatedAt: timestamppb.New(a.CreatedAt), EndedAt: stamp(a.EndedAt), VerdictSource: a.VerdictSource, WebhookAt: stamp(a.WebhookAt), Current: a == j.current()}
		if x.Error, err = h.fault(a.Error); err != nil {
			return nil, nil, err
		}
		attempts = append(attempts, x)
	}
	return out, attempts, nil
}

func characters(s string) int32 { return int32(utf8.RuneCountInString(s)) } //nolint:gosec // a request is far smaller

// hidden takes what a caller wrote out of a provider's words.
type hidden struct {
	words *strings.Replacer
	long  [][2]string // texts of which also a beginning is looked for, and their names
}

// hiddenFrom is the length in bytes from which a text is looked for: shorter ones
// would be found in every other word, and give nothing away.
const hiddenFrom = 4

// beginning is how much of a text, in bytes, gives it away: providers cut what they
// repeat.
const beginning = 16

// hidden knows what the caller wrote, on every route.
func (j *record) hidden(p *videov1.VideoParams, metadata map[string]string) hidden {
	texts := map[string]string{}
	add := func(name, text string) {
		if len(text) < hiddenFrom {
			return
		}
		texts[text] = "(" + name + ")"
		if quoted, err := json.Marshal(text); err == nil { // as a provider's JSON repeats it
			texts[string(quoted[1:len(quoted)-1])] = "(" + name + ")"
		}
	}
	params := []*videov1.VideoParams{p}
	for _, r := range j.Plan.GetRoutes() {
		params = append(params, r.GetParams())
	}
	for _, v := range metadata {
		add("metadata", v)
	}
	for _, p := range params {
		for name, text := range map[string]string{"prompt": p.GetPrompt(), "negative prompt": p.GetNegativePrompt(), "image": p.GetImageUrl(), "end image": p.GetEndImageUrl(), "video": p.GetVideoUrl()} {
			add(name, text)
		}
	}
	// The longest first: one text may be part of another.
	longest := slices.SortedFunc(maps.Keys(texts), func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	var h hidden
	var pairs []string
	for _, t := range longest {
		pairs = append(pairs, t, texts[t])
		if len(t) > beginning && !strings.HasPrefix(t, "http") { // addresses begin alike
			h.long = append(h.long, [2]string{t, texts[t]})
		}
	}
	h.words = strings.NewReplacer(pairs...)
	return h
}

// replace takes a caller's texts out of a message, and what they begin with.
func (h hidden) replace(message string) string {
	message = h.words.Replace(message)
	for _, t := range h.long {
		var out strings.Builder
		for i := strings.Index(message, t[0][:beginning]); i >= 0; i = strings.Index(message, t[0][:beginning]) {
			n := beginning
			for n < len(t[0]) && i+n < len(message) && t[0][n] == message[i+n] {
				n++
			}
			out.WriteString(message[:i] + t[1])
			message = message[i+n:]
		}
		message = out.String() + message
	}
	return strings.ToValidUTF8(message, "") // a character may have been parted
}

// fault is a stored error without what the caller wrote; nil for none. A policy
// refusal speaks of the prompt, often in pieces: of it only the codes are told.
func (h hidden) fault(raw []byte) (*videov1.VideoError, error) {
	if len(raw) == 0 {
		return nil, nil //nolint:nilnil // there is none
	}
	var e videov1.VideoError
	if err := proto.Unmarshal(raw, &e); err != nil {
		return nil, err
	}
	if e.GetCode() == string(fault.ContentPolicy) {
		e.Message = ""
	}
	e.Message = bareURLs(h.replace(e.GetMessage()))
	return &e, nil
}

var urls = regexp.MustCompile(`https?://[^\s"'<>]+`)

// bareURLs takes queries and passwords out of the addresses in a text: they sign.
func bareURLs(text string) string { return urls.ReplaceAllStringFunc(text, safehttp.Bare) }
