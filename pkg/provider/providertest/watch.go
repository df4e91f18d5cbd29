package providertest

import (
	"errors"
	"io"
	"net/http"
	"net/url"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
)

func success(t T, b *bundle) {
	taskID, sim := b.submit(t)
	if r := b.poll(t, taskID); r.State != provider.Queued && r.State != provider.Running || r.UnknownWord != "" || r.Progress > 99 {
		t.Errorf("a new task is %+v", r)
	}
	b.Simulator.Move(t, sim.ID, "running")
	if r := b.poll(t, taskID); r.State != provider.Running || r.UnknownWord != "" || r.Progress > 99 {
		t.Errorf("a running task is %+v", r)
	}
	b.Simulator.Move(t, sim.ID, "succeeded")
	r := b.poll(t, taskID)
	if r.State != provider.Succeeded || r.Progress != 100 || r.Err != nil || r.Hint {
		t.Fatalf("a finished task is %+v", r)
	}
	if head := b.fetch(t, r.ResultURL); string(head[4:8]) != "ftyp" {
		t.Errorf("the result begins with %q", head)
	}
	b.accepted(t, b.task)
}

// fetch reads the head of a result as the archiver would.
func (b *bundle) fetch(t T, url string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := b.adapter.(provider.Downloader); ok {
		for k, v := range d.ResultHeader(url) {
			req.Header[k] = v
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	head := make([]byte, 12)
	if _, err := io.ReadFull(resp.Body, head); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("fetch of %s: status %d, %v", url, resp.StatusCode, err)
	}
	return head
}

func resultKey(t T, b *bundle) {
	d, ok := b.adapter.(provider.Downloader)
	if !ok {
		t.Skip("results need no key")
	}
	base, err := url.Parse(b.BaseURL)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{"https://elsewhere.example/v.mp4", "http://127.0.0.1:1/v.mp4", "https://" + base.Host + "/v.mp4", "http://" + base.Host + "@elsewhere.example/v.mp4",
		"http://elsewhere.example@" + base.Host + "/v.mp4", "//" + base.Host, ":", ""} {
		if h := d.ResultHeader(u); len(h) > 0 {
			t.Errorf("the key is sent to %q", u)
		}
	}
}

func failure(t T, b *bundle) {
	taskID, sim := b.submit(t)
	b.Simulator.Move(t, sim.ID, "failed")
	b.failed(t, b.poll(t, taskID), fault.ProviderRejected)
}

func failingPolls(t T, b *bundle) {
	for _, word := range []string{"garbage_poll", "rate_limit_poll", "error500_poll"} {
		b.task = b.fresh("[fault:" + word + "]")
		taskID, sim := b.submit(t)
		b.Simulator.Move(t, sim.ID, "running")
		if r, err := b.adapter.Poll(b.ctx, taskID, b.task); err == nil {
			t.Errorf("%s: %+v", word, r)
		}
	}
	b.task = b.fresh("")
	taskID, _ := b.submit(t)
	if r, err := b.adapter.Poll(b.ctx, taskID+"0", b.task); err == nil {
		t.Errorf("a task that does not exist is %+v", r)
	}
}

func unknownWord(t T, b *bundle) {
	b.task = b.fresh("[fault:unknown_word]")
	taskID, sim := b.submit(t)
	b.Simulator.Move(t, sim.ID, "running")
	if r := b.poll(t, taskID); r.State != provider.Running || (r.UnknownWord == "") != b.NoWords {
		t.Errorf("%+v", r)
	}
}

func emptyResult(t T, b *bundle) {
	if b.ResultUnseen {
		t.Skip("a poll does not tell")
	}
	b.task = b.fresh("[fault:empty_result]")
	taskID, sim := b.submit(t)
	b.Simulator.Move(t, sim.ID, "succeeded")
	b.failed(t, b.poll(t, taskID), fault.ProviderRejected)
}

func find(t T, b *bundle) {
	f, ok := b.adapter.(provider.Finder)
	if !ok {
		t.Skip("the provider takes no external id")
	}
	if r, found, err := f.Find(b.ctx, b.task); found || err != nil {
		t.Errorf("before the submit: %+v %v %v", r, found, err)
	}
	taskID, _ := b.submit(t)
	if r, found, err := f.Find(b.ctx, b.task); !found || err != nil || r.TaskID != taskID {
		t.Errorf("after the submit: %+v %v %v", r, found, err)
	}
	lost := b.fresh("[fault:reset_after_accept]")
	_, err := b.adapter.Submit(b.ctx, lost)
	b.unknown(t, "reset_after_accept", err)
	if r, found, err := f.Find(b.ctx, lost); !found || err != nil || r.TaskID != b.accepted(t, lost).ID {
		t.Errorf("a lost task: %+v %v %v", r, found, err)
	}
	// The same external id again is refused or found, never a second task.
	if _, err := b.adapter.Submit(b.ctx, lost); err != nil && b.refused(t, err).Retryable {
		t.Error(err)
	}
	b.accepted(t, lost)
}

func cancel(t T, b *bundle) {
	c, ok := b.adapter.(provider.Canceler)
	if !ok {
		t.Skip("the provider cancels nothing")
	}
	taskID, _ := b.submit(t)
	if b.NoCancel {
		if err := c.Cancel(b.ctx, taskID, b.task); !errors.Is(err, provider.ErrTooLate) {
			t.Errorf("cancel: %v", err)
		}
		return
	}
	if err := c.Cancel(b.ctx, taskID, b.task); err != nil {
		t.Fatalf("cancel: %v", err)
	}
	if s := b.accepted(t, b.task).State; s != "canceled" {
		t.Errorf("the task is %s", s)
	}
	if r, err := b.adapter.Poll(b.ctx, taskID, b.task); err == nil {
		b.failed(t, r, fault.ProviderRejected)
		if r.Err.ProviderCode == "" {
			t.Error("nothing says that it was canceled")
		}
	}
	b.task = b.fresh("")
	taskID, sim := b.submit(t)
	b.Simulator.Move(t, sim.ID, "succeeded")
	if err := c.Cancel(b.ctx, taskID, b.task); !errors.Is(err, provider.ErrTooLate) {
		t.Errorf("cancel of a finished task: %v", err)
	}
	if r := b.poll(t, taskID); r.State != provider.Succeeded {
		t.Errorf("cancel destroyed a finished task: %+v", r)
	}
	if err := c.Cancel(b.ctx, taskID+"0", b.task); err == nil || errors.Is(err, provider.ErrTooLate) {
		t.Errorf("cancel of a task that does not exist: %v", err)
	}
}
