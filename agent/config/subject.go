package config

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"net/mail"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// attribute is one kind of name within a distinguished name.
type attribute struct {
	names []string // the short name first; compared without regard to case
	oid   string
	limit int // characters, RFC 5280 appendix A.1; 0 where it sets none
}

// attributes are the names of RFC 4519 section 2, as OpenSSL and so aziot spell them, and those that the provisioning
// templates of AWS IoT and the enrolment groups of Azure DPS read.
func attributes() []attribute {
	return []attribute{
		{[]string{"CN", "commonName"}, "2.5.4.3", 64},
		{[]string{"surname", "SN"}, "2.5.4.4", 64},
		{[]string{"serialNumber"}, "2.5.4.5", 64},
		{[]string{"C", "countryName"}, "2.5.4.6", 2},
		{[]string{"L", "localityName"}, "2.5.4.7", 128},
		{[]string{"ST", "stateOrProvinceName", "stateName"}, "2.5.4.8", 128},
		{[]string{"STREET", "streetAddress"}, "2.5.4.9", 0},
		{[]string{"O", "organizationName"}, "2.5.4.10", 64},
		{[]string{"OU", "organizationalUnitName"}, "2.5.4.11", 64},
		{[]string{"title"}, "2.5.4.12", 64},
		{[]string{"description"}, "2.5.4.13", 0},
		{[]string{"businessCategory"}, "2.5.4.15", 0},
		{[]string{"postalCode"}, "2.5.4.17", 0},
		{[]string{"name"}, "2.5.4.41", 0},
		{[]string{"GN", "givenName"}, "2.5.4.42", 0},
		{[]string{"initials"}, "2.5.4.43", 0},
		{[]string{"generationQualifier"}, "2.5.4.44", 0},
		{[]string{"dnQualifier"}, "2.5.4.46", 0},
		{[]string{"pseudonym"}, "2.5.4.65", 128},
		{[]string{"organizationIdentifier"}, "2.5.4.97", 0},
		{[]string{"DC", "domainComponent"}, "0.9.2342.19200300.100.1.25", 0},
		{[]string{"UID", "userId"}, "0.9.2342.19200300.100.1.1", 0},
		{[]string{"emailAddress", "E"}, "1.2.840.113549.1.9.1", 255},
	}
}

const (
	commonName   = "2.5.4.3"
	surname      = "2.5.4.4"
	countryName  = "2.5.4.6"
	serialNumber = "2.5.4.5"
	dnQualifier  = "2.5.4.46"
)

// attributeOf looks up a name, or takes a dotted object identifier.
func attributeOf(name string) (a attribute, oid asn1.ObjectIdentifier, ok bool) {
	for _, a = range attributes() {
		if a.oid == name || slices.ContainsFunc(a.names, func(n string) bool { return strings.EqualFold(n, name) }) {
			oid, _ = parseOID(a.oid)
			return a, oid, true
		}
	}
	oid, ok = parseOID(name)
	return attribute{names: []string{name}, oid: name}, oid, ok
}

// parseOID reads an object identifier that DER can carry (X.660: the first arc is 0 to 2, the second below 40 under
// the first two).
func parseOID(s string) (asn1.ObjectIdentifier, bool) {
	arcs := strings.Split(s, ".")
	oid := make(asn1.ObjectIdentifier, len(arcs))
	for i, arc := range arcs {
		n, err := strconv.ParseInt(arc, 10, 32)
		if err != nil || n < 0 || len(arc) > 1 && arc[0] == '0' || arc[0] == '+' {
			return nil, false
		}
		oid[i] = int(n)
	}
	return oid, len(oid) >= 2 && oid[0] <= 2 && (oid[0] == 2 || oid[1] < 40)
}

// pair is one attribute and its value as the configuration writes them, and where.
type pair struct {
	name  string
	value *node
}

// subject reads the key subject, either way it can be written. A table has no order in TOML: the common name comes
// first and the rest by name, as aziot has it. A list of pairs keeps its order.
func (p part) subject() pkix.RDNSequence {
	n := p.n.get("subject")
	switch {
	case n == nil:
		return nil
	case n.kind == kindTable:
		return p.rdns(p.subjectTable(n))
	case n.kind == kindArray:
		return p.rdns(p.subjectPairs(n))
	}
	return nil
}

func (p part) subjectTable(n *node) (pairs []pair) {
	for _, name := range n.names {
		if n.table[name].kind == kindString { // anything else is reported already
			pairs = append(pairs, pair{name, n.table[name]})
		}
	}
	sort.Slice(pairs, func(i, j int) bool {
		a, b := pairs[i].name, pairs[j].name
		if isCommonName(a) != isCommonName(b) {
			return isCommonName(a)
		}
		return strings.ToUpper(a) < strings.ToUpper(b)
	})
	return pairs
}

func (p part) subjectPairs(n *node) (pairs []pair) {
	for _, e := range n.list {
		if e.kind != kindArray || len(e.list) != 2 || e.list[0].kind != kindString || e.list[1].kind != kindString {
			p.failAt(e, "subject", "each part must be a pair of strings",
				`write subject = [["C", "JP"], ["O", "Example"]]`)
			continue
		}
		pairs = append(pairs, pair{e.list[0].text, e.list[1]})
	}
	if len(n.list) == 0 {
		p.fail("subject", "is empty", `write subject = [["C", "JP"], ["O", "Example"]], or leave it out`)
	}
	return pairs
}

func isCommonName(name string) bool {
	a, _, ok := attributeOf(name)
	return ok && a.oid == commonName
}

// rdns checks the values and makes a distinguished name of them, one attribute in each part.
func (p part) rdns(pairs []pair) (name pkix.RDNSequence) {
	cn := false
	for _, pr := range pairs {
		a, oid, ok := attributeOf(pr.name)
		fail := func(text, hint string) {
			at := p.key("subject") + "." + dotted([]string{pr.name})
			p.r.errs = append(p.r.errs,
				Error{Place: pr.value.at, Key: at, Value: shown(pr.value), Text: text, Hint: hint})
		}
		if !ok {
			hint := "write CN, C, O, OU, L, ST, serialNumber and so on, or a dotted object identifier"
			if near := nearestAttribute(pr.name); near != "" {
				hint = "did you mean " + near + "?"
			}
			fail("no such attribute of a distinguished name", hint)
			continue
		}
		if text, hint := wrongValue(a, pr.value.text); text != "" {
			fail(text, hint)
			continue
		}
		if a.oid == commonName {
			if cn {
				fail("is a second common name", "keep one")
				continue
			}
			cn = true
		}
		if strings.EqualFold(pr.name, "SN") {
			p.warn("subject", "", "SN is the surname (RFC 4519 section 2.32)", "for a serial number write serialNumber")
		}
		name = append(name, pkix.RelativeDistinguishedNameSET{{Type: oid, Value: pr.value.text}})
	}
	return name
}

func nearestAttribute(name string) string {
	for _, a := range attributes() {
		for _, n := range a.names {
			if len(n) > 3 && Nearest(name, []string{strings.ToLower(n)}) != "" {
				return n
			}
		}
	}
	return ""
}

// wrongValue says what keeps a value from being one of the attribute; "" if nothing does.
func wrongValue(a attribute, v string) (text, hint string) {
	n := utf8.RuneCountInString(v)
	switch {
	case strings.TrimSpace(v) == "":
		return "is empty", "give it a value, or leave it out"
	case strings.ContainsFunc(v, unicode.IsControl):
		return "holds a control character", "leave it out"
	case a.oid == countryName && (n != 2 || !isPrintable(v)):
		return "is no country code", `write two letters as in ISO 3166, for example "JP"`
	case (a.oid == serialNumber || a.oid == dnQualifier) && !isPrintable(v):
		return "holds characters that this attribute cannot carry", "use letters, digits, space and '()+,-./:=?"
	case a.oid == commonName && n > a.limit:
		return "is " + strconv.Itoa(n) + " characters long", "a common name has at most 64 (RFC 5280 appendix A.1)"
	case a.limit > 0 && n > a.limit:
		return "is " + strconv.Itoa(n) + " characters long",
			"this attribute has at most " + strconv.Itoa(a.limit) + " (RFC 5280 appendix A.1)"
	}
	return "", ""
}

// isPrintable reports whether s is a PrintableString of X.680.
func isPrintable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') &&
			!strings.ContainsRune(" '()+,-./:=?", r)
	})
}

// commonNameOf returns the common name in a subject, or "".
func commonNameOf(name pkix.RDNSequence) string {
	for _, rdn := range name {
		for _, a := range rdn {
			if a.Type.String() == commonName {
				s, _ := a.Value.(string)
				return s
			}
		}
	}
	return ""
}

// withCommonName returns name with cn in place of its common name, or in front if it has none.
func withCommonName(name pkix.RDNSequence, cn string) pkix.RDNSequence {
	oid, _ := parseOID(commonName)
	rdn := pkix.RelativeDistinguishedNameSET{{Type: oid, Value: cn}}
	name = slices.Clone(name)
	if i := slices.IndexFunc(name, func(r pkix.RelativeDistinguishedNameSET) bool {
		return r[0].Type.Equal(oid)
	}); i >= 0 {
		name[i] = rdn
		return name
	}
	return slices.Insert(name, 0, rdn)
}

// sans reads the key san.
func (p part) sans() (s SANs) {
	for _, n := range p.strs("san") {
		typ, value, _ := strings.Cut(n.text, ":")
		switch typ {
		case "dns":
			if !isDNSName(value) {
				p.failAt(n, "san", "is no DNS name", `write "dns:host.example"; other scripts in their xn-- form`)
				continue
			}
			s.DNS = append(s.DNS, value)
		case "ip":
			ip := net.ParseIP(value)
			if ip == nil {
				p.failAt(n, "san", "is no IP address", `write "ip:192.0.2.1" or "ip:2001:db8::1"`)
				continue
			}
			s.IPs = append(s.IPs, ip)
		case "uri":
			u, err := url.Parse(value)
			if err != nil || u.Scheme == "" || !isASCII(value) {
				p.failAt(n, "san", "is no absolute URI", `write "uri:urn:dev:gateway-7" or the like`)
				continue
			}
			s.URIs = append(s.URIs, u)
		case "email":
			a, err := mail.ParseAddress(value)
			if err != nil || a.Address != value || !isASCII(value) {
				p.failAt(n, "san", "is no mail address", `write "email:someone@host.example"`)
				continue
			}
			s.Emails = append(s.Emails, value)
		default:
			p.failAt(n, "san", "has no kind in front", `write "dns:…", "ip:…", "uri:…" or "email:…"`)
		}
	}
	return s
}

func (s SANs) empty() bool { return len(s.DNS)+len(s.IPs)+len(s.URIs)+len(s.Emails) == 0 }

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// isDNSName takes host names (RFC 1123 section 2.1), underscores, and a wildcard as first label.
func isDNSName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimPrefix(s, "*."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool {
				return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
			}) {
			return false
		}
	}
	return true
}
