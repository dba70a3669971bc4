package hook

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// unit has systemd reload or restart a unit that runs, and start one that has failed: perhaps for want of the very
// certificate, as at a device's first boot, and then nobody else would. It waits until that is done, and says why where
// there was nothing to do. What a person has stopped, disabled or masked stays as it is.
//
// The job does not replace one that somebody has queued (mode "fail" of org.freedesktop.systemd1(5)): a unit that is
// about to be stopped is not kept from it.
func unit(ctx context.Context, h Hook) (skipped string, failure *Error) {
	bus, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return "", &Error{Class: cut(ctx), Err: err}
		}
		return "", noBus(err)
	}
	defer bus.Close()
	active, err := property(ctx, bus, h.Unit, "ActiveState")
	if err != nil {
		return "", refused(ctx, h, err)
	}
	do := bus.TryRestartUnitContext // not RestartUnit, which would start what was stopped meanwhile
	if h.Action == Reload {
		do = bus.ReloadUnitContext
	}
	if slices.Contains([]string{"inactive", "failed", "deactivating"}, active) {
		loaded, err := property(ctx, bus, h.Unit, "LoadState")
		if err != nil {
			return "", refused(ctx, h, err)
		}
		enabled, err := property(ctx, bus, h.Unit, "UnitFileState")
		switch {
		case err != nil:
			return "", refused(ctx, h, err)
		case loaded == "not-found":
			return "", noUnit(errors.New("systemd knows no such unit"))
		case active != "failed":
			return h.Unit + " is " + active, nil
		case loaded == "masked" || enabled == "disabled":
			return h.Unit + " is failed and " + cmp.Or(enabled, loaded), nil
		}
		do = bus.StartUnitContext
	}
	result := make(chan string, 1)
	if _, err := do(ctx, h.Unit, "fail", result); err != nil {
		return "", refused(ctx, h, err)
	}
	select {
	case r := <-result:
		return ended(h, r)
	case <-ctx.Done():
		return "", &Error{
			Class: cut(ctx), Err: errors.New("systemd was asked, and has not finished; it goes on"),
			Hint: "find out what the unit waits for (systemctl status), or raise on_renew.timeout",
		}
	}
}

func property(ctx context.Context, bus *dbus.Conn, unit, name string) (string, error) {
	p, err := bus.GetUnitPropertyContext(ctx, unit, name)
	if err != nil {
		return "", err
	}
	s, ok := p.Value.Value().(string)
	if !ok {
		return "", fmt.Errorf("%s of %s is no string", name, unit)
	}
	return s, nil
}

// ended classes the result of a job (org.freedesktop.systemd1(5), JobRemoved).
func ended(h Hook, result string) (skipped string, failure *Error) {
	journal := "journalctl -u " + h.Unit + " says why"
	switch result {
	case "done":
		return "", nil
	case "skipped":
		return h.Unit + " had nothing to do", nil
	case "invalid": // of a reload: it was stopped after we looked
		return h.Unit + " does not run any more", nil
	case "timeout":
		return "", &Error{Class: ErrTimeout, Err: errors.New("the unit's own limit for it has passed"), Hint: journal}
	case "canceled":
		return "", &Error{Class: ErrFailed, Err: errors.New("another job took the place of it"), Hint: journal}
	default: // failed, dependency, and what later versions add
		return "", &Error{Class: ErrFailed, Err: fmt.Errorf("the result of the job is %q", result), Hint: journal}
	}
}

const deployHint = "allow it by a polkit rule, or leave it to certagent-deploy@.path (docs/operations.md, Hooks)"

// refused classes an error of systemd's or of the bus's.
func refused(ctx context.Context, h Hook, err error) *Error {
	if ctx.Err() != nil {
		return &Error{Class: cut(ctx), Err: err}
	}
	answer, ok := errors.AsType[godbus.Error](err)
	if !ok {
		return noBus(err) // it went away
	}
	name, isBus := strings.CutPrefix(answer.Name, "org.freedesktop.DBus.Error.")
	switch {
	case isBus && slices.Contains([]string{"AccessDenied", "InteractiveAuthorizationRequired", "AuthFailed"}, name):
		return &Error{Class: ErrDenied, Err: err, Hint: deployHint}
	case isBus && (slices.Contains([]string{"ServiceUnknown", "NameHasNoOwner", "Disconnected", "NoReply"}, name) ||
		strings.HasPrefix(name, "Spawn.")):
		return noBus(err)
	}
	switch strings.TrimPrefix(answer.Name, "org.freedesktop.systemd1.") {
	case "NoSuchUnit":
		return noUnit(err)
	case "JobTypeNotApplicable":
		return &Error{
			Class: ErrFailed, Err: fmt.Errorf("the unit cannot be reloaded: %w", err),
			Hint: "name " + h.Unit + " in on_renew.restart instead, or give it an ExecReload=",
		}
	case "TransactionIsDestructive", "TransactionJobsConflicting":
		return &Error{Class: ErrFailed, Err: err, Hint: "somebody is just stopping or starting that unit; it passes"}
	}
	return &Error{Class: ErrFailed, Err: err}
}

func noUnit(err error) *Error {
	return &Error{Class: ErrNotFound, Err: err, Hint: "correct the unit's name; systemctl list-units has them"}
}

func noBus(err error) *Error {
	return &Error{
		Class: ErrNoBus, Err: err,
		Hint: "units need systemd and the D-Bus system bus, which a container does not have; " +
			"name a program in on_renew.exec instead",
	}
}
