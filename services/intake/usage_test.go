package intake

import (
	"net/url"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"reelway.dev/pkg/fault"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

func TestUsageQuery(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 23, 0, 0, 0, time.FixedZone("", -3*3600)) // the 26th in UTC
	for in, want := range map[string]string{
		"": `from:"2026-10-28" to:"2026-11-26" group_by:USAGE_GROUP_DAY`,
		"from=2026-01-01&to=2026-01-31&group_by=model,user":  `from:"2026-01-01" to:"2026-01-31" group_by:USAGE_GROUP_MODEL group_by:USAGE_GROUP_USER`,
		"to=2026-01-31&group_by=none&user=":                  `from:"2026-01-02" to:"2026-01-31" user:""`,
		"to=2026-01-31&model=m&provider=p&api_key=k&limit=7": `from:"2026-01-02" to:"2026-01-31" group_by:USAGE_GROUP_DAY model:"m" provider:"p" api_key_id:"k" limit:7`,
	} {
		q, err := url.ParseQuery(in)
		if err != nil {
			t.Fatal(err)
		}
		got, bad := usageQuery(q, now)
		var exp videov1.QueryUsageRequest
		if err := prototext.Unmarshal([]byte(want), &exp); err != nil {
			t.Fatal(err)
		}
		if len(bad) > 0 || !proto.Equal(got, &exp) {
			t.Errorf("%q: %v, %v; want %s", in, got, bad, want)
		}
	}
	for in, want := range map[string]string{
		"from=now&to=2026-13-01&limit=0": "to: must be a day such as 2026-11-25; from: must be a day such as 2026-11-25; limit: must be 1 to 5000",
		"group_by=day,week":              "group_by: must be none, or a list of api_key, day, model, provider, user",
		"group_by=day,day":               "group_by: names day twice",
		"group_by=":                      "group_by: must be none, or a list of api_key, day, model, provider, user",
		"users=x&model=a&model=b":        "model: must be given once; users: is no parameter of usage: from, to, group_by, model, provider, api_key, user, limit, after",
	} {
		q, err := url.ParseQuery(in)
		if err != nil {
			t.Fatal(err)
		}
		_, bad := usageQuery(q, now)
		if got := fault.From(invalid(bad)).Message; got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
