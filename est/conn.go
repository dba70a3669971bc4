package est

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
)

// headerLimit bounds the header of an answer, in bytes.
const headerLimit = 64 << 10

// conn is one connection to the server and what is known about it. The callbacks that write its fields run while it
// is dialled, and have ended when dial returns.
type conn struct {
	http *http.ClientConn

	reached    bool     // the TCP connection, to the server or its proxy, stands
	secured    bool     // the TLS handshake, as far as we see it, is done
	authorised bool     // the server's certificate passed authorise
	asked      bool     // the server asked for a client certificate
	offered    bool     // and was given ours
	notOffered error    // why it was not, where we have one
	answered   bool     // it has carried an HTTP answer
	proxy      *url.URL // nil without one
	proxyError error    // how the proxy answered CONNECT, where it was not 200
}

// dial opens a TLS connection to the server, through the proxy if there is one. The time limit is ctx's. The conn is
// returned with an error as well, and then tells how far it came.
func (c *Client) dial(ctx context.Context, certificate *tls.Certificate) (*conn, error) {
	k := &conn{}
	proxy, err := c.o.Proxy((&http.Request{Method: http.MethodGet, URL: c.o.URL, Host: c.o.URL.Host}).WithContext(ctx))
	if err != nil {
		return k, errors.New("the proxy set for this URL cannot be used") // the cause may quote its password
	}
	k.proxy = proxy
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return c.dialTCP(ctx, k, network, address)
		},
		TLSClientConfig:        c.tlsConfig(k, certificate),
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // no HTTP/2
		DisableCompression:     true,
		MaxResponseHeaderBytes: headerLimit,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, r *http.Response) error {
			if r.StatusCode != http.StatusOK {
				k.proxyError = fmt.Errorf("proxy answered HTTP %s", shorten(printable(r.Status), 100))
				return k.proxyError
			}
			return nil
		},
	}
	if proxy != nil {
		transport.Proxy = http.ProxyURL(plainProxy(proxy))
	}
	port := c.o.URL.Port()
	if port == "" {
		port = "443"
	}
	c.connections++
	k.http, err = transport.NewClientConn(ctx, "https", net.JoinHostPort(c.o.URL.Hostname(), port))
	if err != nil {
		return k, err
	}
	k.secured = true
	return k, nil
}

// plainProxy returns the URL of an https proxy as one of an http proxy on the same port, because dialTCP has done its
// TLS by the time that net/http speaks to it: net/http would use one TLS configuration for proxy and server, and so
// show the proxy our certificate and have it authorised as the server.
func plainProxy(proxy *url.URL) *url.URL {
	if proxy.Scheme != "https" {
		return proxy
	}
	plain := *proxy
	plain.Scheme = "http"
	if plain.Port() == "" {
		plain.Host = net.JoinHostPort(proxy.Hostname(), "443")
	}
	return &plain
}

// dialTCP connects to the server or to its proxy; to an https proxy including TLS.
func (c *Client) dialTCP(ctx context.Context, k *conn, network, address string) (net.Conn, error) {
	tcp, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	k.reached = true
	if k.proxy == nil || k.proxy.Scheme != "https" {
		return tcp, nil
	}
	secured := tls.Client(tcp, &tls.Config{
		ServerName: k.proxy.Hostname(),
		RootCAs:    c.o.Roots,
		MinVersion: tls.VersionTLS12,
		Time:       c.o.Now,
	})
	if err := secured.HandshakeContext(ctx); err != nil {
		tcp.Close()
		// Not wrapped: a trust error here is about the proxy, not the server.
		return nil, fmt.Errorf("TLS to the proxy: %v", err)
	}
	return secured, nil
}

// tlsConfig returns the TLS settings of connection k, which it keeps up to date from the handshake's callbacks.
func (c *Client) tlsConfig(k *conn, certificate *tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, // RFC 8996
		Time:       c.o.Now,
		// Sessions are not resumed: each connection proves both sides anew, and a resumed one has no tls-unique.
		SessionTicketsDisabled: true,

		// crypto/tls knows one pool of roots, RFC 7030 3.6 two databases with rules of their own; so its check is
		// switched off and ours is put in its place. VerifyConnection runs in every handshake, before our certificate
		// or any byte of HTTP is sent, and its error ends the connection.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			err := authorise(state.PeerCertificates, c.o.URL.Hostname(), c.explicit, c.implicit, c.o.Now())
			k.authorised = err == nil
			return err
		},

		GetClientCertificate: func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			k.asked = true
			if certificate == nil {
				return &tls.Certificate{}, nil
			}
			// The list of acceptable CAs is advice (RFC 8446 4.2.4), and servers that take a device's birth certificate
			// often leave its issuer out. Only a key that cannot sign here is a reason to send nothing.
			request.AcceptableCAs = nil
			if err := request.SupportsCertificate(certificate); err != nil {
				k.notOffered = err
				return &tls.Certificate{}, nil
			}
			k.offered = true
			return certificate, nil
		},
	}
}

// hangUp closes the kept connection, if there is one, with a close-notify.
func (c *Client) hangUp() {
	if c.conn != nil {
		c.conn.http.Close()
		c.conn = nil
	}
}
