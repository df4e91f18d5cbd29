package declared

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
	"reelway.dev/pkg/webhooksig"
)

// core is what every described provider can.
type core struct {
	spec    Spec
	account provider.Account
	header  http.Header
}

// New returns an adapter for a description that Parse has read. It is a
// provider.Canceler and a provider.WebhookParser only where the description
// says so. account's base URL, when it has one, wins over the description's;
// keys are those of Webhook.Keys.
func New(s Spec, account provider.Account, keys [][]byte) provider.Adapter {
	if account.BaseURL == "" {
		account.BaseURL = s.BaseURL
	}
	c := &core{spec: s, account: account.At(""), header: http.Header{}}
	for k, v := range s.Headers {
		c.header.Set(k, strings.ReplaceAll(v, "{key}", account.APIKey))
	}
	switch {
	case s.Cancel != nil && s.Webhook != nil:
		return struct {
			*core
			canceler
			parser
		}{c, canceler{c}, parser{c, keys}}
	case s.Cancel != nil:
		return struct {
			*core
			canceler
		}{c, canceler{c}}
	case s.Webhook != nil:
		return struct {
			*core
			parser
		}{c, parser{c, keys}}
	}
	return c
}

// path fills a call's path; a model may have several segments.
func path(p string, t provider.Task, taskID string) string {
	var model []string
	for part := range strings.SplitSeq(t.Model, "/") {
		model = append(model, url.PathEscape(part))
	}
	return strings.NewReplacer("{model}", strings.Join(model, "/"), "{task_id}", url.PathEscape(taskID), "{source_task}", url.PathEscape(t.SourceTask)).Replace(p)
}

// decode keeps numbers as they were written: ids may be numbers.
func decode(body []byte) (doc any, err error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err = dec.Decode(&doc); err == nil && dec.More() {
		err = errors.New("more than one value")
	}
	return doc, err
}

// Takes reports whether a description has a place for a source video: for the
// task that made it, else for its address.
func Takes(s Spec, own, extend bool) bool {
	t := provider.Task{Extend: extend}
	if own {
		t.SourceTask = "t"
	}
	return s.Submit.sourcePath(t) != ""
}

// sourcePath is the path for a task on a video; "" when the description has none,
// or no place for such a source.
func (s Submit) sourcePath(t provider.Task) string {
	p, field := s.Video, "video_url"
	if t.Extend {
		p = s.Extend
	}
	if t.SourceTask != "" {
		field = "source_task"
	}
	for name := range fields(s.Body) {
		if name == field {
			return p
		}
	}
	if strings.Contains(p, "{"+field+"}") {
		return p
	}
	return ""
}

// Submit implements provider.Adapter.
func (c *core) Submit(ctx context.Context, t provider.Task) (string, error) {
	p := c.spec.Submit.Path
	if t.ImageURL != "" && c.spec.Submit.Image != "" {
		p = c.spec.Submit.Image
	}
	if t.OfVideo() {
		if p = c.spec.Submit.sourcePath(t); p == "" {
			return "", provider.CannotUse(c.spec.Name)
		}
	}
	body, _ := fill(c.spec.Submit.Body, values(t))
	ans, err := c.account.JSON(ctx, c.spec.Submit.Method, path(p, t, ""), c.header, body)
	if err != nil {
		return "", provider.Refused(c.spec.Name, err)
	}
	doc, perr := decode(ans.Body)
	e := c.spec.Errors
	code, detail, after := text(doc, e.Code), text(doc, e.Message), ans.RetryAfter(c.account.Now())
	id := text(doc, c.spec.Submit.TaskID)
	if r, ok := e.Codes[code]; ok && ans.Status < 500 {
		if ans.Status/100 == 2 && id != "" { // it may have been taken: nothing may make a second one
			return "", fmt.Errorf("submit answered with code %s and a task", code)
		}
		return "", r.rule().Refuse(c.spec.Name, code, detail, after)
	}
	if ans.Status/100 != 2 {
		if r, ok := e.Status[ans.Status]; ok {
			if code == "" {
				code = fmt.Sprint(ans.Status)
			}
			return "", r.rule().Refuse(c.spec.Name, code, detail, after)
		}
		return "", fmt.Errorf("submit answered %d", ans.Status)
	}
	if perr != nil || id == "" {
		return "", errors.New("answer to submit has no task id")
	}
	return id, nil
}

// Poll implements provider.Adapter.
func (c *core) Poll(ctx context.Context, taskID string, t provider.Task) (provider.Report, error) {
	ans, err := c.account.JSON(ctx, c.spec.Poll.Method, path(c.spec.Poll.Path, t, taskID), c.header, nil)
	if err != nil {
		return provider.Report{}, fmt.Errorf("read task: %w", err)
	}
	doc, err := decode(ans.Body)
	if ans.Status != http.StatusOK || err != nil {
		return provider.Report{}, &provider.StatusError{Doing: "read task", Status: ans.Status}
	}
	r, ok := c.report(doc)
	if !ok || r.TaskID != taskID {
		return provider.Report{}, errors.New("answer is about no task or another one")
	}
	return r, nil
}

// report normalises a task; ok is false when it has no id or no status.
func (c *core) report(doc any) (r provider.Report, ok bool) {
	task := c.spec.Task
	id, word := text(doc, task.ID), text(doc, task.Status)
	if id == "" || word == "" {
		return r, false
	}
	switch c.state(word) {
	case provider.Succeeded:
		result := ""
		for _, place := range task.Result {
			if result = text(doc, place); result != "" {
				break
			}
		}
		return provider.Done(c.spec.Name, id, result), true
	case provider.Failed:
		rule := provider.Rule{Code: fault.ProviderRejected, Meaning: "the render failed at " + c.spec.Name}
		code, detail := text(doc, task.Code), text(doc, task.Error)
		if provider.Policy(code+" "+detail, task.Policy...) {
			rule = provider.Rule{Code: fault.ContentPolicy, Meaning: c.spec.Name + "'s content policy refused it; revise the prompt or image"}
		}
		if code == "" {
			code = word
		}
		return rule.Fail(c.spec.Name, id, code, detail), true
	}
	words := map[string]provider.State{}
	if s := c.state(word); s != "" {
		words[word] = s
	}
	return provider.Unfinished(id, word, words), true
}

func (c *core) state(word string) provider.State {
	for s, words := range c.spec.Task.States {
		if slices.Contains(words, word) {
			return s
		}
	}
	return ""
}

// canceler is the part of an adapter that cancels.
type canceler struct{ c *core }

// Cancel implements provider.Canceler. What a cancel does to a finished task is
// each provider's own, so the state is asked for first.
func (k canceler) Cancel(ctx context.Context, taskID string, t provider.Task) error {
	r, err := k.c.Poll(ctx, taskID, t)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	if r.State == provider.Succeeded || r.State == provider.Failed {
		return provider.ErrTooLate
	}
	ans, err := k.c.account.JSON(ctx, k.c.spec.Cancel.Method, path(k.c.spec.Cancel.Path, t, taskID), k.c.header, nil)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	if ans.Status/100 != 2 {
		return fmt.Errorf("cancel answered %d", ans.Status)
	}
	return nil
}

// parser is the part of an adapter that takes callbacks.
type parser struct {
	c    *core
	keys [][]byte
}

// ParseWebhook implements provider.WebhookParser. Without a key a callback is a
// hint, whatever the description says.
func (p parser) ParseWebhook(_ context.Context, h http.Header, body []byte, now time.Time) (provider.Report, error) {
	signed := p.c.spec.Webhook.Signature != unsigned && len(p.keys) > 0
	if signed && p.verify(h, body, now) != nil {
		return provider.Report{}, provider.ErrBadSignature
	}
	doc, err := decode(body)
	if err != nil {
		return provider.Report{}, fmt.Errorf("%w: %w", provider.ErrBadBody, err)
	}
	r, ok := p.c.report(doc)
	if !ok {
		return provider.Report{}, fmt.Errorf("%w: no id or status", provider.ErrBadBody)
	}
	r.Hint = !signed
	return r, nil
}

func (p parser) verify(h http.Header, body []byte, now time.Time) error {
	if s, own := p.c.spec.Webhook.Scheme(); own {
		return s.Verify(p.keys, h, body, now)
	}
	return webhooksig.Standard(p.keys, h, body, now)
}
