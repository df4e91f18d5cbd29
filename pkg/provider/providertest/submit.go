package providertest

import (
	"context"
	"errors"
	"net"
	"time"

	"reelway.dev/pkg/fault"
	"reelway.dev/pkg/provider"
)

func policy(t T, b *bundle) {
	b.task = b.fresh("[fault:policy]")
	taskID, err := b.adapter.Submit(b.ctx, b.task)
	if err != nil {
		if f := b.refused(t, err); f.Code != fault.ContentPolicy || f.Retryable {
			t.Errorf("refusal is %+v", f)
		}
		return
	}
	b.Simulator.Move(t, b.accepted(t, b.task).ID, "succeeded") // it fails instead
	b.failed(t, b.poll(t, taskID), fault.ContentPolicy)
}

func rateLimit(t T, b *bundle) {
	for words, want := range map[string]time.Duration{"[fault:rate_limit]": time.Second, "[fault:rate_limit_bare]": 0} {
		task := b.fresh(words)
		_, err := b.adapter.Submit(b.ctx, task)
		f := b.refused(t, err)
		if want = max(want, b.PauseAtLeast); f.Code != fault.RateLimited || !f.Retryable || f.RetryAfter != want {
			t.Errorf("%s: %+v", words, f)
		}
		if n := len(b.Simulator.Tasks(t, task.Prompt)); n != 0 {
			t.Errorf("%s: %d tasks exist", words, n)
		}
	}
}

func serverError(t T, b *bundle) {
	task := b.fresh("[fault:error500]")
	_, err := b.adapter.Submit(b.ctx, task)
	if b.DefiniteServerError {
		if f := b.refused(t, err); f.Code != fault.ProviderUnavailable || !f.Retryable {
			t.Errorf("%+v", f)
		}
	} else {
		b.unknown(t, "error500", err)
	}
	if n := len(b.Simulator.Tasks(t, task.Prompt)); n != 0 {
		t.Errorf("%d tasks exist: the submit was repeated", n)
	}
}

// What surely was not sent may be sent again.
func refusedConnection(t T, b *bundle) {
	l, err := (&net.ListenConfig{}).Listen(b.ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = b.New(closed).Submit(b.ctx, b.task)
	if f := b.refused(t, err); f.Code != fault.ProviderUnavailable || !f.Retryable {
		t.Errorf("%+v", f)
	}
	var notSent *provider.NotSentError
	if !errors.As(err, &notSent) && !errors.As(b.refused(t, err), &notSent) {
		t.Errorf("%v does not say that nothing was sent", err)
	}
}

// What may have arrived is never sent again, by anybody: not by the adapter and
// not by net/http on a reused connection.
func lostAnswers(t T, b *bundle) {
	b.submit(t) // leaves a connection to reuse
	for word, tasks := range map[string]int{"reset_after_accept": 1, "reset_before_accept": 0, "garbage": 1, "huge_body": 1, "endless_body": 1, "redirect": 1} {
		task := b.fresh("[fault:" + word + "]")
		_, err := b.adapter.Submit(b.ctx, task)
		b.unknown(t, word, err)
		if n := len(b.Simulator.Tasks(t, task.Prompt)); n != tasks {
			t.Errorf("%s: the provider accepted %d tasks, want %d", word, n, tasks)
		}
	}
}

func givesUp(t T, b *bundle) {
	task := b.fresh("[fault:hang_after_accept]")
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan error, 1)
	go func() {
		_, err := b.adapter.Submit(ctx, task)
		done <- err
	}()
	eventually(b.ctx, t, "the task is accepted", func() bool { return len(b.Simulator.Tasks(t, task.Prompt)) > 0 })
	cancel()
	select {
	case err := <-done:
		b.unknown(t, "hang_after_accept", err)
	case <-b.ctx.Done():
		t.Fatal("submit does not honour its context")
	}
	b.accepted(t, task)
}

// unknown checks that an error says nothing of the task.
func (b *bundle) unknown(t T, word string, err error) {
	t.Helper()
	var refused *provider.RefusedError
	if err == nil || errors.As(err, &refused) {
		t.Errorf("%s: %v is not an unknown outcome", word, err)
	}
}

func eventually(ctx context.Context, t T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}
