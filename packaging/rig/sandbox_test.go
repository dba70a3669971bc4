//go:build system

package rig

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probeName is what this program is called where it tries the sandbox from inside.
const probeName = "certagent-probe"

// controlUnit runs the same without a sandbox.
const controlUnit = "certagent-control.service"

// forbidden are what the service must not be able to do, and root without a sandbox can.
var forbidden = map[string]func() error{
	"write to /etc": func() error {
		return errors.Join(os.WriteFile("/etc/certagent-probe", nil, 0o600), os.Remove("/etc/certagent-probe"))
	},
	"write to /usr": func() error {
		return errors.Join(os.WriteFile("/usr/certagent-probe", nil, 0o600), os.Remove("/usr/certagent-probe"))
	},
	"write to the configuration": func() error {
		f, err := os.OpenFile("/etc/certagent/config.toml", os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			f.Close()
		}
		return err
	},
	"mount": func() error {
		if err := unix.Mount("probe", "/mnt", "tmpfs", 0, ""); err != nil {
			return err
		}
		return unix.Unmount("/mnt", 0)
	},
	"map memory for writing and execution": func() error {
		memory, err := unix.Mmap(-1, 0, 4096, unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err == nil {
			err = unix.Munmap(memory)
		}
		return err
	},
	"make written memory executable": func() error {
		memory, err := unix.Mmap(-1, 0, 4096, unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		return errors.Join(unix.Mprotect(memory, unix.PROT_READ|unix.PROT_EXEC), unix.Munmap(memory))
	},
	"open a raw socket":    func() error { return socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP) },
	"open a packet socket": func() error { return socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0) },
	"open a netlink socket": func() error {
		return socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	},
	"bind a port below 1024": func() error {
		l, err := net.Listen("tcp", "127.0.0.1:1023")
		if err == nil {
			l.Close()
		}
		return err
	},
	"send to a multicast group": func() error {
		conn, err := net.Dial("udp", "224.0.0.1:9")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("probe"))
		return err
	},
	"see other users' processes": func() error { return unix.Access("/proc/1", unix.F_OK) },
	"signal them":                func() error { return unix.Kill(1, 0) },
	"see homes": func() error {
		_, err := os.ReadDir("/root")
		return err
	},
	"make a set-user-id file": func() error {
		file := filepath.Join("/run/certagent", "setuid")
		return errors.Join(os.WriteFile(file, nil, 0o600), os.Chmod(file, 0o700|os.ModeSetuid), os.Remove(file))
	},
	"make a file another user's": func() error {
		file := filepath.Join("/run/certagent", "given")
		return errors.Join(os.WriteFile(file, nil, 0o600), os.Chown(file, 1, -1), os.Remove(file))
	},
	"become another user": func() error {
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 1, 1, ^uintptr(0))
		return errnoError(errno)
	},
	"run in real time": func() error {
		priority := int32(1)
		_, _, errno := unix.RawSyscall(unix.SYS_SCHED_SETSCHEDULER, 0, unix.SCHED_FIFO, uintptr(unsafe.Pointer(&priority)))
		return errnoError(errno)
	},
	"make a namespace": func() error { return unix.Unshare(unix.CLONE_NEWUTS) },
	"change its personality": func() error {
		_, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, perLinux32, 0, 0)
		return errnoError(errno)
	},
}

// perLinux32 is PER_LINUX32 of personality(2).
const perLinux32 = 0x0008

// needed are what the agent and its hooks do.
var needed = map[string]func() error{
	"read the clock's state": func() error {
		_, err := unix.Adjtimex(new(unix.Timex))
		return err
	},
	"write its state": func() error {
		return errors.Join(os.WriteFile("/var/lib/certagent/probe", nil, 0o600), os.Remove("/var/lib/certagent/probe"))
	},
	"leave word for certagent-deploy@.path": func() error {
		return errors.Join(os.WriteFile("/run/certagent-deploy/probe", nil, 0o600), os.Remove("/run/certagent-deploy/probe"))
	},
	"open a socket": func() error { return socket(unix.AF_INET6, unix.SOCK_STREAM, 0) },
	"reach the EST server": func() error {
		conn, err := net.Dial("tcp", net.JoinHostPort(estIPv6, "8085"))
		if err == nil {
			conn.Close()
		}
		return err
	},
}

func socket(family, kind, protocol int) error {
	fd, err := unix.Socket(family, kind, protocol)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func errnoError(errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// probe tries everything, and writes what came of it to the file that is its argument. It refuses to run where it could
// do harm: outside of the two units that it is for.
func probe(stderr io.Writer) int {
	cgroup, err := os.ReadFile("/proc/self/cgroup")
	unit := filepath.Base(strings.TrimSpace(string(cgroup)))
	if err != nil || unit != "certagent.service" && unit != controlUnit || len(os.Args) != 2 {
		fmt.Fprintf(stderr, "%s: runs as a hook of certagent.service, and in %s, alone\n", probeName, controlUnit)
		return 2
	}
	found := map[string]string{}
	for _, all := range []map[string]func() error{forbidden, needed} {
		for name, try := range all {
			// On a thread of its own, which ends with what was done to it.
			done := make(chan error)
			go func() { runtime.LockOSThread(); done <- try() }()
			if err := <-done; err != nil {
				found[name] = err.Error()
			} else {
				found[name] = ""
			}
		}
	}
	text, err := json.Marshal(found)
	if err == nil {
		err = os.WriteFile(os.Args[1]+".new", text, 0o644)
	}
	if err == nil {
		err = os.Rename(os.Args[1]+".new", os.Args[1])
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", probeName, err)
		return 1
	}
	return 0
}

// probed is what came of it in a hook of the agent's.
func (m *machine) probed(t *testing.T) map[string]string {
	t.Helper()
	m.run(t, "rm -f /run/certagent/probe.json")
	m.configured(t, "probe", "[provisioning.attestation.identity_cert.on_renew]\n"+
		"exec = [[\"/mnt/"+probeName+"\", \"/run/certagent/probe.json\"]]\n")
	m.until(t, "the probe has run", func() bool {
		_, code := m.try("test -e /run/certagent/probe.json")
		return code == 0
	})
	var found map[string]string
	must(t, json.Unmarshal([]byte(m.run(t, "cat /run/certagent/probe.json")), &found))
	return found
}

// theSandboxHolds: a hook can do nothing of what is forbidden, and all of what is needed. Without the sandbox
// everything succeeds, or the probe would prove nothing.
func theSandboxHolds(t *testing.T, m *machine) {
	m.enrolled(t)
	inside := m.probed(t)
	for name := range forbidden {
		if said, tried := inside[name]; !tried || said == "" {
			t.Errorf("the service can %s", name)
		} else {
			t.Logf("%s: %s", name, said)
		}
	}
	for name := range needed {
		if said, tried := inside[name]; !tried || said != "" {
			t.Errorf("the service cannot %s: %s", name, said)
		}
	}

	m.run(t, "systemd-run --quiet --wait --unit="+controlUnit+" /mnt/"+probeName+" /run/certagent/control.json")
	var outside map[string]string
	must(t, json.Unmarshal([]byte(m.run(t, "cat /run/certagent/control.json")), &outside))
	for name, said := range outside {
		if said != "" {
			t.Errorf("the probe itself: root without a sandbox cannot %s: %s", name, said)
		}
	}
	m.fails(t, 2, "/mnt/"+probeName+" /run/certagent/probe.json")

	// The figure of systemd's own for the whole.
	said := m.run(t, "systemd-analyze security --no-pager certagent | tail -n 1")
	var exposure float64
	if _, after, found := strings.Cut(said, "certagent.service: "); !found {
		t.Errorf("systemd-analyze security: %s", said)
	} else if fmt.Sscanf(after, "%f", &exposure); exposure == 0 || exposure > 1.5 {
		t.Errorf("exposure %.1f: %s", exposure, said)
	}
}

// hooksThatNeedMore get it from hooks.conf, and nothing else.
func hooksThatNeedMore(t *testing.T, m *machine) {
	m.enrolled(t)
	m.dropIn(t, "hooks.conf")
	inside := m.probed(t)
	allowed := map[string]bool{
		"see other users' processes": true, "map memory for writing and execution": true,
		"make written memory executable": true,
	}
	for name := range forbidden {
		if said := inside[name]; (said == "") != allowed[name] {
			t.Errorf("%s: %q", name, said)
		}
	}
}
