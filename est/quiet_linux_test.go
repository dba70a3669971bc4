package est

import (
	"io"
	"net"
	"testing"
)

// net/http closes a connection on which a server spoke on, and says so only afterwards; what a server sent, its end too,
// lies in the kernel until somebody reads it. Who waits for quiet must learn of both.
func TestQuietConnTellsTheEnd(t *testing.T) {
	for name, test := range map[string]struct {
		sends  string                     // by the server, behind its answer
		end    func(here, there net.Conn) // that somebody waits for quiet
		goesOn bool
	}{
		"closed by us":         {"", func(here, _ net.Conn) { here.Close() }, false},
		"closed by the server": {"", func(here, there net.Conn) { there.Close(); come(here); here.Read(make([]byte, 1)) }, false},
		"the server spoke on, and we close": {"more", func(here, _ net.Conn) {
			come(here)
			io.ReadFull(here, make([]byte, 4))
			here.Close()
		}, false},
		"all was read": {"more", func(here, _ net.Conn) {
			come(here)
			io.ReadFull(here, make([]byte, 4))
			here.Read(make([]byte, 1)) // waits
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			accepted := make(chan net.Conn)
			address := listen(t, func(c net.Conn) { accepted <- c; io.Copy(io.Discard, c) })
			tcp, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			there := <-accepted
			defer there.Close()
			here := &quietConn{Conn: acknowledgeAtOnce(tcp), meter: new(meter)}
			defer here.Close()
			io.WriteString(there, "answer")
			if _, err := io.ReadFull(here, make([]byte, 6)); err != nil {
				t.Fatal(err)
			}
			io.WriteString(there, test.sends)
			waited := make(chan bool)
			go func() { waited <- here.awaitQuiet(t.Context()) }() // ends with the connection
			for waits := false; !waits; {
				here.mu.Lock()
				waits = here.changed != nil
				here.mu.Unlock()
			}
			go test.end(here, there) // ends with the connection
			if goesOn := <-waited; goesOn != test.goesOn {
				t.Errorf("the connection goes on: %v, want %v", goesOn, test.goesOn)
			}
		})
	}
}

// come waits until something can be read, or the end.
func come(c net.Conn) {
	for !c.(*quietConn).pending() {
	}
}
