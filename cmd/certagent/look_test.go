package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLook: what status writes goes by where it goes to and by what that understands. Each is a process of its own on a
// terminal of its own, or on a pipe.
func TestLook(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.configure("[cert_issuance.est.urls]\ndefault = \"https://localhost:1/.well-known/est\"\n" +
		"[cert_issuance.certs." + strings.Repeat("mqtt-", 12) + "mqtt]\ncommon_name = \"x\"\n")
	for _, tc := range []struct {
		name            string
		columns         int // of the terminal; 0: a pipe
		env             []string
		colour, oneLine bool
	}{
		{name: "pipe", env: []string{"TERM=xterm"}},
		{name: "terminal", columns: 80, env: []string{"TERM=xterm"}, colour: true},
		{name: "wide terminal", columns: 132, env: []string{"TERM=xterm"}, colour: true, oneLine: true},
		{name: "narrow terminal", columns: 30, env: []string{"TERM=xterm"}, colour: true},
		{name: "terminal that does not say how wide", columns: -1, env: []string{"TERM=xterm"}, colour: true},
		{name: "NO_COLOR", columns: 132, env: []string{"TERM=xterm", "NO_COLOR=1"}, oneLine: true},
		{name: "NO_COLOR without a value says nothing", columns: 80, env: []string{"TERM=xterm", "NO_COLOR="}, colour: true},
		{name: "dumb", columns: 80, env: []string{"TERM=dumb"}},
		{name: "no TERM", columns: 80},
	} {
		cmd := g.command("status")
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, tc.env...)
		out := read(t, cmd, tc.columns)
		if got := strings.Contains(out, "\x1b["); got != tc.colour {
			t.Errorf("%s: coloured: %v\n%s", tc.name, got, out)
		}
		_, row, _ := strings.Cut(out, strings.Repeat("mqtt-", 12)+"mqtt")
		if got := strings.HasPrefix(row, "  "); got != tc.oneLine {
			t.Errorf("%s: the row is one line: %v\n%s", tc.name, got, out)
		}
	}
}

// read gives what cmd writes to a terminal that wide; 0 is a pipe.
func read(t *testing.T, cmd *exec.Cmd, columns int) string {
	t.Helper()
	var out bytes.Buffer
	if columns == 0 {
		cmd.Stdout = &out
		_ = cmd.Run() // its exit code is another test's
		return out.String()
	}
	master, slave := openTerminal(t)
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(max(0, columns))}); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = slave
	err := cmd.Start()
	slave.Close()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(&out, master) // it ends with EIO when nobody has the terminal open any more
	_ = cmd.Wait()               // as above
	return out.String()
}

func TestLocale(t *testing.T) {
	for _, tc := range []struct {
		env  string
		want bool
	}{
		{"", false},
		{"LANG=C", false},
		{"LANG=C.UTF-8", true},
		{"LANG=ja_JP.utf8", true},
		{"LANG=de_DE@euro", false},
		{"LANG=ca_ES.UTF-8@valencia", true},
		{"LANG=de_DE.ISO-8859-1", false},
		{"LANG=de_DE.UTF-8 LC_CTYPE=POSIX", false},
		{"LANG=C LC_CTYPE=en_GB.UTF-8", true},
		{"LC_CTYPE=en_GB.UTF-8 LC_ALL=C", false},
		{"LC_ALL= LC_CTYPE= LANG=en_GB.UTF-8", true},
	} {
		env := map[string]string{}
		for pair := range strings.FieldsSeq(tc.env) {
			name, value, _ := strings.Cut(pair, "=")
			env[name] = value
		}
		if got := lookOf(io.Discard, func(name string) string { return env[name] }).Unicode; got != tc.want {
			t.Errorf("%q is UTF-8: %v", tc.env, got)
		}
	}
}
