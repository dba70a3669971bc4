package est

import (
	"net"
	"testing"
)

// net/http closes a connection on which a server spoke on, and says so only afterwards: who waits for quiet must learn
// it from the connection.
func TestQuietConnTellsTheEnd(t *testing.T) {
	for name, end := range map[string]func(here, there net.Conn){
		"closed by us":         func(here, _ net.Conn) { here.Close() },
		"closed by the server": func(here, there net.Conn) { there.Close(); here.Read(make([]byte, 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			below, there := net.Pipe()
			defer there.Close()
			here := &quietConn{Conn: below, meter: new(meter)}
			defer here.Close()
			go there.Write([]byte("answer")) // ends when it is read
			if _, err := here.Read(make([]byte, 16)); err != nil {
				t.Fatal(err)
			}
			waited := make(chan bool)
			go func() { waited <- here.awaitQuiet(t.Context()) }() // ends with the connection
			end(here, there)
			if <-waited {
				t.Error("the connection is said to go on")
			}
		})
	}

	below, there := net.Pipe()
	defer there.Close()
	here := &quietConn{Conn: below, meter: new(meter), quiet: true}
	defer here.Close()
	if !here.awaitQuiet(t.Context()) {
		t.Error("a quiet connection is said to have ended")
	}
}
