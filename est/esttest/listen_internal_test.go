package esttest

import (
	"errors"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNobodyListensDuringAnOutage: not even where a program that is being started still has the socket, and the port can be
// listened at again.
func TestNobodyListensDuringAnOutage(t *testing.T) {
	b, err := bind("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer b.release()
	for range 2 {
		listeners, err := b.listen()
		if err != nil {
			t.Fatal(err)
		}
		elsewhere, err := listeners[0].(interface{ File() (*os.File, error) }).File() // another descriptor of the same socket
		if err != nil {
			t.Fatal(err)
		}
		defer elsewhere.Close()
		if c, err := net.Dial("tcp", b.addrs[0]); err != nil {
			t.Errorf("before the outage: %v", err)
		} else {
			c.Close()
		}
		if err := listeners[0].Close(); err != nil {
			t.Error(err)
		}
		if c, err := net.Dial("tcp", b.addrs[0]); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("in the outage: %v", err)
			if err == nil {
				c.Close()
			}
		}
	}
}
