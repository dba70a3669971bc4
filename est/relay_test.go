package est_test

import (
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// relay passes TCP connections on, and counts what goes by.
type relay struct {
	address  string
	up, down atomic.Int64 // bytes to the server and from it
	stop     func()       // ends it once the connections that it passes on have ended; the end of the test does too
}

func newRelay(t testing.TB, target string) *relay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{address: listener.Addr().String()}
	var running sync.WaitGroup
	running.Go(func() { // until the listener is closed
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
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

func (r *relay) pass(c net.Conn, target string) {
	defer c.Close()
	behind, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer behind.Close()
	done := make(chan struct{})
	go func() { // ends when either side closes
		defer close(done)
		io.Copy(counting{behind, &r.up}, c)
		behind.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(counting{c, &r.down}, behind)
	c.Close()
	<-done
}

// in returns u with the relay in place of the server.
func (r *relay) in(u *url.URL) *url.URL {
	through := *u
	through.Host = r.address
	return &through
}

type counting struct {
	io.Writer
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n.Add(int64(n))
	return n, err
}
