package esttest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// badHandshakes misbehave in the TLS handshake, or right after it.
func badHandshakes() []Misbehaviour {
	ofTLS := func(change func(*Server, *tls.Config)) func(*Server) {
		return func(s *Server) {
			c := s.currentTLS().Clone()
			change(s, c)
			s.setConduct(conduct{tls: c})
		}
	}
	noVersions := func(highest uint16) func(*Server) {
		return ofTLS(func(_ *Server, c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, highest })
	}
	// presents has the server show a certificate that its CA made after it was changed.
	presents := func(change func(*x509.Certificate)) func(*Server) {
		return ofTLS(func(s *Server, c *tls.Config) {
			key := must(newKey())
			t := serverTemplate(standardHosts(), key.Public(), s.options.Now(), s.options)
			change(t)
			c.Certificates = []tls.Certificate{{Certificate: [][]byte{must(s.ca().tlsIssuer().sign(t)).Raw}, PrivateKey: key}}
		})
	}
	return []Misbehaviour{
		{Name: "TLS 1.0 at most", Class: "unavailable", play: noVersions(tls.VersionTLS10)},
		{Name: "TLS 1.1 at most", Class: "unavailable", play: noVersions(tls.VersionTLS11)},
		{Name: "no cipher suite in common", Class: "unavailable", play: ofTLS(func(_ *Server, c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}
		})},
		{Name: "internal_error over the server name", Class: "unavailable", play: ofTLS(func(_ *Server, c *tls.Config) {
			c.Certificates = nil
			c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("no such host") }
		})},
		{Name: "bad_certificate to every certificate, TLS 1.2", Class: "unauthorized", Certificate: true,
			play: ofTLS(refuseCertificates(tls.VersionTLS12))},
		{Name: "bad_certificate to every certificate, TLS 1.3", Class: "unauthorized", Certificate: true,
			play: ofTLS(refuseCertificates(tls.VersionTLS13))},
		{Name: "unknown_ca to every certificate, TLS 1.2", Class: "unauthorized", Certificate: true,
			play: ofTLS(trustNobody(tls.VersionTLS12))},
		{Name: "unknown_ca to every certificate, TLS 1.3", Class: "unauthorized", Certificate: true,
			play: ofTLS(trustNobody(tls.VersionTLS13))},
		{Name: "demands a certificate and takes none", Class: "unauthorized", play: ofTLS(func(s *Server, c *tls.Config) {
			trustNobody(tls.VersionTLS12)(s, c)
			c.ClientAuth = tls.RequireAndVerifyClientCert
		})},

		{Name: "server certificate expired", Class: "untrusted", play: presents(func(t *x509.Certificate) {
			t.NotBefore, t.NotAfter = t.NotBefore.Add(-48*time.Hour), t.NotBefore.Add(-24*time.Hour)
		})},
		{Name: "server certificate not yet valid", Class: "untrusted", play: presents(func(t *x509.Certificate) {
			t.NotBefore, t.NotAfter = t.NotBefore.Add(24*time.Hour), t.NotBefore.Add(48*time.Hour)
		})},
		{Name: "server certificate for another host", Class: "untrusted", play: presents(func(t *x509.Certificate) {
			t.DNSNames, t.IPAddresses = []string{"other.example"}, nil
		})},
		{Name: "server certificate with the host in its common name only", Class: "untrusted",
			play: presents(func(t *x509.Certificate) {
				t.Subject, t.DNSNames, t.IPAddresses = pkix.Name{CommonName: "127.0.0.1"}, nil, nil
			})},
		{Name: "server certificate for clients", Class: "untrusted", play: presents(func(t *x509.Certificate) {
			t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		})},
		{Name: "server certificate with an unknown critical extension", Class: "untrusted",
			play: presents(func(t *x509.Certificate) { t.ExtraExtensions = append(t.ExtraExtensions, unknownCritical()) })},
		{Name: "server certificate of another CA", Class: "untrusted", play: ofTLS(ofAnotherCA)},
		{Name: "server certificate that is self-signed", Class: "untrusted", play: ofTLS(func(s *Server, c *tls.Config) {
			self := pair{key: must(newKey())}
			leaf := must(self.sign(serverTemplate(standardHosts(), self.key.Public(), s.options.Now(), s.options)))
			c.Certificates = []tls.Certificate{{Certificate: [][]byte{leaf.Raw}, PrivateKey: self.key}}
		})},
		{Name: "server certificate that is not one", Class: "untrusted", play: ofTLS(func(_ *Server, c *tls.Config) {
			c.Certificates = []tls.Certificate{{Certificate: [][]byte{[]byte("0\x03abc")}, PrivateKey: must(newKey())}}
		})},
		{Name: "server certificate with an RSA key of 1024 bits", Class: "untrusted", play: ofTLS(weakRSA)},
		{Name: "server certificate below a thousand others", Class: "untrusted", play: ofTLS(func(_ *Server, c *tls.Config) {
			own := c.Certificates[0]
			for range 1000 { // crypto/tls reads 64 KiB of them
				own.Certificate = append(own.Certificate[:len(own.Certificate):len(own.Certificate)], own.Certificate[0])
			}
			c.Certificates = []tls.Certificate{own}
		})},

		{Name: "resets after the handshake", Class: "unavailable", play: securing(func(c *tls.Conn) { reset(c) })},
		{Name: "close_notify after the handshake", Class: "unavailable",
			play: securing(func(c *tls.Conn) { c.CloseWrite() })},
		{Name: "ends after the handshake without close_notify", Class: "unavailable", play: securing(func(c *tls.Conn) {
			_, below := bare(c)
			below.Close()
		})},
		{Name: "says nothing after the handshake", Class: "unavailable", Silent: true, play: securing(func(c *tls.Conn) {})},
		{Name: "answers before it is asked, and is gone", Class: "unavailable", play: securing(func(c *tls.Conn) {
			io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
			c.Close()
		})},
		{Name: "resets when asked", Class: "unavailable", play: securing(func(c *tls.Conn) {
			c.Read(make([]byte, 1))
			reset(c)
		})},
		{Name: "sends what is no TLS after the handshake", Class: "unavailable", play: securing(func(c *tls.Conn) {
			c.Read(make([]byte, 1))
			_, below := bare(c)
			io.WriteString(below, "and now for something completely different")
		})},
		{Name: "a record that cannot be authenticated", Class: "unavailable", play: securing(func(c *tls.Conn) {
			c.Read(make([]byte, 1))
			_, below := bare(c)
			io.WriteString(below, "\x17\x03\x03\x00\x40"+string(make([]byte, 64)))
		})},
		{Name: "asks to renegotiate", Class: "unavailable", play: forging(tls.VersionTLS12, recordHandshake, helloRequest, 1)},
		{Name: "a thousand requests to renegotiate", Class: "unavailable",
			play: forging(tls.VersionTLS12, recordHandshake, helloRequest, 1000)},
		{Name: "a thousand session tickets", Class: "unavailable",
			play: forging(tls.VersionTLS13, recordHandshake, newSessionTicket, 1000)},
		{Name: "a thousand key updates", Class: "unavailable",
			play: forging(tls.VersionTLS13, recordHandshake, keyUpdate, 1000)},
		{Name: "alert internal_error when asked, TLS 1.2", Class: "unavailable",
			play: forging(tls.VersionTLS12, recordAlert, "\x02\x50", 1)},
		{Name: "alert internal_error when asked, TLS 1.3", Class: "unavailable",
			play: forging(tls.VersionTLS13, recordAlert, "\x02\x50", 1)},
		{Name: "alert access_denied when asked, TLS 1.3", Class: "unauthorized",
			play: forging(tls.VersionTLS13, recordAlert, "\x02\x31", 1)},
		{Name: "dead once /cacerts is answered", Class: "unavailable", play: func(s *Server) {
			s.Always("cacerts", func(w http.ResponseWriter, r *http.Request, real http.Handler) {
				answer := capture(real, r)
				s.setConduct(conduct{take: reset})
				raw(func(c net.Conn) {
					io.WriteString(c, ok("application/pkcs7-mime", answer.body))
					c.Read(make([]byte, 1))
					reset(c)
				})(w, r, real)
			})
		}},
	}
}

// tlsIssuer is the CA that issues the server certificate.
func (a *authority) tlsIssuer() pair {
	if a.tlsRoot.cert == a.root.cert {
		return a.issuing
	}
	return a.tlsRoot
}

func refuseCertificates(version uint16) func(*Server, *tls.Config) {
	return func(_ *Server, c *tls.Config) {
		c.MaxVersion = version
		c.VerifyConnection = func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) > 0 {
				return errors.New("not this one")
			}
			return nil
		}
	}
}

func trustNobody(version uint16) func(*Server, *tls.Config) {
	return func(_ *Server, c *tls.Config) {
		c.MaxVersion, c.ClientAuth, c.ClientCAs = version, tls.VerifyClientCertIfGiven, x509.NewCertPool()
	}
}

// ofAnotherCA gives the server a certificate of a CA that nobody trusts.
func ofAnotherCA(s *Server, c *tls.Config) {
	key, ca := must(newKey()), newCA(s, "somebody else's CA")
	leaf := must(ca.sign(serverTemplate(standardHosts(), key.Public(), s.options.Now(), s.options)))
	c.Certificates = []tls.Certificate{{Certificate: [][]byte{leaf.Raw, ca.cert.Raw}, PrivateKey: key}}
}

// impostor does the TLS handshake of another server on c.
func impostor(s *Server, c net.Conn) {
	config := s.currentTLS().Clone()
	ofAnotherCA(s, config)
	tls.Server(c, config).Handshake() // which the client must end
}

// weakRSA gives the server a certificate for a key that is within the reach of a state.
func weakRSA(s *Server, c *tls.Config) {
	key := must(rsa.GenerateKey(rand.Reader, 1024))
	t := serverTemplate(standardHosts(), key.Public(), s.options.Now(), s.options)
	c.Certificates = []tls.Certificate{{Certificate: [][]byte{must(s.ca().tlsIssuer().sign(t)).Raw}, PrivateKey: key}}
}

// must is for what fails only where the machine has no randomness, or the catalogue is wrong.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
