package est

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/est/esttest"
)

// linker is a caller that can link its requests, and counts how often it had to.
type linker struct {
	t        testing.TB
	key      *ecdsa.PrivateKey
	template Template
	bindings []Binding
}

func newLinker(t testing.TB) *linker {
	return &linker{t: t, key: newKey(t), template: Template{
		Subject: commonName("gw-1"), DNSNames: []string{"gw-1.example"},
		Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}}
}

func (l *linker) csr() []byte {
	l.t.Helper()
	der, err := CreateRequest(l.key, l.template)
	if err != nil {
		l.t.Fatal(err)
	}
	return der
}

func (l *linker) link(b Binding) ([]byte, error) {
	l.bindings = append(l.bindings, b)
	linked := l.template
	linked.Binding = &b
	return CreateRequest(l.key, linked)
}

func faceOptions(t testing.TB, s *esttest.Server) Options {
	t.Helper()
	return Options{URL: mustParse(t, s.URL()), Anchors: []*x509.Certificate{s.TLSRoot}, Timeout: 20 * time.Second}
}

// RFC 7030 3.5: the link is that of the very connection the request goes over, so that a fresh one after a 401 takes a
// request made anew, for the same key. The server compares.
func TestLinkedRequest(t *testing.T) {
	for _, test := range []struct {
		name        string
		face        esttest.Options
		password    bool
		connections int
	}{
		{"libest, certificate", esttest.Options{LikeLibest: true}, false, 1},
		{"libest, password", esttest.Options{LikeLibest: true}, true, 2},
		{"libest, Digest", esttest.Options{LikeLibest: true, Digest: true}, true, 2},
		{"libest, certificate and password", esttest.Options{LikeLibest: true, AskPassword: true}, true, 2},
		{"globalsign, certificate", esttest.Options{}, false, 1},
		{"globalsign, password", esttest.Options{}, true, 2},
		{"globalsign, estIdentityLinking", esttest.Options{CSRAttrs: seq(oidDER(t, oidESTIdentityLinking))}, false, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.face.ProofOfPossession = true
			s := esttest.New(t, test.face)
			o := faceOptions(t, s)
			if test.password {
				o.Login = &Login{Username: esttest.DefaultUser, Password: esttest.DefaultPassword}
			}
			if !test.password || test.face.AskPassword {
				pair, err := tls.X509KeyPair(s.IssueBootstrap("born as 1", time.Hour))
				if err != nil {
					t.Fatal(err)
				}
				o.Certificate = &pair
			}
			l := newLinker(t)
			c := newClient(t, o)
			a, err := c.Attributes(t.Context())
			if err != nil || a == nil || !a.Link || !c.Known().Linking {
				t.Fatalf("%+v, %v", a, err)
			}
			issued, err := c.Enroll(t.Context(), l.csr(), Want{Link: l.link})
			if err != nil {
				t.Fatal(err)
			}
			if !l.key.PublicKey.Equal(issued.Leaf.PublicKey) || c.Traffic().Connections != test.connections {
				t.Errorf("for our key: %v, %d connections", l.key.PublicKey.Equal(issued.Leaf.PublicKey), c.Traffic().Connections)
			}
			if len(l.bindings) != test.connections {
				t.Fatalf("%d links for %d connections", len(l.bindings), test.connections)
			}
			if test.connections == 2 && l.bindings[0].Value == l.bindings[1].Value {
				t.Error("the link of one connection was used for another")
			}
		})
	}
}

// linkOf returns what stands in one of the attributes that link, read from bytes alone.
func linkOf(der []byte, id asn1.ObjectIdentifier) string {
	name, err := asn1.Marshal(id)
	if err != nil {
		return ""
	}
	_, rest, found := bytes.Cut(der, name)
	if !found || len(rest) < 4 || rest[0] != 0x31 || int(rest[3]) > len(rest)-4 {
		return ""
	}
	return string(rest[4 : 4+rest[3]])
}

// wantsLink has s refuse requests that are not linked by one of the attributes.
func wantsLink(s *server, ids ...asn1.ObjectIdentifier) {
	s.handlers["simpleenroll"] = func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		der, _ := base64.StdEncoding.DecodeString(string(body))
		for _, id := range ids {
			if unique := r.TLS.TLSUnique; unique != nil && linkOf(der, id) == base64.StdEncoding.EncodeToString(unique) {
				s.answer(w, s.root.issue(s.t, der))
				return
			}
		}
		http.Error(w, "not linked", http.StatusUnauthorized)
	}
}

func versions(log []*received) []uint16 {
	var list []uint16
	for _, r := range log {
		list = append(list, r.TLS.Version)
	}
	return list
}

// That a server wants the link is heard over TLS 1.3 where it speaks that; the request goes over a connection of 1.2,
// and the next attempt begins with one.
func TestLinkingTakesTLS12AndIsRemembered(t *testing.T) {
	s := newServer(t)
	csrattrs(s, 200, base64.StdEncoding.EncodeToString(seq(oidDER(t, oidChallengePassword))))
	wantsLink(s, oidChallengePassword)
	s.start()
	o := s.options()
	l := newLinker(t)
	for i, want := range [][]uint16{
		{tls.VersionTLS13, tls.VersionTLS12, tls.VersionTLS12},
		{tls.VersionTLS12, tls.VersionTLS12, tls.VersionTLS12},
	} {
		before, connections := len(s.log()), s.connections()
		c := newClient(t, o)
		if _, err := c.Attributes(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Enroll(t.Context(), l.csr(), Want{Link: l.link}); err != nil {
			t.Fatal(err)
		}
		if got := versions(s.log()[before:]); !slices.Equal(got, want) || c.Traffic().Connections != 2-i ||
			s.connections()-connections != 2-i {
			t.Errorf("versions %x, %d connections", got, c.Traffic().Connections)
		}
		o.Known = c.Known()
		c.Close()
	}
	if len(l.bindings) != 2 {
		t.Errorf("%d links for two requests", len(l.bindings))
	}

	// When it asks no more, the attempt after that is back at TLS 1.3.
	s2 := newServer(t).start()
	o.URL, o.Anchors = s2.base(), []*x509.Certificate{s2.root.cert}
	c := newClient(t, o)
	if a, err := c.Attributes(t.Context()); a != nil || err != nil || c.Known().Linking {
		t.Errorf("%+v, %v, known %+v", a, err, c.Known())
	}
}

// RFC 7030 3.5 would have requests linked even where nobody asks; the configuration says whether.
func TestLinkingByConfiguration(t *testing.T) {
	s := newServer(t)
	wantsLink(s, oidChallengePassword)
	s.start()
	o := s.options()
	o.LinkIdentity = true
	l := newLinker(t)
	c := newClient(t, o)
	issued, err := c.Enroll(t.Context(), l.csr(), Want{Link: l.link})
	if err != nil || c.Traffic().Connections != 1 || len(l.bindings) != 1 || c.Known().Linking {
		t.Errorf("%+v, %v, %d links, known %+v", issued, err, len(l.bindings), c.Known())
	}
}

// RFC 7894 4: of the two, estIdentityLinking. An answer of earlier says so as well as one of now.
func TestLinkStandsWhereTheServerSaid(t *testing.T) {
	both := seq(oidDER(t, oidChallengePassword), oidDER(t, oidESTIdentityLinking))
	s := newServer(t)
	csrattrs(s, 200, base64.StdEncoding.EncodeToString(both))
	wantsLink(s, oidESTIdentityLinking)
	s.start()
	l := newLinker(t)
	c := newClient(t, s.options())
	if _, err := c.Attributes(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Enroll(t.Context(), l.csr(), Want{Link: l.link}); err != nil {
		t.Error(err)
	}
	o := s.options()
	o.Known = Known{Attributes: both, Linking: true}
	if _, err := newClient(t, o).Enroll(t.Context(), l.csr(), Want{Link: l.link}); err != nil {
		t.Error(err)
	}
	for _, b := range l.bindings {
		if !b.Attribute.Equal(oidESTIdentityLinking) {
			t.Errorf("link in %v", b.Attribute)
		}
	}
}

// RFC 7030 3.2.1: a redirect over another connection takes a request made anew.
func TestLinkedRequestIsMadeAnewAfterARedirect(t *testing.T) {
	for _, test := range []struct {
		name   string
		closes bool
		other  bool // redirects to another server
		links  int
	}{
		{"same connection", false, false, 1},
		{"fresh connection", true, false, 2},
		{"another server", false, true, 2},
	} {
		s := newServer(t)
		wantsLink(s, oidChallengePassword)
		other := newServer(t)
		other.root = s.root
		wantsLink(other, oidChallengePassword)
		other.start()
		s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
			if strings.HasSuffix(r.URL.Path, "/simpleenroll") && r.URL.RawQuery == "" {
				if test.closes {
					w.Header().Set("Connection", "close")
				}
				to := r.URL.Path + "?again"
				if test.other {
					to = other.http.URL + to
				}
				http.Redirect(w, r, to, http.StatusTemporaryRedirect)
				return
			}
			usual.ServeHTTP(w, r)
		}
		s.start()
		o := s.options()
		o.LinkIdentity, o.RedirectHosts = true, []string{other.base().Host}
		l := newLinker(t)
		c := newClient(t, o)
		if _, err := c.Enroll(t.Context(), l.csr(), Want{Link: l.link}); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if c.Traffic().Connections != test.links || len(l.bindings) != test.links {
			t.Errorf("%s: %d connections, %d links", test.name, c.Traffic().Connections, len(l.bindings))
		}
	}
}

// A server that speaks TLS 1.3 alone cannot be given a link, and is asked again whether it wants one.
func TestLinkToAServerWithoutTLS12(t *testing.T) {
	s := newServer(t)
	csrattrs(s, 200, base64.StdEncoding.EncodeToString(seq(oidDER(t, oidChallengePassword))))
	s.minVersion = tls.VersionTLS13
	s.start()
	l := newLinker(t)
	for _, configured := range []bool{false, true} {
		o := s.options()
		o.LinkIdentity = configured
		c := newClient(t, o)
		if !configured {
			if _, err := c.Attributes(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		_, err := c.Enroll(t.Context(), l.csr(), Want{Link: l.link})
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Class != ErrRejected || e.Refusal || !strings.Contains(err.Error(), "would have to speak TLS 1.2") ||
			!strings.Contains(e.Hint, "offer TLS 1.2") {
			t.Errorf("configured %v: %v (%+v)", configured, err, e)
		}
		if known := c.Known(); known.Linking || !known.AttributesFetched.IsZero() {
			t.Errorf("known %+v", known)
		}
	}
	if len(l.bindings) != 0 {
		t.Errorf("%d links", len(l.bindings))
	}
}

// A server that was changed to TLS 1.3 alone, and asks for the link no more, is lost for no attempt.
func TestServerThatGaveUpTheLinkWithTLS12(t *testing.T) {
	s := newServer(t)
	csrattrs(s, 200, "MAA=")
	s.minVersion = tls.VersionTLS13
	s.start()
	o := s.options()
	o.Known = Known{Attributes: seq(oidDER(t, oidChallengePassword)), AttributesFetched: time.Now().Add(-time.Hour),
		Linking: true}
	l := newLinker(t)
	c := newClient(t, o)
	if a, err := c.Attributes(t.Context()); a != nil || err != nil || c.Known().Linking {
		t.Fatalf("%+v, %v, known %+v", a, err, c.Known())
	}
	if _, err := c.Enroll(t.Context(), l.csr(), Want{Link: l.link}); err != nil || len(l.bindings) != 0 {
		t.Errorf("%v, %d links", err, len(l.bindings))
	}
}

// Nor is one that still has TLS 1.2, but nothing in it that we have: no alert says that another version would do.
func TestServerThatLeftNothingOfTLS12(t *testing.T) {
	s := newServer(t)
	csrattrs(s, 200, "MAA=")
	s.start()
	s.http.TLS.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256} // its certificate is for ECDSA
	o := s.options()
	o.Known = Known{Attributes: seq(oidDER(t, oidChallengePassword)), AttributesFetched: time.Now(), Linking: true}
	for _, fresh := range []time.Duration{time.Hour, 0} {
		o.Fresh = fresh
		c := newClient(t, o)
		a, err := c.Attributes(t.Context())
		if fresh > 0 { // a stored answer is not doubted before it has failed once
			_, err = c.Enroll(t.Context(), newLinker(t).csr(), Want{Link: newLinker(t).link})
			if known := c.Known(); err == nil || known.Linking || known.freshAttributes(fresh, time.Now()) {
				t.Errorf("%v, known %+v", err, known)
			}
			continue
		}
		if _, missing := c.Enroll(t.Context(), newLinker(t).csr(), Want{}); a != nil || err != nil || missing != nil {
			t.Errorf("%+v, %v, %v", a, err, missing)
		}
	}
}

// What the link takes is asked of those servers alone to which a request may go.
func TestLinkingIsNoConcernOfWhereCACertsAre(t *testing.T) {
	s, elsewhere := newServer(t), newServer(t)
	elsewhere.root, elsewhere.minVersion = s.root, tls.VersionTLS13
	elsewhere.start()
	s.redirecting("cacerts", http.StatusFound, func() string { return elsewhere.base().JoinPath("cacerts").String() })
	csrattrs(s, 200, base64.StdEncoding.EncodeToString(seq(oidDER(t, oidChallengePassword))))
	wantsLink(s, oidChallengePassword)
	s.start()
	l := newLinker(t)
	c := newClient(t, s.options())
	if _, err := c.Attributes(t.Context()); err != nil {
		t.Fatal(err)
	}
	issued, err := c.Enroll(t.Context(), l.csr(), Want{Link: l.link})
	if err != nil || len(issued.Warnings) > 0 || !c.Known().Linking {
		t.Errorf("%v, %+v, linking %v", err, issued, c.Known().Linking)
	}
}

// What Want.Link returns must be the same request in all but the link.
func TestLinkedRequestMustBeTheSame(t *testing.T) {
	s := newServer(t).start()
	l := newLinker(t)
	with := func(change func(*Template), key crypto.Signer) func(Binding) ([]byte, error) {
		return func(b Binding) ([]byte, error) {
			changed := l.template
			changed.Binding = &b
			change(&changed)
			return CreateRequest(key, changed)
		}
	}
	for _, test := range []struct {
		name string
		link func(Binding) ([]byte, error)
		want string
	}{
		{"nobody to make it", nil, "this one cannot be"},
		{"not made", func(Binding) ([]byte, error) { return nil, errors.New("no key") }, "linked to the TLS session: no key"},
		{"not a request", func(Binding) ([]byte, error) { return []byte("x"), nil }, "parse certification request"},
		{"another key", with(func(*Template) {}, newKey(t)), "for another key"},
		{"another subject", with(func(t *Template) { t.Subject = commonName("gw-2") }, l.key), "for another subject"},
		{"other names", with(func(t *Template) { t.DNSNames = nil }, l.key), "other names"},
		{"CA", with(func(t *Template) { t.CA = true }, l.key), "other names or extensions"},
		{"no link", with(func(t *Template) { t.Binding = nil }, l.key), "does not carry the link"},
		{"other link", with(func(t *Template) { t.Binding.Value = "eA==" }, l.key), "does not carry the link"},
		{"link elsewhere", with(func(t *Template) { t.Binding = &Binding{oidESTIdentityLinking, t.Binding.Value} }, l.key),
			"does not carry the link"},
		{"broken signature", func(b Binding) ([]byte, error) {
			der, err := l.link(b)
			der[len(der)-1] ^= 1
			return der, err
		}, "check certification request"},
	} {
		o := s.options()
		o.Known.Linking = true
		before := len(s.log())
		_, err := newClient(t, o).Enroll(t.Context(), l.csr(), Want{Link: test.link})
		if e, ok := errors.AsType[*Error](err); !ok || e.Class != ErrRejected || e.Refusal ||
			!strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
		if got := paths(s.log()[before:]); !slices.Equal(got, []string{"GET /.well-known/est/cacerts"}) {
			t.Errorf("%s: requests %v", test.name, got)
		}
	}
}

// libest answers 401 to a request without link as it does to a wrong password, and a proxy that ends TLS makes a link
// that is right look wrong: the hint says both.
func TestRefusalForTheLinkIsNamed(t *testing.T) {
	behind := esttest.New(t, esttest.Options{LikeLibest: true, ProofOfPossession: true, Workers: 5})
	direct := faceOptions(t, behind)

	target, err := url.Parse(behind.URL())
	if err != nil {
		t.Fatal(err)
	}
	front := newServer(t)
	reverse := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "https", target.Host },
		Transport: &http.Transport{DisableKeepAlives: true,
			TLSClientConfig: &tls.Config{RootCAs: poolOf([]*x509.Certificate{behind.TLSRoot})}},
	}
	front.all = func(w http.ResponseWriter, r *http.Request, _ http.Handler) { reverse.ServeHTTP(w, r) }
	front.start()
	proxied := front.options()

	for _, test := range []struct {
		name string
		o    Options
		link bool
		want string
	}{
		{"not linked", direct, false, "not linked to its TLS session"},
		{"behind a proxy", proxied, true, "TLS ends at a proxy"},
	} {
		l := newLinker(t)
		test.o.Login = &Login{Username: esttest.DefaultUser, Password: esttest.DefaultPassword}
		test.o.LinkIdentity = test.link
		_, err := newClient(t, test.o).Enroll(t.Context(), l.csr(), Want{Link: l.link})
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Class != ErrUnauthorized || e.Status != 401 || !strings.Contains(e.Hint, test.want) {
			t.Errorf("%s: %v (%+v)", test.name, err, e)
		}
	}
}

func TestRequestWithBinding(t *testing.T) {
	for _, test := range []struct {
		binding Binding
		want    string // in the error; "" means none
	}{
		{Binding{oidChallengePassword, "AAECAwQFBgcICQoL"}, ""},
		{Binding{oidESTIdentityLinking, "+/8="}, ""},
		{Binding{oidChallengePassword, strings.Repeat("A", 255)}, ""},
		{Binding{oidChallengePassword, strings.Repeat("A", 256)}, "1 to 255"},
		{Binding{oidChallengePassword, ""}, "1 to 255"},
		{Binding{oidCommonName, "A"}, "is no link"},
	} {
		l := newLinker(t)
		der, err := l.link(test.binding)
		if test.want != "" {
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%+v: %v, want %q", test.binding, err, test.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", test.binding, err)
			continue
		}
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil || csr.CheckSignature() != nil || !slices.Equal(csr.DNSNames, l.template.DNSNames) {
			t.Errorf("%v, names %v", err, csr.DNSNames)
		}
		if err := differOnlyInBinding(l.csr(), der, test.binding); err != nil {
			t.Error(err)
		}
	}
}

func FuzzDifferOnlyInBinding(f *testing.F) {
	l := newLinker(f)
	b := Binding{oidChallengePassword, "AAECAwQFBgcICQoL"}
	plain := l.csr()
	linked, err := l.link(b)
	if err != nil {
		f.Fatal(err)
	}
	l.template.Subject = commonName("gw-2")
	other, err := l.link(b)
	if err != nil {
		f.Fatal(err)
	}
	for _, pair := range [][2][]byte{{plain, linked}, {plain, plain}, {plain, other}, {linked, linked}, {nil,
		linked}, {plain, nil}} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		if differOnlyInBinding(first, second, b) != nil {
			return
		}
		// Then both ask for the same, whatever else stands in them.
		p, err := x509.ParseCertificateRequest(first)
		if err != nil {
			t.Fatal(err)
		}
		l, err := parseAsked(second)
		if err != nil {
			t.Fatal(err)
		}
		name, err := parseName(p.RawSubject)
		if err != nil || !slices.Equal(name, l.subject) || !bytes.Contains(second, []byte(b.Value)) {
			t.Errorf("%v, %v and %v", err, name, l.subject)
		}
		if key, ok := l.key.(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(p.PublicKey) {
			t.Error("another key")
		}
	})
}

// A Digest of quality auth-int (RFC 7616 3.4.3) covers the body: that of the request which was made anew for the
// connection on which the login goes.
func TestLinkedRequestUnderADigestOfTheBody(t *testing.T) {
	const realm, nonce = "r", "n1"
	s := newServer(t)
	wantsLink(s, oidChallengePassword)
	linked := s.handlers["simpleenroll"]
	hash := func(parts ...string) string {
		sum := sha256.Sum256([]byte(strings.Join(parts, ":")))
		return hex.EncodeToString(sum[:])
	}
	parameter := func(header, name string) string {
		_, rest, _ := strings.Cut(header, name+"=")
		value, _, _ := strings.Cut(rest, ",")
		return strings.Trim(value, `" `)
	}
	s.handlers["simpleenroll"] = func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		h := r.Header.Get("Authorization")
		want := hash(hash("u", realm, "p"), nonce, parameter(h, "nc"), parameter(h, " cnonce"), "auth-int",
			hash(r.Method, r.URL.RequestURI(), hash(string(body))))
		if parameter(h, "response") != want {
			w.Header().Set("WWW-Authenticate", `Digest qop="auth-int", algorithm=SHA-256, realm="`+realm+`", nonce="`+nonce+`"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		linked(w, r)
	}
	s.start()
	o := s.options()
	o.LinkIdentity, o.Login = true, &Login{Username: "u", Password: "p"}
	l := newLinker(t)
	c := newClient(t, o)
	issued, err := c.Enroll(t.Context(), l.csr(), Want{Link: l.link})
	if err != nil || c.Traffic().Connections != 2 || len(l.bindings) != 2 {
		t.Errorf("%+v, %v, %d links", issued, err, len(l.bindings))
	}
}
