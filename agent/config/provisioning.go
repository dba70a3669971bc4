package config

import (
	"net"
	"slices"
	"strconv"
	"strings"
)

const globalDPS = "https://global.azure-devices-provisioning.net"

// Sources of [provisioning] that certagent tells of the certificate.
const (
	SourceDPS = "dps"
	SourceAWS = "aws"
)

// Blank reports whether the ID scope is the blank of a tutorial, to be filled in. It is never dialled.
func (p Provisioning) Blank() bool {
	return p.Source == SourceDPS && strings.HasPrefix(p.IDScope, "<") && strings.HasSuffix(p.IDScope, ">")
}

// readProvisioning reads [provisioning] but for the certificate in it.
func readProvisioning(p part) (v Provisioning) {
	if !p.there() {
		return v
	}
	v.Source = p.source()
	att := p.sub("attestation")
	v.RegistrationID = att.registrationID()
	v.TrustedCerts = p.files("trusted_certs")
	if u := p.httpsURL("global_endpoint"); u != nil {
		if strings.Trim(u.Path, "/") != "" {
			p.fail("global_endpoint", "has a path", "write the host alone: "+quoted(globalDPS))
		}
		v.GlobalEndpoint = u.Scheme + "://" + u.Host
	}
	v.IDScope, _ = p.str("id_scope")
	if payload := p.sub("payload"); payload.there() {
		if f := payload.file("uri"); f != "" {
			v.Payload = f
		}
		if payload.lacks("uri") {
			payload.failTable("has no uri", `write payload = { uri = "file:///…" }`)
		}
	}
	v.Endpoint = p.awsEndpoint()
	v.ClientID, _ = p.str("client_id")
	v.Port = p.port()
	p.belongs(&v)
	if v.Source == SourceDPS {
		p.checkNames(v, att)
	}
	for _, in := range []part{att, p.sub("authentication")} {
		in.checkIdentity()
	}
	return v
}

func (p part) source() string {
	s, ok := p.str("source")
	sources := []string{SourceDPS, "manual", "none", SourceAWS}
	if ok && !slices.Contains(sources, s) {
		p.fail("source", "is no source", oneOfHint(s, sources))
		return ""
	}
	return s
}

// registrationID reads the name under which DPS knows the device. It becomes the common name.
func (p part) registrationID() string {
	id, ok := p.str("registration_id")
	if !ok {
		return ""
	}
	if text, hint := wrongValue(attribute{oid: commonName, limit: 64}, id); text != "" {
		p.fail("registration_id", text, hint)
		return ""
	}
	return id
}

// checkNames says which names DPS could not know (Azure DPS, terminology): without that it would be found out once there is
// a certificate, by asking in vain.
func (p part) checkNames(v Provisioning, att part) {
	odd := func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-._:", r))
	}
	if !v.Blank() && strings.ContainsFunc(v.IDScope, odd) {
		p.fail("id_scope", "is no ID scope", "copy the ID scope from the overview of your DPS instance")
	}
	if id := v.RegistrationID; id != "" && (strings.ContainsFunc(id, odd) || strings.ContainsAny(id[len(id)-1:], "._:")) {
		att.fail("registration_id", "is no name that DPS takes",
			`write letters, digits and "-._:", the last a letter, a digit or a dash`)
	}
}

// belongs fills in defaults, and says which keys are missing or another source's.
func (p part) belongs(v *Provisioning) {
	if v.Source == SourceDPS {
		if v.GlobalEndpoint == "" {
			v.GlobalEndpoint = globalDPS
		}
		if p.lacks("id_scope") || v.IDScope == "" && p.has("id_scope") && p.n.get("id_scope").kind == kindString {
			p.fail("id_scope", "is missing", "copy the ID scope from the overview of your DPS instance")
		}
	}
	if v.Source == SourceAWS && p.lacks("endpoint") {
		p.fail("endpoint", "is missing", "write what aws iot describe-endpoint --endpoint-type iot:Data-ATS says")
	}
	for source, names := range map[string][]string{
		SourceDPS: {"global_endpoint", "id_scope", "payload"},
		SourceAWS: {"endpoint", "client_id", "port"},
	} {
		for _, name := range names {
			if v.Source != source && p.has(name) {
				p.warn(name, "", "has no effect without source = "+quoted(source), "")
			}
		}
	}
}

// checkDevice warns about a cloud that no certificate is for. One that knows the device by something else is aziot's business.
func (c *Config) checkDevice(p part) {
	told := c.Provisioning.Source == SourceDPS || c.Provisioning.Source == SourceAWS
	att := p.sub("attestation")
	method, given := att.str("method")
	if !told || given && method != "x509" || att.has("identity_cert") ||
		slices.ContainsFunc(c.Certificates, func(c Certificate) bool { return c.Role == RoleDevice }) {
		return
	}
	p.warn("source", "", "names a cloud, and there is no certificate for it to know",
		`add [provisioning.attestation.identity_cert] with method = "est"`)
}

func (p part) awsEndpoint() string {
	s, ok := p.str("endpoint")
	if ok && (!isDNSName(s) || !strings.Contains(s, ".") || net.ParseIP(s) != nil) {
		p.fail("endpoint", "is no host name",
			"write the name alone, as aws iot describe-endpoint --endpoint-type iot:Data-ATS says it")
		return ""
	}
	return s
}

func (p part) port() int {
	n := p.n.get("port")
	if n == nil || n.kind != kindInteger {
		return 8883
	}
	if n.text != "8883" && n.text != "443" {
		p.fail("port", "is no port that AWS IoT answers MQTT on", "write 8883 or 443")
		return 8883
	}
	port, _ := strconv.Atoi(n.text)
	return port
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// checkIdentity looks at a way to log in to the cloud: whether a certificate of ours has a place in it.
func (p part) checkIdentity() {
	cert := p.n.get("identity_cert")
	method, ok := p.str("method")
	methods := []string{"x509", "symmetric_key", "tpm"}
	if p.there() && p.path[len(p.path)-1] == "authentication" {
		methods = []string{"x509", "sas"}
	}
	switch {
	case ok && !slices.Contains(methods, method):
		p.fail("method", "is no way to log in to the cloud", oneOfHint(method, methods))
	case ok && method != "x509" && cert != nil && cert.kind == kindTable:
		p.fail("method", "uses no certificate, and identity_cert asks for one",
			`write method = "x509", or take identity_cert out`)
	case cert != nil && cert.kind == kindString:
		p.warn("identity_cert", "", "names a certificate that somebody else keeps: certagent leaves it alone",
			`for a certificate over EST write identity_cert = { method = "est", common_name = "…" }`)
	}
}
