package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
)

// The watchers are a process of their own, so that memory is the server's alone.
const clientOf = "BENCH_LIVE_CLIENT_OF"

// order is what the measuring process asks of the watchers, a line each.
type order struct {
	Open      int      // sockets more
	Subscribe []string // what the sockets watch, in turn; each is told how it stands
	Dump      bool     // tell what came since
}

// came is one frame that came to a socket.
type came struct {
	Socket int
	At     int64 // Unix nanoseconds
	Data   json.RawMessage
}

// watchers are the process that watches.
type watchers struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startWatchers(ctx context.Context, addr string) (*watchers, error) {
	w := &watchers{cmd: exec.CommandContext(ctx, os.Args[0])} //nolint:gosec // this very program
	w.cmd.Env, w.cmd.Stderr = append(os.Environ(), clientOf+"="+addr), os.Stderr
	in, err1 := w.cmd.StdinPipe()
	out, err2 := w.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, w.cmd.Start()); err != nil {
		return nil, fmt.Errorf("start watchers: %w", err)
	}
	w.in, w.out = in, bufio.NewReader(out)
	return w, nil
}

func (w *watchers) stop() {
	_ = w.in.Close()
	_ = w.cmd.Wait()
}

// do gives an order and waits until it was followed.
func (w *watchers) do(o order) (answer []came, err error) {
	if err := json.NewEncoder(w.in).Encode(o); err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	line, err := w.out.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("watchers: %w", err)
	}
	return answer, json.Unmarshal(line, &answer)
}

// client is the watchers' side: it returns when the orders end.
type client struct {
	addr  string
	conns []*websocket.Conn

	mu   sync.Mutex
	came []came
	got  chan struct{} // one for each frame
}

func runClient(addr string) error {
	raiseFiles()
	c := &client{addr: addr, got: make(chan struct{}, 1<<20)}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read order: %w", err)
		}
		if err := c.open(o.Open); err != nil {
			return err
		}
		for i, c2 := range c.conns[:min(len(o.Subscribe), len(c.conns))] {
			if err := c2.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","videos":["`+o.Subscribe[i]+`"]}`)); err != nil {
				return fmt.Errorf("subscribe: %w", err)
			}
			if i >= 256 { // not all at once
				<-c.got
			}
		}
		for range min(256, len(o.Subscribe)) {
			<-c.got
		}
		var answer []came
		if c.mu.Lock(); o.Dump || len(o.Subscribe) > 0 {
			answer, c.came = c.came, nil
		}
		c.mu.Unlock()
		for o.Dump && len(c.got) > 0 {
			<-c.got
		}
		if !o.Dump {
			answer = nil
		}
		if err := out.Encode(answer); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

func (c *client) open(n int) error {
	d := websocket.Dialer{HandshakeTimeout: time.Minute, ReadBufferSize: 4096, WriteBufferSize: 256, WriteBufferPool: &sync.Pool{}}
	first := len(c.conns)
	c.conns = append(c.conns, make([]*websocket.Conn, n)...)
	errs := make(chan error, 1)
	var wg sync.WaitGroup
	for k := range 32 {
		wg.Go(func() {
			for i := first + k; i < first+n; i += 32 {
				conn, resp, err := d.Dial("ws://"+c.addr+"/v1/stream", http.Header{"Authorization": {"Bearer " + apiKey}})
				if err != nil {
					select {
					case errs <- fmt.Errorf("socket %d: %w", i, err):
					default:
					}
					return
				}
				_ = resp.Body.Close()
				c.conns[i] = conn
				go c.read(i, conn)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func (c *client) read(i int, conn *websocket.Conn) {
	for {
		_, data, err := conn.ReadMessage()
		if err != nil {
			return
		}
		at := time.Now().UnixNano()
		c.mu.Lock()
		c.came = append(c.came, came{i, at, data})
		c.mu.Unlock()
		c.got <- struct{}{}
	}
}

// raiseFiles asks for many open files and returns how many there may be.
func raiseFiles() int {
	var now syscall.Rlimit
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now)
	const many = 1 << 18
	// More than the hard limit is for those who may.
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: many, Max: max(many, now.Max)}) != nil {
		_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: now.Max, Max: now.Max})
	}
	_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now)
	return int(min(now.Cur, many)) //nolint:gosec // bounded
}
