package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	for _, c := range []struct {
		in, path string
		ok       bool
	}{
		{"file:///etc/ca.pem", "/etc/ca.pem", true},
		{"file://localhost/etc/ca.pem", "/etc/ca.pem", true},
		{"file:/etc/ca.pem", "/etc/ca.pem", true},
		{"file:///etc/my%20ca.pem", "/etc/my ca.pem", true},
		{"/etc/ca.pem", "/etc/ca.pem", true},
		{"/etc/50%25.pem", "/etc/50%25.pem", true},
		{"etc/ca.pem", "", false},
		{"file://etc/ca.pem", "", false},
		{"file:ca.pem", "", false},
		{"file:///ca.pem?x", "", false},
		{"file:///ca%00.pem", "", false},
		{"https://host/ca.pem", "", false},
		{"pkcs11:object=x", "", false},
		{"", "", false},
	} {
		path, wrong := parsePath(c.in)
		if path != c.path || (wrong == "") != c.ok {
			t.Errorf("parsePath(%q) = %q, %q", c.in, path, wrong)
		}
	}
}

// A table has no order of its own: the common name comes first, the rest by name. A list keeps its order.
func TestSubjectOrder(t *testing.T) {
	for _, c := range []struct{ subject, want string }{
		{`{ ou = "u", CN = "n", c = "JP", "2.5.4.46" = "q" }`, "CN dnQualifier C OU"},
		{`[["OU", "u"], ["CN", "n"], ["c", "JP"], ["OU", "v"]]`, "OU CN C OU"},
		{`[["serialnumber", "7"], ["sErIaLnUmBeR", "8"], ["SN", "s"], ["gn", "g"]]`,
			"serialNumber serialNumber surname GN"},
		{`[["UID", "1"], ["dc", "example"], ["STREET", "s"], ["title", "t"], ["E", "a@b"], ["1.3.6.1", "x"]]`,
			"UID DC STREET title emailAddress 1.3.6.1"},
	} {
		cfg := parse(t, urls+"[cert_issuance.certs.a]\nsubject = "+c.subject+"\n")
		var names []string
		for _, rdn := range cfg.Certificates[0].Subject {
			names = append(names, shortName(rdn[0].Type.String()))
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.subject, got, c.want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"threshold", "threshold", 0}, {"treshold", "threshold", 1},
		{"threshlod", "threshold", 1}, {"retries", "retry", 3}, {"kitten", "sitting", 3},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// Columns count characters, in every line; a byte order mark and CRLF are no mistakes.
func TestPlaces(t *testing.T) {
	_, err := Parse("f", []byte("\ufeff# ü\r\n\"ключ\" = 1\r\n"), Defaults{})
	if err == nil || !strings.HasPrefix(err.Error(), "f:2:1: \"ключ\": unknown key") {
		t.Errorf("got %v", err)
	}
	_, err = Parse("f", []byte("log = { level = \"üü\", format = 5 }\n"), Defaults{})
	if err == nil || !strings.Contains(err.Error(), "f:1:32: log.format: 5:") {
		t.Errorf("got %v", err)
	}
}

// A place does not depend on which one was asked for before.
func TestPlacesInAnyOrder(t *testing.T) {
	text := []byte("é = 1\n# ü ö\n\nlong = [1, \"ß\", 3] # ä\nend")
	lines := strings.SplitAfter(string(text), "\n")
	want, offset := map[int]Place{}, 0
	for i, line := range lines {
		column := 0
		for j := range line {
			column++
			want[offset+j] = Place{"f", i + 1, column}
		}
		offset += len(line)
	}
	d := &document{file: "f", text: text, column: 1}
	for i := range text {
		if i == 0 || text[i-1] == '\n' {
			d.lines = append(d.lines, i)
		}
	}
	for before := range want {
		for at, place := range want {
			d.place(before)
			if got := d.place(at); got != place {
				t.Fatalf("after %d, offset %d is at %v, want %v", before, at, got, place)
			}
		}
	}
}

// As much as a file may hold, in the worst forms: it is read in a moment (with a cost that grew with the square it would
// be minutes), and no message is long.
func TestAMegabyteOfNonsense(t *testing.T) {
	const n = maxSize / 8
	for name, doc := range map[string]string{
		"one long name":         strings.Repeat("k", 8*n-4) + " = 1",
		"one long dotted name":  strings.Repeat("k.", 4*n-4) + "k = 1",
		"the same in a table":   "x = { " + strings.Repeat("k.", 4*n-8) + "k = 1 }",
		"one long list":         urls + mqtt + "usage = [" + strings.Repeat(`"", `, 2*n-64) + "]",
		"open brackets":         "x = " + strings.Repeat("[", 8*n-8),
		"nested lists":          "x = " + strings.Repeat("[", 4*n-8) + strings.Repeat("]", 4*n-8),
		"one long line of text": urls + mqtt + "key = \"" + strings.Repeat("ü", 4*n-128) + "\"",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("f", []byte(doc), Defaults{})
			mistakes, _ := errors.AsType[Errors](err)
			if len(mistakes) == 0 {
				t.Fatalf("got %v, want mistakes", err)
			}
			for _, m := range mistakes {
				if len(m.Error()) > 1000 {
					t.Fatalf("a message of %d bytes: %.300s…", len(m.Error()), m.Error())
				}
			}
		})
	}
}

// A Config and its parts may be printed by mistake; the password must not come with them.
func TestSecretsDoNotPrint(t *testing.T) {
	cfg := parse(t, "[cert_issuance.est.auth]\nusername = \"u\"\npassword = \"hunter2\"\n"+urls+mqtt)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if s := fmt.Sprintf(verb, cfg.Certificates[0].Auth); strings.Contains(s, "hunter2") ||
			strings.Contains(s, fmt.Sprintf("%x", "hunter2")) {
			t.Errorf("%s prints %s", verb, s)
		}
	}
}

func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode os.FileMode, content string) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		return name
	}
	doc := fmt.Sprintf(`
provisioning = { source = "dps", id_scope = "0ne", payload = { uri = %q } }
[cert_issuance.est]
trusted_certs = [%q, %q]
[cert_issuance.est.auth]
username = "u"
password = "p"
bootstrap_identity_cert = %q
bootstrap_identity_pk = %q
`, write("payload.json", 0o646, "{}"), write("ca.pem", 0o644, ""), filepath.Join(dir, "missing.pem"), write("boot.pem", 0o644, ""),
		write("boot.key", 0o604, "")) + urls + `
[cert_issuance.certs.a]
common_name_from = "file://` + dir + `"
password_file = "credential:x"
username = ""
[cert_issuance.certs.b]
common_name = "b"
password_file = "` + write("password", 0o620, "") + `"
username = ""
`
	cfg, err := Load(write("config.toml", 0o644, doc), Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range cfg.CheckFiles() {
		got = append(got, fmt.Sprintf("%d %s", w.Place.Line, strings.ReplaceAll(w.Text, dir+"/", "")))
	}
	want := []string{
		"2 everybody may write payload.json",
		"4 missing.pem does not exist (yet)",
		"7 everybody may read config.toml, which holds this password",
		"9 everybody may read boot.key",
		"15 " + dir + " is no regular file",
		"20 others may write password",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// NamedFiles of a Config with some of its certificates are those of these, and those that serve all.
func TestNamedFilesOfSome(t *testing.T) {
	cfg, err := Parse("config.toml", []byte("[cert_issuance.est]\ntrusted_certs = [\"/ca.pem\"]\n"+urls+`
[cert_issuance.certs.a]
common_name = "a"
username = "u"
password_file = "/a"
[cert_issuance.certs.b]
common_name = "b"
username = "u"
password_file = "/b"
`), Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Certificates = cfg.Certificates[:1]
	var got []string
	for _, f := range cfg.NamedFiles() {
		got = append(got, f.Path)
	}
	if strings.Join(got, " ") != "/ca.pem /a" {
		t.Errorf("got %v", got)
	}
}

// Whatever stands in a file, Parse comes back, and a password that was read as one is in no message.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/good/*.toml", "testdata/bad/*.toml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			doc, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			half := strings.Index(string(doc), "\n\n") + 1
			f.Add(string(doc[:half]), string(doc[half:]))
		}
	}
	f.Add("", urls+device+mqtt)
	f.Add("", identityRenewal+urls+mqtt+inline+"password = \"q\"\nkey = \"pkcs11:x?pin-value=7\"\n")
	f.Add("", "x = \"\"\"")
	f.Add("", "username = \"\npassword")
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "Zq7-Zq7-Zq7"
		doc := before + "\n[cert_issuance.est.auth]\nusername = \"u\"\npassword = \"" + secret + "\"\n" + after
		cfg, err := Parse("f", []byte(doc), Defaults{})
		if (cfg == nil) == (err == nil) {
			t.Fatalf("%v, %v", cfg, err)
		}
		if _, _, errs := parseTOML("f", []byte(before)); errs != nil || strings.Contains(before+after, "Zq7") {
			return // the password may stand in the middle of something else
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the password is in the message: %v", err)
		}
		if err == nil {
			if strings.Contains(string(cfg.Show()), secret) || strings.Contains(fmt.Sprint(cfg.Warnings), secret) {
				t.Errorf("the password shows:\n%s\n%v", cfg.Show(), cfg.Warnings)
			}
			again, err := Parse("f", cfg.Merged, Defaults{})
			if err != nil {
				t.Fatalf("the merged document does not load: %v\n%s", err, cfg.Merged)
			}
			if string(again.Merged) != string(cfg.Merged) {
				t.Errorf("merged again it differs:\n%s\n%s", cfg.Merged, again.Merged)
			}
			if _, err := Parse("f", cfg.Show(), Defaults{}); err != nil {
				t.Errorf("what is shown does not load: %v\n%s", err, cfg.Show())
			}
		}
	})
}
