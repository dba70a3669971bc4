package config

import (
	"slices"
	"sort"
	"strings"
)

// estIdentities adds the EST identities that the certificates log in with, and names them in the certificates.
//
// There is one where [cert_issuance.est.identity_auto_renew] and a bootstrap certificate are configured and no person
// provides an identity: est-id for all certificates that log in by [cert_issuance.est.auth], est-id-<id> for a
// certificate whose own login differs from it.
func (c *Config) estIdentities(root part, est estDefaults, tables map[string]part) {
	renewal := est.at.sub("identity_auto_renew")
	certs := root.sub("cert_issuance").sub("certs")
	sort.Slice(c.Certificates, func(i, j int) bool { return c.Certificates[i].ID < c.Certificates[j].ID })

	var identities []Certificate
	made := map[string]bool{}
	for i := range c.Certificates {
		served := &c.Certificates[i]
		if !renewal.there() || served.Auth.Bootstrap == nil || served.Auth.Identity != nil {
			continue
		}
		id := estID
		if !sameAuth(served.Auth, est.auth) {
			id = estID + "-" + served.ID
			if !isID(id) {
				tables[served.ID].failTable("its EST identity "+id+" would have too long an id", "choose a shorter id")
				continue
			}
		}
		served.ESTIdentity = id
		if !made[id] {
			made[id] = true
			p := certs.sub(id)
			identities = append(identities, readIdentity(id, p, est, *served, c.named(served)))
			tables[id] = p
			if !p.there() {
				tables[id] = renewal
			}
		}
	}
	if renewal.there() && len(identities) == 0 && len(c.Certificates) > 0 {
		c.warnNoIdentity(renewal)
	}
	if len(identities) > 0 {
		renewal.warnRetry("", est.identity.policy)
	}
	if certs.there() {
		for _, id := range certs.n.names {
			if p := certs.sub(id); p.there() && isReserved(id) && !made[id] {
				p.failTable("ids that begin with est-id belong to EST identities, and there is none of this name",
					"configure [cert_issuance.est.identity_auto_renew] and bootstrap_identity_cert/_pk, "+
						"or choose another id")
			}
		}
	}
	c.Certificates = append(identities, c.Certificates...)
}

func isReserved(id string) bool { return id == estID || strings.HasPrefix(id, estID+"-") }

// named is the certificate whose name an EST identity takes: device-id if there is one, else the one that it serves.
func (c *Config) named(served *Certificate) Certificate {
	if device, ok := c.Certificate(deviceID); ok {
		return *device
	}
	return *served
}

// readIdentity makes the EST identity of a certificate. p is [cert_issuance.certs.<id>], if it is there; what it does
// not say comes from [cert_issuance.est] and from the certificate whose name the identity takes.
func readIdentity(id string, p part, est estDefaults, served, named Certificate) Certificate {
	c := Certificate{ID: id, Role: RoleESTIdentity, Trust: est.trust, Auth: served.Auth, RenewWith: ownIdentity}
	p.method()
	for _, name := range append(authNames(), "renew_with") {
		if p.has(name) {
			p.fail(name, "an EST identity logs in as the certificates do that it serves, and renews with itself",
				"leave it out")
		}
	}
	p.name(&c, Provisioning{})
	if len(c.Subject) == 0 && c.SubjectFrom == "" {
		c.Subject, c.SubjectFrom = named.Subject, named.SubjectFrom
	}
	p.request(&c, est)
	if len(c.Subject) == 0 && c.SubjectFrom == "" && c.SANs.empty() {
		est.at.sub("identity_auto_renew").failTable(
			"the EST identity "+id+" has no name to ask for: "+named.ID+" has none but in san",
			"add common_name in [cert_issuance.certs."+dotted([]string{id})+"]")
	}
	c.URL, c.RenewURL = p.estURL("url"), p.estURL("renew_url")
	if c.URL == nil {
		c.URL = est.urls[id]
	}
	if c.URL == nil && id == estID {
		c.URL = est.urls[defaultURL]
	}
	if c.URL == nil {
		c.URL = served.URL
	}
	c.Policy, c.RotateKey = est.identity.policy, est.identity.rotate
	if own := p.sub("auto_renew"); own.there() {
		s := own.schedule()
		own.warnRetry(id, s.policy)
		c.Policy, c.RotateKey = s.policy, s.rotate
	}
	p.checkServerKey(c)
	return c
}

// warnNoIdentity says why identity_auto_renew is without effect.
func (c *Config) warnNoIdentity(renewal part) {
	provided := func(cert Certificate) bool { return cert.Auth.Identity != nil && cert.Auth.Bootstrap != nil }
	if slices.ContainsFunc(c.Certificates, provided) {
		renewal.warnTable("", "has nothing to renew: identity_cert is used in place of an EST identity of our own",
			"renew that pair yourself, or leave out identity_cert and identity_pk")
		return
	}
	renewal.warnTable("", "has nothing to renew: an EST identity is enrolled with a bootstrap certificate only",
		"add bootstrap_identity_cert and bootstrap_identity_pk in [cert_issuance.est.auth]")
}
