package providertest

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Run runs the whole suite, each check as a parallel test.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for _, c := range suite {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t, setup(t, h))
		})
	}
}

// Outcome is what became of a check.
type Outcome string

// The outcomes.
const (
	Passed  Outcome = "passed"
	Failed  Outcome = "failed"
	Skipped Outcome = "skipped"
)

// Result is one check of Certify's.
type Result struct {
	Check   string   `json:"check"`
	Outcome Outcome  `json:"outcome"`
	Reasons []string `json:"reasons,omitempty"` // of a failure or a skip
}

// Certify runs the suite outside of a test, one check after the other until ctx
// is done, and tells each result as it is known. Without a Simulator the checks
// that need one are skipped.
func Certify(ctx context.Context, h Harness, tell func(Result)) {
	for _, c := range suite {
		r := &recorder{}
		switch {
		case ctx.Err() != nil:
			r.skip("interrupted")
		case h.Simulator == nil && !c.alone:
			r.skip("needs a stand-in of the provider with the simulator's /admin doors")
		default:
			r.do(func() { c.run(r, setup(r, h)) })
		}
		tell(r.result(c.name))
	}
}

// recorder is a T of one check.
type recorder struct {
	mu       sync.Mutex
	failures []string
	skips    []string
	cleanups []func()
}

var _ T = (*recorder)(nil)

// do runs fn as a test is run: on a goroutine of its own, which Fatal and Skip
// end, and with its cleanups after it, the last first.
func (r *recorder) do(fn func()) {
	var wg sync.WaitGroup
	step := func(fn func()) {
		wg.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					r.Errorf("panic: %v", p)
				}
			}()
			fn()
		})
		wg.Wait()
	}
	step(fn)
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		step(r.cleanups[i])
	}
}

func (r *recorder) result(name string) Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case len(r.failures) > 0:
		return Result{name, Failed, r.failures}
	case len(r.skips) > 0:
		return Result{name, Skipped, r.skips}
	}
	return Result{Check: name, Outcome: Passed}
}

func (r *recorder) skip(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.skips = append(r.skips, reason)
}

// Helper implements T.
func (*recorder) Helper() {}

// Error implements T.
func (r *recorder) Error(args ...any) {
	r.Errorf("%s", strings.TrimSuffix(fmt.Sprintln(args...), "\n"))
}

// Errorf implements T.
func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

// Fatal implements T.
func (r *recorder) Fatal(args ...any) {
	r.Error(args...)
	runtime.Goexit()
}

// Fatalf implements T.
func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	runtime.Goexit()
}

// Skip implements T.
func (r *recorder) Skip(args ...any) {
	r.skip(strings.TrimSuffix(fmt.Sprintln(args...), "\n"))
	runtime.Goexit()
}

// Cleanup implements T.
func (r *recorder) Cleanup(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, fn)
}
