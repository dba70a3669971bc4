package est

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// connectProxy is an HTTP proxy that knows CONNECT and wants a login.
type connectProxy struct {
	t      *testing.T
	config *tls.Config // of an https proxy; nil for http
	target string      // the one server it connects to

	mu    sync.Mutex // guards what follows
	asked []string   // hosts that it was asked for
	shown int        // client certificates that it was shown
}

func (p *connectProxy) serve(c net.Conn) {
	if p.config != nil {
		secured := tls.Server(c, p.config)
		if secured.Handshake() != nil {
			return
		}
		p.mu.Lock()
		p.shown += len(secured.ConnectionState().PeerCertificates)
		p.mu.Unlock()
		c = secured
	}
	r, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.Host)
	p.mu.Unlock()
	// Basic of "proxyuser:geheim".
	if r.Header.Get("Proxy-Authorization") != "Basic cHJveHl1c2VyOmdlaGVpbQ==" {
		fmt.Fprint(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return
	}
	behind, err := net.Dial("tcp", p.target)
	if err != nil {
		fmt.Fprint(c, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	defer behind.Close()
	fmt.Fprint(c, "HTTP/1.1 200 OK\r\n\r\n")
	done := make(chan struct{})
	go func() { // ends when either side closes
		defer close(done)
		io.Copy(behind, c)
		behind.Close()
	}()
	io.Copy(c, behind)
	c.Close()
	<-done
}

func TestProxy(t *testing.T) {
	proxyRoot := newRoot(t, "the proxy's root")
	for _, test := range []struct {
		name, scheme, user string
		want               string // of the error; "" is success
	}{
		{"http", "http", "proxyuser:geheim", ""},
		{"https", "https", "proxyuser:geheim", ""},
		{"login missing", "http", "", "proxy answered HTTP 407"},
		{"login wrong", "https", "proxyuser:falsch", "proxy answered HTTP 407"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t).start()
			p := &connectProxy{t: t, target: s.http.Listener.Addr().String()}
			if test.scheme == "https" {
				p.config = &tls.Config{Certificates: []tls.Certificate{*proxyRoot.tlsCertificate(t, serverTemplate())},
					ClientAuth: tls.RequestClientCert}
			}
			proxyURL := test.scheme + "://" + listen(t, p.serve)
			if test.user != "" {
				proxyURL = strings.Replace(proxyURL, "//", "//"+test.user+"@", 1)
			}
			o := s.options()
			// A name that only the proxy can resolve.
			o.URL = mustParse(t, "https://est.invalid:8085/.well-known/est")
			o.Roots = poolOf([]*x509.Certificate{proxyRoot.cert})
			o.Proxy = func(r *http.Request) (*url.URL, error) {
				if r.URL.Host != "est.invalid:8085" {
					t.Errorf("asked for the proxy of %s", r.URL)
				}
				return url.Parse(proxyURL)
			}
			o.Certificate = s.root.tlsCertificate(t, clientTemplate("gw-1"))
			o.Timeout = 20 * time.Second
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			_, err := newClient(t, o).Enroll(t.Context(), csr, Want{})

			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.asked) != 1 || p.asked[0] != "CONNECT est.invalid:8085" || p.shown != 0 {
				t.Errorf("the proxy was asked for %q and shown %d certificates", p.asked, p.shown)
			}
			e, _ := errors.AsType[*Error](err)
			switch {
			case test.want != "" && (e == nil || e.Class != ErrUnavailable || e.Refusal || !strings.Contains(err.Error(),
				test.want) ||
				!strings.Contains(e.Hint, "HTTPS_PROXY")):
				t.Errorf("got %v, want %q", err, test.want)
			case test.want == "" && (e == nil || e.Class != ErrUntrusted || !strings.Contains(err.Error(),
				"asked was est.invalid")):
				// It reached the server, and the server's certificate was judged by the server's name, not the proxy's.
				t.Errorf("got %v", err)
			case err != nil && (strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "falsch")):
				t.Errorf("the error shows the proxy's password: %v", err)
			}
		})
	}
}

func TestEnrollThroughProxy(t *testing.T) {
	s := newServer(t)
	s.template.DNSNames = []string{"est.invalid"}
	s.start()
	p := &connectProxy{t: t, target: s.http.Listener.Addr().String()}
	proxy := "http://proxyuser:geheim@" + listen(t, p.serve)
	o := s.options()
	o.URL = mustParse(t, "https://est.invalid/.well-known/est")
	o.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy) }
	o.Certificate = s.root.tlsCertificate(t, clientTemplate("gw-1"))
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c := newClient(t, o)
	issued, err := c.Enroll(t.Context(), csr, Want{})
	if err != nil || c.Traffic().Connections != 1 {
		t.Errorf("%v, %+v", err, issued)
	}
	if log := s.log(); len(log) != 2 || len(log[0].TLS.PeerCertificates) != 1 ||
		log[0].Header.Get("Proxy-Authorization") != "" {
		t.Errorf("the server saw %v", paths(log))
	}
}

// A proxy whose own certificate is not trusted is the network's trouble, not the server's.
func TestUntrustedProxy(t *testing.T) {
	s := newServer(t).start()
	p := &connectProxy{t: t, config: &tls.Config{
		Certificates: []tls.Certificate{*newRoot(t, "nobody").tlsCertificate(t, serverTemplate())}}}
	proxy := "https://" + listen(t, p.serve)
	o := s.options()
	o.Roots = poolOf([]*x509.Certificate{newRoot(t, "other").cert})
	o.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy) }
	_, err := newClient(t, o).CACerts(t.Context())
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "TLS to the proxy") {
		t.Error(err)
	}
}

// A proxy that is not there is not to be looked for in the URL.
func TestProxyNotThere(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	o := newServer(t).start().options()
	o.Proxy = func(*http.Request) (*url.URL, error) {
		return url.Parse("http://proxyuser:geheim@" + listener.Addr().String())
	}
	_, err = newClient(t, o).CACerts(t.Context())
	if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrUnavailable || !strings.Contains(e.Hint, "HTTPS_PROXY") ||
		strings.Contains(err.Error(), "geheim") {
		t.Error(err)
	}
}

// The environment is read once in the life of a process, so this test is a process of its own.
func TestProxyFromEnvironment(t *testing.T) {
	if os.Getenv("HTTPS_PROXY") != environmentProxy {
		again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxyFromEnvironment$", "-test.v")
		again.Env = append(os.Environ(), "HTTPS_PROXY="+environmentProxy, "https_proxy=", "NO_PROXY=inside.example", "no_proxy=")
		out, err := again.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestProxyFromEnvironment") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	var d Dialer
	for address, want := range map[string]string{
		"est.example:443":    "127.0.0.1:3128",
		"inside.example:443": "",
		"localhost:8085":     "", // never through a proxy
	} {
		proxy, err := d.proxyFor(t.Context(), address)
		got := ""
		if proxy != nil {
			got = proxy.Host
		}
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", address, got, err, want)
		}
	}
}

const environmentProxy = "http://proxyuser:geheim@127.0.0.1:3128"
