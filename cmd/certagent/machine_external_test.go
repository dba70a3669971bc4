//go:build external

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"certagent/agent/status"
)

// Numbers of users that a package or an administrator would make; for the tests they exist in a machine only.
const (
	agentID  = 4711 // user and group certagent
	clientID = 4712 // user and group telemetry, whose programs are clients
	nobodyID = 65534
)

// machine is a gateway with the real paths, users and ports, for as long as a test runs: /etc and /var can be written
// and forget it, the network is a loopback of its own, and what was started ends with it. The programs in it are those
// of Debian, and certagent and certagent-testca as they are built.
type machine struct {
	*gateway        // its configuration is /etc/certagent/config.toml
	example  string // directory of the example that is installed
}

// onMachine runs a test on a machine on which an example is installed as its README says, with certagent-testca as the
// EST server. The agent is user certagent, without the systemd drop-in of the README; see dropIn and container.
func onMachine(t *testing.T, example string, test func(t *testing.T, m *machine)) {
	t.Helper()
	if os.Getenv(insideVariable) == "" { // the process inside is alone, and sets its environment
		t.Parallel()
	}
	inNamespaces(t, syscall.CLONE_NEWPID, syscall.CLONE_NEWNS|syscall.CLONE_NEWNET, func(t *testing.T) {
		g := newGateway(t)
		m := &machine{gateway: g, example: filepath.Join("../../examples", example)}
		m.furnish()
		m.install()
		g.dir = "/etc/certagent"
		g.as = &syscall.Credential{Uid: agentID, Gid: agentID}
		test(t, m)
	})
}

// furnish makes the machine: file systems, network, users, programs.
func (m *machine) furnish() {
	t := m.t
	t.Helper()
	above := t.TempDir()
	mount := func(kind, at, data string) {
		t.Helper()
		if err := syscall.Mount(kind, at, kind, 0, data); err != nil {
			t.Fatalf("mount %s at %s: %v", kind, at, err)
		}
	}
	mount("proc", "/proc", "") // of this PID namespace
	mount("tmpfs", above, "mode=755")
	t.Cleanup(func() { // what is below is in use, and goes with the namespace
		if err := syscall.Unmount(above, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for _, dir := range []string{"etc", "var"} {
		upper, work := filepath.Join(above, dir), filepath.Join(above, dir+".work")
		must(t, os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755))
		mount("overlay", "/"+dir, fmt.Sprintf("lowerdir=/%s,upperdir=%s,workdir=%s", dir, upper, work))
	}
	mount("tmpfs", "/run", "mode=755")
	mount("tmpfs", "/usr/local/bin", "mode=755")
	loopbackUp(t)
	for name, pkg := range map[string]string{"certagent": ".", "certagent-testca": "../certagent-testca"} {
		build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", "/usr/local/bin/"+name, pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("go build %s: %v\n%s", pkg, err, out)
		}
	}
	t.Setenv("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	for file, lines := range map[string]string{
		"/etc/passwd": fmt.Sprintf("certagent:x:%d:%[1]d::/:\ntelemetry:x:%d:%[2]d::/:\n", agentID, clientID),
		"/etc/group":  fmt.Sprintf("certagent:x:%d:\ntelemetry:x:%d:\n", agentID, clientID),
		"/etc/hosts":  "127.0.0.1 gateway.example\n",
	} {
		data, err := os.ReadFile(file)
		must(t, err, os.WriteFile(file, append(data, lines...), 0o644))
	}
}

// loopbackUp switches on the network of a new network namespace.
func loopbackUp(t *testing.T) {
	t.Helper()
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	must(t, err)
	lo.SetUint16(unix.IFF_UP)
	must(t, unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo))
}

// install does what the README of the example says, for an EST server on this machine.
func (m *machine) install() {
	t := m.t
	t.Helper()
	for _, dir := range []string{"/etc/certagent/config.d", "/etc/certagent/trust", "/var/lib/certagent"} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	must(t, os.Chown("/var/lib/certagent", agentID, agentID))
	ca := exec.Command("certagent-testca", "--dir", "/var/lib/certagent-testca")
	ca.Dir = "/"
	said, err := ca.StdoutPipe()
	must(t, err, ca.Start())
	for text, buf := "", make([]byte, 4096); !strings.Contains(text, "ready on "); {
		n, err := said.Read(buf)
		must(t, err)
		text += string(buf[:n])
	}
	go func() { // ends with the process, which ends with the machine
		buf := make([]byte, 4096)
		for err := error(nil); err == nil; _, err = said.Read(buf) {
		}
	}()
	copyFile(t, "/var/lib/certagent-testca/ca.pem", "/etc/certagent/trust/est-ca.pem")
	must(t, os.WriteFile("/etc/certagent/config.toml", []byte(`[cert_issuance.est]
trusted_certs = ["file:///etc/certagent/trust/est-ca.pem"]
[cert_issuance.est.auth]
username = "estuser"
password = "estpwd"
[cert_issuance.est.urls]
default = "https://localhost:8085/.well-known/est"
`), 0o640), os.Chown("/etc/certagent/config.toml", 0, agentID))
	m.place("certagent.toml")
	m.place(filepath.Base(m.example) + ".conf")
	m.shell(m.block("sh", 0))
}

// shell has root type something.
func (m *machine) shell(text string) {
	m.t.Helper()
	if out, err := exec.Command("sh", "-euc", text).CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v\n%s", text, err, out)
	}
}

// container makes it a machine without systemd on which the agent is root.
func (m *machine) container() {
	m.t.Helper()
	m.place("without-systemd.toml")
	m.shell(m.block("sh", 1))
	must(m.t, os.Chown("/var/lib/certagent", 0, 0))
	m.as = nil
}

func (m *machine) readme() string {
	m.t.Helper()
	text, err := os.ReadFile(filepath.Join(m.example, "README.md"))
	must(m.t, err)
	return string(text)
}

// block is a block of a kind in the README of the example.
func (m *machine) block(kind string, n int) string {
	m.t.Helper()
	all := regexp.MustCompile("(?s)```"+kind+"\n(.*?)```").FindAllStringSubmatch(m.readme(), -1)
	if len(all) <= n {
		m.t.Fatalf("the README has only %d blocks of %s", len(all), kind)
	}
	return all[n][1]
}

// place copies a file of the example to where its README says.
func (m *machine) place(file string) {
	m.t.Helper()
	_, to, found := strings.Cut(m.readme(), "\n| ["+file+"]("+file+") | `")
	if !found {
		m.t.Fatalf("the README does not say where %s goes", file)
	}
	to, _, _ = strings.Cut(to, "`")
	copyFile(m.t, filepath.Join(m.example, file), to)
}

// dropIn gives the agent the groups of the drop-in in the README, as systemd would.
func (m *machine) dropIn() {
	m.t.Helper()
	line := regexp.MustCompile(`(?m)^SupplementaryGroups=(.*)$`).FindStringSubmatch(m.block("ini", 0))
	if line == nil {
		m.t.Fatal("the README's drop-in has no groups")
	}
	for name := range strings.FieldsSeq(line[1]) {
		m.as.Groups = append(m.as.Groups, uint32(m.id("group", name)))
	}
}

// id is the number of a user or group.
func (m *machine) id(database, name string) int {
	m.t.Helper()
	out, err := exec.Command("getent", database, name).Output()
	if err != nil {
		m.t.Fatalf("getent %s %s: %v", database, name, err)
	}
	n, err := strconv.Atoi(strings.Split(string(out), ":")[2])
	must(m.t, err)
	return n
}

// as is a command of somebody's, who is in no other group than his own.
func as(uid, gid int, argv ...string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	return cmd
}

// mayRead asks the kernel who may read a file.
func (m *machine) mayRead(uid, gid int, path string, want bool) {
	m.t.Helper()
	out, err := as(uid, gid, "/bin/cat", path).CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		m.t.Fatal(err)
	}
	if want != (err == nil) || !want && !bytes.Contains(out, []byte("Permission denied")) {
		m.t.Errorf("user %d, group %d, reading %s: %v, want it to work: %t", uid, gid, path, err, want)
	}
}

// served waits until another certificate than that of serial stands in status, with every output written and every hook
// done.
func (m *machine) served(id, serial string) (c status.Certificate) {
	m.t.Helper()
	m.until("certificate "+id+" delivered", func() bool {
		m.mustRun()
		c = m.certificate(id)
		ok := c.Serial != "" && c.Serial != serial
		for _, o := range c.Outputs {
			ok = ok && o.State == "ok"
		}
		for _, h := range c.Hooks {
			ok = ok && h.State == "ok"
		}
		return ok
	})
	return c
}

// renew has all certificates renewed and waits until those that are named are delivered; it gives their serials.
func (m *machine) renew(serials map[string]string) map[string]string {
	m.t.Helper()
	m.signal(syscall.SIGUSR1)
	now := map[string]string{}
	for id, serial := range serials {
		now[id] = m.served(id, serial).Serial
	}
	return now
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
