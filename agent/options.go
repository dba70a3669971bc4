package agent

import (
	"context"
	"crypto/x509"
	"math/rand/v2"
	"os"
	"time"

	"github.com/rs/zerolog"

	"certagent/agent/config"
	"certagent/agent/hook"
	"certagent/agent/onboard"
	"certagent/est"
	"certagent/store"
	"certagent/store/durable"
	"certagent/store/export"
	"certagent/store/keys"
)

// Options are what an [Agent] is made of. The zero value of a field with a default is that default.
type Options struct {
	// Config is the configuration to begin with, and Load reads it again; Load is called by one goroutine at a time.
	Config *config.Config
	Load   func() (*config.Config, error)
	// ConfigError is why Config is the last good one and not what the files say now; nil normally.
	ConfigError error
	// Store is open and locked; the Agent does not close it.
	Store *store.Store
	Log   zerolog.Logger
	// Version of the program, for User-Agent and meta.json. Built is the date of its commit: no clock before it is
	// believed; zero if unknown.
	Version string
	Built   time.Time

	// Loaded is told of each configuration that has come into force in the place of Config; default: nobody.
	Loaded func(*config.Config)

	// Notify tells the service manager (sd_notify(3)); default: nobody.
	Notify func(state string)
	// Watchdog is how often the service manager wants to hear of the Agent; 0 means it does not.
	Watchdog time.Duration

	Now    func() time.Time // default time.Now
	Rand   func() float64   // in [0, 1); default math/rand/v2
	Synced func() bool      // whether the system says that its clock is synchronised; default adjtimex(2)
	// Suspended is for how long the system has been suspended since it started; default CLOCK_BOOTTIME less CLOCK_MONOTONIC.
	Suspended func() time.Duration
	Host      Host                                // default: this device
	Keys      keys.Provider                       // default: files
	Dial      func(est.Options) (Enroller, error) // default est.New
	// Provisional asks a server for CA certificates that are not trusted yet; default est.Provisional.
	Provisional func(context.Context, est.Options) ([]*x509.Certificate, error)
	// Clouds opens connections to the cloud that the device certificate is for; default est.Dialer.
	Clouds onboard.Dialer
	// Outputs writes what consumers read; default: export.Writer for the owner of the state directory.
	Outputs Exporter
	// Hooks tells consumers of a new certificate; default: hook.Runner without Self, which can reload and restart units only.
	Hooks HookRunner
	// Control makes what answers at the control socket; default: nobody does.
	Control func(*Agent) Control
}

// complete is o with its defaults.
func (o Options) complete() Options {
	if o.Loaded == nil {
		o.Loaded = func(*config.Config) {}
	}
	if o.Notify == nil {
		o.Notify = func(string) {}
	}
	now := o.Now
	if now == nil {
		now = time.Now
	}
	// By the wall clock alone, as everything on disk is and the clock task: a time that kept its monotonic reading would be
	// compared by that, and would come neither then nor there once the clock was set.
	o.Now = func() time.Time { return now().Round(0) }
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Synced == nil {
		o.Synced = func() bool { return systemSynced(o.Now()) }
	}
	if o.Suspended == nil {
		o.Suspended = suspended
	}
	if o.Host.Hostname == nil {
		o.Host.Hostname = os.Hostname
	}
	if o.Keys == nil {
		o.Keys = keys.Files{FS: durable.OS{}}
	}
	if o.Dial == nil {
		o.Dial = func(eo est.Options) (Enroller, error) { return est.New(eo) }
	}
	if o.Provisional == nil {
		o.Provisional = est.Provisional
	}
	if o.Clouds == nil {
		o.Clouds = &est.Dialer{Now: o.Now}
	}
	if o.Outputs == nil {
		uid, gid := o.Store.Owner()
		o.Outputs = export.Writer{UID: uid, GID: gid}
	}
	if o.Hooks == nil {
		o.Hooks = hook.Runner{}
	}
	return o
}
