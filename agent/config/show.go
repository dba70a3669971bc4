package config

import (
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"certagent/renew"
)

// Show writes the effective configuration as TOML: what the files say with every default filled in, every name and
// server decided, and secrets as [redacted]. It loads again, to the same Config but for the secrets.
func (c *Config) Show() []byte {
	root := newTable(Place{})
	root.put("state_dir", c.StateDir)
	root.put("run_dir", c.RunDir)
	log := root.in("log")
	log.put("level", c.Log.Level)
	log.put("format", c.Log.Format)
	metrics := root.in("metrics")
	metrics.put("textfile", c.Metrics.Textfile)
	metrics.put("listen", c.Metrics.Listen)
	root.in("control").put("socket", c.Control.Socket)
	root.in("clock").putFlag("check", c.Clock.Check)
	c.showProvisioning(root)
	c.showEST(root.in("cert_issuance").in("est"))
	for _, cert := range c.Certificates {
		cert.show(c.tableOf(root, cert), c.est.auth)
	}
	return writeTOML(root)
}

// tableOf is where a certificate stands.
func (c *Config) tableOf(root *node, cert Certificate) *node {
	switch cert.Role {
	case RoleDevice:
		return root.in("provisioning").in("attestation").in("identity_cert")
	case RoleEdgeCA:
		return root.in("edge_ca")
	}
	return root.in("cert_issuance").in("certs").in(cert.ID)
}

func (c *Config) showProvisioning(root *node) {
	v := c.Provisioning
	if v.Source == "" && v.RegistrationID == "" && len(v.TrustedCerts) == 0 {
		return
	}
	p := root.in("provisioning")
	p.putIf("source", v.Source)
	p.putIf("global_endpoint", v.GlobalEndpoint)
	p.putIf("id_scope", v.IDScope)
	if v.Payload != "" {
		p.in("payload").put("uri", fileURI(v.Payload))
	}
	p.putIf("endpoint", v.Endpoint)
	p.putIf("client_id", v.ClientID)
	if v.Source == SourceAWS {
		p.set("port", &node{kind: kindInteger, text: strconv.Itoa(v.Port)})
	}
	if len(v.TrustedCerts) > 0 {
		p.putList("trusted_certs", v.TrustedCerts)
	}
	if v.RegistrationID != "" {
		p.in("attestation").put("registration_id", v.RegistrationID)
	}
}

func (c *Config) showEST(est *node) {
	d := c.est
	est.putList("trusted_certs", d.trust.Files)
	est.putFlag("system_roots", d.trust.SystemRoots)
	est.putIf("bootstrap_fingerprint", d.trust.Fingerprint)
	est.put("timeout", shownTime(d.timeout))
	est.putFlag("csrattrs", d.attributes)
	est.putFlag("link_identity", d.linkIdentity)
	est.putList("redirect_hosts", d.redirectHosts)
	if !sameAuth(d.auth, Auth{}) {
		d.auth.show(est.in("auth"))
	}
	if d.renewsIdentity {
		d.identity.show(est.in("identity_auto_renew"))
	}
}

func (a Auth) show(t *node) {
	if a.HasPassword {
		t.put("username", a.Username)
		if a.PasswordFile != "" {
			t.put("password_file", a.PasswordFile)
		} else {
			t.put("password", a.Password.String())
		}
	}
	a.Identity.show(t, "identity")
	a.Bootstrap.show(t, "bootstrap_identity")
}

func (k *KeyPair) show(t *node, kind string) {
	if k == nil {
		return
	}
	t.put(kind+"_cert", k.Cert)
	if k.KeyURI != "" {
		t.put(kind+"_pk", withoutPIN(k.KeyURI))
	} else {
		t.put(kind+"_pk", k.Key)
	}
}

func (s schedule) show(t *node) {
	t.putFlag("enabled", s.policy.Enabled)
	t.putFlag("rotate_key", s.rotate)
	t.put("threshold", s.policy.Threshold.String())
	t.put("retry", s.policy.Retry.String())
	if s.policy.JitterSet {
		t.put("jitter", s.policy.Jitter.String())
	}
	first := "threshold"
	if s.policy.SpreadFirst {
		first = "spread"
	}
	t.put("first_renewal", first)
}

// show writes a certificate's table. A login is written where it is not the one of all certificates.
func (c *Certificate) show(t *node, global Auth) {
	t.put("method", "est")
	t.putIf("common_name_from", c.SubjectFrom)
	if len(c.Subject) > 0 {
		var pairs []*node
		for _, rdn := range c.Subject {
			for _, a := range rdn {
				pairs = append(pairs, listOf([]string{shortName(a.Type.String()), fmt.Sprint(a.Value)}))
			}
		}
		t.set("subject", &node{kind: kindArray, list: pairs})
	}
	if names := c.SANs.strings(); len(names) > 0 {
		t.putList("san", names)
	}
	if !c.CA {
		t.putList("usage", c.Usages)
	}
	t.putIf("key", withoutPIN(c.Key))
	t.putFlag("server_key", c.ServerKey)
	t.put("url", c.URL.String())
	if c.RenewURL != nil {
		t.put("renew_url", c.RenewURL.String())
	}
	t.put("timeout", shownTime(c.Timeout))
	if c.Role != RoleESTIdentity {
		t.put("renew_with", c.RenewWith)
		if !sameAuth(c.Auth, global) {
			c.Auth.show(t)
		}
	}
	t.putIf("group", c.Group)
	t.put("key_mode", shownMode(c.KeyMode))
	schedule{c.Policy, c.RotateKey}.show(t.in("auto_renew"))
	if len(c.Outputs) > 0 {
		outputs := &node{kind: kindArray}
		for _, o := range c.Outputs {
			outputs.list = append(outputs.list, o.show())
		}
		t.set("outputs", outputs)
	}
	c.OnRenew.show(t)
}

func (o Output) show() *node {
	t := newTable(Place{})
	t.put("format", o.Format)
	t.put("path", o.Path)
	t.putIf("owner", o.Owner)
	t.putIf("group", o.Group)
	t.put("mode", shownMode(o.Mode))
	t.putIf("password_file", o.PasswordFile)
	return t
}

func (h OnRenew) show(t *node) {
	if len(h.Exec)+len(h.Reload)+len(h.Restart) == 0 {
		return
	}
	t = t.in("on_renew")
	commands := &node{kind: kindArray}
	for _, argv := range h.Exec {
		commands.list = append(commands.list, listOf(argv))
	}
	t.set("exec", commands)
	t.putList("reload", h.Reload)
	t.putList("restart", h.Restart)
	t.put("timeout", shownTime(h.Timeout))
}

// shortName is how the configuration writes an attribute.
func shortName(oid string) string {
	if a, _, ok := attributeOf(oid); ok {
		return a.names[0]
	}
	return oid
}

func (s SANs) strings() (names []string) {
	for _, n := range s.DNS {
		names = append(names, "dns:"+n)
	}
	for _, ip := range s.IPs {
		names = append(names, "ip:"+ip.String())
	}
	for _, u := range s.URIs {
		names = append(names, "uri:"+u.String())
	}
	for _, n := range s.Emails {
		names = append(names, "email:"+n)
	}
	return names
}

func shownTime(d time.Duration) string { return renew.Fixed(d).String() }
func shownMode(m fs.FileMode) string   { return fmt.Sprintf("%04o", m) }

//go:noinline
func (n *node) put(name, s string) { n.set(name, &node{kind: kindString, text: s}) }
func (n *node) putFlag(name string, b bool) {
	n.set(name, &node{kind: kindBoolean, text: strconv.FormatBool(b)})
}

// putIf leaves out what is empty and whose default is to be missing.
func (n *node) putIf(name, s string) {
	if s != "" {
		n.put(name, s)
	}
}

func (n *node) putList(name string, strs []string) { n.set(name, listOf(strs)) }

func listOf(strs []string) *node {
	l := &node{kind: kindArray}
	for _, s := range strs {
		l.list = append(l.list, &node{kind: kindString, text: s})
	}
	return l
}

// in is the table called name, made if it is missing.
func (n *node) in(name string) *node {
	t := n.get(name)
	if t == nil {
		t = newTable(Place{})
		n.set(name, t)
	}
	return t
}
