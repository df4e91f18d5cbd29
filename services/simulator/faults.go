package simulator

import (
	"net/http"
	"regexp"
	"strconv"
	"time"
)

// The fault words, as [fault:NAME] or [fault:NAME:CALLS] in a prompt or by POST
// /admin/faults:
//
//	before a task exists:  hang, reset_before_accept, rate_limit,
//	                       rate_limit_bare (no Retry-After), error500, policy,
//	                       no_balance, challenge_fails (MiniMax's),
//	                       daily_limit (Runway's)
//	when it exists:        reset_after_accept, hang_after_accept, garbage,
//	                       huge_body, endless_body, redirect,
//	                       webhook_before_response
//	when it is read:       garbage_poll, rate_limit_poll, error500_poll,
//	                       unknown_word, empty_result, expired_result
//	of its webhooks:       webhook_never, webhook_twice, webhook_out_of_order,
//	                       webhook_bad_signature, webhook_garbage
//	of the render:         fail_halfway, budget_exhausted (Luma's)
//
// and by POST /admin/faults alone, for every call of a provider, submit or read:
//
//	outage (a bare 503), throttled (429 with Retry-After), bad_key
var (
	callWords = []string{"hang", "reset_before_accept", "rate_limit", "rate_limit_bare", "error500", "policy", "no_balance", "challenge_fails", "daily_limit",
		"reset_after_accept", "hang_after_accept", "garbage", "huge_body", "endless_body", "redirect", "garbage_poll", "rate_limit_poll", "error500_poll"}
	// taskWords stay with a task from its submit on.
	taskWords = []string{"webhook_before_response", "unknown_word", "empty_result", "expired_result", "webhook_never", "webhook_twice",
		"webhook_out_of_order", "webhook_bad_signature", "webhook_garbage", "fail_halfway", "budget_exhausted"}
	providerWords = []string{"outage", "throttled", "bad_key"}
)

var faultWord = regexp.MustCompile(`\[fault:([a-z0-9_]+)(?::(\d+))?\]`)
var sizeWord = regexp.MustCompile(`\[size:(\d+)MB\]`)

// fault is one that /admin/faults has set: for a number of calls, or for a time.
type fault struct {
	calls      int
	until      time.Time
	retryAfter int // seconds, with rate_limit, rate_limit_poll and throttled
}

// take reports whether a fault is due: one of the prompt's words, or one set by
// /admin/faults, which counts down.
func (s *Service) take(provider string, words map[string]int, name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.faults[provider][name]
	if f.calls > 0 {
		f.calls--
		s.faults[provider][name] = f
		return true
	}
	return words[name] > 0 || time.Now().Before(f.until)
}

// askToWait says when to come again: in a second, or as /admin/faults has set.
func (s *Service) askToWait(w http.ResponseWriter, provider string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seconds := 1
	for _, f := range s.faults[provider] {
		seconds = max(seconds, f.retryAfter)
	}
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
}

// mark leaves on a new task the faults that stay with it and were set by
// /admin/faults.
func (s *Service) mark(t *Task) {
	for _, w := range taskWords {
		if s.take(t.Provider, nil, w) {
			t.faults[w] = 1
		}
	}
}

func words(prompt string) map[string]int {
	m := map[string]int{}
	for _, f := range faultWord.FindAllStringSubmatch(prompt, -1) {
		n, _ := strconv.Atoi(f[2])
		m[f[1]] = max(n, 1)
	}
	return m
}

// callsLeft counts down a fault of n calls for one job, across its attempts;
// where a provider is told of no job, for one prompt.
func (s *Service) callsLeft(t *Task, name string) bool {
	if t.faults[name] == 0 {
		return s.take(t.Provider, nil, name)
	}
	job := t.JobID
	if job == "" {
		job = t.Prompt
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := t.Provider + "/" + job + "/" + name
	if _, begun := s.left[key]; !begun {
		s.left[key] = t.faults[name]
	}
	if s.left[key] == 0 {
		return false
	}
	s.left[key]--
	return true
}

// before plays the faults that strike before a task exists, and returns the
// refusal that is due, if one is.
func (s *Service) before(w http.ResponseWriter, r *http.Request, t *Task) refusal {
	refuse := s.take(t.Provider, t.faults, "policy")
	switch {
	case s.take(t.Provider, t.faults, "hang"):
		select {
		case <-r.Context().Done():
		case <-s.ctx.Done():
		}
		panic(http.ErrAbortHandler)
	case s.take(t.Provider, t.faults, "reset_before_accept"):
		panic(http.ErrAbortHandler)
	case refuse && !t.d.policyLate:
		return policy
	case s.callsLeft(t, "rate_limit"):
		s.askToWait(w, t.Provider)
		return rateLimited
	case s.take(t.Provider, t.faults, "rate_limit_bare"):
		return rateLimited
	case s.callsLeft(t, "error500"):
		return broken
	case s.take(t.Provider, t.faults, "no_balance"):
		return noBalance
	}
	t.policy = refuse
	return ""
}

// after plays the faults that strike when the task exists but the answer has
// not been sent; true says that it has answered.
func (s *Service) after(w http.ResponseWriter, r *http.Request, t *Task) bool {
	switch {
	case s.take(t.Provider, t.faults, "reset_after_accept"):
		panic(http.ErrAbortHandler)
	case s.take(t.Provider, t.faults, "hang_after_accept"):
		select {
		case <-r.Context().Done():
		case <-s.ctx.Done():
		}
		panic(http.ErrAbortHandler)
	case s.take(t.Provider, t.faults, "garbage"):
		_, _ = w.Write([]byte(`{"code":0,"data":{"id":`))
		return true
	case s.take(t.Provider, t.faults, "redirect"):
		// 307 asks for the same POST again, at an address that would take it.
		w.Header().Set("Location", r.URL.Path)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	case s.take(t.Provider, t.faults, "huge_body"):
		s.flood(w, r, 2<<20)
		return true
	case s.take(t.Provider, t.faults, "endless_body"):
		s.flood(w, r, 1<<40)
		return true
	case t.faults["webhook_before_response"] > 0:
		s.wait(4 * s.step())
	}
	return false
}

// flood answers with n bytes of white space, which a careless JSON reader would
// read to the end.
func (s *Service) flood(w http.ResponseWriter, r *http.Request, n int64) {
	w.Header().Set("Content-Type", "application/json")
	chunk := make([]byte, 32<<10)
	for i := range chunk {
		chunk[i] = ' '
	}
	for ; n > 0 && r.Context().Err() == nil && s.ctx.Err() == nil; n -= int64(len(chunk)) {
		if _, err := w.Write(chunk[:min(n, int64(len(chunk)))]); err != nil {
			return
		}
	}
}
