package archiver

import (
	"context"
	"errors"
	"io"
	"time"
)

// least is how many bytes of a result have to come in Config.Stall.
const least = 256 << 10

var errStalled = errors.New("it came too slowly")

// brisk reads a result for as long as it comes. One that trickles would keep a
// worker for the whole time of a copy: some of one provider, and no other
// provider's results were copied. Only the reading counts: a bucket may be slow.
type brisk struct {
	r     io.Reader
	stop  context.CancelCauseFunc // ends the request
	stall time.Duration
	left  time.Duration
	got   int
}

func newBrisk(r io.Reader, stop context.CancelCauseFunc, stall time.Duration) *brisk {
	return &brisk{r: r, stop: stop, stall: stall, left: stall}
}

// Read implements io.Reader.
func (b *brisk) Read(p []byte) (int, error) {
	start := time.Now()
	t := time.AfterFunc(b.left, func() { b.stop(errStalled) })
	n, err := b.r.Read(p)
	t.Stop()
	b.left -= time.Since(start)
	if b.got += n; b.got >= least {
		b.got, b.left = 0, b.stall
	}
	return n, err
}
