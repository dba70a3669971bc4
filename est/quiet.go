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

	mu      sync.Mutex    // guards what follows
	reading bool          // a Read is under way that had to wait
	ended   bool          // there is nothing more to read for ever
	changed chan struct{} // closed when one of these has changed; nil while nobody waits
}

func (c *quietConn) Read(p []byte) (int, error) {
	if !c.pending() {
		c.set(true, false) // who has something left does not read on
	}
	n, err := c.Conn.Read(p)
	c.meter.received.Add(int64(n))
	c.set(false, err != nil)
	return n, err
}

func (c *quietConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.meter.sent.Add(int64(n))
	return n, err
}

func (c *quietConn) Close() error {
	defer c.set(false, true)
	return c.Conn.Close()
}

func (c *quietConn) set(reading, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading, c.ended = reading, c.ended || ended
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// awaitQuiet returns when everything that had come when it was called has been consumed, or the connection has ended, or
// ctx has. It reports whether the connection goes on: net/http closes it before it says that it is closed. (Inside the
// TLS of a proxy nobody knows what has come before a Read returns it.)
func (c *quietConn) awaitQuiet(ctx context.Context) bool {
	for {
		c.mu.Lock()
		if c.ended || c.reading && !c.pending() {
			defer c.mu.Unlock()
			return !c.ended
		}
		if c.changed == nil {
			c.changed = make(chan struct{})
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return true
		}
	}
}

// pending reports whether a Read would not wait, or the one that is under way is about to return.
func (c *quietConn) pending() bool {
	p, ok := c.Conn.(interface{ pending() bool })
	return ok && p.pending()
}
