package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Defaults are the directories that hold where the configuration names none: what systemd hands over in
// $STATE_DIRECTORY and $RUNTIME_DIRECTORY. Empty means /var/lib/certagent and /run/certagent.
type Defaults struct{ StateDir, RunDir string }

// maxSize is the most a configuration file may hold, in bytes.
const maxSize = 1 << 20

// Load reads file, then the drop-ins beside it (config.d/*.toml: regular files, links to them too, in byte order, none
// whose name begins with a dot), and checks the whole. The error is [Errors] with every mistake, or that of reading a
// file: fs.ErrNotExist if the main file is missing.
func Load(file string, d Defaults) (*Config, error) {
	return LoadWith(file, dropInsOf(file), d)
}

// LoadWith is Load with the drop-ins of a directory that is not beside file: what would be in force if file came to where they are.
func LoadWith(file, dropIns string, d Defaults) (*Config, error) {
	files, err := filesOf(file, dropIns)
	if err != nil {
		return nil, err
	}
	docs := make([][]byte, len(files))
	for i, f := range files {
		switch docs[i], err = readFile(f); {
		case err != nil && i > 0:
			return nil, dropIn(err)
		case err != nil:
			return nil, err
		}
	}
	return build(files, docs, d)
}

// Parse checks one document that was kept: the last good configuration. The error is [Errors]; name stands in front of
// each.
func Parse(name string, doc []byte, d Defaults) (*Config, error) {
	return build([]string{name}, [][]byte{doc}, d)
}

// Certificate returns the certificate called id. It points into c and must not be changed.
func (c *Config) Certificate(id string) (*Certificate, bool) {
	i := slices.IndexFunc(c.Certificates, func(cert Certificate) bool { return cert.ID == id })
	if i < 0 {
		return nil, false
	}
	return &c.Certificates[i], true
}

// dropInsOf is the directory of the drop-ins of file.
func dropInsOf(file string) string { return filepath.Join(filepath.Dir(file), "config.d") }

// filesOf are the main file and the drop-ins in dir.
func filesOf(file, dir string) ([]string, error) {
	files := []string{file}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list drop-ins: %w", err)
	}
	for _, e := range entries { // in byte order
		if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), ".toml") {
			continue
		}
		f := filepath.Join(dir, e.Name())
		info, err := os.Stat(f)
		if err != nil {
			return nil, dropIn(err)
		}
		if info.Mode().IsRegular() {
			files = append(files, f)
		}
	}
	return files, nil
}

// dropIn is the error of a drop-in. fs.ErrNotExist is for the main file alone: a link that leads nowhere is not told as a
// configuration that nobody has written.
func dropIn(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read drop-in: %v", err)
	}
	return fmt.Errorf("read drop-in: %w", err)
}

// readFile does not wait for the other end of a FIFO: a reload must come back.
func readFile(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	doc, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(doc) > maxSize {
		return nil, fmt.Errorf("read configuration: %s is larger than %d bytes", name, maxSize)
	}
	return doc, nil
}

// build makes a Config of documents, in the order in which they are merged.
func build(files []string, docs [][]byte, d Defaults) (*Config, error) {
	r := newReading()
	root := newTable(Place{File: files[0]})
	all := true
	for i, file := range files {
		n, whole, errs := parseTOML(file, docs[i])
		all = all && whole
		r.errs = append(r.errs, errs...)
		r.errs = append(r.errs, merge(root, n, nil)...)
	}
	if !all { // what a broken document seems to lack may stand behind the fault
		return nil, r.sorted(files)
	}
	r.check(root, r.keys, nil)
	c := &Config{File: files[0], Files: files}
	c.read(part{r: r, n: root}, d)
	if len(r.errs) > 0 {
		return nil, r.sorted(files)
	}
	c.est.at = part{} // lets go of the document
	c.Merged = writeTOML(root)
	r.warnPassed(files)
	c.Warnings = r.sortedWarnings(files)
	return c, nil
}

// sorted are the mistakes in the order of the files, each once.
func (r *reading) sorted(files []string) Errors {
	sortByPlace(files, r.errs, func(e Error) Place { return e.Place })
	return slices.Compact(r.errs)
}

// sortedWarnings are the warnings in the order of the files. What is said at one place of several certificates is said
// once, of none of them.
func (r *reading) sortedWarnings(files []string) (warns []Warning) {
	sortByPlace(files, r.warns, func(w Warning) Place { return w.Place })
	for _, w := range r.warns {
		i := slices.IndexFunc(warns, func(said Warning) bool { return said.Place == w.Place && said.Text == w.Text })
		if i >= 0 {
			warns[i].Certificate = ""
			continue
		}
		warns = append(warns, w)
	}
	return warns
}

// warnPassed names in one warning what is aziot's business alone.
func (r *reading) warnPassed(files []string) {
	if len(r.passed) == 0 {
		return
	}
	sortByPlace(files, r.passed, func(p passed) Place { return p.at })
	keys := make([]string, len(r.passed))
	for i, p := range r.passed {
		keys[i] = p.key
	}
	r.warns = append(r.warns, Warning{Place: r.passed[0].at,
		Text: "passed over, being aziot's and not certagent's business: " + strings.Join(keys, ", ")})
}

// Where the control socket is unless the configuration says otherwise.
const (
	defaultRunDir = "/run/certagent"
	socketName    = "control.sock"
)

// read fills the Config from the merged document.
func (c *Config) read(root part, d Defaults) {
	c.StateDir = root.directory("state_dir", d.StateDir, "/var/lib/certagent")
	if c.StateDir == "/" {
		root.fail("state_dir", "is the root of all directories", "name a directory that nobody else uses")
	}
	c.RunDir = root.directory("run_dir", d.RunDir, defaultRunDir)
	log := root.sub("log")
	c.Log = Log{
		Level:  log.oneOf("level", "info", "debug", "warn", "error"),
		Format: log.oneOf("format", "auto", "json", "console"),
	}
	metrics := root.sub("metrics")
	c.Metrics = Metrics{Textfile: metrics.absolute("textfile"), Listen: metrics.hostPort("listen")}
	if f := c.Metrics.Textfile; f != "" && filepath.Ext(f) != ".prom" {
		metrics.warn("textfile", "", "node_exporter reads only files whose names end in .prom", "name it so")
	}
	c.Control.Socket = root.sub("control").absolute("socket")
	if c.Control.Socket == "" {
		c.Control.Socket = filepath.Join(c.RunDir, socketName)
	}
	c.Clock.Check = root.sub("clock").flag("check", true)

	c.Provisioning = readProvisioning(root.sub("provisioning"))
	c.est = readEST(root.sub("cert_issuance").sub("est"))
	var tables map[string]part
	c.Certificates, tables = c.certificates(root, c.est)
	c.checkDevice(root.sub("provisioning"))
	c.estIdentities(root, c.est, tables)
	c.checkURLs()
	c.problems(root, tables)
	c.files = c.namedFiles(root, tables)
	sortByPlace(c.Files, c.files, func(f namedFile) Place { return f.at })
	c.checkOutputs(tables)
	if len(tables) == 0 && len(root.r.errs) == 0 {
		root.r.errs = append(root.r.errs, Error{Place: root.n.key, Text: "no certificate is configured",
			Hint: "add [provisioning.attestation.identity_cert], [edge_ca] or [cert_issuance.certs.<id>]"})
	}
}

// directory is a directory of the daemon's own.
func (p part) directory(name, given, otherwise string) string {
	if dir := p.absolute(name); dir != "" {
		return dir
	}
	if given != "" {
		return given
	}
	return otherwise
}

// hostPort is an address to listen on; the host may be missing.
func (p part) hostPort(name string) string {
	s, ok := p.str(name)
	if !ok || s == "" {
		return ""
	}
	if _, port, err := net.SplitHostPort(s); err != nil || !isPort(port) {
		p.fail(name, "is no address", `write "host:port", for example "127.0.0.1:9470"`)
		return ""
	}
	return s
}

// checkURLs warns about a URL for a certificate that there is none of.
func (c *Config) checkURLs() {
	urls := c.est.at.sub("urls")
	if !urls.there() {
		return
	}
	ids := []string{defaultURL}
	for _, cert := range c.Certificates {
		ids = append(ids, cert.ID)
	}
	for _, id := range urls.n.names {
		if slices.Contains(ids, id) || id == deviceID+"-temp" || id == edgeCAID+"-temp" || id == estID {
			continue // aziot renews under the name with -temp; est-id may come with a later change
		}
		hint := "leave it out"
		if near := Nearest(id, ids); near != "" {
			hint = "did you mean " + near + "?"
		}
		urls.warn(id, "", "no certificate has this id", hint)
	}
}

// problems finds what is asked for and cannot be done yet, and warnings between several keys.
func (c *Config) problems(root part, tables map[string]part) {
	parts := unbuiltParts()
	for i := range c.Certificates {
		cert := &c.Certificates[i]
		p := tables[cert.ID]
		for _, u := range parts {
			if u.asked(*cert) {
				cert.problem(root, p, u.at, u.problem)
			}
		}
		if cert.Role == RoleDevice && c.Provisioning.Blank() {
			cert.problem(root, p, "provisioning.id_scope", Problem{
				Code: "placeholder",
				Text: "id_scope " + quoted(c.Provisioning.IDScope) + " is still the blank of the tutorial",
				Hint: "copy the ID scope from the overview of your DPS instance; until then DPS is not called",
			})
		}
		if cert.RenewWith == "est" && cert.ESTIdentity == "" && cert.Auth.Identity == nil {
			p.warn("renew_with", cert.ID, "there is no EST identity to renew with: the certificate renews with itself",
				"configure [cert_issuance.est.identity_auto_renew] and a bootstrap certificate, or leave it out")
		}
		cloud := map[string]string{SourceAWS: "AWS IoT", SourceDPS: "Azure DPS"}[c.Provisioning.Source]
		if cert.Role == RoleDevice && cloud != "" && cert.Key == "ed25519" {
			p.warn("key", cert.ID, cloud+" does not list Ed25519 among the keys that it takes", `write key = "ec-p256"`)
		}
	}
}

// problem notes what cannot be done for a certificate, at the key that asks for it: one of the certificate's table,
// or a dotted one from the top.
func (c *Certificate) problem(root, p part, at string, problem Problem) {
	c.Problems = append(c.Problems, problem)
	names := strings.Split(at, ".")
	switch {
	case at == "":
		p.warnTable(c.ID, problem.Text, problem.Hint)
		return
	case len(names) > 1:
		p = root
	}
	for _, name := range names[:len(names)-1] {
		p = p.sub(name)
	}
	p.warn(names[len(names)-1], c.ID, problem.Text, problem.Hint)
}

// fileURI writes a path as a file URI (RFC 8089).
func fileURI(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }
