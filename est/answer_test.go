package est

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"testing"
)

// RFC 7030 4.2.3 wants the issued certificate alone. Servers answer more, less well labelled, and in any order; what is
// taken is the certificate for the key, and the chain that leads from it to the root.
func TestAnswersOfManyShapes(t *testing.T) {
	root := newRoot(t, "root")
	line := root.sub(t, "line")
	deep := line.sub(t, "line below")
	stray := newRoot(t, "stray")
	type list = []*x509.Certificate
	for _, test := range []struct {
		name  string
		by    *authority
		with  func(leaf *x509.Certificate) list
		chain list
	}{
		{"leaf alone", root, func(leaf *x509.Certificate) list { return list{leaf} }, nil},
		{"chain in order", deep, func(leaf *x509.Certificate) list { return list{leaf, deep.cert, line.cert} },
			list{deep.cert, line.cert}},
		{"chain and root", deep, func(leaf *x509.Certificate) list { return list{leaf, deep.cert, line.cert, root.cert} },
			list{deep.cert, line.cert}},
		{"upside down", deep, func(leaf *x509.Certificate) list { return list{root.cert, line.cert, deep.cert, leaf} },
			list{deep.cert, line.cert}},
		{"twice", line, func(leaf *x509.Certificate) list { return list{leaf, line.cert, leaf, line.cert} }, list{line.cert}},
		{"among others", line, func(leaf *x509.Certificate) list { return list{stray.cert, line.cert, leaf, deep.cert} },
			list{line.cert}},
	} {
		for _, mediaType := range []string{"application/pkcs7-mime; smime-type=certs-only", "application/pkcs7-mime",
			"Application/PKCS7-MIME;smime-type=\"certs-only\"", ""} {
			s := newServer(t)
			s.root = root
			var leaf *x509.Certificate
			s.handlers["simpleenroll"] = func(w http.ResponseWriter, _ *http.Request) {
				leaf = test.by.issue(t, s.lastDER())
				w.Header()["Content-Type"] = []string{mediaType}
				w.Write(certsOnlyBody(t, test.with(leaf)...))
			}
			s.start()
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			issued, err := newClient(t, s.options()).Enroll(t.Context(), csr, Want{})
			if err != nil {
				t.Errorf("%s, %q: %v", test.name, mediaType, err)
				continue
			}
			if !issued.Leaf.Equal(leaf) || !same(issued.Chain, test.chain...) || !same(issued.CAs, root.cert) {
				t.Errorf("%s, %q: chain %v, CAs %v", test.name, mediaType, names(issued.Chain), names(issued.CAs))
			}
		}
	}
}

// A server that answers a renewal with the very certificate that is being renewed has answered: it is for the key.
func TestSameCertificateAgain(t *testing.T) {
	s := newServer(t)
	key := newKey(t)
	leaf := sign(t, clientTemplate("gw-1"), key, s.root)
	s.handlers["simplereenroll"] = func(w http.ResponseWriter, _ *http.Request) { s.answer(w, leaf) }
	s.start()
	o := s.options()
	o.Certificate = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	csr, err := CreateRequest(key, RenewalTemplate(leaf))
	if err != nil {
		t.Fatal(err)
	}
	issued, err := newClient(t, o).Reenroll(t.Context(), csr, Want{})
	if err != nil || !issued.Leaf.Equal(leaf) || len(issued.Warnings) != 0 {
		t.Errorf("%v, %+v", err, issued)
	}
	// With a new key it is an answer to nothing.
	_, csr = newRequest(t, RenewalTemplate(leaf))
	if _, err := newClient(t, o).Reenroll(t.Context(), csr, Want{}); !errors.Is(err, ErrBadResponse) {
		t.Error(err)
	}
}
