package est

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/proxy"
)

// Dialer opens connections as a [Client] does: through the proxy that is set for the target, with TLS 1.2 or later, by
// a clock of its owner's. Whoever talks to another service from the same device can use it too. The zero value is
// ready; the methods may be called from any goroutine, but the fields not changed meanwhile.
type Dialer struct {
	// Proxy returns the proxy for a request to https://host:port, as http.Transport's field does, or nil to go there
	// directly; http, https, socks5 and socks5h are understood. nil means HTTPS_PROXY and NO_PROXY as the environment
	// had them when the process first asked.
	Proxy func(*http.Request) (*url.URL, error)

	// ProxyRoots verify the certificate of an https proxy. nil means the system's roots.
	ProxyRoots *x509.CertPool

	// Now is the clock for validity. nil means time.Now.
	Now func() time.Time
}

// ProxyError says that a proxy, and not what lies behind it, is the reason why there is no connection.
type ProxyError struct {
	Err     error // never quotes the proxy's login
	Reached bool  // there is a proxy, and it was spoken to
}

func (e *ProxyError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ProxyError) Unwrap() error { return e.Err }

// TLSConfig returns settings for TLS to a service whose certificate is to be verified by roots (nil: the system's) and
// that is shown certificate (nil: none) when it asks for one. A caller that dials by itself adds ServerName, and
// NextProtos where the service wants ALPN.
func (d *Dialer) TLSConfig(roots *x509.CertPool, certificate *tls.Certificate) *tls.Config {
	return &tls.Config{
		RootCAs:    roots,
		MinVersion: tls.VersionTLS12, // RFC 8996, RFC 9325 3.1.1
		Time:       d.Now,
		GetClientCertificate: func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			offer, _ := offerable(request, certificate)
			return offer, nil
		},
	}
}

// offerable returns what to answer a server that asks for a client certificate: certificate, or an empty one where
// there is none or, with the reason, where it is of no use here.
func offerable(request *tls.CertificateRequestInfo, certificate *tls.Certificate) (*tls.Certificate, error) {
	if certificate == nil {
		return &tls.Certificate{}, nil
	}
	// The list of acceptable CAs is advice (RFC 8446 4.2.4), and servers that take a device's birth certificate often
	// leave its issuer out. Only a key that cannot sign here is a reason to send nothing.
	request.AcceptableCAs = nil
	if err := request.SupportsCertificate(certificate); err != nil {
		return &tls.Certificate{}, err
	}
	return certificate, nil
}

// DialContext opens a TCP connection to address, host:port, or to the proxy for it and has that connect on. The caller
// speaks TLS over it. An error of the proxy's is a [*ProxyError].
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	through, err := d.proxyFor(ctx, address)
	if err != nil {
		return nil, &ProxyError{Err: err}
	}
	if through == nil {
		return dialTCP(ctx, network, address)
	}
	c, err := dialTCP(ctx, network, proxyAddress(through))
	if err != nil {
		return nil, &ProxyError{Err: fmt.Errorf("connect to the proxy: %w", err)}
	}
	beyond, err := d.tunnel(ctx, c, through, address)
	if err != nil {
		c.Close()
		return nil, &ProxyError{Err: err, Reached: true}
	}
	return beyond, nil
}

func dialTCP(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return acknowledgeAtOnce(c), nil
}

func (d *Dialer) proxyFor(ctx context.Context, address string) (*url.URL, error) {
	target := &url.URL{Scheme: "https", Host: address}
	unusable := errors.New("the proxy set for this URL cannot be used") // the cause may quote its password
	choose := d.Proxy
	if choose == nil {
		// golang.org/x/net/http/httpproxy has the same rules, and Unicode tables of its own (0.2 MiB).
		choose = http.ProxyFromEnvironment
	}
	request := &http.Request{Method: http.MethodGet, URL: target, Host: address}
	through, err := choose(request.WithContext(ctx))
	if err != nil {
		return nil, unusable
	}
	if through == nil {
		return nil, nil
	}
	switch through.Scheme {
	case "http", "https", "socks5", "socks5h":
		return through, nil
	}
	return nil, unusable
}

func proxyAddress(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// tunnel has the proxy at the other end of c connect to address. Closing what it returns closes c.
func (d *Dialer) tunnel(ctx context.Context, c net.Conn, through *url.URL, address string) (net.Conn, error) {
	if through.Scheme == "https" {
		config := d.TLSConfig(d.ProxyRoots, nil)
		config.ServerName = through.Hostname()
		secured := tls.Client(c, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			// Not wrapped: a trust error here is about the proxy, not the server.
			return nil, fmt.Errorf("TLS to the proxy: %v", err)
		}
		c = secured
	}
	ask := askCONNECT
	if strings.HasPrefix(through.Scheme, "socks") {
		ask = askSOCKS
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	err := ask(c, through, address)
	if !stop() {
		return nil, context.Cause(ctx) // it can have struck after the answer came, too
	}
	return c, err
}

// askCONNECT asks an HTTP proxy for a tunnel (RFC 9110 9.3.6).
func askCONNECT(c net.Conn, through *url.URL, address string) error {
	request := &http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Opaque: address},
		Host:   address,
		Header: http.Header{"User-Agent": {""}}, // none
	}
	if user := through.User; user != nil {
		password, _ := user.Password()
		token := base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
		request.Header.Set("Proxy-Authorization", "Basic "+token)
	}
	if err := request.Write(c); err != nil {
		return fmt.Errorf("ask the proxy: %w", err)
	}
	r := bufio.NewReader(io.LimitReader(c, headerLimit))
	response, err := http.ReadResponse(r, request)
	if err != nil {
		return fmt.Errorf("read the proxy's answer: %w", err)
	}
	switch {
	case response.StatusCode/100 != 2:
		return fmt.Errorf("proxy answered HTTP %s", shorten(printable(response.Status), 100))
	case r.Buffered() > 0: // who speaks TLS waits for the client
		return errors.New("proxy sent more than its answer")
	}
	return nil
}

// askSOCKS asks a SOCKS 5 proxy for a connection (RFC 1928, RFC 1929). The proxy resolves the name.
func askSOCKS(c net.Conn, through *url.URL, address string) error {
	var login *proxy.Auth
	if through.User != nil {
		password, _ := through.User.Password()
		login = &proxy.Auth{User: through.User.Username(), Password: password}
	}
	dialer, err := proxy.SOCKS5("tcp", proxyAddress(through), login, connected{c})
	if err != nil {
		return err
	}
	_, err = dialer.(proxy.ContextDialer).DialContext(context.Background(), "tcp", address) // the caller ends it
	return err
}

// connected is a proxy.ContextDialer to which the connection is there already.
type connected struct{ net.Conn }

func (c connected) Dial(string, string) (net.Conn, error) { return c.Conn, nil }

func (c connected) DialContext(context.Context, string, string) (net.Conn, error) { return c.Conn, nil }
