package reelway_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	ledgerv1 "reelway.dev/proto/gen/reelway/ledger/v1"
	videov1 "reelway.dev/proto/gen/reelway/video/v1"
)

// A 429, a 5xx, a body that is none and an unknown word, from polls of several
// wires, end no job; the word raises an alarm.
//
//nolint:paralleltest // the telemetry is the process's
func TestPollsInTroubleEndNoJob(t *testing.T) {
	w := watchedStack(t, "REELWAY_WATCH_AFTER=200ms")
	left := int64(developed)
	for model, provider := range map[string]string{"kling-v2-6": "kling", "replicate-veo-3.1-fast": "replicate", "gen-4.5": "runway", "seedance-2.0": "atlascloud"} {
		for _, word := range []string{"rate_limit_poll", "error500_poll", "garbage_poll"} {
			w.fault(provider, word, 2)
		}
		prompt := model + " [fault:webhook_never]"
		v := w.submit(model, prompt)
		w.move(prompt, "succeeded")
		got := w.ends(v.GetId(), videov1.VideoState_VIDEO_STATE_SUCCEEDED)
		left -= got.GetCapturedMicros()
		if !strings.Contains(w.metrics(), `reelway_dispatcher_polls_total{otel_scope_name="reelway.dev/services/dispatcher",otel_scope_schema_url="",otel_scope_version="",provider="`+provider+`",result="error"} 6`) {
			t.Errorf("%s: not all six troubles were met:\n%s", model, lines(w.metrics(), "reelway_dispatcher_polls"))
		}
	}
	prompt := "unheard of [fault:unknown_word] [fault:webhook_never]"
	v := w.submit("gen-4.5", prompt)
	eventually(t, func() string { return lines(w.metrics(), "unknown_words") }, func() bool {
		return strings.Contains(lines(w.metrics(), "unknown_words"), `provider="runway"} 3`)
	})
	if got := w.read(v.GetId()); got.GetState() != videov1.VideoState_VIDEO_STATE_RUNNING {
		t.Errorf("%v", got)
	}
	if log := w.log.String(); !strings.Contains(log, `level=ERROR msg="unknown status word"`) || !strings.Contains(log, "word=transmogrifying") {
		t.Error("the log does not tell of the unknown word")
	}
	w.balance(left-v.GetQuoteMicros(), v.GetQuoteMicros())
}

// lines are those of a text that hold a word.
func lines(text, word string) string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// Webhooks that come make a provider trusted, and that is exported.
//
//nolint:paralleltest // the telemetry is the process's
func TestTrustIsExported(t *testing.T) {
	w := watchedStack(t, "REELWAY_WATCH_AFTER=1h", "REELWAY_SIMULATOR_RENDER=200ms")
	for _, model := range []string{"kling-v2-6", "ray-3.2"} { // proof, and hints
		w.ends(w.submitted(model, model), videov1.VideoState_VIDEO_STATE_SUCCEEDED)
	}
	eventually(t, func() string { return lines(w.metrics(), "webhook") }, func() bool {
		m := lines(w.metrics(), "reelway_ledger_webhook")
		return strings.Contains(m, `delivery="prompt",otel_scope_name="reelway.dev/services/ledger",otel_scope_schema_url="",otel_scope_version="",provider="luma"} 1`) &&
			strings.Contains(m, `provider="kling"} 100`)
	})
}

// A task in review is asked for past the caller's deadline, through the
// dispatcher, until a proven verdict settles its suspense; an operator can say
// either by hand.
func TestFateIsAskedForInReview(t *testing.T) {
	t.Parallel()
	w := watchedStack(t, "REELWAY_WATCH_AFTER=200ms", "REELWAY_MAX_RUNTIME=1s", "REELWAY_REVIEW_EVERY=1s")
	quotes := map[string]int64{}
	for _, prompt := range []string{"billed", "not billed", "said billed", "said not billed"} {
		v := w.submit("kling-v2-6", prompt+" [fault:webhook_never]")
		quotes[prompt] = v.GetQuoteMicros()
		got := w.ends(v.GetId(), videov1.VideoState_VIDEO_STATE_NEEDS_REVIEW)
		if got.GetHeldMicros() != 0 {
			t.Errorf("%v", got)
		}
		sh := shell{t, []string{"--server", w.GRPCAddr, "--key", w.AdminKey}}
		want := ledgerv1.Outcome_OUTCOME_NOT_BILLED
		switch prompt {
		case "billed":
			want = ledgerv1.Outcome_OUTCOME_BILLED
			w.move(prompt+" [fault:webhook_never]", "succeeded")
		case "not billed":
			w.move(prompt+" [fault:webhook_never]", "failed")
		case "said billed":
			want = ledgerv1.Outcome_OUTCOME_BILLED
			sh.table([]string{"ledger", "settle-suspense", "--job", v.GetId(), "--as", "billed", "--reason", "the invoice has it"}, "billed")
			sh.fails(1, "was settled before", "ledger", "settle-suspense", "--job", v.GetId(), "--as", "not-billed", "--reason", "r")
		case "said not billed":
			sh.table([]string{"ledger", "settle-suspense", "--job", v.GetId(), "--as", "not-billed", "--reason", "the invoice lacks it"}, "not billed")
		}
		var r *ledgerv1.Review
		eventually(t, func() string { return prompt + ": " + r.String() }, func() bool {
			all, err := w.credit.ListReviews(as(t, w.AdminKey), &ledgerv1.ListReviewsRequest{All: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range all.GetReviews() {
				if x.GetJobId() == v.GetId() {
					r = x
				}
			}
			return r.GetOutcome() == want
		})
		if byHand := strings.HasPrefix(prompt, "said"); byHand == (r.GetActor() == "ledger") {
			t.Errorf("%s: settled by %s", prompt, r.GetActor())
		}
	}
	w.balance(developed, 0) // the customer paid for none
}

// sign is a Standard Webhooks signature.
func sign(t *testing.T, h http.Header, body string) {
	t.Helper()
	key, err := base64.StdEncoding.DecodeString("c2ltdWxhdGVkLWtsaW5nLXdlYmhvb2sta2V5")
	if err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprint(time.Now().Unix())
	m := hmac.New(sha256.New, key)
	m.Write([]byte("msg_1." + at + "." + body))
	h.Set("Webhook-Id", "msg_1")
	h.Set("Webhook-Timestamp", at)
	h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
}

func (w *watched) call(provider, body string, signed bool) (status int, retryAfter string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.HTTPURL+"/v1/callbacks/"+provider, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if signed {
		sign(w.t, req.Header, body)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Retry-After")
}

// A webhook for a whole project names no job: signed, it finds its task; before
// the submit has an answer it is to come again; anybody else's is refused.
func TestWebhookWithoutAJobInItsAddress(t *testing.T) {
	t.Parallel()
	w := watchedStack(t, "REELWAY_WATCH_AFTER=1h", "REELWAY_SUBMIT_TIMEOUT=3s", "REELWAY_VEO_WEBHOOK_SECRET=whsec_c2ltdWxhdGVkLWtsaW5nLXdlYmhvb2sta2V5")
	left := int64(developed)
	for model, c := range map[string]struct{ provider, event string }{"sora-2": {"openai", "video.completed"}, "veo-3.1-fast": {"veo", "video.generated"}} {
		prompt := model + " [fault:webhook_never]"
		v := w.submit(model, prompt)
		w.move(prompt, "succeeded")
		body := fmt.Sprintf(`{"type":%q,"data":{"id":%q}}`, c.event, w.task(prompt).ID)
		if status, _ := w.call(c.provider, body, false); status != http.StatusUnauthorized {
			t.Errorf("%s, unsigned: %d", model, status)
		}
		if status, _ := w.call(c.provider, strings.Replace(body, w.task(prompt).ID, "another", 1), true); status != http.StatusNotFound {
			t.Errorf("%s, another's task: %d", model, status)
		}
		if status, _ := w.call(c.provider, body, true); status != http.StatusOK {
			t.Errorf("%s: %d", model, status)
		}
		left -= w.ends(v.GetId(), videov1.VideoState_VIDEO_STATE_SUCCEEDED).GetCapturedMicros()
		if status, _ := w.call(c.provider, body, true); status != http.StatusOK {
			t.Errorf("%s, again: %d", model, status)
		}
	}
	for _, provider := range []string{"kling", "runway", "nobody"} {
		if status, _ := w.call(provider, `{"id":"x"}`, true); status != http.StatusNotFound {
			t.Errorf("%s: %d", provider, status)
		}
	}
	// The task exists, and its submit has no answer yet.
	early := "too early [fault:hang_after_accept] [fault:webhook_never]"
	id := w.submitted("sora-2", early)
	eventually(t, func() string { return "no task" }, func() bool { return len(w.tasks(early)) == 1 })
	if status, wait := w.call("openai", fmt.Sprintf(`{"type":"video.completed","data":{"id":%q}}`, w.task(early).ID), true); status != http.StatusServiceUnavailable || wait == "" {
		t.Errorf("early: %d, retry after %q", status, wait)
	}
	quote := w.read(id).GetQuoteMicros()
	w.balance(left-quote, quote)
}
