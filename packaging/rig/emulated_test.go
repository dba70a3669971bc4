//go:build system

package rig

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestEmulated has the program of each machine's package enrol once, on an emulated machine.
func TestEmulated(t *testing.T) {
	tree, dist, bin := copyOfTree(t), t.TempDir(), t.TempDir()
	commit(t, tree, "all")
	must(t, pack(t.Context(), tree, dist, "arm64 armhf riscv64", "deb rpm apk archlinux"))
	server := testca(t, bin)
	for _, machine := range []struct{ deb, others, qemu string }{
		{"arm64", "aarch64", "qemu-aarch64"}, {"armhf", "armv7", "qemu-arm"}, {"riscv64", "riscv64", "qemu-riscv64"},
	} {
		t.Run(machine.deb, func(t *testing.T) {
			for _, pattern := range []string{"-*." + machine.others + "*.rpm", "_*_" + machine.others + "*.apk",
				"-*-" + machine.others + "*.pkg.tar.zst"} {
				onlyOne(t, filepath.Join(dist, "certagent"+pattern))
			}
			dir := t.TempDir()
			deb := onlyOne(t, filepath.Join(dist, "certagent_*_"+machine.deb+".deb"))
			if said := strings.TrimSpace(command(t, "dpkg-deb", "-f", deb, "Architecture")); said != machine.deb {
				t.Errorf("the package is for %s", said)
			}
			command(t, "dpkg-deb", "-x", deb, dir)
			enrolEmulated(t, dir, server, machine.qemu)
		})
	}
}

// onlyOne is the package that a pattern stands for.
func onlyOne(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	must(t, err)
	if len(found) != 1 {
		t.Fatalf("%s: %q", pattern, found)
	}
	return found[0]
}

// enrolEmulated has the program that was unpacked in a directory enrol, with that emulator.
func enrolEmulated(t *testing.T, dir, server, qemu string) {
	t.Helper()
	gateway := host(t)
	est := connect(t, gateway, server)
	config := strings.NewReplacer(
		"/etc/certagent/trust/est.pem", est.dir+"/ca.pem",
		"/etc/certagent/bootstrap/device.pem", est.dir+"/bootstrap.pem",
		"/etc/certagent/bootstrap/device.key.pem", est.dir+"/bootstrap.key.pem",
		"est.example", estIPv4,
	).Replace(configuration)
	file := filepath.Join(dir, "config.toml")
	config = "state_dir = " + strconv.Quote(dir+"/state") + "\nrun_dir = " + strconv.Quote(dir+"/run") + "\n" + config
	must(t, os.WriteFile(file, []byte(config), 0o600))
	cmd := exec.CommandContext(t.Context(), "nsenter", "--net=/proc/"+strconv.Itoa(gateway)+"/ns/net", qemu,
		dir+"/usr/bin/certagent", "run", "--once", "--config", file)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("certagent run --once: %v\n%s", err, said)
	}
	requests := est.asked()
	if len(requests) == 0 || !strings.Contains(requests[len(requests)-1], "op=simpleenroll status=200") {
		t.Errorf("the server was asked %q", requests)
	}
	if _, err := os.Stat(dir + "/state/certs/device-id/live/key.pem"); err != nil {
		t.Error(err)
	}
}
