package est

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// serverChain is a server's certificate for hosts, under by, with the chain that a server presents.
func serverChain(t *testing.T, by *authority, hosts ...string) []*x509.Certificate {
	t.Helper()
	template := serverTemplate()
	template.DNSNames, template.IPAddresses = hosts, nil
	return append([]*x509.Certificate{by.tlsCertificate(t, template).Leaf}, by.chain...)
}

func pool(certs ...*x509.Certificate) *x509.CertPool { return poolOf(certs) }

// RFC 7030 3.6.1 and 3.6.2: under an explicit anchor the configured host or the last redirect's, under an implicit one
// every host.
func TestHostRules(t *testing.T) {
	root, other := newRoot(t, "root"), newRoot(t, "other root")
	const a, b, c = "a.example", "b.example", "c.example"
	for _, test := range []struct {
		name               string
		names, hosts       []string
		explicit, implicit bool   // which of the two databases has the root
		want               string // in the error; "" is authorised
	}{
		{"configured host", []string{a}, []string{a}, true, false, ""},
		{"configured host after a redirect", []string{a}, []string{a, b}, true, false, ""},
		{"host of the redirect alone", []string{b}, []string{a, b}, true, false, ""},
		{"host of the last redirect", []string{c}, []string{a, b, c}, true, false, ""},
		{"host of a redirect before the last", []string{b}, []string{a, b, c}, true, false, "asked was c.example"},
		{"another host", []string{c}, []string{a, b}, true, false, "asked was b.example"},
		{"and back", []string{a}, []string{a, b, a}, true, false, ""},

		{"implicit: configured host", []string{a}, []string{a}, false, true, ""},
		{"implicit: both hosts", []string{b, a}, []string{a, b}, false, true, ""},
		{"implicit: all hosts by a wildcard", []string{"*.example"}, []string{a, b, c}, false, true, ""},
		{"implicit: configured host alone", []string{a}, []string{a, b}, false, true, "asked was b.example"},
		{"implicit: host of the redirect alone", []string{b}, []string{a, b}, false, true, "asked was a.example"},
		{"implicit: first and last of three", []string{a, c}, []string{a, b, c}, false, true, "asked was b.example"},
		{"implicit: and back", []string{a}, []string{a, b, a}, false, true, "asked was b.example"},

		{"both databases, explicit rule", []string{b}, []string{a, b}, true, true, ""},
		{"neither", []string{a}, []string{a}, false, false, "unknown CA"},
	} {
		by := trusted{explicit: pool(other.cert), implicit: pool(other.cert)}
		if test.explicit {
			by.explicit = pool(root.cert)
		}
		if test.implicit {
			by.implicit = pool(root.cert)
		}
		ends, err := authorise(serverChain(t, root.sub(t, "line"), test.names...), test.hosts, by, time.Now())
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		case test.want == "" && test.explicit && !same(ends, root.cert):
			t.Errorf("%s: authorised by %d explicit anchors, want the root", test.name, len(ends))
		case test.want == "" && !test.explicit && len(ends) > 0:
			t.Errorf("%s: said to be authorised by an explicit anchor", test.name)
		}
	}
}

// What fails both rules is told what it came closer to.
func TestErrorOfTheCloserRule(t *testing.T) {
	root, public := newRoot(t, "our root"), newRoot(t, "public root")
	both := trusted{explicit: pool(root.cert), implicit: pool(public.cert)}
	stale := serverTemplate()
	dead := &authority{key: newKey(t)}
	template := caTemplate("dead CA")
	template.NotBefore, template.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	dead.cert = sign(t, template, dead.key, public)
	dead.chain = []*x509.Certificate{dead.cert}
	for _, test := range []struct {
		name  string
		chain []*x509.Certificate
		want  string
	}{
		{"other host under explicit", serverChain(t, root, "x.example"), "is for x.example"},
		{"other host under implicit", serverChain(t, public, "x.example"), "is for x.example"},
		{"expired CA under implicit", append([]*x509.Certificate{dead.tlsCertificate(t, stale).Leaf}, dead.chain...),
			"CA certificate above the server's \"CN=dead CA\" expired"},
		{"unknown to both", serverChain(t, newRoot(t, "x"), "a.example"), "is not among the trusted certificates"},
	} {
		_, err := authorise(test.chain, []string{"a.example"}, both, time.Now())
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	by := trusted{explicit: pool(root.cert), learned: true}
	_, err := authorise(serverChain(t, newRoot(t, "x"), "a.example"), []string{"a.example"}, by, time.Now())
	if err == nil || !strings.Contains(err.Error(), "and those that this server's CA led to before") {
		t.Errorf("with anchors that were learned: %v", err)
	}
	if _, err := authorise(serverChain(t, root, "a"), []string{"a"}, trusted{}, time.Now()); err == nil {
		t.Error("authorised without any anchor")
	}
}

// An intermediate that /cacerts gave leads to explicit anchors, and to those alone.
func TestDatabasesDoNotMix(t *testing.T) {
	root, other := newRoot(t, "root"), newRoot(t, "other root")
	line := root.sub(t, "line")
	chain := serverChain(t, line, "a.example")[:1] // the server forgets its intermediate
	between := []*x509.Certificate{line.cert}
	hosts := []string{"a.example"}
	if _, err := authorise(chain, hosts, trusted{explicit: pool(root.cert), between: between}, time.Now()); err != nil {
		t.Errorf("explicit: %v", err)
	}
	by := trusted{explicit: pool(other.cert), implicit: pool(root.cert), between: between}
	if _, err := authorise(chain, hosts, by, time.Now()); err == nil {
		t.Error("a path to an implicit anchor led over what /cacerts gave")
	}
}

func TestCMCRegistrationAuthority(t *testing.T) {
	root := newRoot(t, "root")
	usages := func(template *x509.Certificate, usage []x509.ExtKeyUsage, unknown ...asn1.ObjectIdentifier) {
		template.ExtKeyUsage, template.UnknownExtKeyUsage = usage, unknown
	}
	limited := func(usage []x509.ExtKeyUsage, unknown ...asn1.ObjectIdentifier) *authority {
		template, key := caTemplate("limited CA"), newKey(t)
		usages(template, usage, unknown...)
		cert := sign(t, template, key, root)
		return &authority{cert: cert, key: key, chain: []*x509.Certificate{cert}}
	}
	serverAuth, any := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []x509.ExtKeyUsage{x509.ExtKeyUsageAny}
	otherOID := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 27} // id-kp-cmcCA
	for _, test := range []struct {
		name    string
		by      *authority
		usage   []x509.ExtKeyUsage
		unknown []asn1.ObjectIdentifier
		ok      bool // under an explicit anchor, for a host that it does not name
	}{
		{"cmcRA and serverAuth", root, serverAuth, []asn1.ObjectIdentifier{oidCMCRA}, true},
		{"cmcRA alone", root, nil, []asn1.ObjectIdentifier{otherOID, oidCMCRA}, true},
		{"serverAuth alone", root, serverAuth, nil, false},
		{"cmcCA", root, serverAuth, []asn1.ObjectIdentifier{otherOID}, false},
		{"any usage is not said to be it", root, any, nil, false},
		{"no usage is not said to be it", root, nil, nil, false},
		{"below a CA that allows it", limited(nil, oidCMCRA), nil, []asn1.ObjectIdentifier{oidCMCRA}, true},
		{"below a CA for all uses", limited(any), nil, []asn1.ObjectIdentifier{oidCMCRA}, true},
		{"below a CA for servers alone", limited(serverAuth), serverAuth, []asn1.ObjectIdentifier{oidCMCRA}, false},
	} {
		template := serverTemplate()
		usages(template, test.usage, test.unknown...)
		chain := append([]*x509.Certificate{test.by.tlsCertificate(t, template).Leaf}, test.by.chain...)
		hosts := []string{"a.example"}
		if _, err := authorise(chain, hosts, trusted{explicit: pool(root.cert)}, time.Now()); (err == nil) != test.ok {
			t.Errorf("%s, explicit: %v", test.name, err)
		}
		_, err := authorise(chain, hosts, trusted{implicit: pool(root.cert)}, time.Now())
		trust, is := errors.AsType[*trustError](err)
		if !is {
			t.Errorf("%s: passed under an implicit anchor", test.name)
		} else if test.ok && trust.closeness == closeHost && !strings.Contains(trust.hint, "trusted_certs alone") {
			t.Errorf("%s: hint %q", test.name, trust.hint)
		}
		// Expired it is worth nothing.
		later := time.Now().Add(48 * time.Hour)
		if _, err := authorise(chain, hosts, trusted{explicit: pool(root.cert)}, later); err == nil {
			t.Errorf("%s: passed when expired", test.name)
		}
	}
}

// On the wire: a registration authority whose certificate names another host, and is not for TLS servers.
func TestEnrollAtARegistrationAuthority(t *testing.T) {
	s := newServer(t)
	s.template.DNSNames, s.template.IPAddresses = []string{"ra.example"}, nil
	s.template.ExtKeyUsage, s.template.UnknownExtKeyUsage = nil, []asn1.ObjectIdentifier{oidCMCRA}
	s.start()
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	if _, err := newClient(t, s.options()).Enroll(t.Context(), csr, Want{}); err != nil {
		t.Error(err)
	}
	before := len(s.log())
	o := s.options()
	o.Anchors, o.SystemRoots, o.Roots = nil, true, pool(s.root.cert)
	if _, err := newClient(t, o).Enroll(t.Context(), csr, Want{}); !errors.Is(err, ErrUntrusted) {
		t.Error(err)
	}
	if len(s.log()) != before {
		t.Error("something was asked of a server that is not authorised")
	}
}

// After /cacerts the implicit anchors are given up, but only for a server that can do without.
func TestImplicitAnchorsAreGivenUp(t *testing.T) {
	root, other := newRoot(t, "root"), newRoot(t, "issuing root")
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	for _, test := range []struct {
		name    string
		anchors []*x509.Certificate
		roots   *authority
		cas     *authority
		off     bool
	}{
		{"its path ends at a root of /cacerts", nil, root, root, true},
		{"/cacerts has the issuing root alone", nil, root, other, false},
		{"its path ends at a configured anchor", []*x509.Certificate{root.cert}, other, other, true},
		{"the configured anchor is of no use here", []*x509.Certificate{other.cert}, root, other, false},
	} {
		s := newServer(t)
		s.root = root
		s.handlers["cacerts"] = func(w http.ResponseWriter, _ *http.Request) { s.answer(w, test.cas.cert) }
		s.handlers["simpleenroll"] = func(w http.ResponseWriter, _ *http.Request) {
			s.answer(w, test.cas.issue(t, s.lastDER()))
		}
		s.start()
		o := s.options()
		o.Anchors, o.SystemRoots, o.Roots = test.anchors, true, pool(test.roots.cert)
		c := newClient(t, o)
		if _, err := c.Enroll(t.Context(), csr, Want{}); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if got := c.Known().ImplicitOff; got != test.off {
			t.Errorf("%s: given up: %v", test.name, got)
		}
		// Whatever was learned, the same server is let in the next time, and the time after.
		for range 2 {
			o.Known = c.Known()
			c = newClient(t, o)
			if _, err := c.Enroll(t.Context(), csr, Want{}); err != nil {
				t.Errorf("%s, again: %v", test.name, err)
			}
			if got := c.Known().ImplicitOff; got != test.off {
				t.Errorf("%s, again: given up: %v", test.name, got)
			}
		}
	}
}

// Once given up they count no more, and the error says how that came and what a person can do.
func TestGivenUpImplicitAnchors(t *testing.T) {
	private, public := newRoot(t, "private root"), newRoot(t, "public root")
	s := newServer(t)
	s.root = public
	s.start()
	o := s.options()
	o.Anchors, o.SystemRoots, o.Roots = []*x509.Certificate{private.cert}, true, pool(public.cert)
	if _, err := newClient(t, o).CACerts(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.Known.ImplicitOff = true
	_, err := newClient(t, o).CACerts(t.Context())
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Class != ErrUntrusted || !strings.Contains(e.Hint, "count no more for this server") ||
		!strings.Contains(e.Hint, "trusted_certs") || !strings.Contains(e.Hint, "trust/") {
		t.Errorf("%v, hint %q", err, e.Hint)
	}
	// Where nothing explicit is left they are all there is.
	o.Anchors = nil
	c := newClient(t, o)
	if _, err := c.CACerts(t.Context()); err != nil {
		t.Error(err)
	}
}

// Nor does it lock a device out whose explicit anchors have all expired while it was away.
func TestGivenUpImplicitAnchorsOutliveTheExplicitOnes(t *testing.T) {
	s := newServer(t).start()
	o := s.options()
	gone := rootUntil(t, "root of the server's", newKey(t), time.Now().Add(-time.Hour))
	o.Anchors, o.SystemRoots, o.Roots = nil, true, pool(s.root.cert)
	o.Known = Known{CAs: []*x509.Certificate{gone}, TLSAnchors: []*x509.Certificate{gone}, ImplicitOff: true}
	c := newClient(t, o)
	if _, err := c.CACerts(t.Context()); err != nil {
		t.Fatal(err)
	}
	if known := c.Known(); !same(known.TLSAnchors, s.root.cert) || !known.ImplicitOff {
		t.Errorf("anchors for TLS: %v, given up: %v", names(known.TLSAnchors), known.ImplicitOff)
	}
}

// A server that was in wrong hands for a day plants roots by the anchor's name, as many as an answer holds. The right
// one is understood afterwards: what it says of itself has room.
func TestPlantedAnchorsKeepNoAnswerOut(t *testing.T) {
	s, issuing, successor := newServer(t), newRoot(t, "issuing root"), newRoot(t, "test root")
	var answer []*x509.Certificate
	for range certificateLimit {
		answer = append(answer, newRoot(t, "test root").cert)
	}
	s.handlers["cacerts"] = func(w http.ResponseWriter, _ *http.Request) { s.answer(w, answer...) }
	s.handlers["simpleenroll"] = func(w http.ResponseWriter, _ *http.Request) {
		s.answer(w, issuing.issue(t, s.lastDER()))
	}
	s.start()
	o := s.options()
	o.Known.TLSAnchors, o.Anchors = o.Anchors, nil
	c := newClient(t, o)
	if _, err := c.CACerts(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.Known = c.Known()
	if n := len(o.Known.TLSAnchors); n != anchorLimit || !slices.ContainsFunc(o.Known.TLSAnchors, s.root.cert.Equal) {
		t.Fatalf("%d anchors for TLS: %v", n, names(o.Known.TLSAnchors))
	}
	answer = []*x509.Certificate{issuing.cert, successor.cert}
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c = newClient(t, o)
	if _, err := c.Enroll(t.Context(), csr, Want{}); err != nil {
		t.Error(err)
	}
	for _, want := range []*x509.Certificate{s.root.cert, successor.cert} {
		if !slices.ContainsFunc(c.Known().TLSAnchors, want.Equal) {
			t.Errorf("no anchor for TLS: %v", want.Subject)
		}
	}
}

// A server behind one address that shows one certificate and then another: if either needs the implicit anchors, they
// are not given up for the other, whichever gave the CA certificates.
func TestServerThatNeedsImplicitAnchorsNowAndThen(t *testing.T) {
	private, public := newRoot(t, "private root"), newRoot(t, "public root")
	for _, order := range [][]*authority{{private, public}, {public, private}} {
		s := newServer(t)
		s.root = private
		next := make(chan *tls.Certificate, len(order))
		for _, by := range order {
			next <- by.tlsCertificate(t, serverTemplate())
		}
		s.certificate = func() *tls.Certificate { return <-next }
		s.all = func(w http.ResponseWriter, r *http.Request, usual http.Handler) {
			if r.Method == http.MethodGet && r.Header.Get("Authorization") == "" && order[0] == public {
				refuseLikeLibest(t, w, `Basic realm="r"`)
				return
			}
			w.Header().Set("Connection", "close")
			usual.ServeHTTP(w, r)
		}
		s.start()
		o := s.options()
		o.SystemRoots, o.Roots, o.Login = true, pool(public.cert), login
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		c := newClient(t, o)
		var err error
		if order[0] == public {
			_, err = c.CACerts(t.Context()) // asked for the login over the first connection, answered over the second
		} else {
			_, err = c.Enroll(t.Context(), csr, Want{})
		}
		if err != nil || c.connections != 2 {
			t.Fatalf("%v, %d connections", err, c.connections)
		}
		if c.Known().ImplicitOff {
			t.Error("given up, though one of the connections would not have come about")
		}
		if !slices.ContainsFunc(c.Known().CAs, private.cert.Equal) {
			t.Error("what /cacerts gave is lost")
		}
	}
}

// The root of a CA for devices stands in /cacerts beside that of the server, and cross-certifies it. What it issues is
// good; a server under it is not, after any number of attempts.
func TestUnrelatedRootIsNoAnchorForTLS(t *testing.T) {
	devices := newRoot(t, "devices")
	s, impostor := newServer(t), newServer(t)
	impostor.root = devices
	oldWithNew := sign(t, caTemplate(s.root.cert.Subject.CommonName), s.root.key, devices)
	s.handlers["cacerts"] = func(w http.ResponseWriter, _ *http.Request) {
		s.answer(w, devices.cert, oldWithNew, s.root.cert)
	}
	s.handlers["simpleenroll"] = func(w http.ResponseWriter, _ *http.Request) {
		s.answer(w, devices.issue(t, s.lastDER()))
	}
	s.start()
	impostor.start()
	o := s.options()
	o.Login = login
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	for range 3 {
		c := newClient(t, o)
		issued, err := c.Enroll(t.Context(), csr, Want{})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(issued.CAs, devices.cert.Equal) {
			t.Error("consumers are not given the root of their own certificate")
		}
		o.Known = c.Known()
	}
	if len(o.Known.TLSAnchors) != 0 {
		t.Errorf("anchors for TLS: %v", names(o.Known.TLSAnchors))
	}
	o.URL = impostor.base()
	if _, err := newClient(t, o).Enroll(t.Context(), csr, Want{}); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a server under the injected root: %v", err)
	}
	if len(impostor.log()) != 0 {
		t.Error("something was asked of it")
	}
}

// What was learned in one session is what the next connection of the same attempt is verified by: a server may change
// over between the two.
func TestRolloverBetweenTwoConnections(t *testing.T) {
	old, young := newRoot(t, "root G1"), newRoot(t, "root G2")
	newWithOld := sign(t, caTemplate("root G2"), young.key, old)
	s := newServer(t)
	s.root = old
	next := make(chan *tls.Certificate, 2)
	next <- old.tlsCertificate(t, serverTemplate())
	next <- young.tlsCertificate(t, serverTemplate())
	s.certificate = func() *tls.Certificate { return <-next }
	s.handlers["cacerts"] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		s.answer(w, young.cert, newWithOld, old.cert)
	}
	s.start()
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c := newClient(t, s.options())
	if _, err := c.Enroll(t.Context(), csr, Want{}); err != nil || c.connections != 2 {
		t.Errorf("%v, %d connections", err, c.connections)
	}
	if !same(c.Known().TLSAnchors, young.cert) {
		t.Errorf("anchors for TLS: %v", names(c.Known().TLSAnchors))
	}
}

// What was learned is enough by itself: a device that was told what to trust by a fingerprint has nothing else.
func TestLearnedAnchorsAlone(t *testing.T) {
	s := newServer(t).start()
	o := s.options()
	o.Anchors, o.Known.TLSAnchors = nil, o.Anchors
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c := newClient(t, o)
	if _, err := c.Enroll(t.Context(), csr, Want{}); err != nil {
		t.Error(err)
	}
	if known := c.Known(); !same(known.TLSAnchors, s.root.cert) || !same(known.CAs, s.root.cert) {
		t.Errorf("known: %v, anchors for TLS %v", names(known.CAs), names(known.TLSAnchors))
	}
}

// What was learned is there also where the enrolment came to nothing.
func TestKnownAfterAFailedEnrolment(t *testing.T) {
	s := newServer(t)
	s.handlers["simpleenroll"] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }
	s.start()
	o := s.options()
	o.Anchors, o.SystemRoots, o.Roots = nil, true, pool(s.root.cert)
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	c := newClient(t, o)
	if _, err := c.Enroll(t.Context(), csr, Want{}); !errors.Is(err, ErrUnauthorized) {
		t.Error(err)
	}
	known := c.Known()
	if !same(known.CAs, s.root.cert) || !same(known.TLSAnchors, s.root.cert) || !known.ImplicitOff {
		t.Errorf("known: %+v", known)
	}
	// It is the caller's own: a change of it is none of the client's.
	known.CAs[0], known.TLSAnchors[0] = nil, nil
	if again := c.Known(); again.CAs[0] == nil || again.TLSAnchors[0] == nil {
		t.Error("the client shares what it gave away")
	}
}
