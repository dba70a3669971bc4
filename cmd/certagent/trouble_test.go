package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"certagent/est/esttest"
)

// TestTrouble: whatever the server does, the daemon stays up, says what it is, keeps the old generation, and renews once
// the trouble is over.
func TestTrouble(t *testing.T) {
	for _, tc := range []struct {
		name    string
		options esttest.Options
		trouble func(t *testing.T, g *gateway, s *esttest.Server)
		class   string
		says    []string // all of these
		// mend ends the trouble; nil means that Clear does.
		mend func(t *testing.T, g *gateway, s *esttest.Server)
	}{
		{
			name: "wrong password", options: esttest.Options{AskPassword: true}, class: "unauthorized",
			trouble: func(t *testing.T, g *gateway, s *esttest.Server) {
				g.replace(`password = "estpwd"`, `password = "wrong-secret"`)
			},
			mend: func(t *testing.T, g *gateway, s *esttest.Server) {
				g.replace(`password = "wrong-secret"`, `password = "estpwd"`)
			},
			says: []string{"401"},
		},
		{
			name: "unknown CA", class: "untrusted",
			trouble: func(t *testing.T, g *gateway, s *esttest.Server) {
				other := esttest.New(t, esttest.Options{})
				copyFile(t, s.CAFile(), g.path("right.pem"))
				copyFile(t, other.CAFile(), g.path("anchors.pem"))
			},
			mend: func(t *testing.T, g *gateway, s *esttest.Server) {
				copyFile(t, g.path("right.pem"), g.path("anchors.pem"))
			},
			says: []string{"unknown"},
		},
		{
			name: "the server's answer is a certificate for another key", class: "bad-response",
			trouble: always("", esttest.CertificateForAnotherKey), says: []string{"key"},
		},
		{
			name: "the server is gone", class: "unavailable",
			trouble: func(t *testing.T, g *gateway, s *esttest.Server) { s.Stop() },
			mend: func(t *testing.T, g *gateway, s *esttest.Server) {
				if err := s.Start(); err != nil {
					t.Fatal(err)
				}
			},
			says: []string{"refused"},
		},
		{
			name: "the server hangs", class: "unavailable",
			// Only now is the time short: what must go well takes as long as a busy machine takes.
			trouble: func(t *testing.T, g *gateway, s *esttest.Server) {
				g.replace("common_name =", "timeout = \"2s\"\ncommon_name =")
				s.Always("", esttest.Hang(t.Context()))
			},
			mend: func(t *testing.T, g *gateway, s *esttest.Server) {
				s.Clear() // first: a changed configuration is tried at once
				g.replace("timeout = \"2s\"\ncommon_name =", "common_name =")
			},
			says: []string{"2s"},
		},
		{
			name: "an answer of 256 MiB", class: "bad-response",
			trouble: always("simplereenroll", esttest.Endless(256<<20)), says: []string{"more than 1048576 bytes"},
		},
		{
			name: "an answer of garbage", class: "bad-response",
			trouble: always("simplereenroll", esttest.Garbage("application/pkcs7-mime", "MIIB garbage")),
		},
		{
			name: "an answer of HTML", class: "bad-response",
			trouble: always("simplereenroll", esttest.Garbage("text/html", "<html>captive portal</html>")), says: []string{"text/html"},
		},
		{
			name: "a server in maintenance", class: "unavailable",
			trouble: always("", esttest.Status(503)), says: []string{"503"},
		},
		{
			name: "the connection ends in the answer", class: "unavailable",
			trouble: always("simplereenroll", esttest.CutBody(100)),
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := esttest.New(t, tc.options)
			g := newGateway(t)
			copyFile(t, s.CAFile(), g.path("anchors.pem"))
			g.configure(tutorial(t, s, s.CAFile(), g.path("anchors.pem")))
			g.start()
			first := g.next("device-id", nil)

			tc.trouble(t, g, s)
			g.signal(syscall.SIGUSR1)
			g.until("the failure in status", func() bool { return g.certificate("device-id").Failures > 0 })
			c := g.certificate("device-id")
			if c.LastClass != tc.class {
				t.Errorf("class is %q, want %q", c.LastClass, tc.class)
			}
			for _, says := range append(tc.says, s.URL()) {
				if !strings.Contains(c.LastError, says) {
					t.Errorf("the error does not say %q: %s", says, c.LastError)
				}
			}
			if strings.Contains(c.LastError, "estpwd") || strings.Contains(g.log.String(), "secret") {
				t.Error("the password shows")
			}
			if c.NextTry.IsZero() || c.NextTry.Before(c.LastTry) {
				t.Errorf("next try is %v after one at %v", c.NextTry, c.LastTry)
			}
			g.mustRun()
			if h := g.mustRead("device-id"); h.leaf.SerialNumber.Cmp(first.leaf.SerialNumber) != 0 {
				t.Error("the old generation was not kept")
			}

			if tc.mend != nil {
				tc.mend(t, g, s)
			}
			s.Clear()
			g.signal(syscall.SIGUSR1)
			g.next("device-id", &first)
			g.stop()
		})
	}
}

// TestWrongHostName: the certificate of the server names other hosts than the URL.
func TestWrongHostName(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{Hosts: []string{"est.example"}, OnlyHosts: true})
	g := newGateway(t)
	g.configure(tutorial(t, s))
	g.start()
	g.until("the failure in status", func() bool {
		_, err := os.Stat(g.path("state", "certs", "device-id", "retry.json"))
		return err == nil && g.certificate("device-id").Failures > 0
	})
	c := g.certificate("device-id")
	if c.LastClass != "untrusted" || !strings.Contains(c.LastError, "est.example") || !strings.Contains(c.LastError, "127.0.0.1") {
		t.Errorf("%s: %s", c.LastClass, c.LastError)
	}
	if len(s.Logins()) > 0 {
		t.Error("something was sent to a server of another name")
	}
	g.stop()
}

// TestHungServerAndSIGTERM: an attempt that waits for an answer does not hold up the end, and its request is kept.
func TestHungServerAndSIGTERM(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	reached := make(chan struct{}, 10)
	s.Always("simpleenroll", func(w http.ResponseWriter, r *http.Request, real http.Handler) {
		reached <- struct{}{}
		esttest.Hang(t.Context())(w, r, real)
	})
	g := newGateway(t)
	g.configure(tutorial(t, s))
	g.start()
	<-reached
	g.stop()
	if _, err := os.Stat(g.path("state", "certs", "device-id", "pending", "key.pem")); err != nil {
		t.Errorf("the pending request was not kept: %v", err)
	}
	s.Clear()
	g.start()
	g.next("device-id", nil)
	g.stop()
}

// TestServiceManager: READY comes when the keepers run, not when there is a certificate; STATUS says how things are;
// the watchdog is fed; STOPPING comes first at the end.
func TestServiceManager(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	s.Stop()
	g := newGateway(t)
	g.configure(tutorial(t, s))
	manager, hear := g.manager()
	g.start(manager, "WATCHDOG_USEC=2000000")
	failed := "STATUS=0 of 1 certificates valid; device-id: missing, unavailable, next try"
	if !strings.Contains(hear("READY=1"), failed) { // the first try may have ended before that
		hear(failed)
	}
	hear("WATCHDOG=1")
	hear("WATCHDOG=1")
	g.signal(syscall.SIGHUP)
	hear("RELOADING=1\nMONOTONIC_USEC=")
	hear("READY=1")
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	g.signal(syscall.SIGUSR1)
	hear("STATUS=1 of 1 certificates valid")
	g.stop()
	hear("STOPPING=1")
}

// TestCrashIsNoExitCode: a service manager starts an agent again that crashed or hung, and not one whose configuration is wrong,
// and tells them by their end. Only a signal from outside can crash it here; a panic goes the same way.
func TestCrashIsNoExitCode(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(tutorial(t, s))
	manager, hear := g.manager()
	g.start(manager)
	hear("READY=1")
	g.signal(syscall.SIGABRT) // what systemd's watchdog sends
	err := <-g.end
	g.end <- err
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || !exit.Sys().(syscall.WaitStatus).Signaled() {
		t.Fatalf("it ended with %v, want a signal", err)
	}
	if !strings.Contains(g.log.String(), "goroutine ") {
		t.Error("it does not say where it was")
	}
}

// TestBadConfigurationIsSaidToTheServiceManager: what systemctl status shows beside the exit code.
func TestBadConfigurationIsSaidToTheServiceManager(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	manager, hear := g.manager()
	for _, c := range []struct{ what, config, say string }{
		{"none", "", "STATUS=configuration is wrong: read configuration: open "},
		{"a mistake", "frob = 1\n", "STATUS=configuration is wrong: " + g.path("config.toml") + ":3:1: frob: unknown key"},
		{"of the package", string(fileOf(t, "../../packaging/config.toml")), "STATUS=configuration is wrong: "},
	} {
		if c.config != "" {
			g.configure(c.config)
		}
		g.start(manager)
		hear(c.say)
		err := <-g.end
		g.end <- err
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitUsage {
			t.Errorf("%s: it ended with %v, want exit code %d", c.what, err, exitUsage)
		}
		g.kill()
	}
}

// TestNoSecretShows runs a life with a marked password and greps everything that came out of it.
func TestNoSecretShows(t *testing.T) {
	t.Parallel()
	const secret = "S3cr3t-Marker-93"
	s := esttest.New(t, esttest.Options{Password: secret, AskPassword: true})
	g := newGateway(t)
	g.configure(tutorial(t, s, "estpwd", secret))
	g.start()
	first := g.next("device-id", nil)
	s.NextOn("simplereenroll", esttest.Status(500))
	g.signal(syscall.SIGUSR1)
	g.until("the failure in status", func() bool { return g.certificate("device-id").Failures > 0 })
	g.signal(syscall.SIGUSR1)
	g.next("device-id", &first)
	all := g.log.String()
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"config", "show"}, {"config", "check"}} {
		out, _ := g.command(args...).CombinedOutput() // exit codes are another test's
		all += string(out)
	}
	g.stop()
	err := filepath.WalkDir(g.path("state"), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "last-good.toml" {
			return err
		}
		data, err := os.ReadFile(path)
		all += string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if i := strings.Index(all, secret); i >= 0 {
		t.Errorf("the password shows: …%s…", all[max(0, i-200):min(len(all), i+50)])
	}
	info, err := os.Stat(g.path("state", "last-good.toml"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("last-good.toml, which holds the password: %v, %v", info, err)
	}
	for line := range strings.Lines(g.log.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a log line is not JSON: %s", line)
		}
	}
}

func always(op string, f esttest.Fault) func(*testing.T, *gateway, *esttest.Server) {
	return func(_ *testing.T, _ *gateway, s *esttest.Server) { s.Always(op, f) }
}

// replace changes the configuration and waits until the agent has read it.
func (g *gateway) replace(old, new string) {
	g.t.Helper()
	data, err := os.ReadFile(g.path("config.toml"))
	if err != nil {
		g.t.Fatal(err)
	}
	loads := strings.Count(g.log.String(), `"message":"configuration loaded"`)
	g.write("config.toml", strings.Replace(string(data), old, new, 1))
	g.signal(syscall.SIGHUP)
	g.until("the configuration loaded", func() bool {
		return strings.Count(g.log.String(), `"message":"configuration loaded"`) > loads
	})
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	// Beside it and renamed: an agent that reads it meanwhile finds the one or the other.
	if err := errors.Join(os.WriteFile(to+".new", data, 0o644), os.Rename(to+".new", to)); err != nil {
		t.Fatal(err)
	}
}
