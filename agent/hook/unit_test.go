package hook_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certagent/agent/hook"
)

// busVariable says where the system bus is (dbus-daemon(1)).
const busVariable = "DBUS_SYSTEM_BUS_ADDRESS"

func reload(unit string) hook.Hook {
	return hook.Hook{Action: hook.Reload, Unit: unit, Timeout: time.Minute}
}

func restart(unit string) hook.Hook {
	return hook.Hook{Action: hook.Restart, Unit: unit, Timeout: time.Minute}
}

func TestAContainerWithoutABus(t *testing.T) {
	t.Setenv(busVariable, "unix:path="+filepath.Join(t.TempDir(), "none"))
	res := runner().Run(t.Context(), reload("nginx.service"), event())
	e, is := errors.AsType[*hook.Error](res.Err)
	if !is || e.Class != hook.ErrNoBus || !strings.HasPrefix(e.Error(), "reload nginx.service: systemd cannot be reached: ") ||
		!strings.Contains(e.Hint, "on_renew.exec") {
		t.Errorf("%v, hint of %+v", res.Err, e)
	}
}

// A bus that takes the connection and says nothing holds nobody beyond the timeout, or beyond the agent's end.
func TestABusThatHangs(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "bus")
	listener, err := net.Listen("unix", socket)
	must(t, err)
	t.Cleanup(func() { listener.Close() })
	t.Setenv(busVariable, "unix:path="+socket)
	h := reload("nginx.service")
	h.Timeout = 100 * time.Millisecond
	if res := runner().Run(t.Context(), h, event()); !errors.Is(res.Err, hook.ErrTimeout) || errors.Is(res.Err, hook.ErrNoBus) {
		t.Error(res.Err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if res := runner().Run(ctx, restart("nginx.service"), event()); !errors.Is(res.Err, hook.ErrStopped) {
		t.Error(res.Err)
	}
}
