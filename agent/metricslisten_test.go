package agent

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/agent/status"
	"certagent/est/esttest"
)

// listenWithin is how long these tests wait for what must happen; the network is real, and so is the time.
const listenWithin = 30 * time.Second

// eventually waits until ok is true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(listenWithin); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

// listening is a device that serves metrics at a port of the system's choice, and the address.
func listening(t *testing.T) (a *Agent, d *device, address string) {
	t.Helper()
	d = newDevice(t, day, oneCertificate+"[metrics]\nlisten = \"127.0.0.1:1\"\n")
	// Port 0 is no port to configure, for nobody would know it.
	d.change = func(o *Options) { o.Config.Metrics.Listen = "127.0.0.1:0" }
	a, stop := d.boot()
	t.Cleanup(stop)
	eventually(t, "an agent that listens", func() bool {
		found := regexp.MustCompile(`"address":"([^"]+)"`).FindStringSubmatch(d.logs.String())
		if found != nil {
			address = found[1]
		}
		return found != nil
	})
	return a, d, address
}

// ask sends a request as it is typed; a nil answer means that the connection ended without one.
func ask(t *testing.T, address, request string) (*http.Response, string) {
	t.Helper()
	c := connect(t, address)
	_, _ = io.WriteString(c, request) // what is too long is not read to its end
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return nil, ""
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if errors.Is(err, syscall.ECONNRESET) { // what was too long was not read to its end
		return r, string(body)
	}
	if err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection goes on after the answer: %q, %v", rest, err)
	}
	return r, string(body)
}

func connect(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(listenWithin)); err != nil {
		t.Fatal(err)
	}
	return c
}

const scrapeRequest = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"

// TestListener: GET /metrics, and nothing else.
func TestListener(t *testing.T) {
	t.Parallel()
	a, _, address := listening(t)
	eventually(t, "a certificate", func() bool { return shown(t, a, "device-id").Generation == 1 })
	for _, c := range []struct {
		request string
		code    int
		says    string
	}{
		{scrapeRequest, 200, ""},
		{"GET /metrics?a=b HTTP/1.0\r\n\r\n", 200, ""},
		{"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 405, "takes GET"},
		{"DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", 404, ""},
		{"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n", 404, "metrics are at /metrics"},
		{"POST /v1/renew HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", 404, ""},
		{"GET /../metrics HTTP/1.1\r\nHost: a\r\n\r\n", 404, ""},
		{"GET /metrics HTTP/1.1\r\nHost: a\r\nA: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", 431, ""},
		{"nonsense\r\n\r\n", 400, ""},
	} {
		r, body := ask(t, address, c.request)
		switch {
		case r == nil && c.code == 431: // it was not done sending when it was refused
		case r == nil || r.StatusCode != c.code || !strings.Contains(body, c.says):
			t.Errorf("%.60q: %v\n%s\nwant %d %q", c.request, r, body, c.code, c.says)
		case c.code == 200 && r.Header.Get("Content-Type") != status.MetricsType:
			t.Errorf("%.60q: %s", c.request, r.Header.Get("Content-Type"))
		}
	}
	// What is said is no older than a second.
	eventually(t, "the certificate in the metrics", func() bool {
		_, body := ask(t, address, scrapeRequest)
		return strings.Contains(body, "\ncertagent_certificate_generation{id=\"device-id\"} 1\n")
	})
}

// TestListenerIsBounded: who connects and says nothing takes a place for a while, and there are so many; when he has lost it,
// others are served.
func TestListenerIsBounded(t *testing.T) {
	t.Parallel()
	_, _, address := listening(t)
	var silent []net.Conn
	// Connections are taken in the order in which they were made. On a busy machine the first may have lost its place before the
	// last is made; then it is done again.
	eventually(t, "one connection too many, which is not answered", func() bool {
		for range maxScrapes {
			c := connect(t, address)
			_, _ = c.Write([]byte("GET ")) // it may be one too many itself
			silent = append(silent, c)
		}
		r, _ := ask(t, address, scrapeRequest)
		return r == nil
	})
	for _, c := range silent {
		if _, err := io.ReadAll(c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("a connection that does not come to its point goes on")
		}
	}
	eventually(t, "an answer to others", func() bool {
		r, _ := ask(t, address, scrapeRequest)
		return r != nil && r.StatusCode == 200
	})
}

// TestListenerThatCannotBeHad: another program has the port. It is a problem until the port is free; and the configuration
// may give it up.
func TestListenerThatCannotBeHad(t *testing.T) {
	t.Parallel()
	other := esttest.New(t, esttest.Options{}) // which keeps the port for this test when it does not listen
	address := other.Addr()
	d := newDevice(t, day, oneCertificate+"[metrics]\nlisten = \""+address+"\"\n")
	a, stop := d.boot()
	stopped := false
	defer func() {
		if !stopped {
			stop()
		}
	}()
	problem := func() string {
		for _, p := range a.Snapshot().Problems {
			if p.Code == "metrics-listen" {
				return p.Text
			}
		}
		return ""
	}
	eventually(t, "the problem", func() bool { return strings.Contains(problem(), address+": bind: address already in use") })
	other.Stop()
	send(a.lookAtListener, struct{}{}) // the clock task's minute
	eventually(t, "an end of the problem", func() bool { return problem() == "" })
	if r, _ := ask(t, address, scrapeRequest); r == nil || r.StatusCode != 200 {
		t.Errorf("not served at %s", address)
	}
	reload := func() {
		t.Helper()
		if err := a.ReloadNow(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	d.text = strings.Replace(d.text, "listen = ", "#listen = ", 1)
	reload()
	eventually(t, "an end of the listening", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	d.text = strings.Replace(d.text, "#listen = ", "listen = ", 1)
	reload()
	eventually(t, "listening again", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	stop()
	stopped = true
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("somebody listens after the agent has ended")
	}
	if bytes.Contains([]byte(d.logs.String()), []byte("http:")) {
		t.Errorf("what strangers do is logged:\n%s", d.logs)
	}
}
