package awsiot_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"certagent/agent/onboard/awsiot"
	"certagent/agent/onboard/awsiot/awstest"
)

// amazon is an endpoint's own certificate, and what verifies it.
func amazon(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	ca, key := newCA(t, "Amazon"), newKey(t)
	template := device(name("CN", awstest.DefaultEndpoint))
	template.DNSNames, template.ExtKeyUsage = []string{awstest.DefaultEndpoint}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	return tls.Certificate{Certificate: [][]byte{ca.sign(t, template, key.Public()).Raw}, PrivateKey: key}, roots
}

// Whichever alert ends TLS over a certificate that was shown, it may be one that is being provisioned; what the alert says
// decides what is said when that goes on for too long.
func TestAlertsAfterTheCertificate(t *testing.T) {
	pair, roots := amazon(t)
	r := newRig(t, awstest.Options{}, jitp())
	r.o.Roots = roots
	for _, alert := range []int{0, 10, 20, 22, 40, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 70, 71, 80, 86, 90, 109, 110, 112, 113, 115,
		116, 120, 127} {
		var raw net.Conn
		settings := &tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: tls.VersionTLS12, ClientAuth: tls.RequireAnyClientCert}
		settings.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			raw = hello.Conn
			return nil, nil
		}
		settings.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error {
			_, err := io.WriteString(raw, "\x15\x03\x03\x00\x02\x02"+string(rune(alert)))
			return errors.Join(errors.New("not today"), err)
		}
		r.o.Dialer = &direct{address: endpoint(t, settings, func(*tls.Conn) { t.Error("it went on") })}
		err := awsiot.Connect(t.Context(), r.o)
		code := awsiot.CodePending
		if slices.Contains([]int{42, 43, 44, 45, 46, 48, 49, 51, 116}, alert) {
			code = awsiot.CodeCertificateRefused
		}
		if e, _ := errors.AsType[*awsiot.Error](err); e == nil || e.Code != code || !errors.Is(err, awsiot.ErrDropped) ||
			alert != 0 && !strings.Contains(err.Error(), "("+tls.AlertError(alert).Error()+")") {
			t.Errorf("alert %d: %v, want %s", alert, err, code)
		}
	}
}

// An endpoint that asks for a certificate, and takes no signature that our key can make, was shown none: that is a matter of
// the key, whether the endpoint then ends TLS (as it must in TLS 1.2) or we find out first.
func TestNoSignatureForTheEndpoint(t *testing.T) {
	pair, roots := amazon(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		r := newRig(t, awstest.Options{}, jitp())
		settings := &tls.Config{Certificates: []tls.Certificate{pair}, MaxVersion: version, ClientAuth: tls.RequireAnyClientCert}
		r.o.Roots = roots
		r.o.Dialer = &unable{direct{address: endpoint(t, settings, func(*tls.Conn) { t.Error("it went on") })}}
		s, err := r.try()
		is(t, err, awsiot.ErrDevice, awsiot.CodeKey)
		if s.Dropped != 0 {
			t.Errorf("%s: %+v", tls.VersionName(version), s)
		}
	}
}

// unable has a key for which nobody asks.
type unable struct{ direct }

func (u *unable) TLSConfig(roots *x509.CertPool, _ *tls.Certificate) *tls.Config {
	return u.direct.TLSConfig(roots, nil)
}

// What a proxy says is trouble on the way, and no word of the endpoint's.
func TestProxyRefuses(t *testing.T) {
	r := newRig(t, awstest.Options{}, jitp())
	r.o.Registration.Endpoint = "b-ats.iot.eu-west-1.amazonaws.test" // the proxy knows one name
	_, err := r.try()
	if is(t, err, awsiot.ErrUnavailable, awsiot.CodeUnavailable); !strings.Contains(err.Error(), "proxy answered HTTP 502") {
		t.Errorf("%v", err)
	}
}
