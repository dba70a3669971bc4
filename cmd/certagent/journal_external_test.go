//go:build external

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"certagent/est/esttest"
)

// TestJournald: systemd's own journald takes what the agent logs, field by field, and finds it again by them; a server cannot
// forge an entry or a field, and no password is in the journal. Without the socket for entries the line comes by stderr.
func TestJournald(t *testing.T) {
	t.Parallel()
	inOwnMounts(t, func(t *testing.T) {
		if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{"/run/log/journal", "/run/systemd/journal", "/run/systemd/journald.conf.d"} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		conf := "[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\nRuntimeMaxUse=16M\n"
		if err := os.WriteFile("/run/systemd/journald.conf.d/test.conf", []byte(conf), 0o644); err != nil {
			t.Fatal(err)
		}
		daemon := exec.Command("/lib/systemd/systemd-journald")
		if err := daemon.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = daemon.Process.Kill(), daemon.Wait() })

		login := mark("login")
		s := esttest.New(t, esttest.Options{AskPassword: true, Password: login})
		g := newGateway(t)
		g.configure(strings.Replace(served(s), `"estpwd"`, string(sure(json.Marshal(login))), 1))
		g.until("journald's sockets", func() bool {
			for _, name := range []string{"stdout", "socket", "io.systemd.journal"} {
				if _, err := os.Stat("/run/systemd/journal/" + name); err != nil {
					return false
				}
			}
			return true
		})
		// systemd-cat(1) does with a program's stderr what systemd does, but for the variable that tells of it.
		const told = `JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"`
		once := func(code int) {
			t.Helper()
			cmd := g.command("run", "--once")
			cmd.Args = append([]string{"systemd-cat", "--identifier=stream", "sh", "-c", told, "sh", "certagent"}, cmd.Args[1:]...)
			cmd.Path = sure(exec.LookPath("systemd-cat"))
			if r := finish(t, cmd); r.code != code {
				t.Fatalf("exit code %d, want %d: %s", r.code, code, r.stderr)
			}
		}
		// entries are those that fit, as journalctl shows them: a field with several values is a list.
		entries := func(match ...string) (all []map[string]any) {
			t.Helper()
			if out, err := exec.Command("journalctl", "--sync").CombinedOutput(); err != nil {
				t.Fatalf("journalctl --sync: %v\n%s", err, out)
			}
			out, err := exec.Command("journalctl", append([]string{"--directory=/run/log/journal", "--output=json", "--all", "--quiet"}, match...)...).Output()
			if err != nil {
				t.Fatalf("journalctl: %v", err)
			}
			for line := range bytes.Lines(out) {
				var entry map[string]any
				if err := json.Unmarshal(line, &entry); err != nil {
					t.Fatal(err)
				}
				all = append(all, entry)
			}
			return all
		}

		once(0)
		issued := entries("MESSAGE_ID="+messageIDs["attempt/issued"], "CERTAGENT_CERTIFICATE=mqtt")
		if len(issued) != 1 {
			t.Fatalf("%d entries of one certificate: %v", len(issued), entries())
		}
		h := g.mustRead("mqtt")
		for name, want := range map[string]string{
			"PRIORITY": "6", "SYSLOG_IDENTIFIER": "certagent", "MESSAGE": "mqtt: certificate issued", "CERTAGENT_RESULT": "issued",
			"CERTAGENT_SERIAL": fmt.Sprintf("%x", h.leaf.SerialNumber.Bytes()), "CERTAGENT_IDENTITY": "password", "_TRANSPORT": "journal",
			"CERTAGENT_STATUSES": "200 200 401 200", "CERTAGENT_CONNECTIONS": "2", "_COMM": "certagent",
		} {
			if got := fmt.Sprint(issued[0][name]); got != want {
				t.Errorf("%s=%s, want %s", name, got, want)
			}
		}

		quotes := slices.IndexFunc(esttest.Misbehaviours(), func(m esttest.Misbehaviour) bool { return m.Name == "500 that quotes the login" })
		s.Misbehave(esttest.Misbehaviours()[quotes])
		if err := os.RemoveAll(g.path("state", "certs")); err != nil {
			t.Fatal(err)
		}
		once(1)
		failed := entries("MESSAGE_ID=" + messageIDs["attempt/failed"])
		if len(failed) != 1 || failed[0]["PRIORITY"] != "4" || failed[0]["CERTAGENT_CLASS"] != "unavailable" {
			t.Errorf("of a failure: %v", failed)
		}
		forger := slices.IndexFunc(esttest.Misbehaviours(), func(m esttest.Misbehaviour) bool { return m.Name == "500 with escapes for the terminal" })
		s.Misbehave(esttest.Misbehaviours()[forger])
		before := len(entries("SYSLOG_IDENTIFIER=certagent"))
		once(1)
		if more := len(entries("SYSLOG_IDENTIFIER=certagent")) - before; more != 1 || len(entries("MESSAGE=all is well")) > 0 {
			t.Errorf("a server that says what it likes makes %d entries", more)
		}

		if err := os.Remove(journalSocket); err != nil {
			t.Fatal(err)
		}
		once(1)
		by := entries("SYSLOG_IDENTIFIER=stream", "PRIORITY=4")
		if len(by) != 1 || !strings.HasPrefix(fmt.Sprint(by[0]["MESSAGE"]), `{"level":"warn","event":"attempt"`) {
			t.Errorf("by stderr: %v", entries("SYSLOG_IDENTIFIER=stream"))
		}

		all, err := exec.Command("journalctl", "--directory=/run/log/journal", "--output=export", "--all", "--quiet").Output()
		if err != nil || len(all) == 0 {
			t.Fatalf("journalctl: %v", err)
		}
		hoard{"the journal": string(all)}.mustHold(t, append(g.keysBelow(), password("the login", login)))
	})
}
