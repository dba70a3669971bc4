package esttest

import (
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
)

// Relay passes TCP connections on to a server, and counts what goes by.
type Relay struct {
	// Up and Down are the bytes to the server and from it, without the headers of IP and TCP.
	Up, Down atomic.Int64
	// Connections is how many were made.
	Connections atomic.Int64

	address string
	stop    func()
}

// NewRelay starts a relay to the server at target, host:port. It ends with the test.
func NewRelay(t TB, target string) *Relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("open relay: %v", err)
	}
	r := &Relay{address: listener.Addr().String()}
	var running sync.WaitGroup
	running.Go(func() { // until the listener is closed
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			r.Connections.Add(1)
			running.Go(func() { r.pass(c, target) }) // until either side closes
		}
	})
	r.stop = func() {
		listener.Close()
		running.Wait()
	}
	t.Cleanup(r.stop)
	return r
}

func (r *Relay) pass(c net.Conn, target string) {
	defer c.Close()
	behind, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer behind.Close()
	done := make(chan struct{})
	go func() { // ends when either side closes
		defer close(done)
		io.Copy(counting{behind, &r.Up}, c)
		behind.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(counting{c, &r.Down}, behind)
	c.Close()
	<-done
}

// Stop ends the relay, once the connections that it passes on have ended.
func (r *Relay) Stop() { r.stop() }

// In returns u with the relay in place of the server.
func (r *Relay) In(u *url.URL) *url.URL {
	through := *u
	through.Host = r.address
	return &through
}

// counting counts what is written.
type counting struct {
	io.Writer
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n.Add(int64(n))
	return n, err
}
