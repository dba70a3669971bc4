package dps_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
	"certagent/est"
)

// detour is a dialer to which every address is the service's, and that tells which was asked for.
type detour struct {
	*est.Dialer
	to    string
	asked []string
}

func (d *detour) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d.asked = append(d.asked, address)
	return d.Dialer.DialContext(ctx, network, d.to)
}

// at has the device know the endpoint by another address.
func (r *rig) at(endpoint string) *detour {
	d := &detour{Dialer: r.dialer.(*est.Dialer), to: r.server.Addr()}
	r.o.Dialer, r.o.Registration.Endpoint = d, endpoint
	r.restart()
	return d
}

// Sovereign clouds and private endpoints have names and addresses of their own.
func TestEndpoints(t *testing.T) {
	for endpoint, dialled := range map[string]string{
		"https://localhost": "localhost:443", "https://localhost/": "localhost:443", "https://localhost:8443": "localhost:8443",
		"https://127.0.0.1": "127.0.0.1:443", "https://[::1]": "[::1]:443", "https://[::1]:8443": "[::1]:8443",
	} {
		r := newRig(t, dpstest.Options{})
		way := r.at(endpoint)
		if result := r.registered(); result.Endpoint != endpoint || len(way.asked) != 1 || way.asked[0] != dialled {
			t.Errorf("%s: dialled %q, result %+v", endpoint, way.asked, result)
		}
	}
}

// A certificate of a CA that is trusted, for another name: the endpoint is told nothing.
func TestEndpointOfAnotherName(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	r.at("https://dps.example")
	if e := r.fails(dps.CodeUntrusted); !strings.Contains(e.Error(), "not dps.example") {
		t.Error(e)
	}
	r.o.Registration.Endpoint = "https://localhost"
	r.clock.pass(20 * 365 * 24 * time.Hour) // and of the right name, but expired
	r.ca = newCA(t, r.clock.Now, "another root", nil)
	r.holds(r.ca.issue("gw-17"))
	if e := r.fails(dps.CodeUntrusted); !strings.Contains(e.Error(), "expired") {
		t.Error(e)
	}
	if n := len(r.server.Requests()); n != 0 {
		t.Errorf("it was sent %d requests", n)
	}
}

// A redirect leads the device, its certificate and its payload nowhere.
func TestRedirectIsNotFollowed(t *testing.T) {
	elsewhere := dpstest.New(t, dpstest.Options{})
	for _, status := range []int{301, 302, 303, 307, 308} {
		r := newRig(t, dpstest.Options{})
		r.o.Roots.AddCert(elsewhere.Root)
		r.server.Next("", dpstest.Status(status, nil, "Location", elsewhere.URL()+"/"+elsewhere.IDScope()))
		r.fails(dps.CodeBadResponse)
		// Neither does the address that an answer which is a success names.
		r.server.Next("", dpstest.Status(202, map[string]any{"operationId": "4.x", "status": "assigning"},
			"Location", elsewhere.URL(), "Operation-Location", elsewhere.URL()))
		r.step()
		r.step()
	}
	if n := elsewhere.Connections(); n != 0 {
		t.Errorf("%d connections to where a redirect led", n)
	}
}

// A key that the endpoint cannot use: it gets no certificate and ends TLS, or gets one and refuses it. The remedy is another
// key, and no other enrolment.
func TestKeyThatTheEndpointDoesNotTake(t *testing.T) {
	curve, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		version uint16
		key     crypto.Signer
		hint    string
	}{
		{tls.VersionTLS13, curve, "could not be used"}, // TLS 1.3 knows no such curve
		{tls.VersionTLS12, edwards, "is Ed25519"},
	} {
		r := newRig(t, dpstest.Options{MaxVersion: tt.version})
		r.holds(r.ca.issueFor("gw-17", tt.key))
		e := r.fails(dps.CodeUnauthorized)
		if !strings.Contains(e.Hint, tt.hint) || !strings.Contains(e.Hint, `key = "ec-p256"`) {
			t.Errorf("%v; %s", e, e.Hint)
		}
	}
}

// An endpoint that hangs up behind an answer is called again; that is no failure.
func TestConnectionThatIsNotKept(t *testing.T) {
	for name, answer := range map[string]dpstest.Fault{
		"said":                dpstest.Status(202, `{"status":"assigning","operationId":"4.x"}`, "Connection", "close"),
		"too long to read on": dpstest.Status(500, strings.Repeat("x", 1<<20)),
	} {
		r := newRig(t, dpstest.Options{})
		r.server.Next("", answer)
		r.step()
		r.server.Next("", assigned())
		if _, err := r.step(); err != nil || r.server.Connections() != 2 {
			t.Errorf("%s: %v, %d connections, want 2", name, err, r.server.Connections())
		}
	}
}

// proxy is an HTTP proxy that wants a login, and the addresses that it was asked for.
func proxy(t *testing.T, login string) (at *url.URL, asked chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	asked = make(chan string, 100)
	serve := func(c net.Conn) {
		defer c.Close()
		request, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		asked <- request.Method + " " + request.Host
		if request.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(login)) {
			fmt.Fprintf(c, "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
			return
		}
		far, err := net.Dial("tcp", request.Host)
		if err != nil {
			return
		}
		defer far.Close()
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { // ends with either connection
			io.Copy(far, c)
			far.Close()
		}()
		io.Copy(c, far)
	}
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return &url.URL{Scheme: "http", Host: l.Addr().String()}, asked
}

// The proxy is the one that EST goes through, with its login; a login that is wrong is in no error.
func TestThroughTheProxy(t *testing.T) {
	r := newRig(t, dpstest.Options{})
	through, asked := proxy(t, "gw:geheim")
	for login, good := range map[*url.Userinfo]bool{url.UserPassword("gw", "verborgen"): false, url.UserPassword("gw", "geheim"): true} {
		behind := *through
		behind.User = login
		r.o.Dialer = &est.Dialer{Proxy: http.ProxyURL(&behind), Now: r.clock.Now}
		r.state, r.result = nil, nil
		r.restart()
		if good {
			r.registered()
		} else if e := r.fails(dps.CodeUnavailable); !errors.Is(e, dps.ErrUnavailable) || !strings.Contains(e.Error(), "407") ||
			!strings.Contains(e.Hint, "HTTPS_PROXY") || strings.Contains(e.Error(), "verborgen") {
			t.Errorf("%v; %s", e, e.Hint)
		}
		if got, want := <-asked, "CONNECT "+r.server.Addr(); got != want {
			t.Errorf("the proxy was asked for %q, want %q", got, want)
		}
	}
	if n := r.server.Connections(); n != 1 {
		t.Errorf("%d connections, want one, through the proxy", n)
	}
}
