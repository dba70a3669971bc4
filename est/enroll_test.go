package est

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEnrollOverOneConnection(t *testing.T) {
	birth := newRoot(t, "maker of devices").sub(t, "maker's line 2")
	s := newServer(t)
	s.clientAuth = tls.RequestClientCert
	s.clientCAs = poolOf([]*x509.Certificate{s.root.cert}) // names a CA that did not issue our certificate
	s.start()

	o := s.options()
	o.Certificate = birth.tlsCertificate(t, clientTemplate("born as 1"))
	o.UserAgent = "test/1"
	c := newClient(t, o)
	key, csr := newRequest(t, Template{Subject: commonName("gw-1"), DNSNames: []string{"gw-1.example"},
		Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})

	issued, err := c.Enroll(t.Context(), csr, Want{})
	if err != nil {
		t.Fatal(err)
	}
	known := c.Known()
	if !key.PublicKey.Equal(issued.Leaf.PublicKey) || issued.Leaf.Subject.CommonName != "gw-1" {
		t.Errorf("issued %v, for our key: %v", issued.Leaf.Subject, key.PublicKey.Equal(issued.Leaf.PublicKey))
	}
	if len(issued.Chain) != 0 || len(issued.CAs) != 1 || !issued.CAs[0].Equal(s.root.cert) {
		t.Errorf("chain of %d, %d CAs; want none, and the root", len(issued.Chain), len(issued.CAs))
	}
	if len(known.CAs) != 1 || !known.CAs[0].Equal(s.root.cert) || known.Fetched.IsZero() {
		t.Errorf("fetched %d CAs at %v, want the root", len(known.CAs), known.Fetched)
	}
	if len(issued.Warnings) != 0 {
		t.Errorf("warnings: %q", issued.Warnings)
	}
	if c.Traffic().PasswordSent || c.Traffic().Connections != 1 || s.connections() != 1 {
		t.Errorf("password sent: %v; %d connections, the server counts %d; want false, 1, 1",
			c.Traffic().PasswordSent, c.Traffic().Connections, s.connections())
	}

	log := s.log()
	if len(log) != 2 || log[0].URL.Path != "/.well-known/est/cacerts" ||
		log[1].URL.Path != "/.well-known/est/simpleenroll" {
		t.Fatalf("requests: %v", paths(log))
	}
	for _, r := range log {
		// The chain is whole: leaf and intermediate.
		if n := len(r.TLS.PeerCertificates); n != 2 {
			t.Errorf("%s: %d client certificates, want 2", r.URL.Path, n)
		}
		if r.Proto != "HTTP/1.1" || r.TLS.NegotiatedProtocol != "" || r.TLS.DidResume {
			t.Errorf("%s: %s over ALPN %q, resumed: %v", r.URL.Path, r.Proto, r.TLS.NegotiatedProtocol, r.TLS.DidResume)
		}
		if r.Header.Get("Accept-Encoding") != "" || r.Header.Get("Authorization") != "" {
			t.Errorf("%s: header %v", r.URL.Path, r.Header)
		}
		if got := r.Header.Get("User-Agent"); got != "test/1" {
			t.Errorf("User-Agent %q", got)
		}
	}
	post := log[1]
	if len(post.TransferEncoding) != 0 || post.ContentLength != int64(len(post.body)) {
		t.Errorf("transfer encoding %q, Content-Length %d", post.TransferEncoding, post.ContentLength)
	}
	if post.Header.Get("Content-Type") != "application/pkcs10" ||
		post.Header.Get("Content-Transfer-Encoding") != "base64" {
		t.Errorf("header %v", post.Header)
	}
	if !regexp.MustCompile(`^([A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/=]{1,64}\n$`).Match(post.body) {
		t.Errorf("body is not base64 in lines of 64:\n%s", post.body)
	}
	if der, err := base64.StdEncoding.DecodeString(string(post.body)); err != nil || !slices.Equal(der, csr) {
		t.Errorf("body is not the request: %v", err)
	}

	c.Close()
	s.awaitClosed()
	if _, err := c.Enroll(t.Context(), csr, Want{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after Close: %v", err)
	}
}

func paths(log []*received) []string {
	var list []string
	for _, r := range log {
		list = append(list, r.Method+" "+r.URL.Path)
	}
	return list
}

func TestReenrollAsksTheOtherOperationAndTheSameCA(t *testing.T) {
	s := newServer(t).start()
	o := s.options()
	o.Certificate = s.root.tlsCertificate(t, clientTemplate("gw-1"))
	_, csr := newRequest(t, RenewalTemplate(o.Certificate.Leaf))
	c := newClient(t, o)
	issued, err := c.Reenroll(t.Context(), csr, Want{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(issued.Leaf.RawSubject, o.Certificate.Leaf.RawSubject) || c.Traffic().Connections != 1 {
		t.Errorf("subject %v, %d connections", issued.Leaf.Subject, c.Traffic().Connections)
	}
	if got := paths(s.log()); got[len(got)-1] != "POST /.well-known/est/simplereenroll" {
		t.Errorf("requests: %v", got)
	}
}

// A path in front of the well-known one, a label behind it and a trailing slash belong to the URL as configured.
func TestURLPrefixAndLabel(t *testing.T) {
	s := newServer(t)
	var got []string
	s.all = func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		got = append(got, r.URL.EscapedPath())
		s.answer(w, s.root.cert)
	}
	s.start()
	for _, path := range []string{"/pre/.well-known/est/la%20bel", "/.well-known/est/"} {
		o := s.options()
		o.URL = mustParse(t, s.http.URL+path)
		if _, err := newClient(t, o).CACerts(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if want := []string{"/pre/.well-known/est/la%20bel/cacerts", "/.well-known/est/cacerts"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
}

// A server that closes after each answer costs connections and nothing else.
func TestServerThatClosesAfterCACerts(t *testing.T) {
	s := newServer(t)
	s.handlers["cacerts"] = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close")
		s.answer(w, s.root.cert)
	}
	s.start()
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c := newClient(t, s.options())
	issued, err := c.Enroll(t.Context(), csr, Want{})
	if err != nil || c.Traffic().Connections != 2 {
		t.Errorf("%v, %+v", err, issued)
	}
}

func TestCACertsUnavailable(t *testing.T) {
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
	}{
		{"not there", http.NotFound},
		{"unwell", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) }},
		{"garbage", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/pkcs7-mime")
			w.Write([]byte("MIIgarbage"))
		}},
		{"login wanted", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newServer(t)
			s.handlers["cacerts"] = test.handler
			issuing := newRoot(t, "issuing root")
			s.handlers["simpleenroll"] = func(w http.ResponseWriter, r *http.Request) {
				s.answer(w, issuing.issue(t, s.lastDER()))
			}
			s.start()
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})

			// Neither the TLS anchor nor anything stored leads to the issuing CA.
			_, err := newClient(t, s.options()).Enroll(t.Context(), csr, Want{})
			if !errors.Is(err, ErrBadResponse) {
				t.Errorf("without the issuing CA: %v", err)
			}

			o := s.options()
			o.Known.CAs = []*x509.Certificate{issuing.cert}
			c := newClient(t, o)
			issued, err := c.Enroll(t.Context(), csr, Want{})
			if err != nil {
				t.Fatal(err)
			}
			if !c.Known().Fetched.IsZero() || len(issued.CAs) != 1 || !issued.CAs[0].Equal(issuing.cert) {
				t.Errorf("fetched at %v, CAs %d; want never, and the stored one", c.Known().Fetched, len(issued.CAs))
			}
			if len(issued.Warnings) != 1 || !strings.Contains(issued.Warnings[0], "could not be fetched") {
				t.Errorf("warnings %q", issued.Warnings)
			}
		})
	}
}

// lastDER is the request that came last.
func (s *server) lastDER() []byte {
	log := s.log()
	der, err := base64.StdEncoding.DecodeString(string(log[len(log)-1].body))
	if err != nil {
		s.t.Error(err)
	}
	return der
}

// Implicit anchors vouch for the server, never for what it issues; without /cacerts nothing could vouch, and so nothing
// is asked for.
func TestImplicitAnchorsDoNotVouchForIssuedCertificates(t *testing.T) {
	s := newServer(t)
	s.handlers["cacerts"] = http.NotFound
	s.start()
	o := s.options()
	o.Anchors, o.SystemRoots, o.Roots = nil, true, poolOf([]*x509.Certificate{s.root.cert})
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	_, err := newClient(t, o).Enroll(t.Context(), csr, Want{})
	if e, ok := errors.AsType[*Error](err); !ok || e.Op != "cacerts" || e.Status != 404 || e.Refusal {
		t.Errorf("got %v", err)
	}
	if got := paths(s.log()); !slices.Equal(got, []string{"GET /.well-known/est/cacerts"}) {
		t.Errorf("requests %v", got)
	}

	// With /cacerts over that session it can.
	s2 := newServer(t).start()
	o = s2.options()
	o.Anchors, o.SystemRoots, o.Roots = nil, true, poolOf([]*x509.Certificate{s2.root.cert})
	if _, err := newClient(t, o).Enroll(t.Context(), csr, Want{}); err != nil {
		t.Error(err)
	}
}

func TestEnrollRefusesWhatIsNoRequest(t *testing.T) {
	s := newServer(t).start()
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	csr[len(csr)-1] ^= 1 // breaks the signature
	for _, der := range [][]byte{nil, []byte("not DER"), csr} {
		if _, err := newClient(t, s.options()).Enroll(t.Context(), der, Want{}); !errors.Is(err, ErrRejected) {
			t.Errorf("got %v", err)
		}
	}
	if n := s.connections(); n != 0 {
		t.Errorf("%d connections for it", n)
	}
}

// 201 counts where something is created, and nowhere else (RFC 7030 4.1.3).
func TestCreatedIsASuccess(t *testing.T) {
	s := newServer(t)
	s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
		usual.ServeHTTP(&createdWriter{w}, r)
	}
	s.start()
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c := newClient(t, s.options())
	issued, err := c.Enroll(t.Context(), csr, Want{})
	if err != nil {
		t.Fatal(err)
	}
	const want = "CA certificates could not be fetched: .* \\(HTTP 201\\)"
	if len(issued.Warnings) != 1 || !regexp.MustCompile(want).MatchString(issued.Warnings[0]) || len(c.Known().CAs) > 0 {
		t.Errorf("%d CA certificates, warnings %q", len(c.Known().CAs), issued.Warnings)
	}
}

// createdWriter answers 201 where a handler means 200.
type createdWriter struct{ http.ResponseWriter }

func (w *createdWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusCreated)
	return w.ResponseWriter.Write(b)
}

func TestNewRefusesOptionsThatLeadNowhere(t *testing.T) {
	anchor := []*x509.Certificate{newRoot(t, "root").cert}
	for _, test := range []struct {
		name string
		o    Options
		want string
	}{
		{"no URL", Options{Anchors: anchor}, "no URL"},
		{"http", Options{Anchors: anchor, URL: mustParse(t, "http://h/.well-known/est")}, "https only"},
		{"no host", Options{Anchors: anchor, URL: mustParse(t, "https:///.well-known/est")}, "no host"},
		{"login in URL", Options{Anchors: anchor, URL: mustParse(t, "https://u:geheim@h/")}, "login"},
		{"query", Options{Anchors: anchor, URL: mustParse(t, "https://h/?a=b")}, "query"},
		{"nothing trusted", Options{URL: mustParse(t, "https://h/")}, "no trust anchors"},
		{"certificate without key", Options{Anchors: anchor, URL: mustParse(t, "https://h/"),
			Certificate: &tls.Certificate{Certificate: [][]byte{anchor[0].Raw}}}, "without certificate or key"},
	} {
		_, err := New(test.o)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestClockAheadOfTheCA(t *testing.T) {
	s := newServer(t).start()
	o := s.options()
	now := time.Now().Add(48 * time.Hour)
	o.Now = func() time.Time { return now }
	_, err := newClient(t, o).CACerts(t.Context())
	if !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "expired at") ||
		!strings.Contains(err.Error(), "our clock says "+utc(now)) {
		t.Errorf("got %v", err)
	}
}
