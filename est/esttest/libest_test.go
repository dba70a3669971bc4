package esttest_test

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/icholy/digest"

	"certagent/est/esttest"
)

func libest(t *testing.T, o esttest.Options) *esttest.Server {
	t.Helper()
	o.LikeLibest = true
	if o.Workers == 0 {
		o.Workers = 5
	}
	return esttest.New(t, o)
}

func TestLibestTLS(t *testing.T) {
	s := libest(t, esttest.Options{})
	for _, tt := range []struct {
		name string
		set  func(*tls.Config)
		good bool
	}{
		{"as it comes", func(*tls.Config) {}, true},
		{"TLS 1.3 only", func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }, false},
		{"TLS 1.1 only", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 }, false},
		{"P-256 only", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP256} }, true},
		{"X25519 only", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} }, false},
		{"P-384 only", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP384} }, false},
		{"P-521 only", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP521} }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newClient(t, s, withTLS(tt.set)).get("cacerts")
			if !tt.good {
				if r.err == nil {
					t.Fatal("the handshake succeeded")
				}
				return
			}
			r.want(t, http.StatusOK)
			if v := r.TLS.Version; v != tls.VersionTLS12 {
				t.Errorf("TLS version %s", tls.VersionName(v))
			}
		})
	}
	t.Run("no ALPN", func(t *testing.T) {
		r := newClient(t, s, withTLS(func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} })).get("cacerts")
		if r.want(t, 200); r.TLS.NegotiatedProtocol != "" {
			t.Errorf("negotiated %q", r.TLS.NegotiatedProtocol)
		}
	})
	t.Run("no session tickets", func(t *testing.T) {
		c := newClient(t, s, withTLS(func(c *tls.Config) { c.ClientSessionCache = tls.NewLRUClientSessionCache(4) }))
		for range 2 {
			if r := c.get("cacerts").want(t, 200); r.TLS.DidResume {
				t.Error("resumed a session")
			}
			c.http.CloseIdleConnections()
		}
	})
	t.Run("expired or untrusted certificate", func(t *testing.T) {
		other := esttest.New(t, esttest.Options{})
		for _, cert := range []tls.Certificate{born(t, s, "b", -time.Minute), born(t, other, "b", time.Hour)} {
			before := len(s.Logins())
			r := newClient(t, s, withCert(cert)).get("cacerts")
			if r.err == nil || !strings.Contains(r.err.Error(), "remote error: tls:") {
				t.Errorf("error %v, want an alert", r.err)
			}
			if len(s.Logins()) != before {
				t.Error("the request got as far as the handler")
			}
		}
	})
}

func TestLibestRequests(t *testing.T) {
	s := libest(t, esttest.Options{})
	c := newClient(t, s, withPassword("estuser", "estpwd"))
	csr := csrFor(t, "device")
	armoured := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr})
	reader := func(s string) io.Reader { return strings.NewReader(s) }
	for _, tt := range []struct {
		name   string
		method string
		op     string
		body   io.Reader
		status int
	}{
		{"64 columns, LF", "POST", "simpleenroll", reader(wrap(csr, 64, "\n")), 200},
		{"64 columns, CRLF", "POST", "simpleenroll", reader(wrap(csr, 64, "\r\n")), 200},
		{"76 columns, LF", "POST", "simpleenroll", reader(wrap(csr, 76, "\n")), 200},
		{"76 columns, CRLF", "POST", "simpleenroll", reader(wrap(csr, 76, "\r\n")), 200},
		{"PEM", "POST", "simpleenroll", bytes.NewReader(armoured), 200},
		{"chunked", "POST", "simpleenroll", io.MultiReader(reader(wrap(csr, 64, "\n"))), 400},
		{"unwrapped", "POST", "simpleenroll", reader(wrap(csr, 1<<20, "\n")), 400},
		{"unwrapped, no newline", "POST", "simpleenroll", reader(wrap(csr, 1<<20, "")), 400},
		{"DER", "POST", "simpleenroll", bytes.NewReader(csr), 400},
		{"no request", "POST", "simpleenroll", reader("hello\n"), 400},
		{"empty", "POST", "simpleenroll", reader(""), 400},
		{"too long", "POST", "simpleenroll", reader(strings.Repeat("A", 20000)), 413},
		{"simplereenroll without a certificate", "POST", "simplereenroll", reader(wrap(csr, 64, "\n")), 200},
		{"enrol with GET", "GET", "simpleenroll", nil, 400},
		{"cacerts with POST", "POST", "cacerts", reader(""), 400},
		{"HEAD", "HEAD", "cacerts", nil, 400},
		{"DELETE", "DELETE", "cacerts", nil, 400},
		{"trailing slash", "GET", "cacerts/", nil, 404},
		{"unknown operation", "GET", "nothing", nil, 404},
		{"label", "GET", "label/cacerts", nil, 404},
		{"serverkeygen without a request", "POST", "serverkeygen", reader(""), 400},
		{"serverkeygen with GET", "GET", "serverkeygen", nil, 400},
		{"fullcmc", "POST", "fullcmc", reader(""), 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := c.do(tt.method, tt.op, tt.body, "Content-Type", "application/pkcs10").want(t, tt.status)
			if tt.status >= 400 {
				if _, has := r.Header["Content-Type"]; has {
					t.Errorf("Content-Type %q on an error", r.Header["Content-Type"])
				}
				if tt.method != "HEAD" && len(r.body) == 0 {
					t.Error("no text in the error")
				}
			}
		})
	}
	t.Run("Content-Type", func(t *testing.T) {
		c.do("POST", "simpleenroll", reader(wrap(csr, 64, "\n")), "Content-Type", "text/plain").want(t, 400)
		c.do("POST", "simpleenroll", reader(wrap(csr, 64, "\n"))).want(t, 400)
	})
	t.Run("wrong signature", func(t *testing.T) {
		broken := bytes.Clone(csr)
		broken[len(broken)-1] ^= 1
		c.post("simpleenroll", broken).want(t, 400)
	})
}

func TestLibestAnswers(t *testing.T) {
	s := libest(t, esttest.Options{})
	c := newClient(t, s, withPassword("estuser", "estpwd"))

	t.Run("cacerts", func(t *testing.T) {
		r := c.get("cacerts").want(t, 200)
		if ct := r.Header.Get("Content-Type"); ct != "application/pkcs7-mime" {
			t.Errorf("Content-Type %q", ct)
		}
		lines := strings.SplitAfter(string(r.body), "\n")
		for _, l := range lines[:len(lines)-2] {
			if len(l) != 65 {
				t.Errorf("line of %d columns: %q", len(l)-1, l)
			}
		}
		if strings.Contains(string(r.body), "\r") || lines[len(lines)-1] != "" {
			t.Errorf("body %q", r.body)
		}
		if certs := r.certs(t); len(certs) != 1 || !certs[0].Equal(s.Root) {
			t.Errorf("%d certificates", len(certs))
		}
	})
	t.Run("csrattrs", func(t *testing.T) {
		r := c.get("csrattrs").want(t, 200)
		if len(r.body) != 57 || r.body[56] != 0 {
			t.Fatalf("body %q", r.body)
		}
		der, err := base64.StdEncoding.DecodeString(string(r.body[:56]))
		if err != nil {
			t.Fatal(err)
		}
		var oids []asn1.ObjectIdentifier
		if _, err := asn1.Unmarshal(der, &oids); err != nil {
			t.Fatal(err)
		}
		want := "[1.3.6.1.1.1.1.22 1.2.840.113549.1.9.1 1.3.132.0.34 2.16.840.1.101.3.4.2.2]"
		if fmt.Sprint(oids) != want {
			t.Errorf("asks for %v", oids)
		}
	})
	t.Run("subject and extensions", func(t *testing.T) {
		csr := newCSR(t, newKey(t), x509.CertificateRequest{
			Subject: pkix.Name{
				CommonName: "device", SerialNumber: "42",
				Organization: []string{"Makers"}, Country: []string{"JP"},
			},
			DNSNames: []string{"device.example"},
			ExtraExtensions: []pkix.Extension{
				{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Value: must(asn1.Marshal([]asn1.ObjectIdentifier{
					{1, 3, 6, 1, 5, 5, 7, 3, 2}}))},
				{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}},
			},
		})
		r := c.post("simpleenroll", csr)
		certs := r.certs(t)
		if ct := r.Header.Get("Content-Type"); ct != "application/pkcs7-mime; smime-type=certs-only" {
			t.Errorf("Content-Type %q", ct)
		}
		leaf := certs[0]
		if len(certs) != 1 || leaf.IsCA || len(leaf.DNSNames) > 0 || len(leaf.ExtKeyUsage) > 0 {
			t.Errorf("%d certificates, CA %t, SAN %q, EKU %v", len(certs), leaf.IsCA, leaf.DNSNames, leaf.ExtKeyUsage)
		}
		if got := leaf.Subject.String(); got != "SERIALNUMBER=42,CN=device" && got != "CN=device,SERIALNUMBER=42" {
			t.Errorf("subject %s", got)
		}
		if !sameKey(t, leaf, csr) {
			t.Error("certificate for another key")
		}
		verifies(t, leaf, s.Root)
	})
	t.Run("string types of the subject", func(t *testing.T) {
		// What OpenSSL writes for CN=device: a UTF8String.
		raw := []byte{0x30, 0x11, 0x31, 0x0f, 0x30, 0x0d, 6, 3, 0x55, 4, 3, 0x0c, 6, 'd', 'e', 'v', 'i', 'c', 'e'}
		csr := newCSR(t, newKey(t), x509.CertificateRequest{RawSubject: raw})
		if leaf := c.post("simpleenroll", csr).certs(t)[0]; !bytes.Equal(leaf.RawSubject, raw) {
			t.Errorf("subject %x, want %x", leaf.RawSubject, raw)
		}
	})
	t.Run("no common name", func(t *testing.T) {
		csr := newCSR(t, newKey(t), x509.CertificateRequest{Subject: pkix.Name{SerialNumber: "42"}})
		c.post("simpleenroll", csr).want(t, 500)
	})
	t.Run("key types", func(t *testing.T) {
		_, ed, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []crypto.Signer{
			must(rsa.GenerateKey(rand.Reader, 2048)), must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
			must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)), ed,
		} {
			csr := newCSR(t, key, x509.CertificateRequest{Subject: pkix.Name{CommonName: "device"}})
			if leaf := c.post("simpleenroll", csr).certs(t)[0]; !sameKey(t, leaf, csr) {
				t.Errorf("%T: certificate for another key", key)
			}
		}
	})
	t.Run("re-enrolment may change the subject", func(t *testing.T) {
		c := newClient(t, s, withCert(born(t, s, "before", time.Hour)))
		if leaf := c.post("simplereenroll", csrFor(t, "after")).certs(t)[0]; leaf.Subject.CommonName != "after" {
			t.Errorf("subject %s", leaf.Subject)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// dial opens a bare TLS connection, to see what net/http hides.
func dial(t *testing.T, s *esttest.Server) *tls.Conn {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.RootPEM())
	c, err := tls.Dial("tcp", s.Addr(), &tls.Config{RootCAs: pool, ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

// writePost sends an enrolment; headers are whole lines.
func writePost(t *testing.T, w io.Writer, csr []byte, headers string) {
	t.Helper()
	body := wrap(csr, 64, "\n")
	_, err := fmt.Fprintf(w, "POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: localhost\r\n"+
		"Content-Type: application/pkcs10\r\n%sContent-Length: %d\r\n\r\n%s", headers, len(body), body)
	if err != nil {
		t.Fatal(err)
	}
}

func TestLibestDropsAfter401(t *testing.T) {
	s := libest(t, esttest.Options{})
	conn := dial(t, s)
	writePost(t, conn, csrFor(t, "device"), "")
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 401 || resp.Header.Get("Content-Length") != "0" || resp.Close {
		t.Errorf("status %d, headers %v", resp.StatusCode, resp.Header)
	}
	if got := resp.Header.Get("WWW-Authenticate"); got != `Basic realm="estrealm"` {
		t.Errorf("challenge %q", got)
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after the 401: %v, want EOF", err)
	}
}

func TestLibestWritesHeaderAndBodyApart(t *testing.T) {
	s := libest(t, esttest.Options{})
	conn := dial(t, s)
	if _, err := io.WriteString(conn, "GET /.well-known/est/cacerts HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	// A read from crypto/tls never crosses the border of a record, and a write makes one.
	record := make([]byte, 1<<16)
	n, err := conn.Read(record)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(record[:n], []byte("\r\n\r\n")) {
		t.Errorf("first write is %q, want the header alone", record[:n])
	}
}

func TestLibestDigest(t *testing.T) {
	s := libest(t, esttest.Options{Digest: true})
	c := newClient(t, s)
	r := c.post("simpleenroll", csrFor(t, "device")).want(t, 401)
	challenge := r.Header.Get("WWW-Authenticate")
	if !strings.HasPrefix(challenge, `Digest qop="auth", realm="estrealm", nonce="`) ||
		strings.Contains(challenge, "algorithm") || strings.Contains(challenge, "opaque") {
		t.Fatalf("challenge %q", challenge)
	}
	parsed, err := digest.ParseChallenge(challenge)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name           string
		user, password string
		nonce          string
		status         int
	}{
		{"right", "estuser", "estpwd", parsed.Nonce, 200},
		{"wrong password", "estuser", "guess", parsed.Nonce, 401},
		{"wrong user", "nobody", "estpwd", parsed.Nonce, 401},
		{"nonce of nobody", "estuser", "estpwd", strings.Repeat("ab", 16), 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			challenge := *parsed
			challenge.Nonce = tt.nonce
			credentials, err := digest.Digest(&challenge, digest.Options{
				Method: "POST", URI: "/.well-known/est/simpleenroll", Count: 1,
				Username: tt.user, Password: tt.password,
			})
			if err != nil {
				t.Fatal(err)
			}
			c := newClient(t, s) // after a 401 the old connection is dead
			c.do("POST", "simpleenroll", strings.NewReader(wrap(csrFor(t, "device"), 64, "\n")),
				"Content-Type", "application/pkcs10", "Authorization", credentials.String()).want(t, tt.status)
		})
	}
	t.Run("Basic does not count", func(t *testing.T) {
		newClient(t, s, withPassword("estuser", "estpwd")).post("simpleenroll", csrFor(t, "device")).want(t, 401)
	})
}

func TestLibestProofOfPossession(t *testing.T) {
	s := libest(t, esttest.Options{ProofOfPossession: true})
	for _, tt := range []struct {
		name   string
		proof  func(unique []byte) string
		status int
	}{
		{"right", base64.StdEncoding.EncodeToString, 200},
		{"wrong", func([]byte) string { return base64.StdEncoding.EncodeToString(make([]byte, 12)) }, 401},
		{"missing", func([]byte) string { return "" }, 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := dial(t, s)
			unique := conn.ConnectionState().TLSUnique
			if len(unique) != 12 {
				t.Fatalf("tls-unique of %d bytes", len(unique))
			}
			writePost(t, conn, challengeCSR(t, tt.proof(unique)),
				"Authorization: Basic ZXN0dXNlcjplc3Rwd2Q=\r\n")
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
		der, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7})
		if err != nil {
			t.Fatal(err)
		}
		body := newClient(t, s).get("csrattrs").want(t, 200).body
		list, err := base64.StdEncoding.DecodeString(strings.TrimRight(string(body), "\x00"))
		if err != nil || !bytes.HasSuffix(list, der) {
			t.Errorf("csrattrs %x (%v), want challengePassword in it", list, err)
		}
	})
}

// challengeCSR is a request with a challengePassword, which crypto/x509 cannot make; an empty one is left out.
func challengeCSR(t *testing.T, password string) []byte {
	t.Helper()
	return linkedCSR(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}, password)
}

// linkedCSR is a request with an attribute of one string, which is left out if empty.
func linkedCSR(t *testing.T, id asn1.ObjectIdentifier, value string) []byte {
	t.Helper()
	if value == "" {
		return attributeCSR(t, id, nil)
	}
	return attributeCSR(t, id, must(asn1.Marshal(value)))
}

// attributeCSR is a request with an attribute of one value, in DER, which is left out if nil.
func attributeCSR(t *testing.T, id asn1.ObjectIdentifier, value []byte) []byte {
	t.Helper()
	key := newKey(t)
	plain := parseCSR(t, newCSR(t, key, x509.CertificateRequest{Subject: pkix.Name{CommonName: "device"}}))
	type attribute struct {
		ID     asn1.ObjectIdentifier
		Values []asn1.RawValue `asn1:"set"`
	}
	type requestInfo struct {
		Version    int
		Subject    asn1.RawValue
		PublicKey  asn1.RawValue
		Attributes []attribute `asn1:"tag:0,set"`
	}
	info := requestInfo{
		Subject:   asn1.RawValue{FullBytes: plain.RawSubject},
		PublicKey: asn1.RawValue{FullBytes: plain.RawSubjectPublicKeyInfo},
	}
	if value != nil {
		info.Attributes = []attribute{{id, []asn1.RawValue{{FullBytes: value}}}}
	}
	der := must(asn1.Marshal(info))
	sum := sha256.Sum256(der)
	signature := must(key.Sign(rand.Reader, sum[:], crypto.SHA256))
	return must(asn1.Marshal(struct {
		Info      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}{
		asn1.RawValue{FullBytes: der},
		pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}},
		asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)},
	}))
}

func TestLibestManualApproval(t *testing.T) {
	s := libest(t, esttest.Options{ManualApproval: true})
	c := newClient(t, s, withPassword("estuser", "estpwd"))
	csr := csrFor(t, "device")
	r := c.post("simpleenroll", csr).want(t, 202)
	if r.Header.Get("Retry-After") != "3600" || len(r.body) > 0 {
		t.Errorf("Retry-After %q, body %q", r.Header.Get("Retry-After"), r.body)
	}
	if leaf := c.post("simpleenroll", csr).certs(t)[0]; !sameKey(t, leaf, csr) {
		t.Error("certificate for another key")
	}
	c.post("simpleenroll", csrFor(t, "device")).want(t, 202)
}

// With one worker a connection that does nothing keeps the next one waiting, until it is closed or has been idle too
// long.
func TestLibestWorkers(t *testing.T) {
	waits := func(t *testing.T, s *esttest.Server) net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", s.Addr()) // the kernel accepts
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(s.RootPEM())
		hello := tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "localhost"})
		conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
		if err := hello.Handshake(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("handshake of the second connection: %v, want none to take place", err)
		}
		return conn
	}
	t.Run("closed", func(t *testing.T) {
		s := libest(t, esttest.Options{Workers: 1})
		first, second := newClient(t, s), newClient(t, s)
		first.get("cacerts").want(t, 200)
		waits(t, s).Close()
		first.http.CloseIdleConnections()
		second.get("cacerts").want(t, 200)
	})
	t.Run("idle", func(t *testing.T) {
		const idle = 3 * time.Second
		s := libest(t, esttest.Options{Workers: 1, WorkerIdle: idle})
		first, second := newClient(t, s), newClient(t, s)
		began := time.Now()
		first.get("cacerts").want(t, 200)
		second.get("cacerts").want(t, 200) // the first stays open
		if waited := time.Since(began); waited < idle {
			t.Errorf("the second connection was served after %v, want it to wait for %v", waited, idle)
		}
	})
	t.Run("five", func(t *testing.T) {
		s := libest(t, esttest.Options{Workers: 5})
		for range 5 {
			newClient(t, s).get("cacerts").want(t, 200)
		}
		waits(t, s)
	})
}
