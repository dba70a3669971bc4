package control_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certagent/agent/control"
)

// TestClientsOfOtherServers: nobody there, somebody who says nothing, a stranger, and what speaks of something else.
func TestClientsOfOtherServers(t *testing.T) {
	t.Parallel()
	listen := func() (string, net.Listener) {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return socket, l
	}
	silent, _ := listen()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := client(t, silent).Status(ctx, "", 0); !errors.Is(err, control.ErrSilent) || !strings.Contains(err.Error(), silent) {
		t.Errorf("one that says nothing: %v", err)
	}
	_, own := serve(t, newAgent())
	if _, _, err := control.NewClient(own, uint32(os.Geteuid())+1).Status(t.Context(), "", 0); err == nil ||
		!strings.Contains(err.Error(), fmt.Sprintf("user %d answers there", os.Geteuid())) {
		t.Errorf("a stranger: %v", err)
	}
	for says, want := range map[string]string{
		"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"schema\":9}": "schema 9",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello":           "understand",
		"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\nno":     "502 Bad Gateway",
		"220 mail ESMTP\r\n": "malformed HTTP",
		"":                   "ended the connection",
	} {
		socket, l := listen()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = http.ReadRequest(bufio.NewReader(c))
				_, _ = io.Copy(c, bytes.NewBufferString(says))
				c.Close()
			}
		}()
		if _, _, err := client(t, socket).Status(t.Context(), "", 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", says, err)
		}
	}
}
