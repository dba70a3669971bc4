//go:build external

package hook_test

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

const (
	managerPath = "/org/freedesktop/systemd1"
	manager     = "org.freedesktop.systemd1.Manager"
)

// startBus starts a message bus of the test's own and makes it the system bus of this process. policy are more rules of
// what may be sent (dbus-daemon(1)).
func startBus(t *testing.T, policy string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "bus") // short: a socket's path has at most 107 bytes
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := filepath.Join(dir, "bus.conf")
	must(t, os.WriteFile(config, []byte(`<busconfig>
  <listen>unix:path=`+dir+`/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
    `+policy+`
  </policy>
</busconfig>
`), 0o600))
	daemon := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--nopidfile", "--nosyslog", "--print-address=1")
	var said bytes.Buffer
	daemon.Stderr = &said
	out, err := daemon.StdoutPipe()
	must(t, err, daemon.Start())
	t.Cleanup(func() {
		daemon.Process.Kill()
		daemon.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	t.Setenv(busVariable, strings.TrimSpace(address))
}

// fakeUnit is a unit of fakeSystemd.
type fakeUnit struct {
	state   string      // ActiveState
	missing bool        // LoadState is not-found
	file    string      // UnitFileState; "" is enabled
	fixed   bool        // cannot be reloaded
	result  string      // of its jobs; "" is what the real one says, "never" is none
	refusal *dbus.Error // instead of a job
}

// fakeSystemd is a service manager on the bus as org.freedesktop.systemd1(5) describes it, answering as systemd 252 was
// seen to: a reload of a unit that does not run is a job whose result is "invalid", a restart of one is done at once.
type fakeSystemd struct {
	conn  *dbus.Conn
	units map[string]fakeUnit

	mu    sync.Mutex // guards what follows
	jobs  uint32
	calls []string
}

func startSystemd(t *testing.T, units map[string]fakeUnit) *fakeSystemd {
	t.Helper()
	conn, err := dbus.ConnectSystemBus()
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	s := &fakeSystemd{conn: conn, units: units}
	must(t,
		conn.ExportMethodTable(map[string]any{"ReloadUnit": s.reload, "TryRestartUnit": s.tryRestart, "StartUnit": s.start}, managerPath, manager),
		conn.ExportSubtreeMethodTable(map[string]any{"Get": s.get}, managerPath+"/unit", "org.freedesktop.DBus.Properties"),
	)
	reply, err := conn.RequestName("org.freedesktop.systemd1", dbus.NameFlagDoNotQueue)
	must(t, err)
	if reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatal(reply)
	}
	return s
}

func (s *fakeSystemd) get(m dbus.Message, iface, property string) (dbus.Variant, *dbus.Error) {
	path := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	for name, u := range s.units {
		if path != managerPath+dbus.ObjectPath("/unit/"+busName(name)) {
			continue
		}
		switch {
		case property == "ActiveState":
			return dbus.MakeVariant(u.state), nil
		case property == "UnitFileState":
			return dbus.MakeVariant(cmp.Or(u.file, "enabled")), nil
		case property == "LoadState" && u.missing:
			return dbus.MakeVariant("not-found"), nil
		case property == "LoadState" && u.file == "masked":
			return dbus.MakeVariant("masked"), nil
		case property == "LoadState":
			return dbus.MakeVariant("loaded"), nil
		}
	}
	return dbus.Variant{}, dbus.NewError("org.freedesktop.DBus.Error.UnknownProperty", []any{fmt.Sprintf("%s %s %s", path, iface, property)})
}

// busName is a unit's name in a path: what is no letter or digit as _ and two hex digits.
func busName(unit string) string {
	var b strings.Builder
	for _, c := range []byte(unit) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

func (s *fakeSystemd) reload(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	u := s.units[name]
	switch {
	case u.refusal == nil && u.missing:
		u.refusal = dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit " + name + " not found."})
	case u.refusal == nil && u.fixed:
		u.refusal = dbus.NewError("org.freedesktop.systemd1.JobTypeNotApplicable",
			[]any{"Job type reload is not applicable for unit " + name + "."})
	}
	return s.job("reload", name, mode, u, "invalid")
}

func (s *fakeSystemd) tryRestart(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return s.job("try-restart", name, mode, s.units[name], "done")
}

func (s *fakeSystemd) start(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	return s.job("start", name, mode, s.units[name], "done")
}

// job begins a job and lets it end at once. asleep is the result for a unit that does not run.
func (s *fakeSystemd) job(kind, name, mode string, u fakeUnit, asleep string) (dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, kind+" "+name+" "+mode)
	if u.refusal != nil {
		return "", u.refusal
	}
	s.jobs++
	id, path := s.jobs, dbus.ObjectPath(fmt.Sprintf("%s/job/%d", managerPath, s.jobs))
	result := u.result
	switch {
	case result == "never":
		return path, nil
	case result == "" && u.state == "inactive":
		result = asleep
	case result == "":
		result = "done"
	}
	go func() { // ends at once; the signal can come before the answer or after it
		// Somebody else's job ends too.
		s.conn.Emit(managerPath, manager+".JobRemoved", id+1000, path+"999", "other.service", "failed")
		s.conn.Emit(managerPath, manager+".JobRemoved", id, path, name, result)
	}()
	return path, nil
}

func (s *fakeSystemd) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}
