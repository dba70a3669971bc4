package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/agent/status"
	"certagent/est/esttest"
	"certagent/store"
)

// TestRenew: a person has one certificate issued anew, and sees what came of it.
func TestRenew(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s) + "[cert_issuance.certs.other]\ncommon_name = \"other\"\n")
	g.tell("renew").want(t, 1, "", `no agent answers at .*/run/control\.sock\ncertagent: hint: start it .*run --once`)
	g.start()
	mqtt, other := g.next("mqtt", nil), g.next("other", nil)

	g.tell("renew", "mqt").want(t, 2, "", `^certagent: there is no certificate "mqt"\ncertagent: hint: did you mean mqtt\?\n$`)
	g.tell("renew", "--wait", "mqtt").want(t, 0, `^mqtt: issued, valid until .*: .*/certs/mqtt/gen-000002\n$`, `.*`)
	after := g.mustRead("mqtt")
	if after.leaf.SerialNumber.Cmp(mqtt.leaf.SerialNumber) == 0 || g.mustRead("other").dir != other.dir {
		t.Error("not this certificate, or not this one alone, was issued anew")
	}
	g.tell("renew").want(t, 0, `^mqtt: asked for\nother: asked for\n$`, "")
	g.next("other", &other)
	g.next("mqtt", &after)

	// The reason of a failure is the reason that is said; the wish stands.
	s.Stop()
	both := g.tell("renew", "--wait") // they end in any order
	both.want(t, 1, "", `(?s)mqtt: not renewed: est .*refused\n.*hint: check host and port`)
	both.want(t, 1, "", `other: not renewed: est .*refused\n`)
	if c := g.certificate("mqtt"); c.Ordered || c.Failures != 1 || c.LastClass != "unavailable" {
		t.Errorf("after the failure: %+v", c)
	}
	g.tell("renew", "--wait", "--timeout", "0s", "mqtt").want(t, 1, "", `mqtt: not renewed: not done within 0s`)
	g.tell("renew", "--wait", "--timeout", "-1s", "mqtt").want(t, 2, "", `--timeout is -1s, and cannot be negative`)
	g.until("the failure that nobody waited for", func() bool { return g.certificate("mqtt").Failures == 2 })
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	g.tell("renew", "--wait", "mqtt").want(t, 0, `^mqtt: issued`, `.*`)
	g.stop()
}

// TestRenewWithANewKey: rotate_key = false keeps the key over renewals, but not over this.
func TestRenewWithANewKey(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(strings.Replace(served(s), `"0%"`, `"0%", rotate_key = false`, 1))
	g.start()
	first := g.next("mqtt", nil)
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	kept := g.mustRead("mqtt")
	g.tell("renew", "--wait", "--new-key").want(t, 0, "issued", `.*`)
	changed := g.mustRead("mqtt")
	g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
	again := g.mustRead("mqtt")
	if !bytes.Equal(first.key, kept.key) || bytes.Equal(kept.key, changed.key) || !bytes.Equal(changed.key, again.key) {
		t.Error("the key changed at another renewal than the one that asked for it")
	}
	g.stop()
}

// TestRenewWhatWaitsForApproval: a request that the server took and has not decided is not forced over; --discard drops it.
func TestRenewWhatWaitsForApproval(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	s.Always("simpleenroll", esttest.Pending202(time.Hour))
	g := newGateway(t)
	g.configure(served(s))
	g.tell("run", "--once").want(t, 1, "", `not issued yet \(HTTP 202, .*\ncertagent: hint: certagent status says what to do`)
	g.start()
	g.until("the agent at its socket", func() bool { return !g.status().Started.IsZero() })
	pending := func() []byte {
		data, err := os.ReadFile(g.path("state", "certs", "mqtt", "pending", "key.pem"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return data
	}
	before := pending()
	for _, args := range [][]string{{"renew"}, {"renew", "--wait", "mqtt"}} {
		g.tell(args...).want(t, 1, "", `^certagent: mqtt: not renewed: the request waits for approval at the server until .*\ncertagent: hint: .*--discard`)
	}
	g.tell("renew", "--wait", "--discard").want(t, 1, "", `mqtt: not renewed: the request waits for approval at the server\n.*hint: approve it`)
	if after := pending(); before == nil || after == nil || bytes.Equal(before, after) {
		t.Error("the request that waited is still the one that waits")
	}
	s.Clear()
	g.tell("renew", "--wait", "--discard").want(t, 0, "mqtt: issued", `.*`)
	g.stop()
}

// TestRenewOverARestart: the agent is killed while it renews, and started again; who waits hears of the end.
func TestRenewOverARestart(t *testing.T) {
	t.Parallel()
	s, g, first := running(t)
	reached := make(chan struct{}, 16)
	s.Always("simplereenroll", func(w http.ResponseWriter, r *http.Request, real http.Handler) {
		reached <- struct{}{}
		esttest.Hang(t.Context())(w, r, real)
	})
	waiting := make(chan told, 1)
	go func() { waiting <- finish(t, g.command("renew", "--wait")) }()
	select {
	case <-reached:
	case <-time.After(patience):
		t.Fatal("nothing is renewed")
	}
	g.kill()
	s.Clear()
	if c := g.certificate("mqtt"); !c.Ordered {
		t.Errorf("on disk: %+v", c)
	}
	g.start()
	(<-waiting).want(t, 0, "mqtt: issued, .*gen-000002\n", "")
	g.next("mqtt", &first)
	g.stop()
}

// TestInterrupted: an interrupt ends what waits at once; what was asked for stands, and no key is left behind.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	s, g, was := running(t)
	s.Always("simplereenroll", esttest.Hang(t.Context()))
	interrupt := func(ready func(), args ...string) {
		t.Helper()
		cmd := g.command(args...)
		// Tests that a shell runs in the background ignore interrupts, and so would what they start. It inherits nothing of a
		// signal that is caught here (execve(2)).
		caught := make(chan os.Signal, 1)
		signal.Notify(caught, os.Interrupt)
		err := cmd.Start()
		signal.Stop(caught)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		ready()
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("%q ends well", args)
			}
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			t.Fatalf("%q goes on", args)
		}
	}
	interrupt(func() { g.until("the order", func() bool { return g.certificate("mqtt").Ordered }) }, "renew", "--wait")
	if !g.certificate("mqtt").Ordered {
		t.Error("what was asked for is forgotten")
	}
	g.stop()
	s.Clear() // from here on: what was asked for is for the agent that is started in the end

	// A key on its way to an agent that does not take it.
	cert, key := g.brought(s, "mqtt")
	l := mute(t, g, g.path("run", "control.sock"))
	lock, err := store.Open(g.path("state"), store.Options{}) // an agent runs, as it were
	if err != nil {
		t.Fatal(err)
	}
	brought := func() []string {
		names, err := filepath.Glob(g.path("run", "import-*"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	interrupt(func() { g.until("a key beside the socket", func() bool { return len(brought()) > 0 }) },
		"import", "mqtt", "--cert", cert, "--key", key, "--replace")
	if left := brought(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	l.Close()
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	g.start()
	g.next("mqtt", &was)
	g.stop()
}

// mute is an agent at a socket that answers to what is asked for and never to what is to be changed.
func mute(t *testing.T, g *gateway, socket string) net.Listener {
	t.Helper()
	state, err := filepath.EvalSymlinks(g.path("state"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with l
		_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				return
			}
			_ = status.Snapshot{Schema: status.Schema, StateDir: state}.WriteJSON(w)
		}))
	}()
	return l
}

// TestRenewOnATerminal: progress is for people; the outcome is data.
func TestRenewOnATerminal(t *testing.T) {
	t.Parallel()
	s, g, _ := running(t)
	s.Always("simplereenroll", esttest.Hang(t.Context()))
	keyboard, screen := openTerminal(t)
	cmd := g.command("renew", "--wait")
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, screen
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	screen.Close()
	if err := keyboard.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(keyboard).ReadString('\n'); err != nil || line != "certagent: mqtt: an attempt is under way\r\n" {
		t.Errorf("the terminal shows %q, %v", line, err)
	}
	s.Clear()
	g.signal(syscall.SIGHUP) // nothing but news
	g.kill()
	g.start()
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(stdout.String(), "mqtt: issued, ") {
		t.Errorf("%v\n%s", err, &stdout)
	}
	g.stop()
}
