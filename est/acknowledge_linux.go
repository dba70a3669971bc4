package est

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// acknowledgeAtOnce returns c so that what it receives is acknowledged without delay. A server that writes the header
// of an answer and its body apart, with Nagle's algorithm on, does not send the second before the first is
// acknowledged, and Linux delays that by 40 ms on a connection that it takes for an interactive one.
func acknowledgeAtOnce(c net.Conn) net.Conn {
	tcp, ok := c.(syscall.Conn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	return &promptConn{Conn: c, raw: raw}
}

// promptConn sets TCP_QUICKACK before each read, because the kernel takes it back by itself whenever data is sent
// (tcp(7)).
type promptConn struct {
	net.Conn
	raw syscall.RawConn
}

// Read reads from the connection. That the option cannot be set costs time and nothing else.
func (c *promptConn) Read(p []byte) (int, error) {
	c.raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
	return c.Conn.Read(p)
}

// pending reports whether a Read would not wait: there is something to read, or the end.
func (c *promptConn) pending() bool {
	n := 0
	c.raw.Control(func(fd uintptr) { n, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) })
	return n > 0
}
