package control_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"certagent/agent/control"
	"certagent/agent/status"
)

// TestStuckClients: who says nothing, who reads nothing and who does not end what he says loses his connection, and meanwhile
// others are served as if he were not there.
func TestStuckClients(t *testing.T) {
	t.Parallel()
	a := newAgent()
	for n := range 3000 { // more than the sockets take
		a.snapshot.Certificates = append(a.snapshot.Certificates, status.Certificate{ID: fmt.Sprint(n), LastError: strings.Repeat("x", 1000)})
	}
	_, socket := serve(t, a)
	stuck := map[string]string{
		"says nothing":         "",
		"does not end":         "GET /v1/status HTTP/1.1\r\nHost:",
		"does not end a body":  "POST /v1/renew HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
		"begins no body":       "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"does not end a part":  "POST /v1/reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
		"a body for nobody":    "GET /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"a body for no path":   "POST /v1/none HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
		"reads nothing":        "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
		"asks again and again": strings.Repeat("GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n", 100),
	}
	conns := map[string]net.Conn{}
	for what, request := range stuck {
		conns[what] = dial(t, socket)
		if _, err := io.WriteString(conns[what], request); err != nil {
			t.Fatal(err)
		}
	}
	if news, _, err := client(t, socket).Status(t.Context(), "", 0); err != nil || len(news.Snapshot.Certificates) != 3000 {
		t.Errorf("beside stuck clients: %d certificates, %v", len(news.Snapshot.Certificates), err)
	}
	for what, c := range conns {
		if strings.HasPrefix(what, "reads") || strings.HasPrefix(what, "asks") {
			// What the socket holds can be read still; then comes the end, before the answer's own.
			within(t, what+": the connection is ended", func() bool {
				_, err := c.Write([]byte("x"))
				return err != nil
			})
			continue
		}
		// What came before has taken its time, and a deadline that has passed is told in place of an end.
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection is still open", what)
		}
	}
}

// TestTooManyConnections: who is one too many is shut out at once, and there is room again when others leave.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	_, socket := serve(t, newAgent())
	wait := "GET /v1/status HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"0\"\r\nPrefer: wait=30\r\n\r\n"
	var open []net.Conn
	for range 64 {
		c := dial(t, socket)
		if _, err := io.WriteString(c, wait); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	c := client(t, socket)
	_, _, err := c.Status(t.Context(), "", 0)
	if err == nil || !strings.Contains(err.Error(), "has too many") {
		t.Errorf("the 65th: %v", err)
	}
	for _, c := range open {
		c.Close()
	}
	within(t, "room again", func() bool {
		_, _, err := c.Status(t.Context(), "", 0)
		return err == nil
	})
}

// TestShutOut: who is shut out is told so, whenever in the exchange that happens.
func TestShutOut(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "control.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	for range 300 {
		if _, _, err := client(t, socket).Status(t.Context(), "", 0); !errors.Is(err, control.ErrShut) {
			t.Fatalf("shut out: %v", err)
		}
	}
}

// TestAThousandConnections at once, from one who may do everything: those that are too many are shut out, and who comes after
// them is served.
func TestAThousandConnections(t *testing.T) {
	t.Parallel()
	_, socket := serve(t, newAgent())
	const request = "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
	var all sync.WaitGroup
	var answered, shut atomic.Int32
	for range 1000 {
		c := dial(t, socket)
		all.Go(func() {
			_, _ = io.WriteString(c, request) // who is shut out may notice here
			switch answer, err := io.ReadAll(c); {
			case errors.Is(err, os.ErrDeadlineExceeded):
				t.Error("a connection that is neither served nor ended")
			case bytes.HasPrefix(answer, []byte("HTTP/1.1 200 OK\r\n")):
				answered.Add(1)
			default:
				shut.Add(1)
			}
		})
	}
	all.Wait()
	if answered.Load() == 0 || answered.Load()+shut.Load() != 1000 {
		t.Errorf("%d were answered, %d shut out", answered.Load(), shut.Load())
	}
	within(t, "room again", func() bool {
		_, _, err := client(t, socket).Status(t.Context(), "", 0)
		return err == nil
	})
}
