package hook

import (
	"context"
	"errors"

	"github.com/coreos/go-systemd/v22/dbus"
)

// Loaded asks systemd how it stands with a unit, without changing anything: its LoadState ("loaded", "not-found", "masked"; see
// org.freedesktop.systemd1(5)). An error is an [*Error], ErrNoBus where there is no systemd to ask.
func Loaded(ctx context.Context, unit string) (state string, err error) {
	h := Hook{Action: Reload, Unit: unit}
	fail := func(e *Error) (string, error) {
		e.Hook = h
		return "", e
	}
	bus, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return fail(&Error{Class: ErrTimeout, Err: errors.New("systemd does not answer")})
		}
		return fail(noBus(err))
	}
	defer bus.Close()
	if state, err = property(ctx, bus, unit, "LoadState"); err != nil {
		if ctx.Err() != nil {
			return fail(&Error{Class: ErrTimeout, Err: errors.New("systemd does not answer")})
		}
		return fail(refused(ctx, h, err))
	}
	return state, nil
}
