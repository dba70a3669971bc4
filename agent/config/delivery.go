package config

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// formats are the shapes of an output. What holds the private key is a secret.
func formats() []string {
	return []string{"cert", "chain", "fullchain", "fullchain+root", "ca", "key", "combined", "pkcs12"}
}

func holdsKey(format string) bool {
	return slices.Contains([]string{"key", "combined", "pkcs12"}, format)
}

// outputs reads [[….outputs]].
func (p part) outputs() (outs []Output) {
	for _, row := range p.rows("outputs") {
		o := Output{Path: row.absolute("path"), Owner: row.account("owner"), Group: row.account("group")}
		if row.has("format") {
			o.Format = row.oneOf("format", append([]string{""}, formats()...)...)
		} else if row.lacks("format") {
			row.failTable("has no format", "add format = "+quoted("fullchain")+" or another")
		}
		if s, is := row.str("path"); row.lacks("path") || is && s == "" {
			row.failTable("has no path", "add path")
		}
		otherwise, forbidden := secretMode(""), forbiddenSecret
		switch {
		case !holdsKey(o.Format):
			otherwise, forbidden = 0o644, forbiddenPublic
		case o.Group != "":
			otherwise = secretMode(o.Group)
		}
		o.Mode = row.mode("mode", otherwise, forbidden)
		if row.has("password_file") && o.Format != "pkcs12" && o.Format != "" {
			row.fail("password_file", "only a pkcs12 output has a password", `leave it out, or write format = "pkcs12"`)
		}
		o.PasswordFile = row.secretFile("password_file")
		outs = append(outs, o)
	}
	return outs
}

// onRenew reads [….on_renew].
func (p part) onRenew() OnRenew {
	h := p.sub("on_renew")
	return OnRenew{
		Exec:    h.commands("exec"),
		Reload:  h.units("reload"),
		Restart: h.units("restart"),
		// Longer than the 90 s that systemd gives a unit to stop, and again to start: a restart that was given up is
		// asked again, and would end the start that is under way.
		Timeout: h.duration("timeout", 5*time.Minute, time.Second, time.Hour),
	}
}

// commands reads a list of commands, each a list of its words: there is no shell to split them.
func (p part) commands(name string) (cmds [][]string) {
	n := p.n.get(name)
	if n == nil || n.kind != kindArray {
		return nil
	}
	const hint = `write a list of commands, each a list of words: [["/usr/bin/logger", "renewed"]]`
	for _, cmd := range n.list {
		switch {
		case cmd.kind != kindArray || len(cmd.list) == 0 ||
			slices.ContainsFunc(cmd.list, func(w *node) bool { return w.kind != kindString }):
			p.failAt(cmd, name, "is no command", hint)
		case !filepath.IsAbs(cmd.list[0].text):
			p.failAt(cmd.list[0], name, "is no absolute path of a program",
				"no shell looks it up: write the whole path")
		default:
			if len(cmd.list) == 1 && strings.Contains(cmd.list[0].text, " ") { // not repeated: a password may be among the words
				p.r.warns = append(p.r.warns, Warning{Place: cmd.list[0].at, Key: p.key(name),
					Text: "is the path of one program, blanks and all: there is no shell to split it",
					Hint: `write each word by itself: ["/usr/bin/logger", "renewed"]`})
			}
			words := make([]string, len(cmd.list))
			for i, w := range cmd.list {
				words[i] = w.text
			}
			cmds = append(cmds, words)
		}
	}
	return cmds
}

var (
	unitName   = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]+$`)
	unitSuffix = regexp.MustCompile(`\.(service|socket|target|path|timer|mount|automount|swap|slice|scope|device)$`)
)

// units reads names of systemd units; one without a suffix is a service, as for systemctl.
func (p part) units(name string) (units []string) {
	for _, n := range p.strs(name) {
		if !unitName.MatchString(n.text) || len(n.text) > 255 {
			p.failAt(n, name, "is no name of a systemd unit", `write "mosquitto.service" or the like`)
			continue
		}
		unit := n.text
		if !unitSuffix.MatchString(unit) {
			unit += ".service"
		}
		if strings.Contains(unit, "@.") {
			p.failAt(n, name, "is a template", `name an instance: "openvpn@office.service" or the like`)
			continue
		}
		if unit == "certagent.service" {
			p.failAt(n, name, "is certagent's own unit: it would stop itself while it delivers, for ever",
				"name the units of those who use the certificate")
			continue
		}
		units = append(units, unit)
	}
	return units
}

// checkOutputs reports two outputs in one place, and outputs among the files of the store or in the place of what the
// agent reads: one that replaces a bootstrap key takes the device's way back.
func (c *Config) checkOutputs(tables map[string]part) {
	taken := map[string]Place{}
	for _, cert := range c.Certificates {
		for i, row := range tables[cert.ID].rows("outputs") {
			path := cert.Outputs[i].Path
			if path == "" {
				continue
			}
			if at, is := taken[path]; is {
				row.fail("path", "is written by another output at "+at.String(), "give each output a file of its own")
			}
			taken[path] = row.place("path")
			if i := slices.IndexFunc(c.files, func(f namedFile) bool { return filepath.Clean(f.path) == path }); i >= 0 {
				row.fail("path", "is a file that the agent reads, by "+c.files[i].key+" at "+c.files[i].at.String(),
					"give the output a file of its own")
			} else if slices.Contains(c.Files, path) {
				row.fail("path", "is a file of the configuration", "give the output a file of its own")
			}
			if rel, err := filepath.Rel(c.StateDir, path); err == nil && filepath.IsLocal(rel) {
				row.fail("path", "lies in the state directory", "choose a place outside "+c.StateDir)
			}
		}
	}
}
