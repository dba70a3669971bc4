//go:build external

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// service is a unit of a Debian package, and does what its file says, as far as systemd would do it without a sandbox.
type service struct {
	m    *machine
	name string
	port string // where it answers once it has started

	mu      sync.Mutex // guards what follows
	mainPID int        // 0 while it does not run
	reloads int
}

func (m *machine) service(name, port string) *service { return &service{m: m, name: name, port: port} }

// lines are the settings of a name in the unit's file.
func (u *service) lines(setting string) (values []string) {
	u.m.t.Helper()
	text, err := os.ReadFile("/lib/systemd/system/" + u.name)
	must(u.m.t, err)
	for _, m := range regexp.MustCompile(`(?m)^`+setting+`=(.+)$`).FindAllStringSubmatch(string(text), -1) {
		values = append(values, m[1])
	}
	return values
}

// start starts it and returns when it answers.
func (u *service) start() {
	u.m.t.Helper()
	for _, line := range u.lines("ExecStartPre") {
		if out, err := exec.Command("sh", "-c", line).CombinedOutput(); err != nil {
			u.m.t.Fatalf("%s: %s: %v\n%s", u.name, line, err, out)
		}
	}
	cmd := exec.Command("sh", "-c", "exec "+u.lines("ExecStart")[0])
	cmd.Dir = "/"
	pidFile := u.lines("PIDFile")
	if len(pidFile) > 0 { // it goes into the background once it listens
		if out, err := cmd.CombinedOutput(); err != nil {
			u.m.t.Fatalf("%s: %v\n%s", u.name, err, out)
		}
		u.m.until(u.name+" has written its number", func() bool {
			text, err := os.ReadFile(pidFile[0])
			if err != nil {
				return false
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
			u.setMain(pid)
			return err == nil
		})
	} else {
		must(u.m.t, cmd.Start())
		u.setMain(cmd.Process.Pid)
		go func() { // ends with it
			_ = cmd.Wait() // the test says what it did with it
			u.setMain(0)
		}()
	}
	u.m.until(u.name+" answers", func() bool {
		if u.main() == 0 {
			u.m.t.Fatalf("%s has ended", u.name)
		}
		c, err := net.Dial("tcp", u.port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (u *service) main() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.mainPID
}

func (u *service) setMain(pid int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.mainPID = pid
}

// reload has it read its files again.
func (u *service) reload() error {
	for _, line := range u.lines("ExecReload") {
		cmd := exec.Command("sh", "-c", line)
		cmd.Env = append(os.Environ(), fmt.Sprint("MAINPID=", u.main()))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", line, err, out)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reloads++
	return nil
}

func (u *service) reloaded() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.reloads
}

// kill is a crash: it leaves all its files behind.
func (u *service) kill() {
	u.m.t.Helper()
	must(u.m.t, syscall.Kill(u.main(), syscall.SIGKILL))
	u.m.until(u.name+" is dead", func() bool { return u.main() == 0 })
}

// stop ends it in order.
func (u *service) stop() {
	u.m.t.Helper()
	must(u.m.t, syscall.Kill(u.main(), syscall.SIGTERM))
	u.m.until(u.name+" has stopped", func() bool { return u.main() == 0 })
}

const (
	managerPath = "/org/freedesktop/systemd1"
	manager     = "org.freedesktop.systemd1.Manager"
)

// systemd is the service manager of one unit, on the system bus with the rules of the Debian packages.
func (m *machine) systemd(u *service) {
	m.t.Helper()
	must(m.t, os.Mkdir("/run/dbus", 0o755))
	bus := exec.Command("dbus-daemon", "--system", "--nofork", "--nopidfile", "--nosyslog")
	bus.Stderr = m.log
	must(m.t, bus.Start()) // it ends with the machine
	var conn *dbus.Conn
	m.until("there is a system bus", func() (ok bool) {
		var err error
		conn, err = dbus.ConnectSystemBus()
		return err == nil
	})
	m.t.Cleanup(func() { conn.Close() })
	get := func(msg dbus.Message, _, property string) (dbus.Variant, *dbus.Error) {
		path := msg.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
		if path != dbus.ObjectPath(managerPath+"/unit/"+systemd.PathBusEscape(u.name)) {
			return dbus.MakeVariant(map[string]string{"ActiveState": "inactive", "LoadState": "not-found"}[property]), nil
		}
		state := "active"
		if u.main() == 0 {
			state = "inactive"
		}
		return dbus.MakeVariant(map[string]string{"ActiveState": state, "LoadState": "loaded"}[property]), nil
	}
	reload := func(name, _ string) (dbus.ObjectPath, *dbus.Error) {
		if name != u.name {
			return "", dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + name + " not found."})
		}
		result := "done"
		if err := u.reload(); err != nil {
			m.t.Error(err)
			result = "failed"
		}
		const job = dbus.ObjectPath(managerPath + "/job/1")
		go conn.Emit(managerPath, manager+".JobRemoved", uint32(1), job, name, result) // before the answer or after it
		return job, nil
	}
	must(m.t,
		conn.ExportMethodTable(map[string]any{"ReloadUnit": reload}, managerPath, manager),
		conn.ExportSubtreeMethodTable(map[string]any{"Get": get}, managerPath+"/unit", "org.freedesktop.DBus.Properties"),
	)
	reply, err := conn.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue)
	must(m.t, err)
	if reply != dbus.RequestNameReplyPrimaryOwner {
		m.t.Fatal(reply)
	}
}
