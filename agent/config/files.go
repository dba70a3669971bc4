package config

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

// namedFile is one file that the configuration names, and where.
type namedFile struct {
	at          Place
	key         string
	certificate string // "" if it serves several
	path        string
	secret      bool // a private key or a password
	config      bool // a configuration file with a password in it
}

// CheckFiles looks at the files that the configuration names, without opening them: what is missing, and what others
// may read or write and should not. It is the same whoever asks on whatever machine, as where an image is built; how the agent's user sees a
// gateway's files is for package agent/check. Files of systemd credentials are left out, being there for the service alone. It is what
// a person asks for; the daemon looks at each file when it needs it.
func (c *Config) CheckFiles() []Warning {
	var warns []Warning
	for _, f := range c.files {
		if text, hint := f.look(); text != "" {
			warns = append(warns, Warning{Place: f.at, Key: f.key, Certificate: f.certificate, Text: text, Hint: hint})
		}
	}
	return warns
}

// look says what is the matter with a file, or nothing.
func (f namedFile) look() (text, hint string) {
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f.path + " does not exist (yet)", "put it there; it is read at each attempt"
	case err != nil:
		return "cannot look at " + f.path + ": " + errors.Unwrap(err).Error(), ""
	case !info.Mode().IsRegular():
		return f.path + " is no regular file", "name a file"
	case f.config && info.Mode()&0o004 != 0:
		return "everybody may read " + f.path + ", which holds this password", "chmod o= " + f.path
	case f.secret && info.Mode()&0o004 != 0:
		return "everybody may read " + f.path, "chmod o= " + f.path
	case f.secret && info.Mode()&0o022 != 0:
		return "others may write " + f.path, "chmod go-w " + f.path
	case info.Mode()&0o002 != 0:
		return "everybody may write " + f.path, "chmod o-w " + f.path
	}
	return "", ""
}

// namedFiles lists the files, in no order.
func (c *Config) namedFiles(root part, tables map[string]part) (files []namedFile) {
	seen := map[Place]bool{}
	add := func(p part, name, id, path string, secret bool) {
		if path == "" || strings.HasPrefix(path, credentialPrefix) || !p.has(name) || seen[p.place(name)] {
			return
		}
		seen[p.place(name)] = true
		files = append(files,
			namedFile{at: p.place(name), key: p.key(name), certificate: id, path: path, secret: secret})
	}
	login := func(p part, id string, a Auth) {
		add(p, "password_file", id, a.PasswordFile, true)
		for _, pair := range []struct {
			name string
			*KeyPair
		}{{"identity", a.Identity}, {"bootstrap_identity", a.Bootstrap}} {
			if pair.KeyPair != nil {
				add(p, pair.name+"_cert", id, pair.Cert, false)
				add(p, pair.name+"_pk", id, pair.Key, true)
			}
		}
		if n := p.n.get("password"); n != nil && !seen[n.at] {
			seen[n.at] = true
			files = append(files,
				namedFile{at: n.at, key: p.key("password"), certificate: id, path: n.at.File, config: true})
		}
	}
	list := func(p part, name string, paths []string) {
		if n := p.n.get(name); n != nil && len(n.list) == len(paths) {
			for i, path := range paths {
				files = append(files, namedFile{at: n.list[i].at, key: p.key(name), path: path})
			}
		}
	}
	list(root.sub("provisioning"), "trusted_certs", c.Provisioning.TrustedCerts)
	add(root.sub("provisioning").sub("payload"), "uri", "", c.Provisioning.Payload, false)
	list(c.est.at, "trusted_certs", c.est.trust.Files)
	login(c.est.at.sub("auth"), "", c.est.auth)
	for _, cert := range c.Certificates {
		p := tables[cert.ID]
		login(p, cert.ID, cert.Auth)
		if from, wrong := parsePath(cert.SubjectFrom); wrong == "" {
			add(p, "common_name_from", cert.ID, from, false)
		}
		outputs := p.rows("outputs")
		for i, o := range cert.Outputs {
			add(outputs[i], "password_file", cert.ID, o.PasswordFile, true)
		}
	}
	return files
}
