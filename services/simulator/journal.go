package simulator

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// journal keeps the accepted tasks in a file, as a provider keeps its own: a
// simulator that is started again knows them, goes on with their renders and
// serves their results.
type journal struct{ f *os.File }

// entry is one line: a task that was accepted, or where one has come to.
type entry struct {
	Task *kept  `json:"task,omitempty"`
	ID   string `json:"id,omitempty"`
	Was  string `json:"state,omitempty"`
}

// kept is all of a task.
type kept struct {
	Task
	Kind, Model    string
	Width, Height  int
	Seconds        int
	Size           int64
	Callback, Host string
	Policy         bool
	Faults         map[string]int
	Events         []string
	Metadata       map[string]any
	SourceTask     string
}

func (t *Task) keep(host string) *kept {
	return &kept{*t, t.kind, t.model, t.width, t.height, t.seconds, t.size, t.callback, host, t.policy, t.faults, t.events, t.metadata, t.sourceTask}
}

func (k *kept) task(ds map[string]*dialect) *Task {
	t := k.Task
	t.d, t.kind, t.model, t.width, t.height, t.seconds = ds[k.Provider], k.Kind, k.Model, k.Width, k.Height, k.Seconds
	t.size, t.callback, t.policy, t.faults, t.events, t.metadata = k.Size, k.Callback, k.Policy, k.Faults, k.Events, k.Metadata
	t.sourceTask = k.SourceTask
	return &t
}

// openJournal reads the tasks of a directory into s and opens its file for what
// follows. The renders that had not ended begin again.
func (s *Service) openJournal(dir string) error {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "tasks.jsonl"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	ds := map[string]*dialect{}
	for _, d := range dialects() {
		ds[d.name] = d
	}
	hosts := map[string]string{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var e entry
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue // cut short by a kill
		}
		if e.Task == nil {
			if t := s.tasks[e.ID]; t != nil {
				t.State, t.Charged = e.Was, e.Was == "succeeded"
			}
			continue
		}
		t := e.Task.task(ds)
		if t.d == nil {
			continue
		}
		s.tasks[t.ID], hosts[t.ID] = t, e.Task.Host
		s.order = append(s.order, t)
		if t.ExternalID != "" {
			s.byExt[t.ExternalID] = t
		}
	}
	if err := lines.Err(); err != nil {
		return errors.Join(fmt.Errorf("read journal: %w", err), f.Close())
	}
	s.journal = &journal{f}
	for _, t := range s.order {
		if t.State == "queued" || t.State == "running" {
			s.wg.Go(func() { s.render(t, hosts[t.ID]) })
		}
	}
	return nil
}

// write adds a line; the caller holds s.mu. A line that is lost with the machine
// is a task that the provider lost: it can happen to anyone.
func (j *journal) write(e entry) {
	if j == nil {
		return
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, _ = j.f.Write(append(line, '\n'))
	}
}

func (j *journal) close() {
	if j != nil {
		_ = j.f.Close()
	}
}
