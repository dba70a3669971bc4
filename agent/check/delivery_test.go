package check

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// me is who runs the test.
func me() User { return UserOf(os.Geteuid(), os.Getegid()) }

// TestProgram: a script is no better than its interpreter.
func TestProgram(t *testing.T) {
	for _, tc := range []struct {
		name, content string
		mode          os.FileMode
		want          Verdict
		text          string
	}{
		{"well", "#!/bin/sh\n", 0o755, OK, ""},
		{"an argument for the interpreter", "#! /bin/sh -e\n", 0o755, OK, ""},
		{"no script", "\x7fELF", 0o755, OK, ""},
		{"empty", "", 0o755, OK, ""},
		{"no interpreter", "#!/no/such/sh\n", 0o755, Failed, "/no/such/sh"},
		{"a carriage return", "#!/bin/sh\r\n", 0o755, Failed, `/bin/sh\r`},
		{"not executable", "#!/bin/sh\n", 0o644, Failed, "may not execute"},
		{"for everybody to change", "#!/bin/sh\n", 0o757, Failed, "everybody may write"},
	} {
		path := filepath.Join(t.TempDir(), "hook")
		if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, tc.mode); err != nil {
			t.Fatal(err)
		}
		p := &probes{Options: Options{User: me()}}
		if r := p.program(path, "mqtt: exec"); r.Verdict != tc.want || !strings.Contains(r.Text, tc.text) {
			t.Errorf("%s: %s (%s), want %s", tc.name, r.Verdict, r.Text, tc.want)
		}
	}
}

// TestUnitWithoutSystemd: a unit that nobody can tell is what the agent fails with, so it is no matter of skipping.
func TestUnitWithoutSystemd(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "no-bus"))
	r := (&probes{}).unit(t.Context(), "nginx.service", "mqtt: reload nginx.service")
	if r.Verdict != Failed || !strings.Contains(r.Hint, "on_renew.exec") {
		t.Errorf("%s: %s (%s)", r.Verdict, r.Text, r.Hint)
	}
}

// TestBarred: what somebody else left in the state directory, root after a restored backup for instance, is found, as far as a store
// needs it.
func TestBarred(t *testing.T) {
	stranger := User{UID: os.Geteuid() + 1, GIDs: []int{-1}, Name: "certagent"}
	for _, tc := range []struct {
		name, path string // made below the state directory, a directory if it ends in a slash
		mode       os.FileMode
		barred     bool
	}{
		{"may be changed", "certs/mqtt/", 0o777, false},
		{"may not be written", "certs/mqtt/", 0o755, true},
		{"may be read", "certs/mqtt/retry.json", 0o644, false},
		{"may not be read", "clock.json", 0o600, true},
		{"is none of the store's", "lost+found/", 0o700, false},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, tc.path)
		made := os.MkdirAll(filepath.Dir(path), 0o777)
		if strings.HasSuffix(tc.path, "/") {
			made = os.MkdirAll(path, 0o777)
		} else if made == nil {
			made = os.WriteFile(path, nil, 0o600)
		}
		if made != nil {
			t.Fatal(made)
		}
		for at := filepath.Dir(path); at != filepath.Dir(dir); at = filepath.Dir(at) {
			if err := os.Chmod(at, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(path, tc.mode); err != nil {
			t.Fatal(err)
		}
		if f, is := stranger.barred(dir); is != tc.barred || is && f.Path != filepath.Clean(path) {
			t.Errorf("%s: %v %s, want %v", tc.name, is, f, tc.barred)
		}
		if f, is := me().barred(dir); is {
			t.Errorf("%s: its owner may not change %s", tc.name, f)
		}
	}
}
