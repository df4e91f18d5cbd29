package callbacktoken_test

import (
	"net/url"
	"strings"
	"testing"

	"reelway.dev/pkg/callbacktoken"
)

func tokens(t *testing.T, secret, previous string) *callbacktoken.Tokens {
	t.Helper()
	x, err := callbacktoken.Open(callbacktoken.Config{URL: "https://callbacks.example", Secret: secret, Previous: previous})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// The secret is changed by the steps of docs/rotation.md. Replicas of one step and of
// the next run beside each other, and none refuses what another has signed.
func TestRotation(t *testing.T) {
	t.Parallel()
	old, fresh := strings.Repeat("o", 32), strings.Repeat("n", 32)
	steps := []*callbacktoken.Tokens{tokens(t, old, ""), tokens(t, old, fresh), tokens(t, fresh, old), tokens(t, fresh, "")}
	verifies := func(by, signed *callbacktoken.Tokens) bool {
		u, err := url.Parse(signed.URL("kling", "video_1", "att_1", ""))
		if err != nil {
			t.Fatal(err)
		}
		token := u.Query().Get("token")
		if by.Verify("fal", "video_1", "att_1", token) || by.Verify("kling", "video_2", "att_1", token) || by.Verify("kling", "video_1", "att_2", token) || by.Verify("kling", "video_1", "att_1", token[1:]) {
			t.Error("a token is good for more than it was made for")
		}
		return by.Verify("kling", "video_1", "att_1", token)
	}
	for i := range steps[:3] {
		if i < 2 && (!verifies(steps[i], steps[i+1]) || !verifies(steps[i+1], steps[i])) {
			t.Errorf("steps %d and %d refuse each other", i, i+1)
		}
	}
	// Old tokens are good until the last step, which waits for the longest job.
	if !verifies(steps[2], steps[0]) || verifies(steps[3], steps[0]) || !verifies(steps[3], steps[2]) {
		t.Error("the old secret is believed for too short or too long a time")
	}
}

func TestWeakSecretsAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []callbacktoken.Config{{Secret: strings.Repeat("s", 32)}, {URL: "https://x.example"}, {URL: "https://x.example", Secret: "short"},
		{URL: "https://x.example", Secret: strings.Repeat("s", 32), Previous: "short"}} {
		if _, err := callbacktoken.Open(c); err == nil || strings.Contains(err.Error(), "short") {
			t.Errorf("%v", err)
		}
	}
}
