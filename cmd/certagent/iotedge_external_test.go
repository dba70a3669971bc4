//go:build external

package main

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"certagent/agent/onboard/dps/dpstest"
)

// azControl is the environment variable that names the server which the stand-in for az asks.
const azControl = "AZ_STAND_IN"

// azCommand is the stand-in, which has its arguments answered.
const azCommand = `#!/bin/sh
for a; do printf '%s\n' "$a"; done | curl --silent --show-error --fail-with-body --data-binary @- "$` + azControl + `"
`

// subscription answers what the stand-in is asked. The hub and DPS are made when they are linked, at the addresses that
// these services have.
type subscription struct {
	mu     sync.Mutex // guards what follows
	cloud  *dpstest.Server
	hub    string                       // its name
	cas    map[string]*x509.Certificate // by their names, verified
	made   map[string]bool              // what there is, by kind and name
	called []string
}

// opened is the cloud, once there is one.
func (s *subscription) opened() *dpstest.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cloud
}

func (s *subscription) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var answer string
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		answer, err = s.answer(strings.Split(strings.TrimSuffix(string(body), "\n"), "\n"))
	}
	if err != nil {
		http.Error(w, "ERROR: "+err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprint(w, answer)
}

func (s *subscription) answer(args []string) (string, error) {
	command, flags, err := azCall(args)
	if err != nil {
		return "", err
	}
	s.called = append(s.called, command)
	if err := s.resources(command, flags); err != nil {
		return "", fmt.Errorf("%s: %w", command, err)
	}
	switch command {
	case "iot dps linked-hub create":
		s.hub = flags["hub-name"] + ".azure-devices.net"
		// The endpoint's certificate is for the names of its hubs; the second is the global endpoint's own.
		s.cloud, err = dpstest.Open(dpstest.Options{Listen: "127.0.0.1:443", Hubs: []string{s.hub, "global.azure-devices-provisioning.net"}})
		if err == nil {
			err = s.reachable()
		}
		return "{}\n", err
	case "iot dps certificate create":
		data, err := os.ReadFile(filepath.Join(workingDirectory, flags["path"]))
		if err != nil {
			return "", err
		}
		block, _ := pem.Decode(data)
		if block == nil {
			return "", errors.New("no PEM")
		}
		s.cas[flags["certificate-name"]], err = x509.ParseCertificate(block.Bytes)
		return "{}\n", err
	case "iot dps enrollment-group create":
		s.cloud.EnrolGroup(s.cas[flags["ca-name"]], dpstest.Enrolment{})
	case "iot dps show":
		return s.cloud.IDScope() + "\n", nil
	case "iot hub device-identity show":
		return strings.ToUpper(s.cloud.Thumbprint(s.hub, flags["device-id"])) + "\n", nil
	case "iot dps certificate show":
		return etag + "\n", nil
	case "iot dps certificate delete":
		if flags["etag"] != etag {
			return "", errors.New("the etag is another one")
		}
	}
	return "{}\n", nil
}

const etag = "AAAAAAFXPqg="

// resources holds that what a command names is there, and keeps what it makes. A group is not deleted, since the page has a
// second way after that.
func (s *subscription) resources(command string, flags map[string]string) error {
	kind, verb := path.Split(strings.ReplaceAll(command, " ", "/"))
	kinds := map[string]string{ // of what a flag names
		"resource-group": "group/", "hub-name": "iot/hub/", "dps-name": "iot/dps/", "certificate-name": "iot/dps/certificate/",
		"ca-name": "iot/dps/certificate/", "enrollment-id": "iot/dps/enrollment-group/", "name": kind, "device-id": kind,
	}
	for flag, value := range flags {
		of, names := kinds[flag]
		thing := of + value
		switch {
		case !names: // it is a setting
		case flag == "device-id":
			if s.cloud.Thumbprint(s.hub, value) == "" {
				return fmt.Errorf("there is no device %s", value)
			}
		case of == kind && verb == "create":
			if s.made[thing] {
				return fmt.Errorf("there is a %s already", thing)
			}
			s.made[thing] = true
		case !s.made[thing]:
			return fmt.Errorf("there is no %s", thing)
		case of == kind && verb == "delete" && kind != "group/":
			delete(s.made, thing)
		}
	}
	return nil
}

// reachable gives hub and endpoint their addresses on this machine, and has it trust them as it does Azure's.
func (s *subscription) reachable() error {
	for file, text := range map[string]string{
		"/etc/hosts":                         "127.0.0.1 global.azure-devices-provisioning.net " + s.hub + "\n",
		"/etc/ssl/certs/ca-certificates.crt": string(s.cloud.RootPEM()),
	} {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// workingDirectory is where the page's commands are typed.
const workingDirectory = "/var/tmp/azure-iot-edge"

// The users of IoT Edge, with the groups that its packages give them.
const (
	aziotksID = 4721 + iota
	aziotcsID
	aziotidID
	iotedgeID
)

// TestIoTEdgeWalk types the page, word for word and in one shell, as root of a machine with the real paths, users and ports;
// systemctl is played by the test, and so is Azure.
func TestIoTEdgeWalk(t *testing.T) {
	if os.Getenv(insideVariable) == "" {
		t.Parallel()
	}
	inNamespaces(t, syscall.CLONE_NEWPID, syscall.CLONE_NEWNS|syscall.CLONE_NEWNET, func(t *testing.T) {
		g := newGateway(t)
		m := &machine{gateway: g, example: edgeDir}
		m.furnish()
		g.dir = "/etc/certagent"
		g.as = &syscall.Credential{Uid: agentID, Gid: agentID}
		azure := &subscription{cas: map[string]*x509.Certificate{}, made: map[string]bool{}}
		m.packages()
		control := httptest.NewServer(azure)
		defer control.Close()
		t.Setenv(azControl, control.URL)

		sh, systemctl, typed := m.types(), m.systemctl(), map[string]bool{}
		for _, b := range edgeBlocks(t) {
			if strings.HasPrefix(b.commands, "systemctl ") {
				for command := range strings.Lines(b.commands) {
					command = strings.TrimSpace(command)
					do := systemctl[command]
					if do == nil {
						t.Fatalf("nobody has %s done", command)
					}
					do()
					typed[command] = true
				}
				continue
			}
			said := sh.run(b.commands)
			for _, line := range b.sees {
				if !seen(line, said) {
					t.Errorf("after\n%sthe page says that one sees\n%s\nand there is\n%s", b.commands, line, said)
				}
			}
			if strings.Contains(b.commands, "tee aziot.toml") {
				m.besideIoTEdge(azure)
			}
		}
		if cloud := azure.opened(); cloud != nil {
			cloud.Close()
		}
		if n := len(azure.called); n != len(azOptions()) {
			t.Errorf("az was called for %q", azure.called)
		}
		for command := range systemctl {
			if !typed[command] {
				t.Errorf("the page has no %s", command)
			}
		}
		for _, pattern := range []string{"/etc/systemd/system/certagent*.d/*", "/etc/certagent/config.toml", "/etc/certagent/*/*", "/var/aziot/certagent",
			"/var/lib/certagent/*", workingDirectory + "/testca"} {
			if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
				t.Errorf("the page leaves %q: %v", left, err)
			}
		}
		if m.caps != nil {
			t.Error("the drop-in is in force until the next daemon-reload")
		}
	})
}

// packages leaves on the machine what the packages of certagent and IoT Edge do, and a stand-in for az.
func (m *machine) packages() {
	t := m.t
	t.Helper()
	must(t, os.WriteFile("/usr/local/bin/az", []byte(azCommand), 0o755))
	for file, lines := range map[string]string{
		"/etc/passwd": fmt.Sprintf("aziotks:x:%d:%[1]d::/:\naziotcs:x:%d:%[2]d::/:\naziotid:x:%d:%[3]d::/:\niotedge:x:%d:%[4]d::/:\n",
			aziotksID, aziotcsID, aziotidID, iotedgeID),
		"/etc/group": fmt.Sprintf("aziotks:x:%d:aziotcs,aziotid,iotedge\naziotcs:x:%d:aziotid,iotedge\naziotid:x:%d:iotedge\niotedge:x:%d:\n",
			aziotksID, aziotcsID, aziotidID, iotedgeID),
	} {
		data, err := os.ReadFile(file)
		must(t, err, os.WriteFile(file, append(data, lines...), 0o644))
	}
	for _, dir := range []string{"/etc/certagent/config.d", "/etc/certagent/trust", "/var/lib/certagent", "/run/certagent", "/run/certagent-deploy",
		"/etc/ssl/certs", workingDirectory} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	for _, dir := range []string{"/var/lib/certagent", "/run/certagent", "/run/certagent-deploy"} {
		must(t, os.Chown(dir, agentID, agentID))
	}
	must(t, os.WriteFile("/etc/certagent/config.toml", nil, 0o640), os.Chown("/etc/certagent/config.toml", 0, agentID),
		os.Chmod("/etc/certagent/config.d", 0o750), os.Chown("/etc/certagent/config.d", 0, agentID), os.CopyFS(workingDirectory, os.DirFS(edgeDir)))
}

// systemctl is systemd, as far as the page needs it: what each of its commands has done. It starts and stops the agent, with the
// capability that the drop-in gives it, if that is in force.
func (m *machine) systemctl() map[string]func() {
	nothing := func() {} // what is done about the word is held on a booted systemd, in packaging/rig
	return map[string]func(){
		"systemctl enable --now certagent": func() { m.start() },
		"systemctl daemon-reload": func() {
			m.caps = nil
			dropIn, err := os.ReadFile("/etc/systemd/system/certagent.service.d/iotedge.conf")
			if errors.Is(err, os.ErrNotExist) {
				return
			}
			must(m.t, err)
			for _, line := range []string{"CapabilityBoundingSet=CAP_CHOWN", "AmbientCapabilities=CAP_CHOWN", "ReadWritePaths=/var/aziot/certagent"} {
				if !strings.Contains(string(dropIn), line+"\n") {
					m.t.Errorf("the drop-in lacks %s", line)
				}
			}
			m.caps = []uintptr{unix.CAP_CHOWN}
		},
		"systemctl enable --now certagent-deploy@iotedge.path":  nothing,
		"systemctl restart certagent":                           func() { m.stop(); m.start() },
		"systemctl disable --now certagent-deploy@iotedge.path": nothing,
		"systemctl disable --now certagent":                     m.stop,
	}
}

// besideIoTEdge holds what the page says of the files to what the kernel says, to what IoT Edge's services need, and to the
// fragment that is shipped; and goes through a renewal and a restart of the agent.
func (m *machine) besideIoTEdge(azure *subscription) {
	t := m.t
	t.Helper()
	const dir = "/var/aziot/certagent/"
	want := strings.Replace(edgeFile(t, "aziot.toml"), "0ne00A1B2C3", azure.opened().IDScope(), 1)
	if got := readText(t, filepath.Join(workingDirectory, "aziot.toml")); got != want {
		t.Errorf("certagent config aziot printed\n%swant\n%s", got, want)
	}
	m.served("device-id", "")
	m.served("aziot-edged-ca", "")
	for range 2 {
		must(t, os.Remove("/run/certagent-deploy/iotedge")) // as certagent-deploy@iotedge.service does
		for _, file := range []struct {
			name   string
			reader int
			secret bool
		}{
			{"device-id.pem", aziotcsID, false}, {"edge-ca.pem", aziotcsID, false}, {"trust-bundle.pem", aziotcsID, false},
			{"device-id.key", aziotksID, true}, {"edge-ca.key", aziotksID, true},
		} {
			info, err := os.Lstat(dir + file.name)
			must(t, err)
			mode := os.FileMode(0o644)
			if file.secret {
				mode = 0o600
			}
			if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != file.reader || int(st.Gid) != file.reader || info.Mode() != mode {
				t.Errorf("%s is %d:%d %v", file.name, st.Uid, st.Gid, info.Mode())
			}
			for user, groups := range map[int][]uint32{
				aziotksID: nil, aziotcsID: {aziotksID}, aziotidID: {aziotcsID, aziotksID}, iotedgeID: {aziotcsID, aziotksID, aziotidID}, nobodyID: nil,
			} {
				cmd := as(user, user, "/bin/cat", dir+file.name)
				cmd.SysProcAttr.Credential.Groups = groups
				if err := cmd.Run(); (err == nil) != (!file.secret || user == file.reader) {
					t.Errorf("user %d reads %s: %v", user, file.name, err)
				}
			}
		}
		// What IoT Edge does with them: log in by the one, and issue a module's certificate by the other.
		m.shell(`cd "$(mktemp -d)"
cmp ` + dir + `device-id.pem /var/lib/certagent/certs/device-id/live/fullchain.pem
openssl pkey -in ` + dir + `device-id.key -pubout -out key.pem && openssl x509 -in ` + dir + `device-id.pem -noout -pubkey | cmp - key.pem
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout module.key -subj /CN=edgeHub -out module.csr 2>/dev/null
openssl x509 -req -in module.csr -CA ` + dir + `edge-ca.pem -CAkey ` + dir + `edge-ca.key -CAcreateserial -CAserial serial -days 1 -out module.pem 2>/dev/null
openssl verify -CAfile ` + dir + `trust-bundle.pem -untrusted ` + dir + `edge-ca.pem module.pem`)
		m.renew(map[string]string{"device-id": m.certificate("device-id").Serial, "aziot-edged-ca": m.certificate("aziot-edged-ca").Serial})
	}
	// The agent cannot read what it gave away, and writes none of it anew for that; and tells nobody.
	must(t, os.Remove("/run/certagent-deploy/iotedge"))
	before, err := os.Stat(dir + "edge-ca.key")
	must(t, err)
	m.stop()
	m.start()
	m.until("the agent answers", func() bool { return !m.status().Started.IsZero() })
	m.tell("onboard").want(t, 0, "device-id: known already", "") // its keeper has looked by then
	m.served("aziot-edged-ca", "")
	after, err := os.Stat(dir + "edge-ca.key")
	must(t, err)
	if !os.SameFile(before, after) {
		t.Error("a restart of the agent wrote the key anew")
	}
	if _, err := os.Lstat("/run/certagent-deploy/iotedge"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a restart of the agent restarts IoT Edge: %v", err)
	}
	var result struct{ SHA256 string }
	must(t, json.Unmarshal([]byte(readText(t, "/var/lib/certagent/onboard/dps.json")), &result))
	if known := azure.opened().Thumbprint(azure.hub, "myiotedgedevice"); known != result.SHA256 {
		t.Errorf("the hub knows %s, and the device says %s", known, result.SHA256)
	}
}

// typist is a shell into which a test types.
type typist struct {
	t     *testing.T
	in    io.Writer
	lines chan string
	n     int
}

// types opens a shell of root's, which ends with the machine.
func (m *machine) types() *typist {
	m.t.Helper()
	cmd := exec.Command("bash")
	cmd.Dir = workingDirectory
	in, err := cmd.StdinPipe()
	must(m.t, err)
	out, err := cmd.StdoutPipe()
	must(m.t, err)
	cmd.Stderr = cmd.Stdout
	must(m.t, cmd.Start())
	sh := &typist{t: m.t, in: in, lines: make(chan string, 1000)}
	go func() { // ends with the shell and all that it started
		defer close(sh.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			sh.lines <- lines.Text()
		}
	}()
	sh.run("set -eo pipefail; trap \"echo '" + endOfShell + "'\" EXIT\n")
	return sh
}

// endOfShell is what a shell says at last; what it has started may hold its output for longer.
const endOfShell = "end of the shell"

// run types commands and gives what they say. The first that fails ends the shell.
func (sh *typist) run(commands string) string {
	sh.t.Helper()
	sh.n++
	end := fmt.Sprintf("end of block %d", sh.n)
	_, err := io.WriteString(sh.in, commands+"echo '"+end+"'\n")
	must(sh.t, err)
	var said bytes.Buffer
	for timeout := time.After(3 * patience); ; {
		select {
		case line, more := <-sh.lines:
			if !more || line == endOfShell {
				sh.t.Fatalf("this ends badly:\n%s%s", commands, &said)
			}
			if line == end {
				return said.String()
			}
			said.WriteString(line + "\n")
		case <-timeout:
			sh.t.Fatalf("this does not end:\n%s%s", commands, &said)
		}
	}
}

// seen tells whether a line, or a part of one, is among what was said. "…" stands for anything, a space for spaces.
func seen(line, said string) bool {
	var words []string
	for word := range strings.FieldsSeq(line) {
		words = append(words, strings.ReplaceAll(regexp.QuoteMeta(word), "…", ".*"))
	}
	return regexp.MustCompile(`(?m)` + strings.Join(words, " +")).MatchString(said)
}
