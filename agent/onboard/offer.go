package onboard

import (
	"crypto/tls"
	"sync/atomic"
)

// Offer is what the other side of a connection saw of the device's certificate. The zero value is that of a connection that
// was not opened. Its methods may be called from any goroutine, while the handshake goes on, too.
type Offer struct{ asked, offered atomic.Bool }

// Watch has settings, which are those of [Dialer.TLSConfig], note in o what becomes of the certificate.
func (o *Offer) Watch(settings *tls.Config) {
	choose := settings.GetClientCertificate
	settings.GetClientCertificate = func(ask *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		chosen, err := choose(ask)
		o.asked.Store(true)
		o.offered.Store(err == nil && chosen != nil && len(chosen.Certificate) > 0)
		return chosen, err
	}
}

// Asked reports whether the other side, verified by then, asked for a client certificate.
func (o *Offer) Asked() bool { return o.asked.Load() }

// Offered reports whether it was given ours.
func (o *Offer) Offered() bool { return o.offered.Load() }
