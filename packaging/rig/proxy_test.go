//go:build system

package rig

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// counter counts connections.
type counter struct{ n atomic.Int32 }

func (c *counter) value() int { return int(c.n.Load()) }

// proxy is an HTTP proxy on the EST server's host, which passes on to that server and nowhere else (CONNECT, RFC 9110,
// 9.3.6).
func (m *machine) proxy(t *testing.T, port int, passed *counter) {
	t.Helper()
	l := m.est.listen(t, port)
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer conn.Close()
				if m.pass(conn) {
					passed.n.Add(1)
				}
			}()
		}
	}()
}

// pass serves one connection of a proxy, and says whether it was passed on.
func (m *machine) pass(conn net.Conn) bool {
	in := bufio.NewReader(conn)
	request, err := http.ReadRequest(in)
	if err != nil || request.Method != http.MethodConnect || request.Host != "est.example:8085" {
		fmt.Fprint(conn, "HTTP/1.1 403 Forbidden\r\n\r\n")
		return false
	}
	var server net.Conn
	err = inNetwork(m.est.host, func() (err error) { server, err = dial([4]byte{192, 0, 2, 10}, 8085); return err })
	if err != nil {
		fmt.Fprint(conn, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return false
	}
	defer server.Close()
	fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
	go func() { // ends with either connection
		io.Copy(server, in)
		server.Close()
	}()
	io.Copy(conn, server)
	return true
}

// scrape asks for metrics, and wants those of the certificate.
func scrape(conn net.Conn, request *http.Request) error {
	if err := request.Write(conn); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && !strings.Contains(string(text), "device-id") {
		err = fmt.Errorf("metrics say nothing of device-id: %s", text)
	}
	return err
}
