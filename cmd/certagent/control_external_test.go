//go:build external

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"certagent/agent/onboard/dps/dpstest"
	"certagent/est/esttest"
)

// public lets everybody come as far as the gateway's directory, the program and the CA's certificate, and read the configuration.
func (g *gateway) public(s *esttest.Server) {
	g.t.Helper()
	program, err := exec.LookPath("certagent")
	if err == nil {
		program, err = filepath.EvalSymlinks(program)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	for _, dir := range []string{g.dir, filepath.Dir(program), filepath.Dir(s.CAFile())} {
		for ; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				g.t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(g.path("config.toml"), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// TestControlByUserAndGroup: the kernel says who asks, supplementary groups among it, and the group is the one that the socket
// has now.
func TestControlByUserAndGroup(t *testing.T) {
	const agentUser, agentGroup, admins, somebody = 40001, 40002, 40003, 40004
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	g.public(s)
	// An agent that is not root, as installed.
	for _, dir := range []string{"state", "run"} {
		if err := os.Mkdir(g.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(g.path(dir), agentUser, agentGroup); err != nil {
			t.Fatal(err)
		}
	}
	g.as = &syscall.Credential{Uid: agentUser, Gid: agentGroup}
	g.start()
	g.next("mqtt", nil)
	many := []uint32{}
	for n := range uint32(300) { // more than the server has room for at first
		many = append(many, 50000+n)
	}
	renew := func(as *syscall.Credential) told {
		g.as = as
		return g.tell("renew", "--wait")
	}
	for name, as := range map[string]*syscall.Credential{
		"root":                    nil,
		"the agent's user":        {Uid: agentUser, Gid: somebody},
		"a member":                {Uid: somebody, Gid: agentGroup},
		"by supplementary groups": {Uid: somebody, Gid: somebody, Groups: append(many, agentGroup)},
	} {
		t.Log(name)
		renew(as).want(t, 0, "mqtt: issued", `.*`)
	}
	stranger := &syscall.Credential{Uid: somebody, Gid: somebody, Groups: append(many, admins)}
	renew(stranger).want(t, 1, "", `only root.*this is user 40004\ncertagent: hint: run this as root, or become a member of the group 40002`)
	g.tell("status").want(t, 0, "mqtt  valid", "")
	if err := os.Chown(g.path("run", "control.sock"), -1, admins); err != nil {
		t.Fatal(err)
	}
	renew(stranger).want(t, 0, "issued", `.*`)
	renew(&syscall.Credential{Uid: somebody, Gid: agentGroup}).want(t, 1, "", `only root`)

	// Who may renew and is not root cannot hand a key over; root can, and it becomes the agent's.
	g.as = nil
	cert, key := g.brought(s, "brought")
	for _, file := range []string{cert, key} {
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g.as = stranger
	g.tell("import", "mqtt", "--cert", cert, "--key", key, "--replace").want(t, 1, "", `permission denied\ncertagent: hint: run this as root`)
	g.as = nil
	take := func() {
		t.Helper()
		g.tell("import", "mqtt", "--cert", cert, "--key", key, "--replace").want(t, 0, "imported", `others than its owner may read .*brought.key \(mode 0644\)`)
		dir, err := filepath.EvalSymlinks(g.path("state", "certs", "mqtt", "live"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range []string{dir, filepath.Join(dir, "key.pem"), g.path("state", "certs", "mqtt", "retry.json")} {
			info, err := os.Lstat(file)
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); st.Uid != agentUser || st.Gid != agentGroup {
				t.Errorf("%s belongs to %d:%d", file, st.Uid, st.Gid)
			}
		}
	}
	take()
	g.stop()
	take()
}

// TestCurl follows docs/control-api.md with curl, word for word but for where the socket is.
func TestCurl(t *testing.T) {
	page, err := os.ReadFile("../../docs/control-api.md")
	if err != nil {
		t.Fatal(err)
	}
	g := newAzure(t, dpstest.Options{}) // one of them has its device registered again
	text, err := os.ReadFile(g.path("config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	g.write("config.toml", string(text)+"\n[cert_issuance.certs.mqtt]\ncommon_name = \"mqtt\"\n")
	g.start()
	was := g.next("mqtt", nil)
	g.registered()
	examples := regexp.MustCompile(`(?m)^    curl (.*\\\n)*.*$`).FindAllString(string(page), -1)
	if len(examples) < 4 {
		t.Fatalf("docs/control-api.md has %d examples", len(examples))
	}
	for _, example := range examples {
		typed := strings.Replace(example, "/run/certagent/control.sock", g.path("run", "control.sock"), 1)
		if typed == example {
			t.Errorf("another socket: %s", example)
		}
		var stdout, stderr bytes.Buffer
		sh := exec.CommandContext(t.Context(), "sh", "-euc", strings.Replace(typed, "curl ", "curl -sS --fail-with-body --max-time 60 ", 1))
		sh.Stdout, sh.Stderr = &stdout, &stderr
		if err := sh.Run(); err != nil || stderr.Len() > 0 || !strings.HasSuffix(stdout.String(), "}\n") {
			t.Errorf("%s: %v\n%s%s", example, err, &stdout, &stderr)
		}
	}
	g.next("mqtt", &was) // one of them renews
	g.stop()
}
