package config

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/agent/golden"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

func read(t *testing.T, file string) []byte {
	t.Helper()
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files match %s (%v)", pattern, err)
	}
	return files
}

// parse is for documents that must load.
func parse(t *testing.T, doc string) *Config {
	t.Helper()
	c, err := Parse("config.toml", []byte(doc), Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// bare is the part of a Config that does not tell where it was read.
func bare(c *Config) Config {
	b := *c
	b.File, b.Files, b.Warnings, b.Merged, b.files = "", nil, nil, nil, nil
	return b
}

// One file for each mistake; the whole of what a person reads stands beside it.
func TestMistakes(t *testing.T) {
	for _, file := range glob(t, "testdata/bad/*.toml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, err := Parse("config.toml", read(t, file), Defaults{})
			mistakes, ok := errors.AsType[Errors](err)
			if !ok || len(mistakes) == 0 || c != nil {
				t.Fatalf("loaded %v, %v; want mistakes alone", c, err)
			}
			golden.Match(t, strings.TrimSuffix(file, ".toml")+".err", []byte(err.Error()+"\n"), *update)
			if strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the message repeats a password: %v", err)
			}
			if !slices.IsSortedFunc(mistakes, func(a, b Error) int {
				return comparePlaces([]string{"config.toml"}, a.Place, b.Place)
			}) {
				t.Errorf("not in the order of the file:\n%v", err)
			}
		})
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	_, err := Parse("config.toml", read(t, "testdata/bad/twenty.toml"), Defaults{})
	mistakes, _ := errors.AsType[Errors](err)
	places := map[Place]bool{}
	for _, m := range mistakes {
		places[m.Place] = true
	}
	if len(places) < 20 {
		t.Errorf("%d places of 20 mistakes:\n%v", len(places), err)
	}
}

// What loads: the effective configuration, and what a person is told.
func TestGood(t *testing.T) {
	for _, file := range glob(t, "testdata/good/*.toml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c := parse(t, string(read(t, file)))
			golden.Match(t, strings.TrimSuffix(file, ".toml")+".show", c.Show(), *update)
			var warnings strings.Builder
			for _, w := range c.Warnings {
				warnings.WriteString(w.String() + "\n")
			}
			golden.Match(t, strings.TrimSuffix(file, ".toml")+".warn", []byte(warnings.String()), *update)
		})
	}
}

// The merged document is kept as the last good configuration, so it must mean the same.
func TestMergedLoadsAgain(t *testing.T) {
	for _, file := range glob(t, "testdata/good/*.toml") {
		c := parse(t, string(read(t, file)))
		again := parse(t, string(c.Merged))
		if !reflect.DeepEqual(bare(c), bare(again)) {
			t.Errorf("%s: the merged document means something else:\n%s", file, c.Merged)
		}
		if len(again.Warnings) != len(c.Warnings) {
			t.Errorf("%s: %d warnings, and %d of the merged document", file, len(c.Warnings), len(again.Warnings))
		}
		if string(again.Merged) != string(c.Merged) {
			t.Errorf("%s: the merged document merges to another", file)
		}
	}
}

func TestShowLoadsAgain(t *testing.T) {
	for _, file := range glob(t, "testdata/good/*.toml") {
		c := parse(t, string(read(t, file)))
		shown := string(c.Show())
		again := parse(t, shown)
		for _, secret := range []string{"estpwd", "enrolment code", "1234"} {
			if strings.Contains(shown, secret) {
				t.Errorf("%s: shows %q", file, secret)
			}
		}
		if string(again.Show()) != shown {
			t.Errorf("%s: shown again it differs:\n%s\n%s", file, shown, again.Show())
		}
		want := bare(c)
		for i := range want.Certificates {
			got := &again.Certificates[i]
			hide(&want.Certificates[i])
			hide(got)
			if !reflect.DeepEqual(*got, want.Certificates[i]) {
				t.Errorf("%s: the certificate shown is another:\n%+v\n%+v", file, *got, want.Certificates[i])
			}
		}
		got := bare(again)
		got.Certificates, want.Certificates, got.est, want.est = nil, nil, estDefaults{}, estDefaults{}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: what is shown is another configuration:\n%+v\n%+v", file, got, want)
		}
	}
}

// hide takes out what is redacted.
func hide(c *Certificate) {
	c.Auth.Password = Secret{}
	for _, pair := range []*KeyPair{c.Auth.Identity, c.Auth.Bootstrap} {
		if pair != nil {
			pair.KeyURI = withoutPIN(pair.KeyURI)
		}
	}
}

// Every key is read: without it the outcome is another, or a mistake.
func TestEveryKeyMatters(t *testing.T) {
	doc := read(t, "testdata/good/everything.toml")
	whole := parse(t, string(doc))
	root, _, errs := parseTOML("config.toml", doc)
	if errs != nil {
		t.Fatal(errs)
	}
	var without func(t *node, path []string)
	without = func(at *node, path []string) {
		for _, name := range slices.Clone(at.names) {
			v, names := at.table[name], at.names
			key := dotted(append(slices.Clone(path), name))
			switch {
			case v.kind == kindTable:
				without(v, append(slices.Clone(path), name))
			case v.isRows():
				for _, row := range v.list {
					without(row, append(slices.Clone(path), name))
				}
			}
			delete(at.table, name)
			at.names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
			c, err := Parse("config.toml", writeTOML(root), Defaults{})
			at.names, at.table[name] = names, v
			if err == nil && reflect.DeepEqual(bare(c), bare(whole)) && !strings.HasSuffix(key, ".method") {
				t.Errorf("%s changes nothing", key)
			}
		}
	}
	without(root, nil)
}

func TestDropIns(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.toml")
	write := func(name, doc string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("config.toml", `
[cert_issuance.est]
trusted_certs = ["/one.pem"]
[cert_issuance.est.urls]
default = "https://est.example/.well-known/est"
[cert_issuance.certs.mqtt]
common_name = "mqtt.example"
key = "ec-p384"
[[cert_issuance.certs.mqtt.outputs]]
format = "cert"
path = "/etc/one.pem"
`)
	write("config.d/20-last.toml", "[cert_issuance.certs.mqtt]\nkey = \"ed25519\"\n")
	write("config.d/10-first.toml", `
cert_issuance.est.trusted_certs = ["/two.pem"]
[cert_issuance.certs.mqtt]
key = "ec-p521"
outputs = [{ format = "chain", path = "/etc/two.pem" }]
[cert_issuance.certs.http]
common_name = "http.example"
`)
	write("config.d/30-other.txt", "not TOML")
	write("config.d/.40-hidden.toml", "not TOML")
	write("config.d/50-dir.toml/x", "not TOML")

	c, err := Load(file, Defaults{StateDir: "/srv/state", RunDir: "/srv/run"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{file, filepath.Join(dir, "config.d/10-first.toml"), filepath.Join(dir, "config.d/20-last.toml")}
	if !slices.Equal(c.Files, want) {
		t.Errorf("files %q, want %q", c.Files, want)
	}
	mqtt, ok := c.Certificate("mqtt")
	if _, other := c.Certificate("http"); !ok || !other {
		t.Fatal("not all certificates are there")
	}
	if mqtt.Key != "ed25519" {
		t.Errorf("key %s: the last file must win", mqtt.Key)
	}
	if len(mqtt.Outputs) != 2 || mqtt.Outputs[1].Path != "/etc/two.pem" {
		t.Errorf("outputs %v: lists of tables must be joined", mqtt.Outputs)
	}
	if !slices.Equal(mqtt.Trust.Files, []string{"/two.pem"}) {
		t.Errorf("trusted_certs %v: a list must be replaced", mqtt.Trust.Files)
	}
	if c.StateDir != "/srv/state" || c.RunDir != "/srv/run" || c.Control.Socket != "/srv/run/control.sock" {
		t.Errorf("directories %s, %s, %s", c.StateDir, c.RunDir, c.Control.Socket)
	}
	if again := parse(t, string(c.Merged)); again.Certificates[1].Outputs[1] != mqtt.Outputs[1] {
		t.Errorf("merged document has lost an output:\n%s", c.Merged)
	}

	write("config.d/60-bad.toml", "[cert_issuance]\nest = 5\n")
	_, err = Load(file, Defaults{})
	const conflict = "60-bad.toml:2:1: cert_issuance.est: is a whole number here and a table at "
	if err == nil || !strings.Contains(err.Error(), conflict) {
		t.Errorf("got %v, want %s", err, conflict)
	}
}

func TestLoadTellsAMissingFile(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "config.toml"), Defaults{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

// Only a missing main file is fs.ErrNotExist: it is what "write one" answers to.
func TestADropInThatLeadsNowhere(t *testing.T) {
	dir := t.TempDir()
	file, dropIn := filepath.Join(dir, "config.toml"), filepath.Join(dir, "config.d", "10-mqtt.toml")
	if err := errors.Join(os.WriteFile(file, []byte(urls+mqtt), 0o600), os.Mkdir(filepath.Dir(dropIn), 0o700),
		os.Symlink("nowhere", dropIn)); err != nil {
		t.Fatal(err)
	}
	_, err := Load(file, Defaults{})
	if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dropIn) {
		t.Errorf("got %v", err)
	}
	if err := errors.Join(os.RemoveAll(filepath.Dir(dropIn)), os.WriteFile(filepath.Dir(dropIn), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file, Defaults{}); err == nil || !strings.Contains(err.Error(), "config.d: not a directory") {
		t.Errorf("config.d is a file: %v", err)
	}
}

// A reload must come back, whatever stands in the file's place.
func TestLoadDoesNotWaitForAWriter(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file, Defaults{}); err == nil {
		t.Error("loaded from nobody")
	}
}

// The time limit: the certificate's own, else that of [cert_issuance.est], else a minute. EST identities have it too.
func TestTimeout(t *testing.T) {
	const own = mqtt + "timeout = \"5s\"\n"
	for _, c := range []struct {
		doc                    string
		identity, device, mqtt time.Duration
	}{
		{own, time.Minute, time.Minute, 5 * time.Second},
		{own + "[cert_issuance.est]\ntimeout = \"2min\"\n", 2 * time.Minute, 2 * time.Minute, 5 * time.Second},
		{own + "[cert_issuance.est]\ntimeout = \"2min\"\n[cert_issuance.certs.est-id]\ntimeout = \"7s\"\n",
			7 * time.Second, 2 * time.Minute, 5 * time.Second},
	} {
		cfg := parse(t, globalBootstrap+identityRenewal+urls+device+c.doc)
		for id, want := range map[string]time.Duration{"est-id": c.identity, "device-id": c.device, "mqtt": c.mqtt} {
			if cert, ok := cfg.Certificate(id); !ok || cert.Timeout != want {
				t.Errorf("%s: %s has %v, want %v", c.doc, id, cert.Timeout, want)
			}
		}
	}
}

func TestPeek(t *testing.T) {
	for _, c := range []struct{ doc, want string }{
		{"state_dir = \"/srv/a\"\nwrong", "/srv/a"},
		{"wrong\nstate_dir = '/srv/b' # comment\n", "/srv/b"},
		{"wrong\n[log]\nstate_dir = \"/srv/c\"\n", ""},
		{"wrong\nstate_dir = \"relative\"\n", ""},
		{"state_dri = \"/srv/d\"\n", ""},
		{"state_dir = 5\n", ""},
		{"", ""},
	} {
		file := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(file, []byte(c.doc), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := Peek(file); got != c.want {
			t.Errorf("Peek of %q = %q, want %q", c.doc, got, c.want)
		}
	}
	if got := Peek(filepath.Join(t.TempDir(), "missing")); got != "" {
		t.Errorf("Peek of a missing file = %q", got)
	}
}
