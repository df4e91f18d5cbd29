package dispatcher

import (
	"math/rand/v2"
	"time"

	"reelway.dev/pkg/provider"
)

// pace is by what the polls of a task are timed: how long its model takes, half
// of the time and nearly always (0: unknown), and what its provider's webhooks
// are worth, 0 to 1.
type pace struct {
	typical, slow time.Duration
	trust         float64
}

// observed is what the ledger knows of a model's times and of a provider's
// webhooks.
type observed interface {
	GetTypicalMs() int64
	GetSlowMs() int64
}

// paceOf reads a pace. A provider that calls nobody back is trusted with
// nothing; one of which nothing is known yet (no trust), fully.
func paceOf(adapter provider.Adapter, x observed, trust *int32) pace {
	p := pace{typical: time.Duration(x.GetTypicalMs()) * time.Millisecond, slow: time.Duration(x.GetSlowMs()) * time.Millisecond, trust: 1}
	if trust != nil {
		p.trust = float64(*trust) / 100
	}
	if _, calls := adapter.(provider.WebhookParser); !calls {
		p.trust = 0
	}
	p.slow = max(p.slow, p.typical)
	return p
}

// trustEnough is the trust from which on the ledger's usual watchdog is early
// enough for models of unknown length.
const trustEnough = 0.9

// first is the wait before the first poll of a task that was just accepted; 0
// leaves it to the ledger's watchdog, which is never later than it says: shortly before the task is likely done where webhooks
// are lost, and after it should long have been told where they come.
func (p pace) first(interval time.Duration) time.Duration {
	early, late := interval, 7*interval
	if p.typical > 0 {
		early, late = max(interval, p.typical*9/10), max(interval, p.slow*5/4)
	} else if p.trust >= trustEnough {
		return 0
	}
	return early + time.Duration(p.trust*float64(late-early))
}

// next is the wait after a poll of a task of an age. Before the task can be
// expected, six times the interval at the most; while it is expected, the
// interval; later, or without such knowledge, growing by half with each poll to
// six times. Where webhooks come all this is up to twice as long.
func (p pace) next(interval time.Duration, polls int32, age time.Duration) time.Duration {
	base := float64(interval) * (1 + p.trust)
	d := base
	switch {
	case age < p.typical:
		d = min(max(base, float64(p.typical-age)), 6*base)
	case age < p.slow:
	default:
		for range min(polls-1, 10) {
			d *= 1.5
		}
		d = min(d, 6*base)
	}
	return time.Duration(d)
}

// jitter spreads a crowd by a tenth.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}
