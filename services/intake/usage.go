package intake

import (
	"context"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/money"
	"reelway.dev/pkg/videojson"
	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// usage asks the ledger for the caller's own account.
func (s *Service) usage(ctx context.Context, p auth.Principal, q *videov1.QueryUsageRequest) (*videov1.QueryUsageResponse, error) {
	r, err := s.d.Usage.QueryUsage(ctx, &ledgerv1.QueryUsageRequest{AccountId: p.AccountID, Query: q})
	if err != nil {
		return nil, fault.FromStatus(err)
	}
	return r.GetUsage(), nil
}

// usageGroups are the words of group_by; none asks for a single row.
var usageGroups = map[string]videov1.UsageGroup{
	"day": videov1.UsageGroup_USAGE_GROUP_DAY, "model": videov1.UsageGroup_USAGE_GROUP_MODEL, "provider": videov1.UsageGroup_USAGE_GROUP_PROVIDER,
	"api_key": videov1.UsageGroup_USAGE_GROUP_API_KEY, "user": videov1.UsageGroup_USAGE_GROUP_USER,
}

var usageParameters = []string{"from", "to", "group_by", "model", "provider", "api_key", "user", "limit", "after"}

// usageMonth is the period when none is given, in days.
const usageMonth = 30

// usageQuery reads a query string. An unknown parameter is refused: a filter
// that is misspelt would answer another question.
func usageQuery(q url.Values, now time.Time) (*videov1.QueryUsageRequest, []fault.Field) {
	var bad []fault.Field
	wrong := func(name, message string) { bad = append(bad, fault.Field{Name: name, Message: message}) }
	for _, name := range slices.Sorted(maps.Keys(q)) {
		if !slices.Contains(usageParameters, name) {
			wrong(name, "is no parameter of usage: "+strings.Join(usageParameters, ", "))
		} else if len(q[name]) > 1 {
			wrong(name, "must be given once")
		}
		if strings.ContainsRune(q.Get(name), 0) {
			wrong(name, "must not hold a NUL character")
		}
	}
	r := &videov1.QueryUsageRequest{From: q.Get("from"), To: q.Get("to"), Model: q.Get("model"), Provider: q.Get("provider"), ApiKeyId: q.Get("api_key"), After: q.Get("after")}
	day := func(name, value string, otherwise time.Time) (string, time.Time) {
		if value == "" {
			return otherwise.Format(time.DateOnly), otherwise
		}
		t, err := time.Parse(time.DateOnly, value)
		if err != nil {
			wrong(name, "must be a day such as "+now.Format(time.DateOnly))
			return value, otherwise
		}
		return value, t
	}
	var to time.Time
	r.To, to = day("to", r.GetTo(), now.UTC())
	r.From, _ = day("from", r.GetFrom(), to.AddDate(0, 0, 1-usageMonth))
	if q.Has("user") {
		user := q.Get("user")
		r.User = &user
	}
	by := "day"
	if q.Has("group_by") {
		by = q.Get("group_by")
	}
	for word := range strings.SplitSeq(by, ",") {
		g, ok := usageGroups[word]
		switch {
		case by == "none":
		case !ok:
			wrong("group_by", "must be none, or a list of "+strings.Join(slices.Sorted(maps.Keys(usageGroups)), ", "))
		case slices.Contains(r.GetGroupBy(), g):
			wrong("group_by", "names "+word+" twice")
		default:
			r.GroupBy = append(r.GroupBy, g)
		}
	}
	if v := q.Get("limit"); v != "" {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || n < 1 || n > 5000 {
			wrong("limit", "must be 1 to 5000")
		}
		r.Limit = int32(n)
	}
	return r, bad
}

// usageRow is a row as JSON; what was not grouped by is left out.
type usageRow struct {
	Object      string       `json:"object"`
	Day         string       `json:"day,omitempty"`
	Model       string       `json:"model,omitempty"`
	Provider    string       `json:"provider,omitempty"`
	APIKey      *string      `json:"api_key,omitempty"`
	User        *string      `json:"user,omitempty"`
	Jobs        int64        `json:"jobs"`
	Succeeded   int64        `json:"succeeded"`
	Failed      int64        `json:"failed"`
	Canceled    int64        `json:"canceled"`
	Expired     int64        `json:"expired"`
	NeedsReview int64        `json:"needs_review"`
	Seconds     int64        `json:"seconds"`
	Spend       string       `json:"spend"`
	SpendMicros int64        `json:"spend_micros"`
	SuccessRate float64      `json:"success_rate"`
	Latency     usageLatency `json:"latency_ms"`
}

type usageLatency struct {
	P50 int64 `json:"p50"`
	P90 int64 `json:"p90"`
	P99 int64 `json:"p99"`
}

func (s *Service) getUsage(w http.ResponseWriter, r *http.Request, p auth.Principal) error {
	q, bad := usageQuery(r.URL.Query(), time.Now())
	if len(bad) > 0 {
		return invalid(bad)
	}
	resp, err := s.usage(r.Context(), p, q)
	if err != nil {
		return err
	}
	data := []usageRow{}
	for _, x := range resp.GetRows() {
		row := usageRow{Object: "usage", Day: x.GetDay(), Model: x.GetModel(), Provider: x.GetProvider(), User: x.User,
			Jobs: x.GetJobs(), Succeeded: x.GetSucceeded(), Failed: x.GetFailed(), Canceled: x.GetCanceled(), Expired: x.GetExpired(), NeedsReview: x.GetNeedsReview(),
			Seconds: x.GetSeconds(), Spend: money.Format(x.GetSpendMicros()), SpendMicros: x.GetSpendMicros(), SuccessRate: x.GetSuccessRate(),
			Latency: usageLatency{x.GetLatencyP50Ms(), x.GetLatencyP90Ms(), x.GetLatencyP99Ms()}}
		if slices.Contains(q.GetGroupBy(), videov1.UsageGroup_USAGE_GROUP_API_KEY) {
			key := x.GetApiKeyId()
			row.APIKey = &key
		}
		data = append(data, row)
	}
	out := usageObject{Object: "list", Data: data, From: q.GetFrom(), To: q.GetTo(), HasMore: resp.GetNext() != ""}
	if next := resp.GetNext(); next != "" {
		out.Next = &next
	}
	videojson.Write(w, http.StatusOK, out)
	return nil
}
