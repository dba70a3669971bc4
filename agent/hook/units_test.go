//go:build external

package hook_test

import (
	"context"
	"errors"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"certagent/agent/hook"
)

func TestUnits(t *testing.T) {
	refuse := func(name, text string) fakeUnit {
		return fakeUnit{state: "active", refusal: dbus.NewError(name, []any{text})}
	}
	const asks = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
	tests := []struct {
		name    string
		unit    fakeUnit
		do      hook.Hook
		call    string // what systemd was asked; "" is nothing
		skipped string
		class   error
		text    string // of the error
		hint    string
	}{
		{name: "reload", unit: fakeUnit{state: "active"}, do: reload("nginx.service"), call: "reload nginx.service fail"},
		{name: "restart", unit: fakeUnit{state: "active"}, do: restart("nginx.service"), call: "try-restart nginx.service fail"},
		{name: "a name with everything", unit: fakeUnit{state: "active"}, do: reload(`a-b_c:d\x2d@1.service`), call: `reload a-b_c:d\x2d@1.service fail`},
		{
			name: "reload while it starts: systemd waits", unit: fakeUnit{state: "activating"},
			do: reload("a.service"), call: "reload a.service fail",
		},
		{name: "reload of a stopped unit", unit: fakeUnit{state: "inactive"}, do: reload("a.service"), skipped: "a.service is inactive"},
		{name: "restart of a stopped unit", unit: fakeUnit{state: "inactive"}, do: restart("a.service"), skipped: "a.service is inactive"},
		{name: "restart of a failed unit starts it", unit: fakeUnit{state: "failed"}, do: restart("a.service"), call: "start a.service fail"},
		{name: "and so does a reload", unit: fakeUnit{state: "failed"}, do: reload("a.service"), call: "start a.service fail"},
		{
			name: "failed again", unit: fakeUnit{state: "failed", result: "failed"}, do: reload("a.service"), call: "start a.service fail",
			class: hook.ErrFailed, text: `"failed"`, hint: "journalctl -u a.service",
		},
		{
			name: "failed and switched off", unit: fakeUnit{state: "failed", file: "disabled"}, do: restart("a.service"),
			skipped: "a.service is failed and disabled",
		},
		{
			name: "failed and masked", unit: fakeUnit{state: "failed", file: "masked"}, do: restart("a.service"),
			skipped: "a.service is failed and masked",
		},
		{name: "reload while it stops", unit: fakeUnit{state: "deactivating"}, do: reload("a.service"), skipped: "a.service is deactivating"},
		{
			name: "stopped after the look", unit: fakeUnit{state: "active", result: "invalid"},
			do: reload("a.service"), call: "reload a.service fail", skipped: "a.service does not run any more",
		},
		{
			name: "nothing to do", unit: fakeUnit{state: "active", result: "skipped"},
			do: reload("a.service"), call: "reload a.service fail", skipped: "a.service had nothing to do",
		},
		{
			name: "no such unit", unit: fakeUnit{state: "inactive", missing: true}, do: reload("a.service"),
			class: hook.ErrNotFound, text: "no such unit", hint: "list-units",
		},
		{
			name: "its file is gone, and it cannot be loaded again", unit: fakeUnit{state: "active", missing: true}, do: reload("a.service"),
			call: "reload a.service fail", class: hook.ErrNotFound, text: "Unit a.service not found.", hint: "list-units",
		},
		{
			name: "cannot be reloaded", unit: fakeUnit{state: "active", fixed: true}, do: reload("a.service"), call: "reload a.service fail",
			class: hook.ErrFailed, text: "cannot be reloaded", hint: "name a.service in on_renew.restart instead",
		},
		{
			name: "polkit would ask somebody", unit: refuse(asks, "Interactive authentication required."),
			do: reload("a.service"), call: "reload a.service fail",
			class: hook.ErrDenied, text: "reload a.service: not allowed: Interactive authentication required.", hint: "polkit",
		},
		{
			name: "polkit says no", unit: refuse("org.freedesktop.DBus.Error.AccessDenied", "Permission denied"),
			do: restart("a.service"), call: "try-restart a.service fail",
			class: hook.ErrDenied, text: "Permission denied", hint: "certagent-deploy@.path",
		},
		{
			name: "it is just being stopped", unit: refuse("org.freedesktop.systemd1.TransactionIsDestructive", "Transaction is destructive."),
			do: reload("a.service"), call: "reload a.service fail",
			class: hook.ErrFailed, text: "destructive", hint: "passes",
		},
		{
			name: "systemd has something else", unit: refuse("org.freedesktop.systemd1.UnitMasked", "Unit a.service is masked."),
			do: restart("a.service"), call: "try-restart a.service fail", class: hook.ErrFailed, text: "is masked",
		},
		{
			name: "systemd does not answer", unit: refuse("org.freedesktop.DBus.Error.NoReply", "Remote peer disconnected"),
			do: restart("a.service"), call: "try-restart a.service fail", class: hook.ErrNoBus, text: "disconnected",
		},
		{
			name: "the job fails", unit: fakeUnit{state: "active", result: "failed"}, do: reload("a.service"), call: "reload a.service fail",
			class: hook.ErrFailed, text: `"failed"`, hint: "journalctl -u a.service",
		},
		{
			name: "what it needs fails", unit: fakeUnit{state: "active", result: "dependency"}, do: restart("a.service"),
			call: "try-restart a.service fail", class: hook.ErrFailed, text: `"dependency"`, hint: "journalctl",
		},
		{
			name: "the job is cancelled", unit: fakeUnit{state: "active", result: "canceled"}, do: reload("a.service"),
			call: "reload a.service fail", class: hook.ErrFailed, text: "another job", hint: "journalctl",
		},
		{
			name: "the unit's own limit", unit: fakeUnit{state: "active", result: "timeout"}, do: reload("a.service"),
			call: "reload a.service fail", class: hook.ErrTimeout, text: "own limit", hint: "journalctl",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			startBus(t, "")
			systemd := startSystemd(t, map[string]fakeUnit{tt.do.Unit: tt.unit, "other.service": {state: "active"}})
			res := runner().Run(t.Context(), tt.do, event())
			if got := strings.Join(systemd.asked(), "; "); got != tt.call {
				t.Errorf("systemd was asked %q, want %q", got, tt.call)
			}
			if res.Skipped != tt.skipped || res.Output != "" {
				t.Errorf("skipped %q, output %q", res.Skipped, res.Output)
			}
			if tt.class == nil {
				if res.Err != nil {
					t.Error(res.Err)
				}
				return
			}
			e, is := errors.AsType[*hook.Error](res.Err)
			if !is || e.Class != tt.class || !errors.Is(res.Err, tt.class) {
				t.Fatalf("got %v, want %v", res.Err, tt.class)
			}
			if !strings.Contains(e.Error(), tt.text) || !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("error %q, hint %q; want %q, hint %q", e, e.Hint, tt.text, tt.hint)
			}
		})
	}
}

// The daemon itself refuses what its policy forbids.
func TestTheBusRefuses(t *testing.T) {
	startBus(t, `<deny send_interface="`+manager+`" send_member="TryRestartUnit"/>`)
	systemd := startSystemd(t, map[string]fakeUnit{"a.service": {state: "active"}})
	if res := runner().Run(t.Context(), restart("a.service"), event()); !errors.Is(res.Err, hook.ErrDenied) {
		t.Error(res.Err)
	}
	if res := runner().Run(t.Context(), reload("a.service"), event()); res.Err != nil {
		t.Error(res.Err)
	}
	if calls := systemd.asked(); !slices.Equal(calls, []string{"reload a.service fail"}) {
		t.Errorf("systemd was asked %q", calls)
	}
}

// A bus without systemd on it, as in many containers: the daemon's own answer.
func TestABusWithoutSystemd(t *testing.T) {
	startBus(t, "")
	res := runner().Run(t.Context(), reload("a.service"), event())
	if e, is := errors.AsType[*hook.Error](res.Err); !is || e.Class != hook.ErrNoBus || !strings.Contains(e.Hint, "on_renew.exec") {
		t.Errorf("%v", res.Err)
	}
}

func TestAJobThatDoesNotEnd(t *testing.T) {
	startBus(t, "")
	systemd := startSystemd(t, map[string]fakeUnit{"a.service": {state: "active", result: "never"}})
	h := reload("a.service")
	var res hook.Result
	said := func() bool { return res.Err != nil && strings.Contains(res.Err.Error(), "it goes on") }
	for h.Timeout = time.Second; !said() && h.Timeout < time.Minute; h.Timeout *= 2 { // on a busy machine a second may not do to ask
		res = runner().Run(t.Context(), h, event())
	}
	if !errors.Is(res.Err, hook.ErrTimeout) || !said() {
		t.Error(res.Err)
	}
	before := len(systemd.asked())
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan hook.Result, 1)
	go func() { results <- runner().Run(ctx, restart("a.service"), event()) }()
	for len(systemd.asked()) == before {
		if t.Context().Err() != nil {
			t.Fatal("systemd was not asked")
		}
		runtime.Gosched()
	}
	cancel()
	if res := <-results; !errors.Is(res.Err, hook.ErrStopped) {
		t.Error(res.Err)
	}
}

// SIGUSR1 from the very fork on, by kill(-1) in a PID namespace of the test's own.
func TestUser1FromTheFork(t *testing.T) {
	cmd := exec.Command(self(t), stormWord)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "end\n" {
		t.Errorf("%v\n%s", err, out)
	}
}
