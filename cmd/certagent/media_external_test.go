//go:build external

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/est/esttest"
	"certagent/store/storetest"
)

// insideVariable is set in the process in which inNamespaces runs a test.
const insideVariable = "CERTAGENT_TEST_INSIDE"

// inOwnMounts runs a test in a process with a mount namespace of its own, which takes all that was mounted along when it
// ends, however it ends.
func inOwnMounts(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	inNamespaces(t, 0, syscall.CLONE_NEWNS, test)
}

// inNamespaces runs a test in a process with namespaces of its own (namespaces(7)): clone are those that only a new process
// can have, unshare the others.
func inNamespaces(t *testing.T, clone, unshare uintptr, test func(t *testing.T)) {
	t.Helper()
	if os.Getenv(insideVariable) == t.Name() {
		test(t)
		return
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideVariable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: clone, Unshareflags: unshare, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err == nil && !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		err = errors.New("the test did not run")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// mount mounts at a directory of the gateway.
func (g *gateway) mount(kind, source, at string, flags uintptr, data string) {
	g.t.Helper()
	if err := os.MkdirAll(g.path(at), 0o755); err != nil {
		g.t.Fatal(err)
	}
	if err := syscall.Mount(source, g.path(at), kind, flags, data); err != nil {
		g.t.Fatalf("mount %s: %v", kind, err)
	}
	g.t.Cleanup(func() { // before its directory is removed
		g.kill()
		for err := error(nil); err == nil; err = syscall.Unmount(g.path(at), syscall.MNT_DETACH) {
		}
	})
}

// minutes is a configuration whose certificates last a minute, so that tries follow each other in seconds.
func minutes(s *esttest.Server, stateDir string) string {
	return fmt.Sprintf("state_dir = %q\n[cert_issuance.est]\ntrusted_certs = [\"file://%s\"]\n[cert_issuance.est.auth]\nusername = %q\n"+
		"password = %q\n[cert_issuance.est.urls]\ndefault = %q\n[cert_issuance.certs.mqtt]\ncommon_name = \"mqtt\"\n"+
		"[cert_issuance.certs.mqtt.auto_renew]\nrotate_key = true\njitter = \"0%%\"\nretry = \"4%%\"\n",
		stateDir, s.CAFile(), esttest.DefaultUser, esttest.DefaultPassword, s.URL())
}

// onMedium starts a daemon whose state directory is the subdirectory state of where something is mounted.
func onMedium(t *testing.T, s *esttest.Server, mount func(g *gateway)) (*gateway, *storetest.Pair) {
	t.Helper()
	g := newGateway(t)
	mount(g)
	g.write("config.toml", minutes(s, g.path("medium", "state")))
	g.start()
	return g, g.another(nil)
}

func (g *gateway) pair() (*storetest.Pair, error) {
	return storetest.Live(g.path("medium", "state"), "mqtt")
}

// another waits for another pair than the one before, until the agent has said so, and gives it: see [gateway.next].
func (g *gateway) another(before *storetest.Pair) (now *storetest.Pair) {
	g.t.Helper()
	g.until("another certificate", func() bool {
		g.mustRun()
		var err error
		now, err = g.pair()
		return err == nil && (before == nil || !now.Leaf.Equal(before.Leaf)) &&
			strings.Contains(g.log.String(), fmt.Sprintf(`"serial":"%x"`, now.Leaf.SerialNumber.Bytes()))
	})
	return now
}

// sick waits until status says what is wrong, and checks that the old pair stands and the daemon lives.
func (g *gateway) sick(old *storetest.Pair, says string) {
	g.t.Helper()
	g.until(fmt.Sprintf("the daemon says %q", says), func() bool {
		g.mustRun()
		return strings.Contains(g.log.String(), says)
	})
	if now, err := g.pair(); err != nil || !now.Leaf.Equal(old.Leaf) {
		g.t.Errorf("the pair before does not stand: %v", err)
	}
	g.status() // can be read
}

// TestAFullMedium: on a disk that is full the daemon lives, says so, and keeps what it has; with room again it renews by
// itself.
func TestAFullMedium(t *testing.T) {
	inOwnMounts(t, func(t *testing.T) {
		s := esttest.New(t, esttest.Options{Lifetime: time.Minute})
		for _, size := range []string{"128k", "256k", "1m"} {
			t.Run(size, func(t *testing.T) {
				g, old := onMedium(t, s, func(g *gateway) { g.mount("tmpfs", "tmpfs", "medium", 0, "size="+size) })
				g.fill()
				g.signal(syscall.SIGUSR1)
				g.sick(old, "no space left on device")
				if err := os.Remove(g.path("medium", "full")); err != nil {
					t.Fatal(err)
				}
				g.another(old)
				g.tidy()
			})
		}
		t.Run("out of inodes", func(t *testing.T) {
			g, old := onMedium(t, s, func(g *gateway) { g.mount("tmpfs", "tmpfs", "medium", 0, "nr_inodes=40") })
			made := g.useUp()
			g.signal(syscall.SIGUSR1)
			g.sick(old, "no space left on device")
			for _, path := range made {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			g.another(old)
			g.tidy()
		})
	})
}

// useUp takes all the inodes there are, and says what to remove to give them back.
func (g *gateway) useUp() (made []string) {
	g.t.Helper()
	for n := 0; ; n++ {
		path := g.path("medium", strconv.Itoa(n))
		f, err := os.Create(path)
		if errors.Is(err, syscall.ENOSPC) {
			return made
		}
		if err != nil {
			g.t.Fatal(err)
		}
		f.Close()
		made = append(made, path)
	}
}

// fill takes all the room there is.
func (g *gateway) fill() {
	g.t.Helper()
	f, err := os.Create(g.path("medium", "full"))
	if err != nil {
		g.t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	for {
		if _, err := f.Write(page); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			g.t.Fatal(err)
		}
	}
}

// tidy stops the daemon, has another one look, and checks what is on disk.
func (g *gateway) tidy() {
	g.t.Helper()
	g.stop()
	if code, out := g.runs(g.t, "run", "--once"); code != exitOK {
		g.t.Errorf("certagent run --once: %d\n%s", code, out)
	}
	state := g.path("medium", "state")
	left, err := storetest.Leftovers(state)
	if wrong := append(storetest.Wrong(state), left...); err != nil || len(wrong) > 0 {
		g.t.Errorf("on disk in the end: %v, %v", wrong, err)
	}
}

// TestAMediumThatTurnsReadOnly: the kernel finds an error in the file system and forces it to be read only, under the open
// files of the daemon, as it does with a worn-out flash card. After a repair and a new mount the daemon renews by itself.
func TestAMediumThatTurnsReadOnly(t *testing.T) {
	inOwnMounts(t, func(t *testing.T) {
		s := esttest.New(t, esttest.Options{Lifetime: time.Minute})
		var loop string
		g, old := onMedium(t, s, func(g *gateway) {
			image := g.path("image")
			sh(t, "truncate", "-s", "8M", image)
			sh(t, "mkfs.ext4", "-q", "-e", "remount-ro", image)
			loop = strings.TrimSpace(sh(t, "losetup", "--find", "--show", image))
			t.Cleanup(func() { sh(t, "losetup", "--detach", loop) })
			g.mount("ext4", loop, "medium", 0, "errors=remount-ro")
		})
		trigger := filepath.Join("/sys/fs/ext4", filepath.Base(loop), "trigger_fs_error")
		if err := os.WriteFile(trigger, []byte("test"), 0o200); err != nil {
			t.Fatal(err)
		}
		g.signal(syscall.SIGUSR1)
		g.sick(old, "read-only file system")
		// The daemon holds its lock on the old mount; what a person does is to repair and mount anew.
		if err := syscall.Unmount(g.path("medium"), syscall.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
		g.kill() // releases the file system that was detached
		sh(t, "sh", "-c", "fsck.ext4 -fy \"$0\" >&2 || test $? -le 2", loop)
		g.mount("ext4", loop, "medium", 0, "errors=remount-ro")
		if now, err := g.pair(); err != nil || !now.Leaf.Equal(old.Leaf) {
			t.Errorf("after the repair: %v", err)
		}
		g.start()
		g.until("the daemon running", func() bool { return strings.Count(g.log.String(), `"message":"agent started"`) > 1 })
		g.signal(syscall.SIGUSR1)
		g.another(old)
		g.tidy()
	})
}

// sh runs a command of the system.
func sh(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// TestAMediumThatVanishes: the state directory is removed under a running daemon, and its medium is unmounted and comes back.
func TestAMediumThatVanishes(t *testing.T) {
	inOwnMounts(t, func(t *testing.T) {
		s := esttest.New(t, esttest.Options{Lifetime: time.Hour})
		t.Run("removed", func(t *testing.T) {
			g, old := onMedium(t, s, func(g *gateway) { g.mount("tmpfs", "tmpfs", "medium", 0, "size=1m") })
			// The agent puts things back at once, so that a removal may find a directory that is not empty any more.
			g.until("it is removed", func() bool {
				return os.RemoveAll(g.path("medium", "state")) == nil
			})
			g.another(old)
			g.tidy()
		})
		t.Run("unmounted, and back", func(t *testing.T) {
			g, old := onMedium(t, s, func(g *gateway) {
				g.mount("tmpfs", "tmpfs", "disk", 0, "size=1m")
				g.mount("", g.path("disk"), "medium", syscall.MS_BIND, "")
			})
			if err := syscall.Unmount(g.path("medium"), syscall.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
			meanwhile := g.another(old) // on what was below
			g.mount("", g.path("disk"), "medium", syscall.MS_BIND, "")
			if now, err := g.pair(); err != nil || !now.Leaf.Equal(old.Leaf) {
				t.Fatalf("the disk came back with another pair: %v", err)
			}
			g.signal(syscall.SIGUSR1)
			now := g.another(old)
			if now.Leaf.Equal(meanwhile.Leaf) {
				t.Error("the pair of below the disk")
			}
			g.tidy()
		})
	})
}
