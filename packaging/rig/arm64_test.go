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

// TestArm64 has the program of the arm64 package enrol once, on an emulated machine.
func TestArm64(t *testing.T) {
	tree, dist, dir := copyOfTree(t), t.TempDir(), t.TempDir()
	commit(t, tree, "all")
	pack(t, tree, dist, "arm64", "deb")
	packages, err := filepath.Glob(filepath.Join(dist, "certagent_*_arm64.deb"))
	if err != nil || len(packages) != 1 {
		t.Fatalf("packages: %q, %v", packages, err)
	}
	command(t, "dpkg-deb", "-x", packages[0], dir)

	gateway := host(t)
	est := connect(t, gateway, testca(t, dir))
	config := strings.NewReplacer("/etc/certagent/trust/est.pem", est.dir+"/ca.pem", "/etc/certagent/bootstrap/device.pem", est.dir+"/bootstrap.pem",
		"/etc/certagent/bootstrap/device.key.pem", est.dir+"/bootstrap.key.pem", "est.example", estIPv4).Replace(configuration)
	file := filepath.Join(dir, "config.toml")
	must(t, os.WriteFile(file, []byte("state_dir = "+strconv.Quote(dir+"/state")+"\nrun_dir = "+strconv.Quote(dir+"/run")+"\n"+config), 0o600))
	cmd := exec.CommandContext(t.Context(), "nsenter", "--net=/proc/"+strconv.Itoa(gateway)+"/ns/net", "qemu-aarch64",
		dir+"/usr/bin/certagent", "run", "--once", "--config", file)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("certagent run --once: %v\n%s", err, said)
	}
	if requests := est.asked(); len(requests) == 0 || !strings.Contains(requests[len(requests)-1], "op=simpleenroll status=200") {
		t.Errorf("the server was asked %q", requests)
	}
	if _, err := os.Stat(dir + "/state/certs/device-id/live/key.pem"); err != nil {
		t.Error(err)
	}
}
