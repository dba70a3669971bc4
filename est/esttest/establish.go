package esttest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"
)

// Base names of the pairs in a folder.
const (
	nameRoot         = "ca"
	nameIntermediate = "intermediate"
	nameTLSRoot      = "tls-ca"
	nameServer       = "server"
	nameBootstrap    = "bootstrap"
)

const intermediateName = "certagent test intermediate CA"

// standardHosts are in every server certificate.
func standardHosts() []string {
	return []string{"localhost", "ip6-localhost", "127.0.0.1", "::1"}
}

// establish returns the CA that lives in the folder, and makes what is missing. When it returns, everything is on disk.
func establish(f folder, o Options) (*authority, error) {
	if f != "" {
		if err := os.MkdirAll(string(f), 0o755); err != nil {
			return nil, fmt.Errorf("make directory of the test CA: %w", err)
		}
	}
	now := o.Now()
	a := new(authority)
	var err error
	if a.root, err = f.ca(nameRoot, "certagent test root CA", pair{}, now, o.RootLifetime); err != nil {
		return nil, err
	}
	a.issuing, a.tlsRoot = a.root, a.root
	if o.Intermediate {
		a.issuing, err = f.ca(nameIntermediate, intermediateName, a.root, now, o.RootLifetime)
		if err != nil {
			return nil, err
		}
	}
	serverIssuer := a.issuing
	if o.SeparateTLSRoot {
		if a.tlsRoot, err = f.ca(nameTLSRoot, "certagent test TLS root CA", pair{}, now, o.RootLifetime); err != nil {
			return nil, err
		}
		serverIssuer = a.tlsRoot
	}
	if err := a.serveUnder(f, serverIssuer, o); err != nil {
		return nil, err
	}

	if o.Bootstrap != "" {
		_, err = f.leaf(leafSpec{
			name: nameBootstrap, mode: 0o600, issuer: a.issuing, above: a.intermediates(), now: now,
			good: func(c *x509.Certificate) bool { return c.Subject.CommonName == o.Bootstrap },
			make: func(key *ecdsa.PrivateKey) *x509.Certificate {
				return bootstrapTemplate(o.Bootstrap, key.Public(), now, BootstrapLifetime)
			},
		})
	}
	return a, err
}

// serveUnder makes the server certificate, or loads it where it fits, and the chain of the handshake.
func (a *authority) serveUnder(f folder, issuer pair, o Options) (err error) {
	hosts := o.Hosts
	if !o.OnlyHosts {
		hosts = append(standardHosts(), hosts...)
		if host := o.listenHost(); host != "" && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	above := []*x509.Certificate{issuer.cert}
	if issuer.cert != a.tlsRoot.cert {
		above = append(above, a.tlsRoot.cert)
	}
	now := o.Now()
	a.server, err = f.leaf(leafSpec{
		name: nameServer, mode: 0o644, issuer: issuer, above: above, now: now,
		good: func(c *x509.Certificate) bool { return sameHosts(c, hosts) && sameUsages(c, o) },
		make: func(key *ecdsa.PrivateKey) *x509.Certificate {
			return serverTemplate(hosts, key.Public(), now, o)
		},
	})
	if err != nil {
		return err
	}
	a.chain = [][]byte{a.server.cert.Raw}
	for _, c := range above {
		a.chain = append(a.chain, c.Raw)
	}
	return nil
}

func sameUsages(c *x509.Certificate, o Options) bool {
	usages, unknown := o.serverUsages()
	return slices.Equal(c.ExtKeyUsage, usages) &&
		slices.EqualFunc(c.UnknownExtKeyUsage, unknown, asn1.ObjectIdentifier.Equal)
}

// intermediates are what stands between an issued certificate and the root: one certificate, or none.
func (a *authority) intermediates() []*x509.Certificate {
	if a.issuing.cert == a.root.cert {
		return nil
	}
	return []*x509.Certificate{a.issuing.cert}
}

// ca loads or makes the pair of a CA, self-signed without an issuer. A certificate that is there must be good: making a
// new root behind the back of those who trust the old one would help nobody.
func (f folder) ca(name, cn string, issuer pair, now time.Time, lifetime time.Duration) (pair, error) {
	p, err := f.load(name)
	if err != nil {
		return p, err
	}
	if p.cert != nil {
		return p, f.checkCA(name, p, issuer, now)
	}
	if p.key, err = f.key(name, p.key); err != nil {
		return p, err
	}
	signer := issuer
	if issuer.cert == nil {
		signer = pair{key: p.key}
	}
	if p.cert, err = signer.sign(caTemplate(cn, p.key.Public(), now, lifetime)); err != nil {
		return p, err
	}
	return p, f.write(name, 0o644, p.cert)
}

func (f folder) checkCA(name string, p, issuer pair, now time.Time) error {
	if issuer.cert == nil {
		issuer = p
	}
	switch {
	case p.key == nil:
		return damaged(f.keyFile(name), errors.New("the file is missing"))
	case !p.key.PublicKey.Equal(p.cert.PublicKey):
		return damaged(f.certFile(name), fmt.Errorf("it is not the certificate of %s", f.keyFile(name)))
	case !p.cert.IsCA:
		return damaged(f.certFile(name), errors.New("it is not a CA certificate"))
	case p.cert.CheckSignatureFrom(issuer.cert) != nil:
		return damaged(f.certFile(name), fmt.Errorf("it was not issued by %q", issuer.cert.Subject.CommonName))
	case now.After(p.cert.NotAfter):
		return fmt.Errorf("%s expired on %s; move %s away to begin a new CA", f.certFile(name),
			p.cert.NotAfter.Format(time.DateTime), f)
	}
	return nil
}

// leafSpec says what certificate the CA wants for itself.
type leafSpec struct {
	name   string
	mode   os.FileMode
	issuer pair
	above  []*x509.Certificate // written below the leaf in the same file
	now    time.Time
	good   func(*x509.Certificate) bool // beyond key, issuer and validity
	make   func(*ecdsa.PrivateKey) *x509.Certificate
}

// leaf loads the pair, or makes it anew, with the key that is there, where it does not fit.
func (f folder) leaf(want leafSpec) (pair, error) {
	p, err := f.load(want.name)
	if err != nil {
		return p, err
	}
	fits := p.cert != nil && p.key != nil && p.key.PublicKey.Equal(p.cert.PublicKey) &&
		p.cert.CheckSignatureFrom(want.issuer.cert) == nil && want.now.Before(p.cert.NotAfter) && want.good(p.cert)
	if p.key, err = f.key(want.name, p.key); err != nil {
		return p, err
	}
	if !fits {
		if p.cert, err = want.issuer.sign(want.make(p.key)); err != nil {
			return p, err
		}
	}
	return p, f.write(want.name, want.mode, append([]*x509.Certificate{p.cert}, want.above...)...)
}

// sameHosts reports whether a certificate is for exactly these names and addresses.
func sameHosts(c *x509.Certificate, hosts []string) bool {
	var has, want [][]byte
	for _, n := range c.DNSNames {
		has = append(has, []byte(n))
	}
	for _, ip := range c.IPAddresses {
		has = append(has, ip.To16())
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			want = append(want, ip.To16())
		} else {
			want = append(want, []byte(h))
		}
	}
	sorted := func(l [][]byte) [][]byte {
		slices.SortFunc(l, bytes.Compare)
		return slices.CompactFunc(l, bytes.Equal)
	}
	return slices.EqualFunc(sorted(has), sorted(want), bytes.Equal)
}
