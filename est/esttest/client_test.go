package esttest_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mozilla.org/pkcs7"

	"certagent/est/esttest"
)

// client is the least that speaks EST: net/http with a login. It shares nothing with package est.
type client struct {
	t    *testing.T
	url  string
	http *http.Client
	user string // with password, sent unasked if not empty
	pass string
}

type clientOption func(*client, *tls.Config)

// withCert offers a certificate even if the server did not name its issuer.
func withCert(c tls.Certificate) clientOption {
	return func(_ *client, cfg *tls.Config) {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
	}
}

func withPassword(user, pass string) clientOption {
	return func(c *client, _ *tls.Config) { c.user, c.pass = user, pass }
}

func withTLS(f func(*tls.Config)) clientOption {
	return func(_ *client, cfg *tls.Config) { f(cfg) }
}

// newClient trusts the server's root. Its connections are kept alive, and closed with the test.
func newClient(t *testing.T, s *esttest.Server, options ...clientOption) *client {
	t.Helper()
	c := &client{t: t, url: s.URL()}
	cfg := &tls.Config{RootCAs: x509.NewCertPool()}
	cfg.RootCAs.AppendCertsFromPEM(s.RootPEM())
	for _, o := range options {
		o(c, cfg)
	}
	transport := &http.Transport{TLSClientConfig: cfg}
	t.Cleanup(transport.CloseIdleConnections)
	c.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	return c
}

// reply is an answer, or the error in its place.
type reply struct {
	*http.Response
	body []byte
	err  error
}

func (c *client) do(method, op string, body io.Reader, headers ...string) reply {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, c.url+"/"+op, body)
	if err != nil {
		c.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	if c.user != "" {
		r.SetBasicAuth(c.user, c.pass)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return reply{err: err}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return reply{resp, data, err}
}

func (c *client) get(op string) reply { return c.do(http.MethodGet, op, nil) }

// post sends a request as all servers like it: base64 in lines, with a length.
func (c *client) post(op string, csr []byte) reply {
	return c.do(http.MethodPost, op, strings.NewReader(wrap(csr, 64, "\n")),
		"Content-Type", "application/pkcs10", "Content-Transfer-Encoding", "base64")
}

// want ends the test unless the answer has this status.
func (r reply) want(t *testing.T, status int) reply {
	t.Helper()
	if r.err != nil {
		t.Fatalf("no answer: %v", r.err)
	}
	if r.StatusCode != status {
		t.Fatalf("status %d, want %d; body %q", r.StatusCode, status, r.body)
	}
	return r
}

// certs decodes a certs-only answer.
func (r reply) certs(t *testing.T) []*x509.Certificate {
	t.Helper()
	r.want(t, http.StatusOK)
	der, err := base64.StdEncoding.DecodeString(string(r.body))
	if err != nil {
		t.Fatal(err)
	}
	message, err := pkcs7.Parse(der)
	if err != nil {
		t.Fatal(err)
	}
	if len(message.Certificates) == 0 {
		t.Fatal("no certificate in the answer")
	}
	return message.Certificates
}

func wrap(der []byte, columns int, newline string) string {
	var b strings.Builder
	for line := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(der)), columns) {
		b.Write(line)
		b.WriteString(newline)
	}
	return b.String()
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCSR(t *testing.T, key crypto.Signer, template x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// csrFor is a plain request for a name with a key of its own.
func csrFor(t *testing.T, cn string) []byte {
	t.Helper()
	return newCSR(t, newKey(t), x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}})
}

// born is a bootstrap certificate of the server's CA.
func born(t *testing.T, s *esttest.Server, cn string, lifetime time.Duration) tls.Certificate {
	t.Helper()
	c, err := tls.X509KeyPair(s.IssueBootstrap(cn, lifetime))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func parseCSR(t *testing.T, der []byte) *x509.CertificateRequest {
	t.Helper()
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// verifies fails the test unless leaf chains to root for a TLS client.
func verifies(t *testing.T, leaf, root *x509.Certificate, between ...*x509.Certificate) {
	t.Helper()
	options := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	options.Roots.AddCert(root)
	for _, c := range between {
		options.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(options); err != nil {
		t.Errorf("%q does not verify: %v", leaf.Subject, err)
	}
}

// faces runs a test against both.
func faces(t *testing.T, f func(t *testing.T, libest bool)) {
	t.Run("globalsign", func(t *testing.T) { f(t, false) })
	t.Run("libest", func(t *testing.T) { f(t, true) })
}

// sameKey reports whether a certificate is for the key of a request.
func sameKey(t *testing.T, cert *x509.Certificate, csr []byte) bool {
	t.Helper()
	return bytes.Equal(cert.RawSubjectPublicKeyInfo, parseCSR(t, csr).RawSubjectPublicKeyInfo)
}
