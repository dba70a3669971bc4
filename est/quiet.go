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
	grew  chan struct{} // closed when quiet becomes true; nil while nobody waits
}

func (c *quietConn) Read(p []byte) (int, error) {
	c.set(true) // who has something left does not read on
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.meter.received.Add(int64(n))
		c.set(false)
	}
	return n, err
}

func (c *quietConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.meter.sent.Add(int64(n))
	return n, err
}

func (c *quietConn) Close() error {
	defer c.set(true)
	return c.Conn.Close()
}

func (c *quietConn) set(quiet bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quiet = quiet
	if quiet && c.grew != nil {
		close(c.grew)
		c.grew = nil
	}
}

// awaitQuiet returns when everything that had come when it was called has been consumed, or the connection is closed,
// or ctx ends.
func (c *quietConn) awaitQuiet(ctx context.Context) {
	for {
		c.mu.Lock()
		if c.quiet {
			c.mu.Unlock()
			return
		}
		if c.grew == nil {
			c.grew = make(chan struct{})
		}
		grew := c.grew
		c.mu.Unlock()
		select {
		case <-grew:
		case <-ctx.Done():
			return
		}
	}
}
