package minimax

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
)

// baseResp is v1's verdict on a call, whatever its HTTP status.
type baseResp struct {
	Code int    `json:"status_code"`
	Msg  string `json:"status_msg"`
}

// apiError is v2's; the old number stands in brackets at the end of message.
type apiError struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

var (
	policyIn  = provider.Rule{Code: fault.ContentPolicy, Meaning: "MiniMax's content policy refused it; revise the prompt or image"}
	policyOut = provider.Rule{Code: fault.ContentPolicy, Meaning: "MiniMax's content policy withheld the video; revise the prompt or image"}
	auth      = provider.Rule{Code: fault.ProviderUnavailable, Cause: provider.BadKey, Meaning: "MiniMax refused our key"}
	balance   = provider.Rule{Code: fault.ProviderUnavailable, Cause: provider.NoBalance, Meaning: "our balance or quota at MiniMax is used up"}
	invalid   = provider.Rule{Code: fault.InvalidRequest, Meaning: "MiniMax refused a parameter"}
	busy      = provider.Rule{Code: fault.RateLimited, Retry: true, Meaning: "MiniMax asks us to slow down"}
	broken    = provider.Rule{Code: fault.ProviderRejected, Meaning: "the render failed at MiniMax"}
	// doorShut is our fault: MiniMax could not test the callback URL.
	doorShut = provider.Rule{Code: fault.ProviderUnavailable, Retry: true, Meaning: "MiniMax could not reach our callback address"}
)

// codes is MiniMax's own codes, in both versions. One that is not here, or is
// transient (1000, 1001, 1024, 1033), leaves the outcome unknown.
var codes = map[int]provider.Rule{
	1002: busy, 1041: busy,
	1004: auth, 2049: auth,
	1008: balance, 1028: balance, 1030: balance, 2061: balance,
	1026: policyIn, 1027: policyOut,
	1039: invalid, 1042: invalid, 2013: invalid,
}

// types is v2's error types, for an error that names no code.
var types = map[string]provider.Rule{
	"bad_request_error": invalid, "authorized_error": auth, "insufficient_balance_error": balance,
	"unprocessable_entity_error": policyIn, "rate_limit_error": busy,
}

func refuseV1(ans *provider.Answer, b baseResp, now time.Time) error {
	rule, ok := codes[b.Code]
	if !ok {
		return fmt.Errorf("submit answered %d with code %d", ans.Status, b.Code)
	}
	if b.Code == 2013 && provider.Policy(b.Msg, "callback") {
		rule = doorShut
	}
	return rule.Refuse(Name, strconv.Itoa(b.Code), b.Msg, ans.RetryAfter(now))
}

// ofDoor reports whether a submit was refused for our callback address alone.
func ofDoor(err error) bool {
	var r *provider.RefusedError
	return errors.As(err, &r) && r.Fault.ProviderCode == "2013" && r.Fault.Code == doorShut.Code
}

var bracketed = regexp.MustCompile(`\((\d{4})\)\s*$`)

func refuseV2(ans *provider.Answer, e apiError, now time.Time) error {
	rule, ok := types[e.Type]
	code := e.Type
	if m := bracketed.FindStringSubmatch(e.Message); m != nil {
		code = m[1]
		n, _ := strconv.Atoi(code)
		if byCode, known := codes[n]; known {
			rule, ok = byCode, true
		}
	}
	if !ok || ans.Status >= 500 {
		return fmt.Errorf("submit answered %d with %s", ans.Status, code)
	}
	if code == "2013" && provider.Policy(e.Message, "callback") {
		rule = doorShut
	}
	return rule.Refuse(Name, code, e.Message, ans.RetryAfter(now))
}

// taskV1 is v1's task, in queries and callbacks.
type taskV1 struct {
	TaskID   string   `json:"task_id"`
	Status   string   `json:"status"`
	FileID   string   `json:"file_id"`
	BaseResp baseResp `json:"base_resp"`
}

// aboutTask tells whether an answer's code is about the task, and not about the
// call: a query that is throttled says nothing.
func (d taskV1) aboutTask() bool {
	rule := codes[d.BaseResp.Code]
	return d.BaseResp.Code == 0 || d.Status == "Fail" || rule.Code == fault.ContentPolicy
}

// The words of queries and, in lower case, those of callbacks.
var wordsV1 = map[string]provider.State{
	"Preparing": provider.Queued, "Queueing": provider.Queued, "Processing": provider.Running,
	"preparing": provider.Queued, "queueing": provider.Queued, "processing": provider.Running,
}

// reportV1 normalises a task; a finished one's file is to be turned into a URL.
func reportV1(d taskV1) (r provider.Report, fileID string) {
	switch d.Status {
	case "Success", "success":
		return provider.Done(Name, d.TaskID, d.FileID), d.FileID
	case "Fail", "fail", "failed":
		return failed(d.TaskID, d.BaseResp.Code, strconv.Itoa(d.BaseResp.Code), d.BaseResp.Msg), ""
	}
	if codes[d.BaseResp.Code].Code == fault.ContentPolicy {
		return failed(d.TaskID, d.BaseResp.Code, strconv.Itoa(d.BaseResp.Code), d.BaseResp.Msg), ""
	}
	return provider.Unfinished(d.TaskID, d.Status, wordsV1), ""
}

func failed(taskID string, code int, word, detail string) provider.Report {
	rule := codes[code]
	if rule.Code != fault.ContentPolicy && rule.Code != fault.InvalidRequest {
		rule = broken
	}
	if code == 0 {
		word = "failed"
	}
	return rule.Fail(Name, taskID, word, detail)
}

// taskV2 is v2's task.
type taskV2 struct {
	ID      string `json:"id"`
	Status  string `json:"status"`
	Content struct {
		URL string `json:"url"`
	} `json:"content"`
	Error struct {
		Code    any    `json:"code"` // a number or a string
		Message string `json:"message"`
	} `json:"error"`
}

var wordsV2 = map[string]provider.State{"queued": provider.Queued, "running": provider.Running}

func reportV2(d taskV2) provider.Report {
	switch d.Status {
	case "succeeded":
		return provider.Done(Name, d.ID, d.Content.URL)
	case "failed":
		word := "failed"
		if d.Error.Code != nil {
			word = fmt.Sprint(d.Error.Code)
		}
		n, _ := strconv.Atoi(word)
		if n == 0 {
			if m := bracketed.FindStringSubmatch(d.Error.Message); m != nil {
				n, _ = strconv.Atoi(m[1])
			}
		}
		r := failed(d.ID, n, word, d.Error.Message)
		r.Err.ProviderCode = word
		return r
	case "cancelled", "canceled":
		return provider.Rule{Code: fault.ProviderRejected, Meaning: "the task was canceled at MiniMax"}.Fail(Name, d.ID, "canceled", "")
	case "expired":
		return provider.Rule{Code: fault.ProviderRejected, Meaning: "the task expired at MiniMax"}.Fail(Name, d.ID, "expired", "")
	}
	return provider.Unfinished(d.ID, d.Status, wordsV2)
}
