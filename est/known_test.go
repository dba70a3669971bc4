package est

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"slices"
	"testing"
	"time"
)

func TestFreshCAs(t *testing.T) {
	now := time.Now()
	root := newRoot(t, "root") // expires in an hour
	template := caTemplate("long-lived")
	template.NotAfter = now.Add(48 * time.Hour)
	long := sign(t, template, newKey(t), nil)
	for _, test := range []struct {
		name    string
		cas     []*x509.Certificate
		fetched time.Time
		within  time.Duration
		want    bool
	}{
		{"just now", []*x509.Certificate{long}, now, time.Hour, true},
		{"long enough ago", []*x509.Certificate{long}, now.Add(-time.Hour), time.Hour, false},
		{"a moment less", []*x509.Certificate{long}, now.Add(-time.Hour + time.Second), time.Hour, true},
		{"in the future", []*x509.Certificate{long}, now.Add(time.Second), time.Hour, false},
		{"never", []*x509.Certificate{long}, time.Time{}, time.Hour, false},
		{"not wanted", []*x509.Certificate{long}, now, 0, false},
		{"nothing there", nil, now, time.Hour, false},
		{"one expires within that time", []*x509.Certificate{long, root.cert}, now, 2 * time.Hour, false},
		{"one expires after that time", []*x509.Certificate{long, root.cert}, now, 30 * time.Minute, true},
	} {
		if got := (Known{CAs: test.cas, Fetched: test.fetched}).freshCAs(test.within, now); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

// rootUntil returns a root that expires at notAfter, made a year before.
func rootUntil(t *testing.T, name string, key crypto.Signer, notAfter time.Time) *x509.Certificate {
	t.Helper()
	template := caTemplate(name)
	template.NotBefore, template.NotAfter = notAfter.AddDate(-1, 0, 0), notAfter
	return sign(t, template, key, nil)
}

func TestMergeCAs(t *testing.T) {
	now := time.Now()
	until := func(name string, left time.Duration) *x509.Certificate {
		return rootUntil(t, name, newKey(t), now.Add(left))
	}
	old, young, other := until("root", time.Hour), until("root", 2*time.Hour), until("other", 3*time.Hour)
	dead, deader := until("dead", -time.Hour), until("deader", -2*time.Hour)
	authority := newRoot(t, "unrelated")
	line, oldLine := authority.sub(t, "line").cert, authority.sub(t, "old line").cert
	template := caTemplate("dead line")
	template.NotAfter = now.Add(-time.Minute)
	deadLine := sign(t, template, newKey(t), authority)
	type list = []*x509.Certificate
	for _, test := range []struct {
		name         string
		known        Known
		answer, want list
	}{
		{"first answer, the newest root first", Known{}, list{line, old, young, line}, list{young, old, line}},
		{"newer answer replaces what is no root", Known{CAs: list{old, oldLine}}, list{old, line}, list{old, line}},
		{"a root that is no longer sent stays", Known{CAs: list{old}}, list{young}, list{young, old}},
		{"until it expires", Known{CAs: list{dead, oldLine}}, list{young}, list{young}},
		{"an answer without a root takes nothing away", Known{CAs: list{old, oldLine}}, list{line}, list{old, line, oldLine}},
		{"nor does one whose roots have all expired", Known{CAs: list{old}}, list{dead}, list{old}},
		{"the last one stays though it has expired", Known{CAs: list{dead}}, list{line}, list{dead, line}},
		{"all of them, where all have expired", Known{CAs: list{dead}}, list{deader}, list{dead, deader}},
		{"an expired intermediate goes", Known{}, list{old, deadLine}, list{old}},
		{"an anchor for TLS stays", Known{CAs: list{other}, TLSAnchors: list{other}}, list{old}, list{other, old}},
		{"and where it stands there alone", Known{TLSAnchors: list{other}}, list{old}, list{other, old}},
	} {
		if got := mergeCAs(test.known, test.answer, now); !same(got, test.want...) {
			t.Errorf("%s: %v, want %v", test.name, names(got), names(test.want))
		}
	}
}

// A clock that ran ahead takes nothing away: what it had expire is forgotten only once that time is known to have come.
func TestForgettingWaitsForTheTime(t *testing.T) {
	now := time.Now()
	old, young := rootUntil(t, "old", newKey(t), now.Add(time.Hour)), rootUntil(t, "young", newKey(t), now.AddDate(40, 0, 0))
	k := Known{CAs: []*x509.Certificate{old}}
	ahead := now.AddDate(30, 0, 0)
	for reached, want := range map[time.Time][]*x509.Certificate{now: {young, old}, ahead: {young}} {
		if got := k.learned([]*x509.Certificate{young}, nil, session{}, ahead, reached).CAs; !same(got, want...) {
			t.Errorf("known to have come is %v: %v, want %v", reached, names(got), names(want))
		}
	}
}

func names(certs []*x509.Certificate) []string {
	var list []string
	for _, cert := range certs {
		list = append(list, cert.Subject.CommonName)
	}
	return list
}

// A server with a new root at each answer fills nothing up, and drives no anchor for TLS out.
func TestKnownIsBounded(t *testing.T) {
	now := time.Now()
	anchor := rootUntil(t, "anchor", newKey(t), now.Add(time.Hour))
	k := Known{CAs: []*x509.Certificate{anchor}, TLSAnchors: []*x509.Certificate{anchor}}
	var crowd []*x509.Certificate
	for range certificateLimit {
		crowd = append(crowd, rootUntil(t, "crowd", newKey(t), now.Add(2*time.Hour)))
	}
	k.CAs = mergeCAs(k, crowd, now)
	if len(k.CAs) != certificateLimit || !slices.ContainsFunc(k.CAs, anchor.Equal) {
		t.Errorf("%d are kept, the anchor among them: %v", len(k.CAs), slices.ContainsFunc(k.CAs, anchor.Equal))
	}
	// What comes last is new; the oldest of the crowd makes room.
	late := rootUntil(t, "late", newKey(t), now.Add(time.Hour))
	k.CAs = mergeCAs(k, []*x509.Certificate{late}, now)
	if len(k.CAs) != certificateLimit || !slices.ContainsFunc(k.CAs, late.Equal) ||
		!slices.ContainsFunc(k.CAs, anchor.Equal) {
		t.Errorf("%d are kept: %v", len(k.CAs), names(k.CAs))
	}
	if got := atMost([]*x509.Certificate{anchor, late}, 2, len(anchor.Raw)+len(late.Raw)-1); !same(got, anchor) {
		t.Errorf("%d are within the size of less than two", len(got))
	}
}

func TestTLSAnchors(t *testing.T) {
	now := time.Now()
	anchor, unrelated := newRoot(t, "our CA G1"), newRoot(t, "devices")
	renamed, third, rekeyed := newRoot(t, "our CA G2"), newRoot(t, "our CA G3"), newRoot(t, "our CA G1")
	cross := func(of, by *authority, change ...func(*x509.Certificate)) *x509.Certificate {
		template := caTemplate(of.cert.Subject.CommonName)
		for _, f := range change {
			f(template)
		}
		return sign(t, template, of.key, by)
	}
	elsewhere := newRoot(t, "our CA G2") // the name of renamed, and another key
	forged := newRoot(t, "our CA G1")    // the name of the anchor, and another key
	flat := newRoot(t, "our CA G1")      // stands in for an anchor that may issue leaves only
	template := caTemplate("flat")
	template.MaxPathLenZero = true
	flat.cert = sign(t, template, flat.key, nil)
	nameless := newRoot(t, "")
	limited := newRoot(t, "limited")
	template = caTemplate("limited")
	template.PermittedDNSDomains = []string{"example"}
	limited.cert = sign(t, template, limited.key, nil)

	hosts := []string{"a.example"}
	of := func(by *authority) session {
		return session{chain: serverChain(t, by.sub(t, "line"), hosts...), hosts: hosts, ends: []*x509.Certificate{by.cert}}
	}
	foreign := session{}
	type list = []*x509.Certificate
	for _, test := range []struct {
		name       string
		known      Known
		configured list
		session    session
		want       list
	}{
		{"an unrelated root is none", Known{CAs: list{unrelated.cert, anchor.cert}}, list{anchor.cert}, of(anchor), nil},
		{"the server's path ends at it", Known{CAs: list{anchor.cert, unrelated.cert}}, nil, of(anchor), list{anchor.cert}},
		{"a path of another server", Known{CAs: list{anchor.cert}}, nil, foreign, nil},
		{"it was one before", Known{CAs: list{unrelated.cert}, TLSAnchors: list{unrelated.cert}}, nil, foreign,
			list{unrelated.cert}},
		{"and is gone", Known{CAs: list{anchor.cert}, TLSAnchors: list{unrelated.cert}}, nil, foreign, nil},

		{"same name as an anchor that authorised", Known{CAs: list{rekeyed.cert}}, list{anchor.cert}, of(anchor),
			list{rekeyed.cert}},
		{"same name as an anchor that did not", Known{CAs: list{rekeyed.cert}}, list{anchor.cert, unrelated.cert},
			of(unrelated), nil},
		{"same name as an implicit anchor", Known{CAs: list{rekeyed.cert}}, list{unrelated.cert},
			session{chain: of(anchor).chain, hosts: hosts}, nil},
		{"same name as an anchor for some names only", Known{CAs: list{newRoot(t, "limited").cert}}, list{limited.cert},
			of(limited), nil},
		{"no name", Known{CAs: list{newRoot(t, "").cert}}, list{nameless.cert}, of(nameless), nil},

		{"NewWithOld", Known{CAs: list{renamed.cert, cross(renamed, anchor)}}, list{anchor.cert}, foreign,
			list{renamed.cert}},
		{"NewWithOld of an anchor that was learned", Known{CAs: list{anchor.cert, renamed.cert, cross(renamed, anchor)},
			TLSAnchors: list{anchor.cert}}, nil, foreign, list{anchor.cert, renamed.cert}},
		{"a line of succession", Known{CAs: list{third.cert, renamed.cert, cross(third, renamed), cross(renamed, anchor)}},
			list{anchor.cert}, foreign, list{third.cert, renamed.cert}},
		{"NewWithOld of a root that is none", Known{CAs: list{renamed.cert, cross(renamed, unrelated)}}, list{anchor.cert},
			foreign, nil},
		{"NewWithOld by the anchor's name alone", Known{CAs: list{renamed.cert, cross(renamed, forged)}},
			list{anchor.cert}, foreign, nil},
		{"NewWithOld for another key", Known{CAs: list{renamed.cert, cross(elsewhere, anchor)}}, list{anchor.cert}, foreign,
			nil},
		{"NewWithOld for another name", Known{CAs: list{renamed.cert, sign(t, caTemplate("x"), renamed.key, anchor)}},
			list{anchor.cert}, foreign, nil},
		{"OldWithNew alone, which any CA can make", Known{CAs: list{unrelated.cert, cross(anchor, unrelated)}},
			list{anchor.cert}, of(anchor), nil},
		{"NewWithOld that has expired", Known{CAs: list{renamed.cert, cross(renamed, anchor, func(c *x509.Certificate) {
			c.NotAfter = now.Add(-time.Minute)
		})}}, list{anchor.cert}, foreign, nil},
		{"NewWithOld that is no CA", Known{CAs: list{renamed.cert, cross(renamed, anchor, func(c *x509.Certificate) {
			c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature
		})}}, list{anchor.cert}, foreign, nil},
		{"NewWithOld for some names only", Known{CAs: list{renamed.cert, cross(renamed, anchor, func(c *x509.Certificate) {
			c.PermittedDNSDomains = []string{"devices.example"}
		})}}, list{anchor.cert}, foreign, nil},
		{"NewWithOld for clients only", Known{CAs: list{renamed.cert, cross(renamed, anchor, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		})}}, list{anchor.cert}, foreign, nil},
		{"NewWithOld for shorter paths", Known{CAs: list{renamed.cert, cross(renamed, anchor, func(c *x509.Certificate) {
			c.MaxPathLenZero = true
		})}}, list{anchor.cert}, foreign, nil},
		{"NewWithOld of an anchor that may issue leaves only", Known{CAs: list{renamed.cert, cross(renamed, flat)}},
			list{flat.cert}, foreign, nil},
	} {
		if got := tlsAnchors(test.known, test.configured, test.session, now); !same(got, test.want...) {
			t.Errorf("%s: %v, want %v", test.name, names(got), names(test.want))
		}
	}
}

// A server certificate that is pinned as an anchor makes no root of its name one.
func TestPinnedServerIsSucceededByNobody(t *testing.T) {
	pinned := serverChain(t, newRoot(t, "root"), "a.example")[:1]
	template := caTemplate("")
	template.Subject = pkix.Name{CommonName: pinned[0].Subject.CommonName}
	impostor := sign(t, template, newKey(t), nil)
	s := session{chain: pinned, hosts: []string{"a.example"}, ends: pinned}
	if got := tlsAnchors(Known{CAs: []*x509.Certificate{impostor}}, pinned, s, time.Now()); len(got) != 0 {
		t.Errorf("%v is an anchor", names(got))
	}
}
