package intake

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"reelway.dev/pkg/auth"
	"reelway.dev/pkg/fault"
)

// throttle counts a request of p's key and refuses one too many. Where the key
// has a limit it is told in the answer's headers, by the names that OpenAI uses.
func (s *Service) throttle(ctx context.Context, p auth.Principal, header func(name, value string)) error {
	v := s.d.Limits.Take(ctx, p.KeyID, p.PerMinute)
	if v.Counted {
		header("x-ratelimit-limit-requests", strconv.Itoa(v.Limit))
		header("x-ratelimit-remaining-requests", strconv.Itoa(v.Remaining))
		header("x-ratelimit-reset-requests", v.Reset.Round(time.Millisecond).String())
	}
	if v.Allowed {
		return nil
	}
	e := fault.New(fault.RateLimited, "this API key may make %d requests per minute; try again in %s", v.Limit, max(v.RetryAfter.Round(time.Second), time.Second))
	e.Fields = []fault.Field{{Name: "requests_per_minute", Message: fmt.Sprintf("is %d", v.Limit)}}
	e.RetryAfter = v.RetryAfter
	return e
}
