package agent

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"certagent/agent/config"
	"certagent/est"
	"certagent/renew"
	"certagent/store"
	"certagent/store/keys"
)

// Host is what a request may take from the device it runs on.
type Host struct {
	// Hostname is the kernel's name for this device, os.Hostname.
	Hostname func() (string, error)
	// MachineID is the contents of /etc/machine-id (machine-id(5)); "" where there is none.
	MachineID string
	// Volatile: MachineID is, or may be, another one after each boot. It can be a name, but nothing is told by it from what was.
	Volatile bool
}

var oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}

// desired is what the configuration asks a CA for: as it is sent, and as it is recorded.
type desired struct {
	template est.Template
	recorded store.Request
}

// desire resolves the configured request of a certificate. It fails while common_name_from names something that cannot be
// read, which is a problem of that certificate alone.
func desire(c *config.Certificate, host Host) (desired, error) {
	subject := c.Subject
	if c.SubjectFrom != "" {
		name, err := commonName(c, host)
		if err != nil {
			return desired{}, err
		}
		cn := pkix.RelativeDistinguishedNameSET{{Type: oidCommonName, Value: name}}
		subject = append(pkix.RDNSequence{cn}, subject...)
	}
	t := est.Template{
		Subject: subject, CA: c.CA,
		DNSNames: c.SANs.DNS, IPs: c.SANs.IPs, URIs: c.SANs.URIs, Emails: c.SANs.Emails,
	}
	t.Usages = usagesOf(c.Usages)
	der, err := asn1.Marshal(subject)
	if err != nil {
		return desired{}, fmt.Errorf("encode subject: %w", err)
	}
	r := store.Request{
		Subject: subject.String(), SubjectDER: der,
		SANs: []string{}, Usages: slices.Sorted(slices.Values(c.Usages)), CA: c.CA, Key: c.Key, ServerKey: c.ServerKey,
		URL: c.URL.String(),
	}
	for _, n := range c.SANs.DNS {
		r.SANs = append(r.SANs, "dns:"+n)
	}
	for _, ip := range c.SANs.IPs {
		r.SANs = append(r.SANs, "ip:"+ip.String())
	}
	for _, u := range c.SANs.URIs {
		r.SANs = append(r.SANs, "uri:"+u.String())
	}
	for _, e := range c.SANs.Emails {
		r.SANs = append(r.SANs, "email:"+e)
	}
	slices.Sort(r.SANs)
	return desired{template: t, recorded: r}, nil
}

func usagesOf(names []string) []x509.ExtKeyUsage {
	var usages []x509.ExtKeyUsage
	for _, u := range names {
		switch u {
		case "client":
			usages = append(usages, x509.ExtKeyUsageClientAuth)
		case "server":
			usages = append(usages, x509.ExtKeyUsageServerAuth)
		}
	}
	return usages
}

// asBefore is a request for what the live generation was issued for: what is asked while the server does not grant a
// change of the configuration, or while the configured name cannot be found out. RFC 7030 section 4.2.2: subject and SAN
// are those of the certificate being renewed, byte for byte.
func asBefore(c *config.Certificate, live *store.Generation) desired {
	d := desired{template: est.RenewalTemplate(live.Leaf)}
	d.recorded.ServerKey = c.ServerKey
	if was := live.Meta.Request; was != nil {
		d.recorded = *was
		d.template.CA = was.CA
		if was.Usages != nil {
			d.template.Usages = usagesOf(was.Usages)
		}
	}
	if d.recorded.Key == "" {
		d.recorded.Key = string(live.Key.Algorithm())
	}
	d.recorded.URL = c.URL.String()
	return d
}

func commonName(c *config.Certificate, host Host) (string, error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("take the common name from %s: %w", c.SubjectFrom, err)
	}
	switch c.SubjectFrom {
	case "hostname":
		name, err := host.Hostname()
		if err != nil {
			return fail(err)
		}
		return name, nil
	case "machine-id":
		if host.MachineID == "" {
			return fail(errors.New("this device has no machine-id(5)"))
		}
		return host.MachineID, nil
	case "bootstrap-cert":
		if c.Auth.Bootstrap == nil {
			return fail(errors.New("no bootstrap certificate is configured"))
		}
		data, err := readCredential(c.Auth.Bootstrap.Cert)
		if err != nil {
			return fail(err)
		}
		chain, err := parseCertificates(data)
		if err != nil {
			return fail(err)
		}
		if chain[0].Subject.CommonName == "" {
			return fail(fmt.Errorf("its subject %q has no common name", chain[0].Subject))
		}
		return chain[0].Subject.CommonName, nil
	}
	data, err := readCredential(strings.TrimPrefix(c.SubjectFrom, "file://"))
	if err != nil {
		return fail(err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	if line = strings.TrimSpace(line); line == "" {
		return fail(errors.New("its first line is empty"))
	}
	return line, nil
}

// drift is how the configured request differs from the one recorded with the live generation. It is never a difference
// from what the CA issued: a CA may alter a request for reasons of its own.
type drift struct {
	name bool // subject or SAN
	key  bool // key type, who makes it, usage, or CA
}

func (d drift) any() bool { return d.name || d.key }

// driftOf compares what the live generation was issued for with what is wanted now. A key whose kind was left to the server
// drifts when the configuration asks for another kind than it is.
func driftOf(live *store.Generation, is store.Request) drift {
	was := live.Meta.Request
	d := requestDrift(was, is)
	if was != nil && was.Key == "" && is.Key != "" && is.Key != string(keys.AlgorithmOf(live.Leaf.PublicKey)) {
		d.key = true
	}
	return d
}

// requestDrift compares field by field. A field that an older version did not record is no drift, nor is a key that is
// left to the server.
func requestDrift(was *store.Request, is store.Request) drift {
	var d drift
	if was == nil {
		return d
	}
	if len(was.SubjectDER) > 0 && !bytes.Equal(was.SubjectDER, is.SubjectDER) {
		d.name = true
	}
	if was.SANs != nil && !slices.Equal(was.SANs, is.SANs) {
		d.name = true
	}
	if was.Usages != nil && !slices.Equal(was.Usages, is.Usages) {
		d.key = true
	}
	if was.Key != "" && is.Key != "" && was.Key != is.Key {
		d.key = true
	}
	if was.CA != is.CA || was.ServerKey != is.ServerKey {
		d.key = true
	}
	return d
}

// maxReloadSpread bounds how long a change of the configuration waits for its turn.
const maxReloadSpread = time.Hour

// reloadSpread is the time after a reload at which this certificate is issued anew for drift.
func reloadSpread(p renew.Policy, leaf renew.Leaf) time.Duration {
	return time.Duration(renew.Spread(leaf.Raw) * float64(min(p.JitterOf(leaf), maxReloadSpread)))
}

// parseCertificates decodes all CERTIFICATE blocks of a PEM file; others (keys, parameters) are passed over.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate %d: %w", len(chain)+1, err)
		}
		chain = append(chain, c)
	}
	if len(chain) == 0 {
		return nil, errors.New("no PEM certificate in it")
	}
	return chain, nil
}
