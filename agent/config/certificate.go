package config

import (
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The ids that the dialect gives.
const (
	deviceID    = "device-id"
	edgeCAID    = "aziot-edged-ca"
	estID       = "est-id"
	defaultURL  = "default"
	ownIdentity = "self"
)

// certificates reads every certificate but the EST identities.
func (c *Config) certificates(root part, est estDefaults) (found []Certificate, tables map[string]part) {
	tables = map[string]part{}
	add := func(id string, role Role, p part) {
		if other, taken := tables[id]; taken {
			p.r.errs = append(p.r.errs, Error{Place: p.n.key, Key: dotted(p.path),
				Text: "a certificate " + id + " is configured already in [" + dotted(other.path) + "] at " +
					other.n.key.String(),
				Hint: "keep one of the two"})
			return
		}
		tables[id] = p
		found = append(found, readCertificate(id, role, p, est, c.Provisioning))
	}
	for _, in := range []string{"attestation", "authentication"} {
		if p := root.sub("provisioning").sub(in).sub("identity_cert"); p.there() {
			add(deviceID, RoleDevice, p)
		}
	}
	if p := root.sub("edge_ca"); p.issued() {
		add(edgeCAID, RoleEdgeCA, p)
	}
	certs := root.sub("cert_issuance").sub("certs")
	if certs.there() {
		for _, id := range certs.n.names {
			p := certs.sub(id)
			switch {
			case !p.there(): // of a wrong type, which is reported
			case !p.checkID(id):
			case id == estID || strings.HasPrefix(id, estID+"-"):
				// Says how an EST identity is asked for; whether there is one is decided later.
			case id == edgeCAID:
				p.failTable("is the certificate of [edge_ca]", "write it there")
			case id == deviceID:
				add(id, RoleDevice, p)
			default:
				add(id, RoleOther, p)
			}
		}
	}
	return found, tables
}

// issued reports whether [edge_ca] asks for a certificate. Without a method it speaks of one that a person provides
// or that IoT Edge makes itself.
func (p part) issued() bool {
	if !p.there() {
		return false
	}
	if p.has("method") {
		return true
	}
	others := []string{"cert", "pk", "auto_generated_edge_ca_expiry_days", "auto_renew", "subject"}
	for _, name := range p.n.names {
		if !slices.Contains(others, name) {
			p.r.errs = append(p.r.errs, Error{Place: p.n.table[name].key, Key: p.key(name),
				Text: "has no method beside it", Hint: `add method = "est"`})
			return false
		}
	}
	p.r.passed = slices.DeleteFunc(p.r.passed, func(below passed) bool {
		return strings.HasPrefix(below.key, dotted(p.path)+".")
	})
	p.r.passed = append(p.r.passed, passed{dotted(p.path), p.n.key})
	return false
}

// failTable reports a mistake of a table as a whole.
func (p part) failTable(text, hint string) {
	p.r.errs = append(p.r.errs, Error{Place: p.n.key, Key: dotted(p.path), Text: text, Hint: hint})
}

// checkID holds an id against what can name a directory of the store.
func (p part) checkID(id string) bool {
	const hint = "use letters, digits, '-', '_' and '.', at most 64, no '.' in front"
	switch {
	case id == defaultURL:
		p.failTable("this id is taken by the key default of [cert_issuance.est.urls]", "choose another")
	case !isID(id):
		p.failTable("is no certificate id", hint)
	default:
		return true
	}
	return false
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$`)

func isID(id string) bool { return idPattern.MatchString(id) }

// readCertificate reads one certificate's table.
func readCertificate(id string, role Role, p part, est estDefaults, prov Provisioning) Certificate {
	c := Certificate{ID: id, Role: role, CA: role == RoleEdgeCA, Trust: est.trust, Auth: est.auth}
	byEST := p.method()
	if p.hasAuth() {
		c.Auth = p.auth()
	}
	p.name(&c, prov)
	p.request(&c, est)
	if byEST && len(c.Subject) == 0 && c.SubjectFrom == "" && c.SANs.empty() && p.lacks("subject") && p.lacks("common_name") &&
		p.lacks("common_name_from") && p.lacks("san") {
		p.failTable("has no name to ask for", "add common_name, common_name_from, subject or san")
	}
	p.urls(&c, est)
	c.RenewWith = p.oneOf("renew_with", ownIdentity, "est")
	s := p.sub("auto_renew").schedule()
	c.Policy, c.RotateKey = s.policy, s.rotate
	p.checkServerKey(c)
	p.sub("auto_renew").warnRetry(id, c.Policy)
	return c
}

// request reads what every kind of certificate has: what is asked for beside the name, and what becomes of the answer.
func (p part) request(c *Certificate, est estDefaults) {
	c.SANs = p.sans()
	c.Usages = p.usages(c.CA)
	c.Key = p.keyKind()
	c.ServerKey = p.flag("server_key", false)
	c.Timeout = p.duration("timeout", est.timeout, time.Second, time.Hour)
	c.Attributes, c.LinkIdentity, c.RedirectHosts = est.attributes, est.linkIdentity, est.redirectHosts
	c.Group = p.account("group")
	c.KeyMode = p.keyMode(c.Group)
	c.Outputs = p.outputs()
	c.OnRenew = p.onRenew()
}

// method takes EST, the one way this program issues certificates, and tells whether it is that.
func (p part) method() bool {
	switch s, ok := p.str("method"); {
	case !ok || s == "est":
		return true
	case s == "local_ca" || s == "self_signed":
		p.fail("method", "certagent enrols over EST only",
			`write method = "est", or leave this certificate to aziot and take its table out`)
	default:
		p.fail("method", "is no method of issuance", `write method = "est"`)
	}
	return false
}

// name reads what the certificate is to be called: the registration id (of the device certificate), common_name,
// common_name_from and subject.
func (p part) name(c *Certificate, prov Provisioning) {
	c.Subject = p.subject()
	cn, hasCN := p.str("common_name")
	if hasCN {
		if text, hint := wrongValue(attribute{oid: commonName, limit: 64}, cn); text != "" {
			p.fail("common_name", text, hint)
			hasCN = false
		}
	}
	in := commonNameOf(c.Subject)
	if hasCN && in != "" && in != cn {
		p.fail("common_name", "differs from the common name "+quoted(in)+" in subject", "keep one of the two")
	}
	if hasCN {
		c.Subject = withCommonName(c.Subject, cn)
	}
	p.nameFrom(c, hasCN || in != "")

	if id := prov.RegistrationID; id != "" && c.Role == RoleDevice {
		p.warnRegistration(c, id)
		c.Subject, c.SubjectFrom = withCommonName(c.Subject, id), ""
	}
}

func (p part) nameFrom(c *Certificate, named bool) {
	from, ok := p.str("common_name_from")
	if !ok {
		return
	}
	switch {
	case named:
		p.fail("common_name_from", "stands beside a common name", "keep one of the two")
	case from == "hostname" || from == "machine-id":
		c.SubjectFrom = from
	case from == "bootstrap-cert":
		c.SubjectFrom = from
		if c.Auth.Bootstrap == nil && p.lacks("bootstrap_identity_cert") {
			p.fail("common_name_from", "there is no bootstrap certificate to take it from",
				"add bootstrap_identity_cert and bootstrap_identity_pk")
		}
	case strings.HasPrefix(from, "/") || strings.HasPrefix(from, "file:"):
		if f := p.file("common_name_from"); f != "" {
			c.SubjectFrom = fileURI(f)
		}
	default:
		p.fail("common_name_from", "is no source of a name",
			`write "hostname", "machine-id", "bootstrap-cert" or "file:///…"`)
	}
}

// warnRegistration says where the registration id takes the place of another name.
func (p part) warnRegistration(c *Certificate, id string) {
	const hint = "leave one of them out"
	switch cn := commonNameOf(c.Subject); {
	case c.SubjectFrom != "":
		p.warn("common_name_from", c.ID, "registration_id "+quoted(id)+" takes its place", hint)
	case cn != "" && cn != id:
		name := "common_name"
		if !p.has(name) {
			name = "subject"
		}
		p.warn(name, c.ID, "registration_id "+quoted(id)+" takes the place of the common name "+quoted(cn), hint)
	}
}

// usages reads the extended key usages; client if nothing is said, none for a CA certificate.
func (p part) usages(ca bool) []string {
	if ca {
		if p.has("usage") {
			p.fail("usage", "a CA certificate is asked for without usages", "leave it out")
		}
		return nil
	}
	if !p.has("usage") {
		return []string{"client"}
	}
	usages := []string{}
	for _, n := range p.strs("usage") {
		switch {
		case n.text != "client" && n.text != "server":
			p.failAt(n, "usage", "is no usage", `write "client" or "server"`)
		case slices.Contains(usages, n.text):
			p.failAt(n, "usage", "stands there twice", "keep one")
		default:
			usages = append(usages, n.text)
		}
	}
	return usages
}

// keyKinds are the keys that can be made.
func keyKinds() []string {
	return []string{"ec-p256", "ec-p384", "ec-p521", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519"}
}

// keyKind is the kind of key; "" if nothing is said.
func (p part) keyKind() string {
	s, ok := p.str("key")
	if !ok || strings.HasPrefix(s, "pkcs11:") {
		return s
	}
	return p.oneOf("key", keyKinds()...)
}

// checkServerKey holds server_key against what goes with it: a key that the server makes cannot be kept at a renewal, nor
// come to a token, and should not be shown to just anybody whom a public CA certifies (RFC 7030 section 6).
func (p part) checkServerKey(c Certificate) {
	switch {
	case !c.ServerKey:
	case !c.RotateKey:
		p.fail("server_key", "stands beside rotate_key = false, and the server makes a new key each time",
			"leave one of them out")
	case strings.HasPrefix(c.Key, "pkcs11:"):
		p.fail("server_key", "stands beside a key on a token, which never leaves it", "leave one of them out")
	case c.Trust.SystemRoots && len(c.Trust.Files) == 0 && c.Trust.Fingerprint == "":
		p.warn("server_key", c.ID, "any server that a public CA certifies would be trusted with the private key "+
			"(RFC 7030 section 6)", "name the EST server's CA in trusted_certs")
	}
}

// urls chooses the server: the certificate's own url, urls.<id>, urls.default.
func (p part) urls(c *Certificate, est estDefaults) {
	c.URL, c.RenewURL = p.estURL("url"), p.estURL("renew_url")
	urls := est.at.sub("urls")
	for _, name := range []string{c.ID, defaultURL} {
		if c.URL == nil && !p.has("url") {
			c.URL = est.urls[name]
			if c.URL == nil && urls.has(name) {
				return // reported where it stands
			}
		}
	}
	if c.URL == nil && p.lacks("url") && urls.lacks(defaultURL) {
		p.failTable("has no EST server", "add url here, or "+dotted([]string{c.ID})+
			" or default in [cert_issuance.est.urls]")
	}
}

var (
	accountName = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_.-]{0,30}\$?|[0-9]{1,10})$`)
	modePattern = regexp.MustCompile(`^0?[0-7]{3}$`)
)

// account reads the name or number of a user or group. Whether there is one is not looked up: it may come with a
// package that is installed later.
func (p part) account(name string) string {
	s, ok := p.str(name)
	if ok && s != "" && !accountName.MatchString(s) {
		p.fail(name, "is no user or group name", `write a name or a number, for example "mosquitto"`)
		return ""
	}
	return s
}

// mode reads a file mode; otherwise is the one without the key, forbidden the bits that it must not have.
func (p part) mode(name string, otherwise, forbidden fs.FileMode) fs.FileMode {
	s, ok := p.str(name)
	if !ok {
		return otherwise
	}
	like := quoted(shownMode(otherwise)) + " or the like"
	n, err := strconv.ParseUint(s, 8, 32)
	m := fs.FileMode(n)
	switch {
	case err != nil || !modePattern.MatchString(s):
		p.fail(name, "is no file mode", "write it in octal: "+like)
	case m&forbidden&0o133 != 0:
		p.fail(name, "gives others the right to write, or anybody to execute", "write "+like)
	case m&forbidden != 0:
		p.fail(name, "lets everybody read a private key", `write "0640" and name a group`)
	case m&0o400 == 0:
		p.fail(name, "keeps the owner from reading", "write "+like)
	default:
		return m
	}
	return otherwise
}

// Bits that no file of ours has: no execution, and nobody but the owner writes.
const (
	forbiddenPublic fs.FileMode = 0o133
	forbiddenSecret fs.FileMode = 0o137
)

// keyMode is the mode of the private key's file.
func (p part) keyMode(group string) fs.FileMode {
	return p.mode("key_mode", secretMode(group), forbiddenSecret)
}

func secretMode(group string) fs.FileMode {
	if group != "" {
		return 0o640
	}
	return 0o600
}
