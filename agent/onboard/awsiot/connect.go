package awsiot

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"certagent/agent/onboard"
)

// defaultTimeout is longer than AWS takes to say nothing.
const defaultTimeout = 30 * time.Second

// Options say what [Connect] makes known, and how.
type Options struct {
	// Registration is what is made known. SHA256 is that of Certificate.
	Registration Registration

	// Certificate is what the device logs in with: its own, followed by that of its CA (see [AppendIssuer]).
	Certificate *tls.Certificate

	// Roots verify the endpoint. nil means the system's. EST's anchors have no say here.
	Roots *x509.CertPool

	Dialer onboard.Dialer

	// Timeout bounds the connection, from dialling to the answer. 0 means 30 seconds.
	Timeout time.Duration

	// Now is the clock by which Certificate is judged. nil means time.Now.
	Now func() time.Time
}

// Connect connects once and hangs up: TLS with the endpoint's name (SNI) and the device's certificate, CONNECT, and
// DISCONNECT when the broker has said yes. nil means that it has: AWS IoT knows the certificate, takes it for active, and
// its policy lets it connect under the client id. The error is an [*Error], unless ctx was canceled: then it wraps the
// cause of that. A broker that has a client of the same id connected hangs up on that one (MQTT 5, 3.1.4) and
// publishes its will; its session stays.
func Connect(ctx context.Context, o Options) error {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if e := ready(o.Registration, o.Certificate, o.Now()); e != nil {
		return e
	}
	limited, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	v := visit{o: o}
	answer, err := v.connect(limited)
	switch {
	case err == nil && answer.reason == 0:
		return nil
	case err == nil:
		return v.refused(answer.reason)
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("connect to AWS IoT: %w", context.Cause(ctx))
	}
	return v.broken(err, limited.Err() != nil)
}

// visit is one connection, and how far it came.
type visit struct {
	o       Options
	dialled bool // there is a TCP connection
	offer   onboard.Offer
}

// connect is the whole of it. It does not judge.
func (v *visit) connect(ctx context.Context) (connack, error) {
	want := v.o.Registration
	raw, err := v.o.Dialer.DialContext(ctx, "tcp", net.JoinHostPort(want.Endpoint, strconv.Itoa(want.Port)))
	if err != nil {
		return connack{}, err
	}
	defer raw.Close()
	v.dialled = true
	// Whatever the other side does or does not, nothing here waits for longer than ctx.
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	settings := v.o.Dialer.TLSConfig(v.o.Roots, v.o.Certificate)
	settings.ServerName = want.Endpoint
	if want.Port == PortHTTPS {
		settings.NextProtos = []string{ALPN}
	}
	v.offer.Watch(settings)
	secured := tls.Client(raw, settings)
	if err := secured.HandshakeContext(ctx); err != nil {
		return connack{}, err
	}
	if !v.offer.Offered() {
		return connack{}, errNoCertificate // a yes would say nothing about the certificate
	}
	// Why writing fails is said by what there is to read: a refusal of the certificate comes after the handshake of TLS 1.3,
	// and says more than the broken pipe that it leaves.
	secured.Write(connectPacket(want.ClientID))
	answer, err := readConnack(secured)
	if err == nil && answer.reason == 0 {
		// The rest is courtesy: what is to be known is known.
		if _, err := secured.Write(disconnectPacket(answer.sessionPresent)); err == nil {
			secured.Close()
		}
	}
	return answer, err
}

var errNoCertificate = errors.New("it did not take the device's certificate")
