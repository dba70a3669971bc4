package esttest_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"certagent/est/esttest"
)

func TestGlobalsignTLS(t *testing.T) {
	s := esttest.New(t, esttest.Options{})
	if r := newClient(t, s).get("cacerts").want(t, 200); r.TLS.Version != tls.VersionTLS13 {
		t.Errorf("TLS version %s", tls.VersionName(r.TLS.Version))
	}
	r := newClient(t, s, withTLS(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })).get("cacerts").want(t, 200)
	if r.TLS.Version != tls.VersionTLS12 {
		t.Errorf("TLS version %s", tls.VersionName(r.TLS.Version))
	}
	r = newClient(t, s, withTLS(func(c *tls.Config) {
		c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	})).get("cacerts")
	if r.err == nil {
		t.Error("TLS 1.1 was accepted")
	}
}

func TestGlobalsignRequests(t *testing.T) {
	s := esttest.New(t, esttest.Options{})
	c := newClient(t, s, withPassword("estuser", "estpwd"))
	csr := csrFor(t, "device")
	const pkcs10 = "application/pkcs10"
	for _, tt := range []struct {
		name    string
		headers []string
		body    string
		status  int
	}{
		{"unwrapped", []string{"Content-Type", pkcs10, "Content-Transfer-Encoding", "base64"}, wrap(csr, 1<<20, ""), 200},
		{"no Content-Transfer-Encoding", []string{"Content-Type", pkcs10}, wrap(csr, 64, "\n"), 415},
		{"no Content-Type", []string{"Content-Transfer-Encoding", "base64"}, wrap(csr, 64, "\n"), 415},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.do(http.MethodPost, "simpleenroll", strings.NewReader(tt.body), tt.headers...).want(t, tt.status)
		})
	}
	c.get("cacerts/").want(t, 404)
	c.get("label/cacerts").want(t, 404)
	if attrs := c.get("csrattrs").want(t, 200); strings.TrimSpace(string(attrs.body)) != "MAA=" {
		t.Errorf("csrattrs %q, want an empty sequence", attrs.body)
	}
	c.post("tpmenroll", csr).want(t, 415)
}

// The CA copies what was asked for, the bytes of subject and SAN included.
func TestGlobalsignIssues(t *testing.T) {
	s := esttest.New(t, esttest.Options{Lifetime: 90 * time.Second})
	c := newClient(t, s, withPassword("estuser", "estpwd"))
	san := []byte{0x30, 0x08, 0x82, 0x06, 'd', '.', 't', 'e', 's', 't'}
	// What OpenSSL writes for CN=device, a UTF8String, where Go would write a PrintableString.
	subject := []byte{0x30, 0x11, 0x31, 0x0f, 0x30, 0x0d, 6, 3, 0x55, 4, 3, 0x0c, 6, 'd', 'e', 'v', 'i', 'c', 'e'}
	extension := func(last int, value []byte) pkix.Extension {
		return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, last}, Critical: last == 15, Value: value}
	}
	csr := newCSR(t, newKey(t), x509.CertificateRequest{RawSubject: subject, ExtraExtensions: []pkix.Extension{
		extension(17, san),
		extension(15, []byte{3, 2, 3, 0xa8}), // digitalSignature, keyEncipherment, keyAgreement
		extension(37, must(asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}, {1, 3, 6, 1, 5, 5, 7, 3, 1}}))),
		extension(99, []byte{5, 0}), // unknown
	}})
	before := time.Now().Truncate(time.Second)
	certs := c.post("simpleenroll", csr).certs(t)
	leaf := certs[0]
	if len(certs) != 1 || !sameKey(t, leaf, csr) {
		t.Errorf("%d certificates", len(certs))
	}
	if !bytes.Equal(leaf.RawSubject, subject) {
		t.Errorf("subject %x, want %x", leaf.RawSubject, subject)
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment|x509.KeyUsageKeyAgreement {
		t.Errorf("key usage %b", leaf.KeyUsage)
	}
	if len(leaf.ExtKeyUsage) != 2 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("extended key usage %v", leaf.ExtKeyUsage)
	}
	if len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != "d.test" || leaf.IsCA || !leaf.BasicConstraintsValid {
		t.Errorf("SAN %q, CA %t", leaf.DNSNames, leaf.IsCA)
	}
	for _, e := range leaf.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 99}) {
			t.Error("an unknown extension was copied")
		}
	}
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life != 90*time.Second ||
		leaf.NotBefore.Before(before) || leaf.NotBefore.After(time.Now()) {
		t.Errorf("valid from %s for %s", leaf.NotBefore, life)
	}
	if leaf.SerialNumber.Sign() <= 0 || leaf.SerialNumber.BitLen() > 128 {
		t.Errorf("serial number %x", leaf.SerialNumber)
	}
	verifies(t, leaf, s.Root)

	again := c.post("simpleenroll", csr).certs(t)[0]
	if again.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
		t.Error("two certificates with one serial number")
	}
	s.SetLifetime(time.Hour)
	if later := c.post("simpleenroll", csr).certs(t)[0]; later.NotAfter.Sub(later.NotBefore) != time.Hour {
		t.Errorf("valid for %s after SetLifetime", later.NotAfter.Sub(later.NotBefore))
	}
}

func TestGlobalsignIssuesCA(t *testing.T) {
	for _, tt := range []struct {
		name        string
		constraints []byte // value of the extension
		ca          bool
		pathLen     int
	}{
		{"path length 0", []byte{0x30, 6, 1, 1, 0xff, 2, 1, 0}, true, 0},
		{"path length 3", []byte{0x30, 6, 1, 1, 0xff, 2, 1, 3}, true, 3},
		{"no path length", []byte{0x30, 3, 1, 1, 0xff}, true, -1},
		{"not a CA", []byte{0x30, 0}, false, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := esttest.New(t, esttest.Options{})
			c := newClient(t, s, withPassword("estuser", "estpwd"))
			csr := newCSR(t, newKey(t), x509.CertificateRequest{
				Subject: pkix.Name{CommonName: "edge CA"},
				ExtraExtensions: []pkix.Extension{
					{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: tt.constraints},
				},
			})
			leaf := c.post("simpleenroll", csr).certs(t)[0]
			if leaf.IsCA != tt.ca || leaf.MaxPathLen != tt.pathLen || leaf.MaxPathLenZero != (tt.pathLen == 0) {
				t.Errorf("CA %t, path length %d", leaf.IsCA, leaf.MaxPathLen)
			}
			if (leaf.KeyUsage&x509.KeyUsageCertSign != 0) != tt.ca {
				t.Errorf("key usage %b", leaf.KeyUsage)
			}
		})
	}
}

func TestGlobalsignReenrols(t *testing.T) {
	s := esttest.New(t, esttest.Options{Intermediate: true})
	key := newKey(t)
	template := x509.CertificateRequest{Subject: pkix.Name{CommonName: "device"}, DNSNames: []string{"device.test"}}
	first := newClient(t, s, withPassword("estuser", "estpwd")).post("simpleenroll", newCSR(t, key, template)).certs(t)[0]
	own := withCert(tls.Certificate{Certificate: [][]byte{first.Raw}, PrivateKey: key})

	same := newCSR(t, newKey(t), template)
	renewed := newClient(t, s, own).post("simplereenroll", same).certs(t)[0]
	verifies(t, renewed, s.Root, s.Issuer)
	if !sameKey(t, renewed, same) {
		t.Error("certificate for another key")
	}

	template.DNSNames[0] = "other.test"
	newClient(t, s, own).post("simplereenroll", newCSR(t, key, template)).want(t, 403)
	newClient(t, s, own).post("simplereenroll", csrFor(t, "other")).want(t, 403)
	newClient(t, s, withPassword("estuser", "estpwd")).post("simplereenroll", same).want(t, 403)
}

// On this face either attribute links a request, and the CA says 400 to one that is not linked.
func TestGlobalsignProofOfPossession(t *testing.T) {
	challengePassword := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}
	identityLinking := asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 58}
	s := esttest.New(t, esttest.Options{ProofOfPossession: true})
	for _, tt := range []struct {
		name   string
		id     asn1.ObjectIdentifier
		proof  func(unique []byte) string
		status int
	}{
		{"challengePassword", challengePassword, base64.StdEncoding.EncodeToString, 200},
		{"estIdentityLinking", identityLinking, base64.StdEncoding.EncodeToString, 200},
		{"of another session", challengePassword, func([]byte) string { return "AAAAAAAAAAAAAAAA" }, 400},
		{"missing", challengePassword, func([]byte) string { return "" }, 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := dial(t, s)
			if v := conn.ConnectionState().Version; v != tls.VersionTLS12 {
				t.Fatalf("TLS version %s", tls.VersionName(v))
			}
			writePost(t, conn, linkedCSR(t, tt.id, tt.proof(conn.ConnectionState().TLSUnique)),
				"Authorization: Basic ZXN0dXNlcjplc3Rwd2Q=\r\nContent-Transfer-Encoding: base64\r\n")
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tt.status)
			}
		})
	}
	t.Run("csrattrs asks for it", func(t *testing.T) {
		want := must(asn1.Marshal([]asn1.ObjectIdentifier{challengePassword}))
		body := newClient(t, s).get("csrattrs").want(t, 200).body
		if got := must(base64.StdEncoding.DecodeString(string(body))); !bytes.Equal(got, want) {
			t.Errorf("csrattrs %x, want %x", got, want)
		}
	})
}

func TestGlobalsignManualApproval(t *testing.T) {
	s := esttest.New(t, esttest.Options{ManualApproval: true})
	c := newClient(t, s, withPassword("estuser", "estpwd"))
	csr := csrFor(t, "device")
	if r := c.post("simpleenroll", csr).want(t, 202); r.Header.Get("Retry-After") != "3600" {
		t.Errorf("Retry-After %q", r.Header.Get("Retry-After"))
	}
	c.post("simpleenroll", csr).want(t, 200)
	if l := s.Logins(); l[0].Issued != nil || l[1].Issued == nil {
		t.Errorf("logins %v", l)
	}
}

func TestIntermediate(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		s := esttest.New(t, esttest.Options{LikeLibest: libest, Intermediate: true})
		c := newClient(t, s, withPassword("estuser", "estpwd"))
		if certs := c.get("cacerts").certs(t); len(certs) != 2 || !certs[0].Equal(s.Root) || !certs[1].Equal(s.Issuer) {
			t.Errorf("%d CA certificates", len(certs))
		}
		certs := c.post("simpleenroll", csrFor(t, "device")).certs(t)
		if len(certs) != 1 {
			t.Errorf("%d certificates in the answer", len(certs))
		}
		verifies(t, certs[0], s.Root, s.Issuer)
	})
}

func TestSendChain(t *testing.T) {
	s := esttest.New(t, esttest.Options{Intermediate: true, SendChain: true})
	c := newClient(t, s, withPassword("estuser", "estpwd"))
	csr := csrFor(t, "device")
	certs := c.post("simpleenroll", csr).certs(t)
	if len(certs) != 2 || !sameKey(t, certs[0], csr) || !certs[1].Equal(s.Issuer) {
		t.Errorf("%d certificates in the answer", len(certs))
	}
	newClient(t, s).post("simpleenroll", csr).want(t, 401)
}

func TestSeparateTLSRoot(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		s := esttest.New(t, esttest.Options{LikeLibest: libest, SeparateTLSRoot: true})
		c := newClient(t, s, withPassword("estuser", "estpwd"))
		certs := c.get("cacerts").certs(t)
		if len(certs) != 1 || !certs[0].Equal(s.Root) || s.Root.Equal(s.TLSRoot) {
			t.Error("cacerts should answer the issuing root, and that is not the one behind TLS")
		}
		verifies(t, c.post("simpleenroll", csrFor(t, "device")).certs(t)[0], s.Root)
	})
}

func TestLabel(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		s := esttest.New(t, esttest.Options{LikeLibest: libest, Workers: 5, Label: "plant-7"})
		if !strings.HasSuffix(s.URL(), "/.well-known/est/plant-7") {
			t.Errorf("URL %s", s.URL())
		}
		c := newClient(t, s, withPassword("estuser", "estpwd"))
		c.get("cacerts").want(t, 200)
		c.post("simpleenroll", csrFor(t, "device")).want(t, 200)
		for _, wrong := range []string{"", "/plant-8", "/plant-7/plant-7"} {
			c.url = strings.TrimSuffix(s.URL(), "/plant-7") + wrong
			c.get("cacerts").want(t, 404)
		}
	})
}

func TestCSRAttrs(t *testing.T) {
	// The second is none at all: the server says what it is told to.
	for _, der := range [][]byte{must(asn1.Marshal([]asn1.ObjectIdentifier{{1, 2, 840, 113549, 1, 9, 7}})), {0x30, 0x80}} {
		faces(t, func(t *testing.T, libest bool) {
			s := esttest.New(t, esttest.Options{LikeLibest: libest, CSRAttrs: der})
			body := string(newClient(t, s).get("csrattrs").want(t, 200).body)
			if got := strings.TrimRight(body, "\r\n\x00"); got != strings.TrimSpace(wrap(der, 76, "\n")) {
				t.Errorf("csrattrs %q", body)
			}
		})
	}
}
