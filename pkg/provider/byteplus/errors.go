package byteplus

import (
	"strings"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
)

var stateWords = map[string]provider.State{"queued": provider.Queued, "running": provider.Running}

var (
	policyRule = provider.Rule{Code: fault.ContentPolicy, Meaning: "Seedance's content policy refused it; revise the prompt or image"}
	failRule   = provider.Rule{Code: fault.ProviderRejected, Meaning: "the render failed at BytePlus"}
)

// codes classes ModelArk's error codes by their heads; codes grow tails such as
// ".PolicyViolation". The first that fits counts.
var codes = []struct {
	head string
	rule provider.Rule
}{
	{"InputTextSensitiveContentDetected", policyRule},
	{"InputImageSensitiveContentDetected", policyRule},
	{"InputVideoSensitiveContentDetected", policyRule},
	{"OutputVideoSensitiveContentDetected", provider.Rule{Code: fault.ContentPolicy, Meaning: "Seedance's content policy withheld the video; revise the prompt or image"}},
	{"SensitiveContentDetected", policyRule},
	{"RateLimitExceeded", provider.Rule{Code: fault.RateLimited, Retry: true, Meaning: "BytePlus asks us to slow down"}},
	{"QuotaExceeded", provider.Rule{Code: fault.ProviderUnavailable, Cause: provider.NoBalance, Meaning: "our quota at BytePlus is used up"}},
	{"AccountOverdueError", provider.Rule{Code: fault.ProviderUnavailable, Cause: provider.NoBalance, Meaning: "our account at BytePlus is overdue"}},
	{"AuthenticationError", provider.Rule{Code: fault.ProviderUnavailable, Cause: provider.BadKey, Meaning: "BytePlus refused our key"}},
	{"ModelNotOpen", provider.Rule{Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "our account at BytePlus has not opened this model"}},
	{"InvalidEndpointOrModel", provider.Rule{Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "BytePlus does not offer this model to our account"}},
	{"ServerOverloaded", provider.Rule{Code: fault.ProviderUnavailable, Retry: true, Meaning: "BytePlus is overloaded"}},
	{"InvalidParameter", provider.Rule{Code: fault.InvalidRequest, Meaning: "BytePlus refused a parameter"}},
	{"MissingParameter", provider.Rule{Code: fault.InvalidRequest, Meaning: "BytePlus misses a parameter"}},
}

func rule(code string) (provider.Rule, bool) {
	for _, c := range codes {
		if strings.HasPrefix(code, c.head) {
			return c.rule, true
		}
	}
	return provider.Rule{}, false
}

// errorTable classes HTTP statuses of a create whose code is not known.
var errorTable = provider.Rules{
	400: {Code: fault.InvalidRequest, Meaning: "BytePlus refused a parameter"},
	401: {Code: fault.ProviderUnavailable, Cause: provider.BadKey, Meaning: "BytePlus refused our key"},
	403: {Code: fault.ProviderUnavailable, Cause: provider.NoAccess, Meaning: "our account at BytePlus may not do this"},
	404: {Code: fault.ProviderRejected, Cause: provider.NoAccess, Meaning: "BytePlus does not offer this model to our account"},
	413: {Code: fault.PayloadTooLarge, Meaning: "the request is too large for BytePlus"},
	429: {Code: fault.RateLimited, Retry: true, Meaning: "BytePlus asks us to slow down"},
}

// report normalises a task.
func report(d task) provider.Report {
	e := arkError{Code: d.Status}
	if d.Error != nil && d.Error.Code != "" {
		e = *d.Error
	}
	switch d.Status {
	case "succeeded":
		return provider.Done(Name, d.ID, d.Content.VideoURL)
	case "failed":
		r, ok := rule(e.Code)
		if !ok || r.Code != fault.ContentPolicy && r.Code != fault.InvalidRequest {
			r = failRule
		}
		return r.Fail(Name, d.ID, e.Code, e.Message)
	case "cancelled", "canceled":
		return provider.Rule{Code: fault.ProviderRejected, Meaning: "the task was canceled at BytePlus"}.Fail(Name, d.ID, "canceled", "")
	case "expired":
		return provider.Rule{Code: fault.ProviderRejected, Meaning: "the task expired at BytePlus"}.Fail(Name, d.ID, "expired", e.Message)
	}
	return provider.Unfinished(d.ID, d.Status, stateWords)
}
