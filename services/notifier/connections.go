package notifier

import (
	"fmt"
	"sync"
	"time"

	"reelway.dev/pkg/fault"
)

// connections count the open streams of each API key and token. It is safe for
// concurrent use.
type connections struct {
	perKey, perToken int

	mu   sync.Mutex
	open map[string]int
	all  int64
}

// enter counts a connection until leave is called, or refuses it.
func (n *connections) enter(c caller) (leave func(), err error) {
	token := ""
	if c.grant != nil {
		token = c.grant.ID
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open[c.keyID] >= n.perKey {
		return nil, crowded("API key", n.perKey, "use fewer connections: one WebSocket carries many subscriptions")
	}
	if token != "" && n.open[token] >= n.perToken {
		return nil, crowded("token", n.perToken, "close some, or make a token for each page")
	}
	n.open[c.keyID]++
	n.all++
	if token != "" {
		n.open[token]++
	}
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.leave(c.keyID)
		n.all--
		if token != "" {
			n.leave(token)
		}
	}, nil
}

// count is how many are open.
func (n *connections) count() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all
}

// leave forgets one connection; the caller holds mu.
func (n *connections) leave(name string) {
	if n.open[name]--; n.open[name] == 0 {
		delete(n.open, name)
	}
}

func crowded(what string, most int, advice string) error {
	e := fault.New(fault.RateLimited, "%s", fmt.Sprintf("this %s has %d open connections here, the most it may have; %s", what, most, advice))
	e.RetryAfter = 5 * time.Second
	return e
}
