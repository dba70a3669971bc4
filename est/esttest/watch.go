package esttest

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// watchedListener counts the connections of a Server, and takes those away that a misbehaviour wants for itself.
type watchedListener struct {
	net.Listener
	ctx    context.Context // ends when the server stops
	server *Server
	run    *running
}

// Accept returns the next connection that nobody took.
func (l *watchedListener) Accept() (net.Conn, error) {
	for {
		tcp, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.server.countOpen(1)
		c := &watchedConn{Conn: tcp, closed: sync.OnceFunc(func() { l.server.countOpen(-1) })}
		take := l.server.currentConduct().take
		if take == nil {
			return c, nil
		}
		l.server.countConnection()
		l.run.conns.Go(func() { // until the client goes, or Stop
			defer c.Close()
			defer context.AfterFunc(l.ctx, func() { c.Close() })()
			take(c)
			linger(c)
		})
	}
}

// watchedConn tells once that it was closed.
type watchedConn struct {
	net.Conn
	closed func()
}

func (c *watchedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

func (s *Server) countOpen(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += n
}

// linger reads until the client closes the connection: a server that closes first would not notice a client that never
// does.
func linger(c net.Conn) { io.Copy(io.Discard, c) }

// bare returns the TCP connection below c, and what closes it without a word of TLS.
func bare(c net.Conn) (tcp *net.TCPConn, below net.Conn) {
	if secured, ok := c.(*tls.Conn); ok {
		c = secured.NetConn()
	}
	for below = c; ; {
		switch outer := c.(type) {
		case *watchedConn:
			c = outer.Conn
		case *workerConn:
			c = outer.Conn
		default:
			return c.(*net.TCPConn), below
		}
	}
}

// reset ends a connection the hard way: the client finds a TCP reset in place of an end, and what was on its way to
// it may be lost.
func reset(c net.Conn) {
	tcp, below := bare(c)
	tcp.SetLinger(0) // fails only on a connection that is already dead
	below.Close()
}

// unread waits until the client closes the connection and takes no byte of what it sends before. The poller tells of
// each change of a socket once, so that what lies there unread does not wake us again.
func unread(c net.Conn) {
	tcp, _ := bare(c)
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, 0)
		return n > 0 || err != nil
	})
}
