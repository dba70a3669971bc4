package est

import (
	"context"
	"net"
	"sync"
)

// quietConn knows when all that came over a connection has been consumed. net/http reads on between two requests,
// beside us: what a server sends without having been asked may be taken for the answer to the next request, if that is
// made before net/http has seen it.
type quietConn struct {
	net.Conn
	meter *meter

	mu    sync.Mutex    // guards what follows
	quiet bool          // a Read waits for the network, or there is nothing more to read for ever
	ended bool          // there is nothing more to read for ever
	grew  chan struct{} // closed when quiet becomes true; nil while nobody waits
}

func (c *quietConn) Read(p []byte) (int, error) {
	c.set(true, false) // who has something left does not read on
	n, err := c.Conn.Read(p)
	c.meter.received.Add(int64(n))
	switch {
	case err != nil:
		c.set(true, true)
	case n > 0:
		c.set(false, false)
	}
	return n, err
}

func (c *quietConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.meter.sent.Add(int64(n))
	return n, err
}

func (c *quietConn) Close() error {
	defer c.set(true, true)
	return c.Conn.Close()
}

func (c *quietConn) set(quiet, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quiet, c.ended = quiet, c.ended || ended
	if quiet && c.grew != nil {
		close(c.grew)
		c.grew = nil
	}
}

// awaitQuiet returns when everything that had come when it was called has been consumed, or the connection has ended, or
// ctx has. It reports whether the connection goes on: net/http closes it before it says that it is closed.
func (c *quietConn) awaitQuiet(ctx context.Context) bool {
	for {
		c.mu.Lock()
		if c.quiet || c.ended {
			goesOn := !c.ended
			c.mu.Unlock()
			return goesOn
		}
		if c.grew == nil {
			c.grew = make(chan struct{})
		}
		grew := c.grew
		c.mu.Unlock()
		select {
		case <-grew:
		case <-ctx.Done():
			return true
		}
	}
}
