package providertest

import (
	"cmp"
	"errors"
	"strings"

	"reelway.dev/pkg/id"
	"reelway.dev/pkg/provider"
)

// Source is a way in which a provider works on a video.
type Source struct {
	Model  string // the provider's name; the harness's own task's when empty
	Own    bool   // by the id of the task that made it, else by its address
	Extend bool
}

// give makes t a task on a video, which the task id or the address names.
func (s Source) give(t provider.Task, task, url string) provider.Task {
	t.Model, t.Extend = cmp.Or(s.Model, t.Model), s.Extend
	if t.VideoURL = url; s.Own {
		t.VideoURL, t.SourceTask = "", task
	}
	return t
}

// finished is a task that has made a video, and the video's address.
func (b *bundle) finished(t T, model string) (taskID, url string) {
	t.Helper()
	b.task = b.fresh("")
	b.task.Model = cmp.Or(model, b.task.Model)
	taskID, sim := b.submit(t)
	b.Simulator.Move(t, sim.ID, "succeeded")
	return taskID, b.poll(t, taskID).ResultURL
}

// Each way of working on a video reaches the provider with its source, is watched
// to its end, and is refused without a task when there is no such source.
func sources(t T, b *bundle) {
	if len(b.Sources) == 0 {
		t.Skip("works on no videos")
	}
	for _, s := range b.Sources {
		from := ""
		if s.Own {
			from = s.Model
		}
		made, url := b.finished(t, from)
		b.task = s.give(b.fresh(""), made, url)
		taskID, sim := b.submit(t)
		if s.Own && !strings.HasSuffix(made, sim.Source) || !s.Own && sim.Source != url || sim.Source == "" {
			t.Errorf("%+v: the provider was given %q, not %q or %q", s, sim.Source, made, url)
		}
		b.findSource(t, sim.ID)
		b.Simulator.Move(t, sim.ID, "succeeded")
		if r := b.poll(t, taskID); r.State != provider.Succeeded || r.ResultURL == "" {
			t.Errorf("%+v: the finished task is %+v", s, r)
		}
		absent := strings.Replace(made, "0", "1", 1) + "1"
		for _, task := range []provider.Task{s.give(b.fresh(""), absent, url+"x"), s.give(b.fresh("[fault:error500]"), made, url)} {
			_, err := b.adapter.Submit(b.ctx, task)
			var refused *provider.RefusedError
			if err == nil || errors.As(err, &refused) && refused.Fault.Retryable && !b.DefiniteServerError {
				t.Errorf("%+v: %q gives %v", s, task.Prompt, err)
			}
			if n := len(b.Simulator.Tasks(t, task.Prompt)); n != 0 {
				t.Errorf("%+v: %q made %d tasks", s, task.Prompt, n)
			}
		}
	}
}

// findSource sees to it that a task that exists is never said to be absent.
func (b *bundle) findSource(t T, want string) {
	t.Helper()
	finder, ok := b.adapter.(provider.Finder)
	if !ok {
		return
	}
	r, found, err := finder.Find(b.ctx, b.task)
	if !errors.Is(err, provider.ErrNotSearchable) && (err != nil || !found || !strings.HasSuffix(r.TaskID, want)) {
		t.Errorf("the task is looked for, and %+v %v %v is found", r, found, err)
	}
}

// A source that an adapter cannot hand over is no reason to make another video.
func foreignSources(t T, b *bundle) {
	for _, s := range []Source{{}, {Extend: true}, {Own: true}, {Own: true, Extend: true}} {
		known := false
		for _, k := range b.Sources {
			known = known || k.Own == s.Own && k.Extend == s.Extend
		}
		if known {
			continue
		}
		task := s.give(b.fresh(""), id.New(id.Attempt), "https://v.example/a.mp4")
		_, err := b.adapter.Submit(b.ctx, task)
		if f := b.refused(t, err); f.Retryable {
			t.Errorf("%+v: %+v", s, f)
		}
		if n := len(b.Simulator.Tasks(t, task.Prompt)); n != 0 {
			t.Errorf("%+v: %d tasks exist", s, n)
		}
	}
}
