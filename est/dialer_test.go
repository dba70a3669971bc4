package est

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// socksProxy speaks SOCKS 5 (RFC 1928) with the login of RFC 1929, and leads everything to target.
type socksProxy struct {
	target string
	reply  byte // 0 connects

	mu    sync.Mutex // guards what follows
	asked []string   // host:port that it was asked for
}

func (p *socksProxy) serve(c net.Conn) {
	buf := make([]byte, 256)
	read := func(n int) []byte { io.ReadFull(c, buf[:n]); return buf[:n] }
	methods := slices.Clone(read(int(read(2)[1])))
	if !slices.Contains(methods, 2) {
		c.Write([]byte{5, 0xff}) // no acceptable method
		return
	}
	c.Write([]byte{5, 2})
	user := string(read(int(read(2)[1])))
	password := string(read(int(read(1)[0])))
	if user != "proxyuser" || password != "geheim" {
		c.Write([]byte{1, 1})
		return
	}
	c.Write([]byte{1, 0})
	if head := read(4); head[1] != 1 || head[3] != 3 { // CONNECT, a name
		c.Write([]byte{5, 8, 0, 1, 0, 0, 0, 0, 0, 0})
		return
	}
	host := string(read(int(read(1)[0])))
	port := binary.BigEndian.Uint16(read(2))
	p.mu.Lock()
	p.asked = append(p.asked, net.JoinHostPort(host, strconv.Itoa(int(port))))
	p.mu.Unlock()
	if p.reply != 0 {
		c.Write([]byte{5, p.reply, 0, 1, 0, 0, 0, 0, 0, 0})
		return
	}
	behind, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	splice(c, behind)
}

// splice carries bytes both ways until either side closes, and closes both.
func splice(a, b net.Conn) {
	done := make(chan struct{})
	go func() { // ends when either side closes
		defer close(done)
		io.Copy(b, a)
		b.Close()
		a.Close()
	}()
	io.Copy(a, b)
	a.Close()
	b.Close()
	<-done
}

// fixed is a Proxy function.
func fixed(t *testing.T, proxy string) func(*http.Request) (*url.URL, error) {
	u := mustParse(t, proxy)
	return func(*http.Request) (*url.URL, error) { return u, nil }
}

func TestEnrollThroughSOCKS(t *testing.T) {
	for _, test := range []struct {
		name, scheme, user string
		reply              byte
		want               string // of the error; "" is success
	}{
		{"socks5", "socks5", "proxyuser:geheim@", 0, ""},
		{"socks5h", "socks5h", "proxyuser:geheim@", 0, ""},
		{"login missing", "socks5", "", 0, "no acceptable authentication methods"},
		{"login wrong", "socks5", "proxyuser:falsch@", 0, "username/password authentication failed"},
		{"not let through", "socks5", "proxyuser:geheim@", 2, "connection not allowed by ruleset"},
		{"server down", "socks5", "proxyuser:geheim@", 5, "connection refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			s.template.DNSNames = []string{"est.invalid"} // which only the proxy can resolve
			s.start()
			p := &socksProxy{target: s.http.Listener.Addr().String(), reply: test.reply}
			o := s.options()
			o.URL = mustParse(t, "https://est.invalid:8085/.well-known/est")
			o.Proxy = fixed(t, test.scheme+"://"+test.user+listen(t, p.serve))
			o.Certificate = s.root.tlsCertificate(t, clientTemplate("gw-1"))
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			c := newClient(t, o)
			issued, err := c.Enroll(t.Context(), csr, Want{})
			if test.want == "" {
				p.mu.Lock()
				defer p.mu.Unlock()
				if err != nil || c.Traffic().Connections != 1 || !slices.Equal(p.asked, []string{"est.invalid:8085"}) {
					t.Errorf("%v, %+v, asked for %q", err, issued, p.asked)
				}
				return
			}
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Class != ErrUnavailable || e.Refusal || !strings.Contains(err.Error(), test.want) ||
				!strings.Contains(e.Hint, "HTTPS_PROXY") || strings.Contains(err.Error(), "geheim") ||
				strings.Contains(err.Error(), "falsch") {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// What onboarding does: TLS to another service, with SNI, ALPN and a client certificate, through each kind of proxy and
// through none.
func TestDialerForOtherServices(t *testing.T) {
	root := newRoot(t, "root")
	template := serverTemplate()
	template.DNSNames = []string{"broker.invalid"}
	pair := root.tlsCertificate(t, template)
	seen := make(chan tls.ConnectionState, 1)
	broker := listen(t, func(c net.Conn) {
		server := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*pair}, ClientAuth: tls.RequireAnyClientCert,
			NextProtos: []string{"x-amzn-mqtt-ca"}})
		if server.Handshake() == nil {
			seen <- server.ConnectionState()
			io.Copy(server, server)
		}
	})
	socks := &socksProxy{target: broker}
	plain := &connectProxy{t: t, target: broker}
	secured := &connectProxy{t: t, target: broker,
		config: &tls.Config{Certificates: []tls.Certificate{*root.tlsCertificate(t, serverTemplate())}}}
	for name, proxy := range map[string]func(*http.Request) (*url.URL, error){
		"none":   func(*http.Request) (*url.URL, error) { return nil, nil },
		"http":   fixed(t, "http://proxyuser:geheim@"+listen(t, plain.serve)),
		"https":  fixed(t, "https://proxyuser:geheim@"+listen(t, secured.serve)),
		"socks5": fixed(t, "socks5://proxyuser:geheim@"+listen(t, socks.serve)),
	} {
		t.Run(name, func(t *testing.T) {
			roots := poolOf([]*x509.Certificate{root.cert})
			d := &Dialer{Proxy: proxy, ProxyRoots: roots}
			address := "broker.invalid:8883"
			if name == "none" {
				address = broker
			}
			tcp, err := d.DialContext(t.Context(), "tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer tcp.Close()
			// The certificate is of a CA that the service does not name; it is shown all the same.
			config := d.TLSConfig(roots, newRoot(t, "other").tlsCertificate(t, clientTemplate("gw-1")))
			config.ServerName, config.NextProtos = "broker.invalid", []string{"x-amzn-mqtt-ca"}
			c := tls.Client(tcp, config)
			if err := c.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(c, "hello"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			state := <-seen
			if state.ServerName != "broker.invalid" || state.NegotiatedProtocol != "x-amzn-mqtt-ca" ||
				len(state.PeerCertificates) != 1 {
				t.Errorf("the service saw %q, %q, %d certificates", state.ServerName, state.NegotiatedProtocol,
					len(state.PeerCertificates))
			}
		})
	}
}

// TLS 1.2 is the least (RFC 8996), and of its ciphers none is without encryption or authentication.
func TestTLSConfigFloor(t *testing.T) {
	root := newRoot(t, "root")
	pair := root.tlsCertificate(t, serverTemplate())
	address := listen(t, func(c net.Conn) {
		tls.Server(c, &tls.Config{Certificates: []tls.Certificate{*pair}, MinVersion: tls.VersionTLS10,
			MaxVersion: tls.VersionTLS11}).Handshake()
	})
	_, err := newClient(t, Options{URL: mustParse(t, "https://"+address+"/.well-known/est"),
		Anchors: []*x509.Certificate{root.cert}}).CACerts(t.Context())
	if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrUnavailable || !strings.Contains(e.Hint, "TLS 1.2") ||
		!strings.Contains(err.Error(), "it speaks no version of TLS that we do") {
		t.Errorf("TLS 1.1: %v", err)
	}
	for _, id := range tls.CipherSuites() {
		if strings.Contains(id.Name, "NULL") || strings.Contains(id.Name, "EXPORT") || strings.Contains(id.Name, "anon") {
			t.Errorf("crypto/tls offers %s", id.Name)
		}
	}
}

// Whatever a proxy does not do, it ends with the context, is said to be the proxy, and leaves nothing open.
func TestProxyThatHangs(t *testing.T) {
	for _, scheme := range []string{"http", "https", "socks5"} {
		for _, timeout := range []bool{true, false} {
			reached, closed := make(chan struct{}, 10), make(chan struct{}, 10)
			address := listen(t, func(c net.Conn) {
				defer func() { closed <- struct{}{} }()
				c.Read(make([]byte, 1))
				reached <- struct{}{}
				io.Copy(io.Discard, c) // until the client hangs up
			})
			o := Options{URL: mustParse(t, "https://est.invalid/.well-known/est"), SystemRoots: true,
				Roots: x509.NewCertPool(), Proxy: fixed(t, scheme+"://"+address)}
			ctx, cancel := context.WithCancel(t.Context())
			want := "the proxy is reached, but not the server behind it"
			var err error
			if timeout {
				err = withLimits(want, func(limit time.Duration) error {
					o.Timeout = limit
					_, err := newClient(t, o).CACerts(ctx)
					return err
				})
			} else {
				want = "context canceled"
				go func() { <-reached; cancel() }()
				_, err = newClient(t, o).CACerts(ctx)
			}
			cancel()
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", scheme, err, want)
			}
			<-closed
		}
	}
}

// What follows the answer to CONNECT unasked, and an answer without end, are not taken for a tunnel.
func TestProxyThatTalksTooMuch(t *testing.T) {
	for _, test := range []struct{ answer, want string }{
		{"HTTP/1.1 200 OK\r\n\r\nmore", "more than its answer"},
		{"HTTP/1.1 200 OK\r\n" + strings.Repeat("X-More: y\r\n", 2*headerLimit/10), "proxy's answer"},
		{"SSH-2.0-x\r\n", "proxy's answer"},
		{"HTTP/1.1 403 \x1b[31mForbidden\r\n\r\n", "HTTP 403 [31mForbidden"},
	} {
		address := listen(t, func(c net.Conn) {
			c.Read(make([]byte, 4096))
			io.WriteString(c, test.answer)
			io.Copy(io.Discard, c)
		})
		d := &Dialer{Proxy: fixed(t, "http://"+address)}
		_, err := d.DialContext(t.Context(), "tcp", "est.invalid:443")
		e, ok := errors.AsType[*ProxyError](err)
		if !ok || !e.Reached || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.40q: %v, want %q", test.answer, err, test.want)
		}
	}
	for _, proxy := range []string{"ftp://127.0.0.1:1", "127.0.0.1:8080"} {
		d := &Dialer{Proxy: func(*http.Request) (*url.URL, error) { return url.Parse(proxy) }}
		_, err := d.DialContext(t.Context(), "tcp", "est.invalid:443")
		if e, ok := errors.AsType[*ProxyError](err); !ok || e.Reached {
			t.Errorf("%s: %v", proxy, err)
		}
	}
}
