package config

import (
	"net/url"
	"strings"
	"time"
)

// estDefaults are what [cert_issuance.est] says for all certificates.
type estDefaults struct {
	at             part
	trust          Trust
	auth           Auth
	identity       schedule            // identity_auto_renew
	renewsIdentity bool                // the table is there
	urls           map[string]*url.URL // by certificate id, and "default"
	timeout        time.Duration
	attributes     bool     // csrattrs
	linkIdentity   bool     // link_identity
	redirectHosts  []string // redirect_hosts
}

// readEST reads [cert_issuance.est].
func readEST(p part) estDefaults {
	d := estDefaults{at: p, urls: map[string]*url.URL{}}
	d.trust = p.trust()
	d.timeout = p.duration("timeout", time.Minute, time.Second, time.Hour)
	d.attributes = p.flag("csrattrs", true)
	d.linkIdentity = p.flag("link_identity", false)
	d.redirectHosts = p.hosts("redirect_hosts")
	d.auth = p.sub("auth").auth()
	renewal := p.sub("identity_auto_renew")
	d.identity, d.renewsIdentity = renewal.schedule(), renewal.there()
	if urls := p.sub("urls"); urls.there() {
		for _, id := range urls.n.names {
			if u := urls.estURL(id); u != nil {
				d.urls[id] = u
			}
		}
	}
	return d
}

// trust reads which servers are believed: the explicit anchors of RFC 7030 section 3.6.1 where there are any, in files or
// by fingerprint, else the system's roots.
func (p part) trust() Trust {
	t := Trust{Files: p.files("trusted_certs"), Fingerprint: p.fingerprint("bootstrap_fingerprint")}
	t.SystemRoots = p.flag("system_roots", len(t.Files) == 0 && !p.has("bootstrap_fingerprint"))
	n := p.n.get("trusted_certs")
	if !t.SystemRoots && !p.has("bootstrap_fingerprint") && (n == nil || n.kind == kindArray && len(n.list) == 0) {
		p.fail("system_roots", "leaves nothing to trust", "name files in trusted_certs, or leave out system_roots")
	}
	return t
}

// auth reads the login that stands in a table: [cert_issuance.est.auth], or a certificate's own.
func (p part) auth() (a Auth) {
	a.Username, _ = p.str("username")
	a.PasswordFile = p.secretFile("password_file")
	password, _ := p.str("password")
	a.Password = NewSecret(password)
	a.HasPassword = p.has("password") || p.has("password_file")
	if p.has("password") && p.has("password_file") {
		p.fail("password_file", "stands beside password", "keep one of the two")
	}
	if p.has("username") && !a.HasPassword && p.lacks("password") && p.lacks("password_file") {
		p.fail("username", "has no password", "add password or password_file")
	}
	if name, _ := p.str("username"); strings.ContainsRune(name, ':') {
		p.fail("username", "holds a colon, which HTTP logins cannot carry (RFC 7617 section 2)", "leave it out")
	}
	if a.HasPassword && p.lacks("username") {
		name := "password"
		if !p.has(name) {
			name = "password_file"
		}
		p.fail(name, "has no user name", `add username; for a login by password alone write username = ""`)
	}
	a.Identity = p.pair("identity")
	a.Bootstrap = p.pair("bootstrap_identity")
	return a
}

// authNames are the keys of a login.
func authNames() (names []string) {
	for _, k := range authKeys() {
		names = append(names, k.name)
	}
	return names
}

// hasAuth reports whether any key of a login stands in the table.
func (p part) hasAuth() bool {
	for _, name := range authNames() {
		if p.has(name) {
			return true
		}
	}
	return false
}

// pair reads a certificate and its key; nil if neither is there.
func (p part) pair(kind string) *KeyPair {
	cert, pk := kind+"_cert", kind+"_pk"
	if !p.has(cert) && !p.has(pk) {
		return nil
	}
	if p.lacks(pk) {
		p.fail(cert, "has no key", "add "+pk)
	}
	if p.lacks(cert) {
		p.fail(pk, "has no certificate", "add "+cert)
	}
	pair := KeyPair{Cert: p.secretFile(cert)}
	if s, _ := p.str(pk); strings.HasPrefix(s, "pkcs11:") {
		pair.KeyURI = s
	} else {
		pair.Key = p.secretFile(pk)
	}
	return &pair
}

func samePair(a, b *KeyPair) bool {
	return a == b || a != nil && b != nil && *a == *b
}

func sameAuth(a, b Auth) bool {
	if !samePair(a.Identity, b.Identity) || !samePair(a.Bootstrap, b.Bootstrap) {
		return false
	}
	a.Identity, a.Bootstrap, b.Identity, b.Bootstrap = nil, nil, nil, nil
	return a == b
}
