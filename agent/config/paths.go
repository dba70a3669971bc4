package config

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
)

const credentialPrefix = "credential:"

// file is the file that a key names, as a file URI or an absolute path; "" after reporting a mistake.
func (p part) file(name string) string {
	n := p.n.get(name)
	if n == nil || n.kind != kindString {
		return ""
	}
	return p.fileIn(n, name)
}

// files are the files in the list called name.
func (p part) files(name string) (files []string) {
	for _, n := range p.strs(name) {
		if f := p.fileIn(n, name); f != "" {
			files = append(files, f)
		}
	}
	return files
}

func (p part) fileIn(n *node, name string) string {
	f, wrong := parsePath(n.text)
	if wrong != "" {
		p.failAt(n, name, wrong, `write an absolute path, or "file:///absolute/path"`)
	}
	return f
}

// secretFile is a path, or "credential:NAME" for a credential that systemd hands over (systemd.exec(5)).
func (p part) secretFile(name string) string {
	s, ok := p.str(name)
	credential, is := strings.CutPrefix(s, credentialPrefix)
	if !ok || !is {
		return p.file(name)
	}
	if !isCredential(credential) {
		p.fail(name, "is no name of a systemd credential", `write "credential:NAME", as in LoadCredential=NAME:…`)
		return ""
	}
	return s
}

// parsePath turns a file URI (RFC 8089) or an absolute path into a path; wrong says what is the matter otherwise.
func parsePath(s string) (path, wrong string) {
	switch {
	case strings.HasPrefix(s, "/"):
		path = s
	case strings.HasPrefix(strings.ToLower(s), "file:"):
		u, err := url.Parse(s)
		switch {
		case err != nil || u.Opaque != "" || !strings.HasPrefix(u.Path, "/"):
			return "", "is no absolute file URI"
		case u.Host != "" && u.Host != "localhost":
			return "", "names a host, and can only be a file of this machine"
		case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
			return "", "a file URI has nothing behind its path"
		}
		path = u.Path
	case strings.HasPrefix(s, "pkcs11:"):
		return "", "is a key on a token, and must be a file"
	default:
		return "", "is no absolute path"
	}
	if strings.ContainsFunc(path, unicode.IsControl) {
		return "", "holds a control character"
	}
	return path, ""
}

// isCredential reports whether systemd would take the name.
func isCredential(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 &&
		!strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ':' })
}

// absolute is a path that must not be a URI: a directory, a socket or a file to write.
func (p part) absolute(name string) string {
	s, ok := p.str(name)
	if !ok || s == "" {
		return ""
	}
	if !filepath.IsAbs(s) || strings.ContainsFunc(s, unicode.IsControl) {
		p.fail(name, "is no absolute path", `write a path that begins with "/"`)
		return ""
	}
	return filepath.Clean(s)
}

// hosts are the servers, as host or host:port, in the list called name.
func (p part) hosts(name string) (hosts []string) {
	for _, n := range p.strs(name) {
		u, err := url.Parse("https://" + n.text)
		if err != nil || u.Host != n.text || u.Hostname() == "" || strings.ContainsAny(n.text, "*,; ") ||
			strings.HasSuffix(u.Host, ":") || u.Port() != "" && !isPort(u.Port()) {
			p.failAt(n, name, "is no host", `write "host" or "host:port"`)
			continue
		}
		hosts = append(hosts, strings.ToLower(n.text))
	}
	return hosts
}

// operations are the paths of RFC 7030 section 3.2.2, which no base URL ends with.
var operations = regexp.MustCompile(`/(cacerts|simpleenroll|simplereenroll|fullcmc|serverkeygen|csrattrs)$`)

// estURL is the base URL of an EST server; nil if the key is missing or after reporting a mistake.
func (p part) estURL(name string) *url.URL {
	u := p.httpsURL(name)
	if u == nil {
		return nil
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
	if m := operations.FindString(u.Path); m != "" {
		p.fail(name, "is the URL of one operation", "leave out "+quoted(m)+": certagent adds the operations itself")
		return nil
	}
	if u.Path == "" {
		p.warn(name, "", "has no path, so that the server is asked for /cacerts at its root",
			`EST servers usually answer below "/.well-known/est" (RFC 7030 section 3.2.2)`)
	}
	return u
}

// neverInHost are the characters that a URL can have in its host and that no server's name has: <host> is a blank to fill in.
const neverInHost = "<>\"!$&'()*+,;=~"

// httpsURL is an https URL without user, query or fragment; nil if the key is missing or after reporting a mistake.
func (p part) httpsURL(name string) *url.URL {
	s, ok := p.str(name)
	if !ok {
		return nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		p.fail(name, "is no URL", `write "https://host[:port]/path"`)
	case u.Scheme == "http":
		p.fail(name, "would send logins and certificates in the clear",
			`write it with "https://" (RFC 7030 section 3.3)`)
	case u.Scheme != "https" || u.Opaque != "" || u.Hostname() == "" || strings.ContainsAny(u.Hostname(), neverInHost):
		p.fail(name, "is no https URL with a host", `write "https://host[:port]/path"`)
	case strings.HasSuffix(u.Host, ":") || u.Port() != "" && !isPort(u.Port()):
		p.fail(name, "has no port between 1 and 65535", `write "https://host[:port]/path"`)
	case u.User != nil:
		p.fail(name, "holds a user name", "write username and password in [cert_issuance.est.auth]")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(s, "#"):
		p.fail(name, "has something behind its path", "leave out what begins with ? or #")
	default:
		return u
	}
	return nil
}

// fingerprint is a SHA-256 or SHA-512 in hex, with or without colons; "" if the key is missing or after reporting a mistake.
func (p part) fingerprint(name string) string {
	s, ok := p.str(name)
	if !ok {
		return ""
	}
	digits := strings.ToLower(strings.ReplaceAll(s, ":", ""))
	if b, err := hex.DecodeString(digits); err != nil || len(b) != sha256.Size && len(b) != sha512.Size {
		p.fail(name, "is no SHA-256 or SHA-512 fingerprint",
			"write 64 hexadecimal digits, as openssl x509 -fingerprint -sha256 does")
		return ""
	}
	return digits
}
