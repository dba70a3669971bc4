//go:build system

package rig

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// pod is a place for containers: a network with an EST server, and a podman that knows no other images than those made here.
type pod struct {
	*machine
	dir string // podman's files, and those that containers are given
}

const image = "localhost/certagent:latest"

// containers makes the place, with the image in it. It ends with the test.
func containers(t *testing.T) pod {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("./containers", dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET}
	ended := start(t, cmd)
	p := pod{machine: new(machine), dir: dir}
	t.Cleanup(func() {
		p.try(p.podman("pod rm -af; podman rm -af -t 0"))
		cmd.Process.Kill()
		<-ended
		// What podman had of the control groups is empty by now.
		exec.Command("find", "/sys/fs/cgroup", "-depth", "-type", "d", "-path", "*/libpod_parent*", "-exec", "rmdir", "{}", "+").Run()
	})
	p.leader = cmd.Process.Pid
	p.until(t, "the place is made", func() bool {
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.leader))
		return err == nil && string(command) == "sleep\n"
	})
	p.est = connect(t, p.leader, testca(t, t.TempDir()))
	p.build(t)
	return p
}

// podman is a script that begins with a call of podman.
func (p pod) podman(script string) string {
	return fmt.Sprintf("export CONTAINERS_CONF=%[1]s/etc/containers.conf CONTAINERS_STORAGE_CONF=%[1]s/etc/storage.conf TMPDIR=%[1]s; podman %[2]s",
		p.dir, script)
}

// does runs podman, which must succeed.
func (p pod) does(t *testing.T, script string) string {
	t.Helper()
	return p.run(t, p.podman(script))
}

// build makes the image as `make image` does, from the working tree.
func (p pod) build(t *testing.T) {
	t.Helper()
	top := strings.TrimSpace(command(t, "git", "rev-parse", "--show-toplevel"))
	command(t, "go", "-C", top, "mod", "download") // there is no network in there
	goroot := strings.TrimSpace(command(t, "go", "env", "GOROOT"))
	caches := command(t, "go", "env", "GOCACHE", "GOMODCACHE")
	cache, modules, _ := strings.Cut(strings.TrimSpace(caches), "\n")
	p.run(t, p.podman("--version")+fmt.Sprintf("; cd %s; PATH=%s/bin:$PATH GOCACHE=%s GOMODCACHE=%s MAKEFLAGS= MAKELEVEL= make image",
		top, goroot, cache, modules))
}

// configuration writes what containers mount at /etc/certagent, with a login by password.
func (p pod) configuration(t *testing.T, more string) (mount string) {
	t.Helper()
	etc := p.dir + "/certagent"
	p.write(t, etc+"/trust/est.pem", "0644", "root:root", p.est.file(t, "ca.pem"))
	p.write(t, etc+"/bootstrap/est-password", "0640", "root:65532", "estpwd\n")
	p.write(t, etc+"/config.toml", "0640", "root:65532", `[cert_issuance.est]
trusted_certs = ["/etc/certagent/trust/est.pem"]

[cert_issuance.est.auth]
username = "estuser"
password_file = "/etc/certagent/bootstrap/est-password"

[cert_issuance.est.urls]
default = "`+strings.ReplaceAll(estURL, "est.example", estIPv4)+`"

[provisioning.attestation.identity_cert]
method = "est"
common_name = "gateway-42"
`+more)
	p.run(t, "chmod 0755 "+p.dir+" "+etc+" "+etc+"/*/")
	return "-v " + etc + ":/etc/certagent:ro "
}

// confined is how docs and manifests have it run: with no right but to write its state.
const confined = "--network host --read-only --read-only-tmpfs=false --cap-drop all --security-opt no-new-privileges "

// TestContainer: the image of examples/container, run by podman.
func TestContainer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("must be root")
	}
	p := containers(t)
	t.Run("TheImageHoldsNothingElse", p.theImageHoldsNothingElse)
	t.Run("RunIsTheFirstProcess", p.runIsTheFirstProcess)
	t.Run("Once", p.once)
	t.Run("OrphansOfHooks", p.orphansOfHooks)
	t.Run("Application", p.application)
	t.Run("Gateway", p.gateway)
	t.Run("AVolumeThatEverybodyMayWrite", p.aVolumeThatEverybodyMayWrite)
}

func (p pod) theImageHoldsNothingElse(t *testing.T) {
	first := p.does(t, "image inspect -f '{{.Id}}' "+image)
	p.build(t)
	if again := p.does(t, "image inspect -f '{{.Id}}' "+image); again != first {
		t.Errorf("built twice it is %s and %s", first, again)
	}
	got := p.run(t, p.podman("create --name looked "+image+" >/dev/null; podman export looked | tar -t --numeric-owner -v | "+
		`awk '{ print $1, $2, $6 }' | grep -vE ' (dev|proc|sys|run|etc/(hosts|hostname|resolv.conf|mtab))/?$|^l' | LC_ALL=C sort -k 3; podman rm looked >/dev/null`))
	const want = `drwxr-xr-x 0/0 etc/
drwxr-xr-x 0/0 etc/certagent/
drwxr-xr-x 0/0 etc/certagent/bootstrap/
drwxr-xr-x 0/0 etc/certagent/config.d/
drwxr-xr-x 0/0 etc/certagent/trust/
-rw-r--r-- 0/0 etc/group
-rw-r--r-- 0/0 etc/passwd
drwxr-xr-x 0/0 etc/ssl/
drwxr-xr-x 0/0 etc/ssl/certs/
-rw-r--r-- 0/0 etc/ssl/certs/ca-certificates.crt
drwxr-xr-x 0/0 usr/
drwxr-xr-x 0/0 usr/bin/
-rwxr-xr-x 0/0 usr/bin/certagent
drwxr-xr-x 0/0 usr/share/
drwxr-xr-x 0/0 usr/share/licenses/
drwxr-xr-x 0/0 usr/share/licenses/certagent/
-rw-r--r-- 0/0 usr/share/licenses/certagent/LICENSE
-rw-r--r-- 0/0 usr/share/licenses/certagent/THIRD-PARTY-NOTICES
drwxr-xr-x 0/0 var/
drwxr-xr-x 0/0 var/lib/
drwxr-xr-x 65532/65532 var/lib/certagent/`
	if got != want {
		t.Errorf("the image holds\n%s\nwant\n%s", got, want)
	}
}

// runIsTheFirstProcess: it enrols, is asked, renews on a signal, ends on SIGTERM, and goes on where it was.
func (p pod) runIsTheFirstProcess(t *testing.T) {
	mount := p.configuration(t, "")
	p.does(t, "run -d --name gateway "+confined+mount+"-v gateway:/var/lib/certagent "+image)
	t.Cleanup(func() { p.does(t, "rm -f -t 0 gateway") })
	p.does(t, "exec gateway certagent wait --timeout 1m device-id")
	if said := p.does(t, "exec gateway certagent status --json"); !strings.Contains(said, `"pid": 1,`) {
		t.Errorf("the agent is not the first process:\n%s", said)
	}
	process := p.does(t, "inspect -f '{{.State.Pid}}' gateway")
	status := p.run(t, "cat /proc/"+process+"/status")
	for _, want := range []string{"Uid:\t65532\t65532\t65532\t65532\n", "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n",
		"NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(status, want) {
			t.Errorf("its status has no %q:\n%s", want, status)
		}
	}
	serial := func() string { return p.does(t, "exec gateway certagent status --json | grep -m1 '\"serial\"'") }
	before, asked := serial(), len(p.est.asked())
	p.does(t, "kill -s USR1 gateway")
	p.until(t, "another certificate", func() bool { return serial() != before })
	if requests := p.est.asked()[asked:]; len(requests) != 1 || !strings.Contains(requests[0], "op=simplereenroll status=200") {
		t.Errorf("the server was asked %q", requests)
	}
	before = serial()
	p.does(t, "stop -t 60 gateway")
	if code := p.does(t, "inspect -f '{{.State.ExitCode}}' gateway"); code != "0" {
		t.Errorf("SIGTERM ends it with %s", code)
	}
	p.does(t, "start gateway && podman exec gateway certagent wait --timeout 1m device-id")
	if serial() != before {
		t.Error("it renewed over a restart")
	}
	if said, code := p.try(p.podman("exec gateway certagent check --offline")); code != 0 {
		t.Errorf("certagent check: exit code %d\n%s", code, said)
	}
}

// once: it enrols and ends; with nothing to do as well; not beside another agent; and not without a configuration.
func (p pod) once(t *testing.T) {
	mount := p.configuration(t, "")
	once := "run --rm " + confined + mount + "-v once:/var/lib/certagent " + image + " run --once"
	asked := len(p.est.asked())
	p.does(t, once+" && podman "+once)
	if requests := p.est.asked()[asked:]; len(requests) != 2 { // the first of the two without the password
		t.Errorf("the server was asked %q", requests)
	}
	p.fails(t, 2, p.podman("run --rm "+confined+image+" run --once"))
	p.does(t, "run -d --name other "+confined+mount+"-v once:/var/lib/certagent "+image)
	t.Cleanup(func() { p.does(t, "rm -f -t 0 other") })
	p.does(t, "exec other certagent status")
	if said := p.fails(t, 1, p.podman(once)); !strings.Contains(said, "one agent at a time") {
		t.Errorf("beside another agent it says %s", said)
	}
}

// orphansOfHooks: what a hook leaves behind becomes the child of the first process. Where that is the agent it stays as a zombie
// when it ends, and with --init it does not (README.md says so).
func (p pod) orphansOfHooks(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	mount := p.configuration(t, "\n[provisioning.attestation.identity_cert.on_renew]\n"+
		`exec = [["/bin/busybox", "sh", "-c", "(exec /bin/busybox sleep 0.1) & echo $! >/var/lib/certagent/orphan"]]`+"\n") +
		"-v " + busybox + ":/bin/busybox:ro "
	for _, c := range []struct{ init, zombies string }{{"", "1"}, {"--init ", "0"}} {
		t.Run("with "+c.init, func(t *testing.T) {
			name := "hooks" + strings.Trim(c.init, "- ")
			p.does(t, "run -d --name "+name+" "+c.init+confined+mount+"-v "+name+":/var/lib/certagent "+image)
			t.Cleanup(func() { p.does(t, "rm -f -t 0 "+name) })
			inside := func(script string) string { return p.does(t, "exec "+name+" /bin/busybox sh -c '"+script+"'") }
			p.until(t, "the hook has run", func() bool { _, code := p.try(p.podman("exec " + name + " certagent status")); return code == 0 })
			p.until(t, "the orphan has ended", func() bool {
				state := inside(`/bin/busybox sed -n "s/^State:\t\(.\).*/\1/p" /proc/$(/bin/busybox cat /var/lib/certagent/orphan)/status 2>/dev/null || true`)
				return state == "" || state == "Z"
			})
			if zombies := inside(`/bin/busybox cat /proc/[0-9]*/stat 2>/dev/null | /bin/busybox grep -c " Z 1 " || true`); zombies != c.zombies {
				t.Errorf("%s zombies, want %s", zombies, c.zombies)
			}
		})
	}
}
