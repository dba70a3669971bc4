package est

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
)

// headerLimit bounds the header of an answer, in bytes.
const headerLimit = 64 << 10

// conn is one connection to the server and what is known about it. The callbacks that write its fields run while it
// is dialled, and have ended when dial returns.
type conn struct {
	http   *http.ClientConn
	tcp    *quietConn // what it stands on
	origin string     // of the server it leads to, as originOf says
	hosts  []string   // by which that server was judged: the configured one, then those of redirects

	unresolved bool                // the name of the server, or of its proxy, was not found
	proxy      *ProxyError         // why the proxy does not connect us; nil where it does, and without one
	reached    bool                // the TCP connection stands, through the proxy if there is one
	secured    bool                // the TLS handshake, as far as we see it, is done
	authorised bool                // the server's certificate passed authorise
	chain      []*x509.Certificate // the server's
	ends       []*x509.Certificate // explicit anchors that its paths end at; none where implicit ones authorised it
	asked      bool                // the server asked for a client certificate
	offered    bool                // and was given ours
	notOffered error               // why it was not, where we have one
	answered   bool                // it has carried an HTTP answer
	version    uint16              // of TLS
	unique     []byte              // tls-unique (RFC 5929); nil without one
}

// dial opens a TLS connection to where r goes, through the proxy if there is one. The time limit is ctx's. The conn is
// returned with an error as well, and then tells how far it came.
func (c *Client) dial(ctx context.Context, r *request) (*conn, error) {
	k := &conn{origin: originOf(r.target), hosts: r.hosts}
	c.newest = k
	return k, c.connect(ctx, k, r, c.tlsConfig(k, r.certificate))
}

// connect opens the connection k to where r goes with these TLS settings, and notes in k how far it came.
func (c *Client) connect(ctx context.Context, k *conn, r *request, settings *tls.Config) error {
	transport := &http.Transport{
		// The dialer sees to the proxy: net/http would use one TLS configuration for an https proxy and the server, and
		// so show the proxy our certificate and have it authorised as the server.
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			tcp, err := c.dialer.DialContext(ctx, network, address)
			k.reached = err == nil
			k.proxy, _ = errors.AsType[*ProxyError](err)
			_, k.unresolved = errors.AsType[*net.DNSError](err)
			if err != nil {
				return nil, err
			}
			k.tcp = &quietConn{Conn: tcp, meter: &c.meter}
			return k.tcp, nil
		},
		TLSClientConfig:        settings,
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // no HTTP/2
		DisableCompression:     true,
		MaxResponseHeaderBytes: headerLimit,
	}
	c.connections++
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		TLSHandshakeDone: func(state tls.ConnectionState, _ error) {
			k.version, k.unique = state.Version, state.TLSUnique
		},
	})
	connection, err := transport.NewClientConn(ctx, "https", addressOf(r.target))
	if err != nil {
		return err
	}
	k.http, k.secured = connection, true
	return nil
}

// tlsConfig returns the TLS settings of connection k, which it keeps up to date from the handshake's callbacks.
func (c *Client) tlsConfig(k *conn, certificate *tls.Certificate) *tls.Config {
	by := c.trusted(k.origin)
	if !c.named(k.origin) {
		certificate = nil
	}
	config := c.dialer.TLSConfig(nil, certificate)
	// Sessions are not resumed: each connection proves both sides anew, and a resumed one has no tls-unique.
	config.SessionTicketsDisabled = true
	if c.capped(k.origin) {
		config.MaxVersion = tls.VersionTLS12
	}
	// crypto/tls knows one pool of roots, RFC 7030 3.6 two databases with rules of their own; so its check is switched
	// off and ours is put in its place. VerifyConnection runs in every handshake, before our certificate or any byte of
	// HTTP is sent, and its error ends the connection.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) (err error) {
		k.ends, err = authorise(state.PeerCertificates, k.hosts, by, c.o.Now())
		k.chain, k.authorised = state.PeerCertificates, err == nil
		return err
	}
	config.GetClientCertificate = func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		offer, err := offerable(request, certificate)
		k.asked, k.notOffered = true, err
		k.offered = certificate != nil && err == nil
		return offer, nil
	}
	return config
}

// settled reports whether the next answer over k can be one to the next request: whether k is still there, and nothing
// came that was not asked for. net/http closes a connection on which something did.
func (k *conn) settled(ctx context.Context) bool {
	return k.tcp.awaitQuiet(ctx) && k.http.Err() == nil
}

// HangUp closes the kept connection, if there is one, with a close-notify; the next operation opens another. It is for
// pauses: some servers serve nobody else meanwhile, and end it after seconds, at a time when a request may be on its way.
func (c *Client) HangUp() {
	if c.conn != nil {
		c.conn.http.Close()
		c.conn = nil
	}
}
