package onboard

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
)

// Dialer opens connections to a cloud, through the proxy that is set, and has the TLS settings that go with them.
// [certagent/est.Dialer] is one. Its methods may be called from any goroutine.
type Dialer interface {
	// DialContext opens a TCP connection to address, host:port.
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	// TLSConfig returns new settings for TLS to a service that is verified by roots (nil: the system's) and that is
	// shown certificate when it asks for one.
	TLSConfig(roots *x509.CertPool, certificate *tls.Certificate) *tls.Config
}
