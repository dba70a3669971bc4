//go:build external

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"certagent/agent/check"
)

// unanswered mounts a file system at a directory of the gateway whose server never answers, as that of an NFS server that has gone:
// one of FUSE's (fuse(4)), whose requests nobody reads. It ends with the test.
func (g *gateway) unanswered(at string) {
	g.t.Helper()
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	must(g.t, err)
	g.t.Cleanup(func() { must(g.t, device.Close()) }) // after the mount, whose waiters it lets go
	g.mount("fuse", "gone.example:/export", at, syscall.MS_NOSUID|syscall.MS_NODEV,
		fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device.Fd()))
}

// TestFilesThatHang: a state directory, or a configuration, on a file system that never answers holds up no command for longer than
// it was given, and is named with what is mounted there.
func TestFilesThatHang(t *testing.T) {
	inOwnMounts(t, func(t *testing.T) {
		const rest = `: nothing came within \S+s; it lies on the fuse file system gone\.example:/export at `
		const hint = "\ncertagent: hint: a network file system whose server is away, perhaps, .*\n$"
		g := newGateway(t)
		g.unanswered("gone")
		g.write("config.toml", fmt.Sprintf("state_dir = %q\nrun_dir = %q\n[cert_issuance.est.urls]\ndefault = %q\n[cert_issuance.certs.mqtt]\ncommon_name = %q\n",
			g.path("gone", "state"), g.path("run"), "https://127.0.0.1:1/.well-known/est", "mqtt"))
		g.tell("status", "--timeout", "1s").want(t, 1, "", "^certagent: read the state directory "+g.path("gone", "state")+rest+g.path("gone")+hint)

		// The doctor looks at what does not hang, too.
		r := g.doctor(1, "--timeout", "10s")
		says(t, r, "state-permissions", check.Failed, "nothing came within ", "find out what hangs")
		says(t, r, "state-permissions", check.Failed, "the fuse file system gone.example:/export", "")
		says(t, r, "agent-running", check.Skipped, "hangs", "")
		says(t, r, "est-tcp", check.Failed, "connection refused", "")

		// Of a configuration that does not come nothing can be known.
		config := filepath.Join("gone", "config.toml")
		for _, args := range [][]string{{"status", "--timeout", "1s"}, {"check", "--timeout", "10s"}} {
			cmd := g.command(args...)
			cmd.Args[len(cmd.Args)-1] = g.path(config)
			finish(t, cmd).want(t, 1, "", "^certagent: read the configuration "+g.path(config)+rest+g.path("gone")+hint)
		}
	})
}
