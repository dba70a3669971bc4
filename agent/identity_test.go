package agent

import (
	"crypto/x509"
	"encoding/asn1"
	"testing"
)

func TestChooseIdentity(t *testing.T) {
	self := identity{name: identitySelf}
	est := identity{name: identityEST}
	boot := identity{name: identityBootstrap}
	password := identity{name: identityPassword}
	gone := func(i identity) identity { i.why = "expired"; return i }

	for _, tc := range []struct {
		name     string
		order    []identity
		refusals map[string]int
		want     identityName // "" for none
	}{
		{"the certificate itself comes first", []identity{self, est, boot, password}, nil, identitySelf},
		{"what cannot be used is skipped", []identity{gone(self), gone(est), boot, password}, nil, identityBootstrap},
		{"nothing can be used", []identity{gone(self), gone(boot)}, nil, ""},
		{"there is nothing", nil, nil, ""},
		{"one refusal may be the server's mistake", []identity{self, boot}, map[string]int{"certificate": 1}, identitySelf},
		{"two refusals pass it over", []identity{self, boot}, map[string]int{"certificate": 2}, identityBootstrap},
		{"the next is passed over after one", []identity{self, est, boot},
			map[string]int{"certificate": 2, "est-identity": 1}, identityBootstrap},
		{"then they alternate", []identity{self, est, boot},
			map[string]int{"certificate": 2, "est-identity": 1, "bootstrap-certificate": 1}, identitySelf},
		{"refusals of one that cannot be used any more count for nothing", []identity{gone(self), boot},
			map[string]int{"certificate": 9, "bootstrap-certificate": 1}, identityBootstrap},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := chooseIdentity(tc.order, tc.refusals)
			if ok != (tc.want != "") || got.name != tc.want {
				t.Errorf("chose %q (%v), want %q", got.name, ok, tc.want)
			}
		})
	}
}

// TestChooseIdentityUnderRefusal follows a server that refuses everybody: each identity has its turn, for ever.
func TestChooseIdentityUnderRefusal(t *testing.T) {
	order := []identity{{name: identitySelf}, {name: identityEST}, {name: identityBootstrap}}
	want := []identityName{
		identitySelf, identitySelf, identityEST, identityBootstrap,
		identitySelf, identityEST, identityBootstrap, identitySelf, identityEST, identityBootstrap,
	}
	refusals := map[string]int{}
	for n, w := range want {
		got, ok := chooseIdentity(order, refusals)
		if !ok || got.name != w {
			t.Fatalf("try %d: chose %q, want %q", n+1, got.name, w)
		}
		refusals[string(got.name)]++
	}
}

func TestForClients(t *testing.T) {
	for name, tc := range map[string]struct {
		leaf x509.Certificate
		want bool
	}{
		"no usage at all is any usage": {x509.Certificate{}, true},
		"client":                       {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, true},
		"server and client": {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{
			x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, true},
		"any":         {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}, true},
		"server only": {x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, false},
		"one that Go does not know": {x509.Certificate{
			UnknownExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 28}}}, false},
	} {
		if got := forClients(&tc.leaf); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
