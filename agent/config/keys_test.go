package config

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// row is a key as the documentation names it: below <certificate>, <auth> or <auto_renew> where several tables have it.
type row struct {
	use   use
	ours  bool
	table bool // no more than the keys in it: a page may leave it out
}

func allRows() map[string]row {
	found := map[string]row{}
	bases := map[string][]key{"certificate": certificateKeys(), "auth": authKeys(), "auto_renew": renewKeys()}
	var walk func(in key, path []string)
	walk = func(in key, path []string) {
		for _, k := range in.under {
			at := path
			if _, base := find(bases[in.shared], k.name); base {
				at = []string{"<" + in.shared + ">"}
			}
			at = append(slices.Clone(at), k.name)
			name := strings.Join(at, ".")
			old, again := found[name]
			found[name] = row{k.use, k.ours && (!again || old.ours), k.types == kindTable && k.use == used}
			walk(k, at)
		}
	}
	walk(allKeys(), nil)
	return found
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// documented reads the tables of a page whose first column names keys: each key and the second column.
func documented(t *testing.T, file string) map[string]string {
	t.Helper()
	found := map[string]string{}
	inTable := false
	for line := range strings.Lines(string(read(t, file))) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.HasPrefix(line, "|") {
			inTable = false
			continue
		}
		if strings.TrimSpace(cells[1]) == "key" {
			inTable = true
		}
		if !inTable {
			continue
		}
		for _, m := range codeSpan.FindAllStringSubmatch(cells[1], -1) {
			if _, twice := found[m[1]]; twice {
				t.Errorf("%s lists %s twice", file, m[1])
			}
			found[m[1]] = strings.TrimSpace(cells[2])
		}
	}
	return found
}

// docs/configuration.md describes every key that is used, and no other.
func TestConfigurationPage(t *testing.T) {
	page := documented(t, "../../docs/configuration.md")
	rows := allRows()
	for name, r := range rows {
		if _, is := page[name]; r.use == used && !r.table && !is {
			t.Errorf("docs/configuration.md lacks %s", name)
		}
	}
	for name := range page {
		if r, is := rows[name]; !is || r.use != used {
			t.Errorf("docs/configuration.md describes %s, which is not used", name)
		}
	}
}

// docs/from-aziot.md says of every key of aziot's what becomes of it, and the code does that.
func TestFromAziotPage(t *testing.T) {
	words := map[use]string{used: "used", passedOver: "passed over", refused: "refused"}
	page := documented(t, "../../docs/from-aziot.md")
	rows := allRows()
	for name, r := range rows {
		if word, is := page[name]; !r.ours && (is || !r.table) && word != words[r.use] {
			t.Errorf("docs/from-aziot.md says %q of %s; the code says %q", word, name, words[r.use])
		}
	}
	for name := range page {
		if r, is := rows[name]; !is || r.ours {
			t.Errorf("docs/from-aziot.md lists %s, which is no key of aziot's to the code", name)
		}
	}
}

func TestExamplesLoad(t *testing.T) {
	for _, file := range glob(t, "../../examples/*.toml") {
		if _, err := Load(file, Defaults{}); err != nil {
			t.Errorf("%v", err)
		}
	}
}

// The examples for consumers are parts, to be put beside any other configuration.
func TestExamplesForConsumersLoad(t *testing.T) {
	for _, part := range glob(t, "../../examples/*/certagent.toml") {
		for _, whole := range glob(t, "../../examples/*.toml") {
			file := filepath.Join(t.TempDir(), "config.toml")
			beside := filepath.Join(filepath.Dir(file), "config.d")
			copyTo := func(from, to string) {
				if err := os.WriteFile(to, read(t, from), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			load := func() (units, programs int) {
				c, err := Load(file, Defaults{})
				if err != nil {
					t.Fatalf("%s beside %s: %v", part, whole, err)
				}
				for _, cert := range c.Certificates {
					units += len(cert.OnRenew.Reload)
					programs += len(cert.OnRenew.Exec)
				}
				return units, programs
			}
			if err := os.Mkdir(beside, 0o700); err != nil {
				t.Fatal(err)
			}
			copyTo(whole, file)
			copyTo(part, filepath.Join(beside, "part.toml"))
			if units, programs := load(); units != 1 || programs != 0 {
				t.Errorf("%s: %d units, %d programs", part, units, programs)
			}
			copyTo(filepath.Join(filepath.Dir(part), "without-systemd.toml"), filepath.Join(beside, "part2.toml"))
			if units, programs := load(); units != 0 || programs != 1 {
				t.Errorf("%s without systemd: %d units, %d programs", part, units, programs)
			}
		}
	}
}

// So is the one for metrics.
func TestExampleForMetricsLoads(t *testing.T) {
	c := parse(t, string(read(t, "../../examples/production.toml"))+string(read(t, "../../examples/prometheus/metrics.toml")))
	if c.Metrics.Listen != "127.0.0.1:9470" || filepath.Ext(c.Metrics.Textfile) != ".prom" {
		t.Errorf("%+v", c.Metrics)
	}
}

// The file of the EST tutorial for IoT Edge loads as it stands there, byte for byte; it is an example, too.
func TestTutorialUnchanged(t *testing.T) {
	const want = "f0a52a34dae8bf3c70aa2a47ecdea61fcc18514b484418367516e66836457fa9"
	for _, file := range []string{"../../examples/tutorial.toml", "testdata/good/tutorial.toml"} {
		if got := fmt.Sprintf("%x", sha256.Sum256(read(t, file))); got != want {
			t.Errorf("%s is not the tutorial's file: SHA-256 %s", file, got)
		}
	}
}

var commentedKey = regexp.MustCompile(`(?m)^#([a-z_A-Z[])`)

// examples/reference.toml has every key that is used, most of them commented out.
func TestReferenceIsComplete(t *testing.T) {
	doc := commentedKey.ReplaceAll(read(t, "../../examples/reference.toml"), []byte("$1"))
	root, whole, errs := parseTOML("reference.toml", doc)
	if !whole || errs != nil {
		t.Fatalf("uncommented it does not load: %v", errs)
	}
	r := newReading()
	r.check(root, r.keys, nil)
	if len(r.errs)+len(r.passed) > 0 {
		t.Errorf("uncommented: %v, passed over %v", r.errs, r.passed)
	}
	found := map[string]bool{}
	var walk func(n *node, in key, path []string)
	walk = func(n *node, in key, path []string) {
		for _, name := range n.names {
			k, _ := find(in.under, name)
			at := append(slices.Clone(path), k.name)
			found[strings.Join(at, ".")] = true
			if k.shared != "" {
				at = []string{"<" + k.shared + ">"}
			}
			switch v := n.table[name]; {
			case v.kind == kindTable:
				walk(v, k, at)
			case v.isRows():
				for _, row := range v.list {
					walk(row, k, at)
				}
			}
		}
	}
	walk(root, allKeys(), nil)
	for name, row := range allRows() {
		if row.use == used && !row.table && !found[name] {
			t.Errorf("examples/reference.toml lacks %s", name)
		}
	}
}

// What the reference calls a default is one: written out, it changes nothing.
func TestReferenceDefaults(t *testing.T) {
	doc := string(read(t, "../../examples/reference.toml"))
	var written strings.Builder
	n := 0
	for line := range strings.Lines(doc) {
		if commentedKey.MatchString(line) && strings.Contains(line, "# default") {
			line = line[1:]
			n++
		}
		written.WriteString(line)
	}
	if n < 20 {
		t.Fatalf("%d defaults found", n)
	}
	plain, full := parse(t, doc), parse(t, written.String())
	if string(plain.Show()) != string(full.Show()) {
		t.Errorf("with the defaults written out:\n%s\nwithout:\n%s", full.Show(), plain.Show())
	}
}

// Nothing of ours is called as a key of aziot's is, in another sense, by a slip of the table.
func TestKeysAreListedOnce(t *testing.T) {
	var walk func(in key, path string)
	walk = func(in key, path string) {
		seen := map[string]bool{}
		for _, k := range in.under {
			if seen[k.name] {
				t.Errorf("%s.%s stands in the table of keys twice", path, k.name)
			}
			seen[k.name] = true
			walk(k, path+"."+k.name)
		}
	}
	walk(allKeys(), "")
}
