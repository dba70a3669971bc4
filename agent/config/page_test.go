package config

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"certagent/packaging/man"
)

const (
	configurationPage = "../../docs/configuration.md"
	configurationMan  = "../../packaging/man/certagent-config.toml.5"
)

// TestConfigurationManPage: certagent-config.toml(5) is docs/configuration.md for man(1), and has all keys.
func TestConfigurationManPage(t *testing.T) {
	p := man.New("certagent-config.toml", 5, "configuration of certagent")
	p.Section("SYNOPSIS")
	p.Lines(man.Italic("/etc/certagent/config.toml"))
	p.Break()
	p.Lines(man.Italic("/etc/certagent/config.d/*.toml"))
	p.Section("DESCRIPTION")
	p.Markdown(string(read(t, configurationPage)))
	p.Section("SEE ALSO")
	p.Paragraph(man.Bold("certagent") + "(8), " + man.Bold("certagent-config-check") + "(8), " +
		man.Bold("certagent-config-show") + "(8), " + man.Bold("systemd.exec") + "(5)")
	if *update {
		if err := os.WriteFile(configurationMan, p.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page := read(t, configurationMan)
	if !bytes.Equal(page, p.Bytes()) {
		t.Errorf("%s is stale; make docs writes it anew", configurationMan)
	}
	plain := strings.NewReplacer(`\-`, "-", `\fB`, "`", `\fR`, "`").Replace(string(page))
	var terms strings.Builder
	for _, m := range regexp.MustCompile(`(?m)^\.TP\n(.*)$`).FindAllStringSubmatch(plain, -1) {
		terms.WriteString(m[1] + "\n")
	}
	for name, r := range allRows() {
		if has := strings.Contains(terms.String(), "`"+name+"`"); r.use == used && !r.table && !has {
			t.Errorf("%s lacks %s", configurationMan, name)
		}
	}
}

// described is a row of the tables of docs/configuration.md: what it says of one key or of several.
type described struct {
	names                          []string
	types, byDefault, means, shown string
}

func descriptions(t *testing.T) []described {
	t.Helper()
	var all []described
	for line := range strings.Lines(string(read(t, configurationPage))) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 5 || !strings.HasPrefix(line, "| `") {
			continue
		}
		d := described{types: cells[1], byDefault: cells[2], means: cells[3], shown: strings.Trim(strings.TrimSpace(cells[4]), "`")}
		for _, m := range codeSpan.FindAllStringSubmatch(cells[0], -1) {
			d.names = append(d.names, m[1])
		}
		all = append(all, d)
	}
	if len(all) < 40 {
		t.Fatalf("%d rows", len(all))
	}
	return all
}

// elsewhere tells of a row that repeats keys which are described in another one.
func (d described) elsewhere() bool { return strings.TrimSpace(d.types) == "" }

// kinds are the TOML types that the word in the column "type" names.
func kinds(types string) kind {
	var all kind
	for word := range strings.SplitSeq(types, " or ") {
		switch {
		case strings.HasPrefix(word, "list"):
			all |= kindArray
		case word == "table":
			all |= kindTable
		case word == "boolean":
			all |= kindBoolean
		case word == "number":
			all |= kindInteger
		default:
			all |= kindString
		}
	}
	return all
}

// TestConfigurationPageTypes: the page says of each key which type it has, and whether aziot knows it, as the code does.
func TestConfigurationPageTypes(t *testing.T) {
	rows := allRows()
	types := allTypes()
	for _, d := range descriptions(t) {
		for _, name := range d.names {
			if d.elsewhere() {
				continue
			}
			if got, want := kinds(d.types), types[name]; got != want {
				t.Errorf("%s: the page calls %q what is %v", name, d.types, want)
			}
			if says := strings.HasPrefix(d.means, "*Ours.*"); says != rows[name].ours {
				t.Errorf("%s: *Ours.* is %v on the page, and %v in the code", name, says, rows[name].ours)
			}
		}
	}
}

func allTypes() map[string]kind {
	found := map[string]kind{}
	var walk func(in key, path []string)
	walk = func(in key, path []string) {
		if in.shared != "" {
			path = []string{"<" + in.shared + ">"}
		}
		for _, k := range in.under {
			at := append(slices.Clone(path), k.name)
			found[strings.Join(at, ".")] = k.types
			walk(k, at)
		}
	}
	walk(allKeys(), nil)
	return found
}

// TestConfigurationPageDefaults: what the page calls the default of a key is what examples/reference.toml does, of which
// TestReferenceDefaults shows that it is one.
func TestConfigurationPageDefaults(t *testing.T) {
	text := commentedKey.ReplaceAllString(string(read(t, "../../examples/reference.toml")), "$1")
	root, whole, errs := parseTOML("reference.toml", []byte(text))
	if !whole || len(errs) > 0 {
		t.Fatal(errs)
	}
	lines := strings.Split(text, "\n")
	said := map[string]string{}
	for _, d := range descriptions(t) {
		for _, name := range d.names {
			said[name] = plainText(d.byDefault)
		}
	}
	checked := 0
	var walk func(n *node, in key, path []string)
	walk = func(n *node, in key, path []string) {
		if in.shared != "" {
			path = []string{"<" + in.shared + ">"}
		}
		for _, name := range n.names {
			k, _ := find(in.under, name)
			at := append(slices.Clone(path), k.name)
			v := n.table[name]
			if v.kind == kindTable {
				walk(v, k, at)
			}
			line := lines[v.key.Line-1]
			value, comment, isDefault := strings.Cut(line, "# default")
			if !isDefault || v.kind == kindTable {
				continue
			}
			checked++
			_, value, _ = strings.Cut(value, "=")
			value, key := plainText(value), strings.Join(at, ".")
			off := value == "" && (said[key] == "off" || said[key] == "none")
			if !off && (value == "" || !strings.Contains(said[key], value)) && !strings.Contains(plainText(comment), said[key]) {
				t.Errorf("%s: the page says that the default is %q, examples/reference.toml has %q", key, said[key], strings.TrimSpace(line))
			}
		}
	}
	walk(root, allKeys(), nil)
	if checked < 20 {
		t.Errorf("%d defaults compared", checked)
	}
}

// plainText is text without what marks it as code, as a string or as a table.
func plainText(text string) string {
	return strings.TrimSpace(strings.NewReplacer("`", "", `"`, "", "[", "", "]", "").Replace(text))
}

// TestConfigurationPageExamples: the example of each key loads, with what belongs to it.
func TestConfigurationPageExamples(t *testing.T) {
	for _, d := range descriptions(t) {
		if d.elsewhere() {
			continue
		}
		if d.shown == "" {
			t.Errorf("%v: no example", d.names)
			continue
		}
		document := around(d)
		if _, err := loadText(t, document); err != nil {
			t.Errorf("%v: the example does not load: %v\n%s", d.names, err, document)
		}
	}
}

// around is a configuration with the example of a key, and with what that key needs beside it.
func around(d described) string {
	const cert = "cert_issuance.certs.mqtt."
	set := map[string]string{
		"cert_issuance.est.urls.default": `"https://est.example/.well-known/est"`,
		cert + "common_name":             `"gateway-7"`,
	}
	place := strings.NewReplacer("<certificate>.", cert, "<auth>.", "cert_issuance.est.auth.", "<auto_renew>.", cert+"auto_renew.",
		"<id>", "mqtt", "<attribute>", "O")
	for _, name := range d.names {
		at := place.Replace(name)
		top, last := at[:strings.IndexByte(at+".", '.')], at[strings.LastIndexByte(at, '.')+1:]
		beside := at[:len(at)-len(last)]
		switch {
		case strings.HasPrefix(at, "provisioning.authentication."):
			set["provisioning.source"] = `"manual"`
		case last == "endpoint" || last == "client_id" || last == "port":
			set["provisioning.source"], set["provisioning.endpoint"] = `"aws"`, `"example-ats.iot.eu-central-1.amazonaws.com"`
		case top == "provisioning":
			set["provisioning.source"], set["provisioning.id_scope"] = `"dps"`, `"0ne00000000"`
		case strings.HasPrefix(at, cert+"outputs."):
			table := map[string]string{"format": `"fullchain"`, "path": `"/etc/mosquitto/certs/gateway.pem"`}
			if last == "password_file" {
				table["format"] = `"pkcs12"`
			}
			table[last] = d.shown
			var pairs []string
			for _, name := range slices.Sorted(maps.Keys(table)) {
				pairs = append(pairs, name+" = "+table[name])
			}
			set[cert+"outputs"] = "[{ " + strings.Join(pairs, ", ") + " }]"
			continue
		case last == "username":
			set[beside+"password"] = `"estpwd"`
		case last == "password" || last == "password_file":
			set[beside+"username"] = `"estuser"`
		case last == "common_name_from":
			delete(set, cert+"common_name")
		case last == "identity_auto_renew":
			set["cert_issuance.est.auth.bootstrap_identity_cert"] = `"/etc/certagent/bootstrap/device.pem"`
			set["cert_issuance.est.auth.bootstrap_identity_pk"] = `"/etc/certagent/bootstrap/device.key.pem"`
		}
		set[at] = d.shown
	}
	var document strings.Builder
	for _, name := range slices.Sorted(maps.Keys(set)) {
		fmt.Fprintf(&document, "%s = %s\n", name, set[name])
	}
	return document.String()
}

// TestConfigurationPageBlocks: every configuration on the page loads; a part loads beside the first one.
func TestConfigurationPageBlocks(t *testing.T) {
	blocks := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(string(read(t, configurationPage)), -1)
	if len(blocks) < 3 {
		t.Fatalf("%d blocks", len(blocks))
	}
	for i, block := range blocks {
		documents := []string{block[1]}
		if i == len(blocks)-1 {
			documents = []string{blocks[0][1], block[1]}
		}
		if _, err := loadText(t, documents...); err != nil {
			t.Errorf("block %d does not load: %v", i+1, err)
		}
	}
}

// loadText loads a configuration and the parts beside it.
func loadText(t *testing.T, documents ...string) (*Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.toml")
	parts := filepath.Join(filepath.Dir(file), "config.d")
	if err := os.Mkdir(parts, 0o700); err != nil {
		t.Fatal(err)
	}
	for i, document := range documents {
		at := file
		if i > 0 {
			at = filepath.Join(parts, fmt.Sprintf("%d.toml", i))
		}
		if err := os.WriteFile(at, []byte(document), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Load(file, Defaults{})
}
