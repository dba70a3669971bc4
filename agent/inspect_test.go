package agent

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"
)

// TestServerLookLogins: a certificate that two places name logs in once; two are two, whatever their files are called.
func TestServerLookLogins(t *testing.T) {
	t.Parallel()
	pair := func(der string) *tls.Certificate {
		return &tls.Certificate{Certificate: [][]byte{[]byte(der)}, Leaf: &x509.Certificate{Raw: []byte(der)}}
	}
	var s ServerLook
	s.login("EST identity /etc/device a/cert.pem", pair("a"), time.Now())
	s.login("bootstrap certificate /etc/device b/cert.pem", pair("b"), time.Now())
	s.login("certificate a", pair("a"), time.Now())
	if len(s.Logins) != 2 {
		t.Errorf("%d logins, want 2: %+v", len(s.Logins), s.Logins)
	}
}
