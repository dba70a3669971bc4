package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"certagent/est/esttest"
)

const usage = `Usage: certagent-testca [flags]

A throw-away CA and EST server (RFC 7030) for tests. Never use it for anything
else: its keys lie unprotected in its directory, and it issues what anybody who
can log in asks for. A certificate of its own, or the password, is a login.

  --listen HOST:PORT     where to listen (default localhost:8085, which is
                         127.0.0.1 and ::1); port 0 means a free one, and an
                         empty HOST every address
  --dir DIR              where the CA lives; made if it is not there (default
                         testca)
  --host NAME|IP         one more name in the server certificate, beside the one
                         of --listen, localhost, ip6-localhost, 127.0.0.1 and
                         ::1; repeatable
  --lifetime TIME        of device certificates (default 24h); TIME is 90s, 30m,
                         24h, 7d or 10y
  --root-lifetime TIME   of a new root (default 20y)
  --server-lifetime TIME of a new server certificate (default 10y)
  --user NAME            user name of the password login (default estuser)
  --password PASSWORD    its password (default estpwd)
  --label LABEL          path segment before the operation (default none)
  --like-libest          behave like cisco's libest, which the EST tutorial for
                         IoT Edge runs
  --ask-password         demand the password beside a certificate too, as the
                         tutorial's server does
  --bootstrap            write DIR/bootstrap.pem and DIR/bootstrap.key.pem: a
                         login valid for 10 years
  --verification CODE    write DIR/verification.pem, the proof of having the
                         CA's key that is asked for where a CA is registered
                         (AWS IoT: get-registration-code), and end
  --version              print the version
  --help                 print this

It writes its root to DIR/ca.pem, and keeps the CA in DIR over restarts.

Example, on one machine with an agent that makes certificates of one minute:
  certagent-testca --dir /tmp/testca --lifetime 1m --bootstrap
`

// bootstrapName is the common name of the certificate that --bootstrap asks for.
const bootstrapName = "bootstrap"

// libestWorkers is how many connections libest's example server serves at a time.
const libestWorkers = 5

// commandLine is what the flags say.
type commandLine struct {
	server       esttest.Options
	verification string // the code; "" for a server
	version      bool
}

// parse reads the flags. It returns flag.ErrHelp when help was asked for.
func parse(args []string) (commandLine, error) {
	c := commandLine{server: esttest.Options{
		Lifetime:       esttest.DefaultLifetime,
		RootLifetime:   esttest.DefaultRootLifetime,
		ServerLifetime: esttest.DefaultServerLifetime,
	}}
	o := &c.server
	fs := flag.NewFlagSet("certagent-testca", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&o.Listen, "listen", "localhost:8085", "")
	fs.StringVar(&o.Dir, "dir", "testca", "")
	fs.Func("host", "", func(s string) error {
		if !isHost(s) {
			return errors.New("must be a DNS name or an IP address, without a port")
		}
		if !slices.Contains(o.Hosts, s) {
			o.Hosts = append(o.Hosts, s)
		}
		return nil
	})
	fs.Func("lifetime", "", lifetimeVar(&o.Lifetime))
	fs.Func("root-lifetime", "", lifetimeVar(&o.RootLifetime))
	fs.Func("server-lifetime", "", lifetimeVar(&o.ServerLifetime))
	fs.StringVar(&o.User, "user", esttest.DefaultUser, "")
	fs.StringVar(&o.Password, "password", esttest.DefaultPassword, "")
	fs.StringVar(&o.Label, "label", "", "")
	fs.BoolVar(&o.LikeLibest, "like-libest", false, "")
	fs.BoolVar(&o.AskPassword, "ask-password", false, "")
	bootstrap := fs.Bool("bootstrap", false, "")
	fs.Func("verification", "", func(code string) error {
		if c.verification = code; code == "" {
			return errors.New("must be a registration code")
		}
		return nil
	})
	fs.BoolVar(&c.version, "version", false, "")
	if err := fs.Parse(args); err != nil {
		return c, err
	}
	switch {
	case fs.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case o.Dir == "" || o.User == "" || o.Password == "" || o.Listen == "":
		return c, errors.New("--dir, --listen, --user and --password must not be empty")
	}
	if *bootstrap {
		o.Bootstrap = bootstrapName
	}
	if o.LikeLibest {
		o.Workers = libestWorkers
	}
	return c, nil
}

// isHost reports whether s can stand in a server certificate.
func isHost(s string) bool {
	if net.ParseIP(s) != nil {
		return true
	}
	return s != "" && len(s) <= 253 && !strings.ContainsFunc(s, func(r rune) bool {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		return !letter && r != '-' && r != '.' && r != '_' && r != '*'
	})
}

func lifetimeVar(d *time.Duration) func(string) error {
	return func(s string) (err error) {
		*d, err = parseLifetime(s)
		return err
	}
}

// parseLifetime reads a duration as Go writes it, or a whole number of days or of years of 365 days. It is between
// a second and 200 years.
func parseLifetime(s string) (time.Duration, error) {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	d, err := time.ParseDuration(s)
	for suffix, unit := range map[string]time.Duration{"d": day, "y": year} {
		if number, ok := strings.CutSuffix(s, suffix); ok {
			var n uint64
			if n, err = strconv.ParseUint(number, 10, 16); err == nil {
				d = time.Duration(min(n, uint64(201*year/unit))) * unit
			}
		}
	}
	if err != nil {
		return 0, errors.New("must be a time such as 90s, 30m, 24h, 7d or 10y")
	}
	if d < time.Second || d > 200*year {
		return 0, errors.New("must be from 1s to 200y")
	}
	return d, nil
}
