package est

import (
	"io"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// After questions and answers by turns the kernel takes a connection for an interactive one and delays what it
// acknowledges. Ours is never in that state when it waits for an answer.
func TestAnswersAreAcknowledgedAtOnce(t *testing.T) {
	address := listen(t, func(c net.Conn) { io.Copy(c, c) })
	var prompt [2]int
	for i, wrap := range []func(net.Conn) net.Conn{acknowledgeAtOnce, func(c net.Conn) net.Conn { return c }} {
		tcp, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		c := wrap(tcp)
		for range 20 {
			if _, err := io.WriteString(c, "ping"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
		}
		raw, err := tcp.(syscall.Conn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { prompt[i], err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK) })
		if err != nil {
			t.Fatal(err)
		}
	}
	if prompt != [2]int{1, 0} {
		t.Errorf("TCP_QUICKACK is %d, and %d where nobody sets it; want 1 and 0", prompt[0], prompt[1])
	}
}
