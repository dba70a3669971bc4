package est

import (
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	getCACerts = "GET /.well-known/est/cacerts"
	postEnroll = "POST /.well-known/est/simpleenroll"
)

// With a fresh answer at hand an enrolment is one request over one connection.
func TestFreshCACertsAreNotFetched(t *testing.T) {
	s := newServer(t).start()
	o := s.options()
	first := newClient(t, o)
	if _, err := first.CACerts(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.Known, o.Fresh = first.Known(), time.Minute
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c := newClient(t, o)
	issued, err := c.Enroll(t.Context(), csr, Want{})
	if err != nil || c.Traffic().Connections != 1 || !same(issued.CAs, s.root.cert) {
		t.Fatalf("%v, %+v", err, issued)
	}
	if !c.Known().Fetched.Equal(o.Known.Fetched) {
		t.Errorf("fetched at %v, was %v", c.Known().Fetched, o.Known.Fetched)
	}
	if got := paths(s.log()); !slices.Equal(got, []string{getCACerts, postEnroll}) {
		t.Errorf("asked %v", got)
	}
	// The refresh by timer asks all the same.
	if _, err := c.CACerts(t.Context()); err != nil || !c.Known().Fetched.After(o.Known.Fetched) {
		t.Errorf("%v, fetched at %v, was %v", err, c.Known().Fetched, o.Known.Fetched)
	}
}

// A fresh answer never costs a certificate that has been issued: a CA that has changed since is asked for its
// certificates then, over the same connection.
func TestFreshCACertsThatAreNotEnough(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer bool // /cacerts has the new root
		asked  []string
		want   string // in the error; "" is success
	}{
		{"has the new root", true, []string{postEnroll, getCACerts}, ""},
		{"has it not", false, []string{postEnroll, getCACerts}, "comes from \"CN=new root\""},
	} {
		s := newServer(t)
		young := newRoot(t, "new root")
		young.cert = rootUntil(t, "new root", young.key, time.Now().Add(2*time.Hour))
		s.handlers["cacerts"] = func(w http.ResponseWriter, _ *http.Request) {
			if test.answer {
				s.answer(w, young.cert)
				return
			}
			s.answer(w, s.root.cert)
		}
		s.handlers["simpleenroll"] = func(w http.ResponseWriter, _ *http.Request) {
			s.answer(w, young.issue(t, s.lastDER()))
		}
		s.start()
		o := s.options()
		o.Known = Known{CAs: []*x509.Certificate{s.root.cert}, Fetched: time.Now()}
		o.Fresh = time.Minute
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		c := newClient(t, o)
		issued, err := c.Enroll(t.Context(), csr, Want{})
		switch {
		case test.want == "" && (err != nil || !same(issued.CAs, young.cert, s.root.cert)):
			t.Errorf("%s: %v, %+v", test.name, err, issued)
		case test.want != "" && (!errors.Is(err, ErrBadResponse) || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v", test.name, err)
		}
		if got := paths(s.log()); !slices.Equal(got, test.asked) || c.connections != 1 {
			t.Errorf("%s: asked %v over %d connections", test.name, got, c.connections)
		}
	}
}

// Where the wanting CA certificates cannot be had either, the error says both.
func TestFreshCACertsThatAreNotEnoughAndNoOthers(t *testing.T) {
	s := newServer(t)
	s.handlers["cacerts"] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
	issuing := newRoot(t, "issuing root")
	s.handlers["simpleenroll"] = func(w http.ResponseWriter, _ *http.Request) {
		s.answer(w, issuing.issue(t, s.lastDER()))
	}
	s.start()
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	_, err := newClient(t, s.options()).Enroll(t.Context(), csr, Want{})
	e, is := errors.AsType[*Error](err)
	if !is || e.Class != ErrBadResponse || e.Op != "simpleenroll" || !strings.Contains(err.Error(), "issuing root") ||
		!strings.Contains(err.Error(), "could not be fetched") || !strings.Contains(err.Error(), "HTTP 503") || e.Hint == "" {
		t.Error(err)
	}
}

// A terminator of TLS that answers 400 to whom it does not know refuses the certificate, also where /cacerts was not to
// be asked; a server that does not like the request does not.
func TestRefusedByTLSTerminatorWithFreshCACerts(t *testing.T) {
	for _, refuses := range []bool{true, false} {
		s := newServer(t)
		s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
			if r.Method == http.MethodPost || refuses && len(r.TLS.PeerCertificates) > 0 {
				http.Error(w, "400", http.StatusBadRequest)
				return
			}
			usual.ServeHTTP(w, r)
		}
		s.start()
		o := s.options()
		o.Known, o.Fresh = Known{CAs: []*x509.Certificate{s.root.cert}, Fetched: time.Now()}, time.Minute
		o.Certificate = newRoot(t, "nobody knows").tlsCertificate(t, clientTemplate("gw-1"))
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		_, err := newClient(t, o).Enroll(t.Context(), csr, Want{})
		e, is := errors.AsType[*Error](err)
		if !is || e.Refusal != refuses || errors.Is(err, ErrUnauthorized) != refuses || e.Op != "simpleenroll" ||
			e.Status != http.StatusBadRequest {
			t.Errorf("refuses %v: %v", refuses, err)
		}
	}
}

// An answer without a root serves where a configured anchor stands above it, and takes nothing of what is known.
func TestCACertsWithoutARoot(t *testing.T) {
	root, stored := newRoot(t, "root"), newRoot(t, "stored")
	line := root.sub(t, "line")
	s := newServer(t)
	s.root = root
	s.handlers["cacerts"] = func(w http.ResponseWriter, _ *http.Request) { s.answer(w, line.cert) }
	s.handlers["simpleenroll"] = func(w http.ResponseWriter, _ *http.Request) { s.answer(w, line.issue(t, s.lastDER())) }
	s.start()
	o := s.options()
	o.Known.CAs = []*x509.Certificate{stored.cert}
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c := newClient(t, o)
	issued, err := c.Enroll(t.Context(), csr, Want{})
	if err != nil || !same(issued.Chain, line.cert) || !same(issued.CAs, stored.cert, root.cert) {
		t.Fatalf("%v, %+v", err, issued)
	}
	if !same(c.Known().CAs, stored.cert, line.cert) {
		t.Errorf("known: %v", names(c.Known().CAs))
	}

	// Where nothing stands above it, nothing is asked for.
	o.Known, o.Anchors, o.SystemRoots, o.Roots = Known{}, nil, true, pool(root.cert)
	before := len(s.log())
	_, err = newClient(t, o).Enroll(t.Context(), csr, Want{})
	e, is := errors.AsType[*Error](err)
	if !is || e.Class != ErrBadResponse || e.Op != "cacerts" || !strings.Contains(err.Error(), "no self-signed") ||
		len(s.log()) != before+1 {
		t.Errorf("%v, asked %v", err, paths(s.log()[before:]))
	}
}
