package esttest

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"

	"github.com/globalsign/est"
	"go.mozilla.org/pkcs7"
)

// globalsignFace is globalsign/est's router before the CA. The router serves any label; the face lets only its own in.
type globalsignFace struct {
	server *Server
	router http.Handler
}

func newGlobalsignFace(s *Server) (*globalsignFace, error) {
	router, err := est.NewRouter(&est.ServerConfig{
		CA: globalsignCA{s},
		CheckBasicAuth: func(_ context.Context, r *http.Request, _, _, _ string) error {
			if !s.mayEnrol(exchangeOf(r).login) {
				return errors.New("no login")
			}
			return nil
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make EST router: %w", err)
	}
	return &globalsignFace{s, router}, nil
}

func (f *globalsignFace) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op, ok := f.server.operation(r.URL.Path)
	if !ok {
		http.NotFound(w, r)
		return
	}
	o := f.server.options
	chain := o.SendChain && (op == "simpleenroll" || op == "simplereenroll")
	if !chain && (o.CSRAttrs == nil || op != "csrattrs") {
		f.router.ServeHTTP(w, r)
		return
	}
	answer := capture(f.router, r)
	switch issued := exchangeOf(r).login.Issued; {
	case answer.status != http.StatusOK:
	case op == "csrattrs": // the router would decode it, and encode it in an order of its own
		answer.body = base64Lines(o.CSRAttrs, 76, "\r\n")
	case issued != nil:
		body, err := certsOnly(append([]*x509.Certificate{issued}, f.server.ca().intermediates()...), 76, "\r\n")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		answer.body = body
	}
	answer.writeTo(w)
}

// certsOnly encodes certificates as base64 lines of a certs-only CMS message (RFC 5272 section 4.1).
func certsOnly(certs []*x509.Certificate, columns int, newline string) ([]byte, error) {
	var der []byte
	for _, c := range certs {
		der = append(der, c.Raw...)
	}
	message, err := pkcs7.DegenerateCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("encode certs-only message: %w", err)
	}
	return base64Lines(message, columns, newline), nil
}

func base64Lines(der []byte, columns int, newline string) []byte {
	var lines []byte
	for text := base64.StdEncoding.EncodeToString(der); text != ""; {
		n := min(columns, len(text))
		lines = append(lines, text[:n]+newline...)
		text = text[n:]
	}
	return lines
}

// globalsignCA is the CA as globalsign/est wants to see it.
type globalsignCA struct{ server *Server }

var _ est.CA = globalsignCA{}

func (c globalsignCA) CACerts(context.Context, string, *http.Request) ([]*x509.Certificate, error) {
	return c.server.caCerts(), nil
}

func (c globalsignCA) CSRAttrs(context.Context, string, *http.Request) (est.CSRAttrs, error) {
	if c.server.options.ProofOfPossession {
		return est.CSRAttrs{OIDs: []asn1.ObjectIdentifier{oidChallengePassword}}, nil
	}
	return est.CSRAttrs{}, nil
}

func (c globalsignCA) Enroll(
	_ context.Context, csr *x509.CertificateRequest, _ string, r *http.Request,
) (*x509.Certificate, error) {
	if c.server.options.ProofOfPossession && !provesPossession(csr, r.TLS.TLSUnique, oidChallengePassword, oidIdentityLinking) {
		return nil, refusal{http.StatusBadRequest, "the request is not linked to its TLS session", 0}
	}
	cert, err := c.server.enrol(exchangeOf(r), csr)
	return cert, refusalOf(err)
}

// refusalOf turns an error of the CA into one that the router understands.
func refusalOf(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNotApproved):
		return refusal{http.StatusAccepted, err.Error(), approvalSeconds}
	}
	return refusal{http.StatusBadRequest, err.Error(), 0}
}

func (c globalsignCA) Reenroll(
	ctx context.Context, _ *x509.Certificate, csr *x509.CertificateRequest, label string, r *http.Request,
) (*x509.Certificate, error) {
	return c.Enroll(ctx, csr, label, r)
}

func (c globalsignCA) ServerKeyGen(
	_ context.Context, csr *x509.CertificateRequest, _ string, r *http.Request,
) (*x509.Certificate, []byte, error) {
	cert, key, err := c.server.serverKey(exchangeOf(r), csr)
	return cert, key, refusalOf(err)
}

func (c globalsignCA) TPMEnroll(
	context.Context, *x509.CertificateRequest, []*x509.Certificate, []byte, []byte, string, *http.Request,
) (blob, secret, cred []byte, err error) {
	return nil, nil, nil, refusal{http.StatusNotImplemented, "no TPM enrolment", 0}
}

// approvalSeconds is the Retry-After under ManualApproval, that of libest.
const approvalSeconds = 3600

// refusal is an est.Error: it becomes status and Retry-After of the answer.
type refusal struct {
	status     int
	text       string
	retryAfter int
}

var _ est.Error = refusal{}

func (e refusal) Error() string   { return e.text }
func (e refusal) StatusCode() int { return e.status }
func (e refusal) RetryAfter() int { return e.retryAfter }
