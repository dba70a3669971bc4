package esttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// binding is where a server listens. A port that the kernel chose is held by a socket that is bound but does not
// listen, so that nobody else is given it during an outage; connections to it are refused meanwhile.
type binding struct {
	addrs []string // host:port with the port that was chosen
	holds []int    // file descriptors
}

// bind finds the addresses of host:port, and chooses a port where that is 0.
func bind(hostport string) (*binding, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w; it must be host:port", hostport, err)
	}
	hosts := []string{host}
	if host == "localhost" {
		hosts = []string{"127.0.0.1"}
		if haveIPv6Loopback() {
			hosts = append(hosts, "::1")
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n != 0 {
		b := &binding{}
		for _, h := range hosts {
			b.addrs = append(b.addrs, net.JoinHostPort(h, port))
		}
		return b, nil
	}
	// What is free on one address may be taken on the other.
	for tries := 0; ; tries++ {
		b, err := bindFree(hosts)
		if err == nil || tries == 20 || !errors.Is(err, unix.EADDRINUSE) {
			return b, err
		}
	}
}

// bindFree holds one free port on all hosts.
func bindFree(hosts []string) (*binding, error) {
	b := &binding{}
	port := uint16(0)
	for _, host := range hosts {
		ip := netip.IPv6Unspecified() // takes IPv4 as well
		if host == "" && !haveIPv6Loopback() {
			ip = netip.IPv4Unspecified()
		}
		if host != "" {
			var err error
			if ip, err = netip.ParseAddr(host); err != nil {
				return nil, fmt.Errorf("listen on %s, port 0: give an IP address or localhost", host)
			}
		}
		fd, chosen, err := hold(netip.AddrPortFrom(ip, port))
		if err != nil {
			b.release()
			return nil, fmt.Errorf("find a free port on %q: %w", host, err)
		}
		port = chosen
		b.holds = append(b.holds, fd)
		b.addrs = append(b.addrs, net.JoinHostPort(host, strconv.Itoa(int(port))))
	}
	return b, nil
}

// hold binds a socket and does not listen on it. SO_REUSEADDR lets a listener of the same port in, which sets it too
// (ip(7), socket(7)).
func hold(addr netip.AddrPort) (fd int, port uint16, err error) {
	family, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()})
	if addr.Addr().Is4() {
		family, sa = unix.AF_INET, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, 0, err
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil {
		sa, err = unix.Getsockname(fd)
	}
	if err != nil {
		unix.Close(fd)
		return -1, 0, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		port = uint16(sa.Port)
	case *unix.SockaddrInet6:
		port = uint16(sa.Port)
	}
	return fd, port, nil
}

func haveIPv6Loopback() bool {
	fd, _, err := hold(netip.AddrPortFrom(netip.IPv6Loopback(), 0))
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// listen opens a listener on each address, or none.
func (b *binding) listen() ([]net.Listener, error) {
	var listeners []net.Listener
	for _, addr := range b.addrs {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return nil, err
		}
		listeners = append(listeners, listener{l.(*net.TCPListener)})
	}
	return listeners, nil
}

// listener listens no more once it is closed, even where somebody else has its socket: until it is executed, a program that
// is being started has all descriptors of the process that starts it (fork(2)).
type listener struct{ *net.TCPListener }

func (l listener) Close() error {
	socket, err := l.SyscallConn()
	if err != nil {
		return err // it is closed already
	}
	// Its errors mean that it does not listen.
	_ = socket.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
	return l.TCPListener.Close()
}

// release gives the port up. A nil binding holds none.
func (b *binding) release() {
	if b == nil {
		return
	}
	for _, fd := range b.holds {
		unix.Close(fd)
	}
	b.holds = nil
}

// limitWorkers lets n connections at a time through all listeners together. It turns Nagle's algorithm on for each, as
// libest leaves it. Accept gives up waiting when ctx ends.
func limitWorkers(ctx context.Context, listeners []net.Listener, n int) []net.Listener {
	slots := make(chan struct{}, n)
	limited := make([]net.Listener, len(listeners))
	for i, l := range listeners {
		limited[i] = &workerListener{l, ctx, slots}
	}
	return limited
}

type workerListener struct {
	net.Listener
	ctx   context.Context
	slots chan struct{} // holds one token for each connection that is served
}

// Accept waits for a connection, and then for a worker that is free.
func (l *workerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetNoDelay(false) // fails only on a connection that is already dead
	}
	select {
	case l.slots <- struct{}{}:
		return &workerConn{Conn: c, release: sync.OnceFunc(func() { <-l.slots })}, nil
	case <-l.ctx.Done():
		c.Close()
		return nil, net.ErrClosed
	}
}

// workerConn gives its worker back when it is closed.
type workerConn struct {
	net.Conn
	release func()
}

func (c *workerConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
