package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/status"
	"certagent/est"
	"certagent/store"
)

// TestPowerCycledEveryTenMinutes: a dead server hears no more of a device that loses its power all the time than of one
// that does not, and one that is back is found within retry.
func TestPowerCycledEveryTenMinutes(t *testing.T) {
	t.Parallel()
	tries := func(cycles bool) (count int) {
		synctest.Test(t, func(t *testing.T) {
			d := newDevice(t, day, defaults)
			s := d.begins()
			defer func() { s.stop() }()
			threshold, expiry := s.loses(unavailable)
			for time.Now().Before(expiry.Add(day)) {
				if cycles {
					s.off(30 * time.Second)
				}
				time.Sleep(10 * time.Minute)
				settle()
			}
			count = len(d.ca.since(threshold))
			d.ca.fail(nil)
			for range 6 {
				s.off(30 * time.Second)
				time.Sleep(10 * time.Minute)
				settle()
			}
			if g := d.live("device-id"); g.Number != 2 {
				t.Error("not issued within an hour after the server is back")
			}
		})
		return count
	}
	with, without := tries(true), tries(false)
	if with > without*11/10 || with < without/2 {
		t.Errorf("%d tries with power cycles, %d without", with, without)
	}
}

// hung is a server that takes connections and says nothing.
type hung struct {
	Enroller
	asked func()
}

func (h hung) Attributes(ctx context.Context) (*est.Attributes, error) {
	h.asked()
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestCrashLoop: a program that dies five seconds after its start and is started again at once gets its certificate when it
// can be had, and is no burden for a server that refuses, nor for one that hangs, so that no try ever comes to an end.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	stories := storiesOf(t)
	for _, c := range []struct {
		name string
		text string
		hung bool
		most int // tries in the first twenty minutes
	}{
		{"refused at once", defaults, false, 4},
		{"no try ends", defaults, true, 5 + 4},
		{"no try ends, and the password is a new file at each start", byPasswordFile, true, 30 + 5},
		{"refused, and the password is a new file at each start", byPasswordFile, false, 5 + 4},
	} {
		for _, living := range []bool{false, true} {
			stories.play(fmt.Sprintf("%s, a certificate %v", c.name, living), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDevice(t, day, c.text)
					writeFile(t, filepath.Join(d.dir, "password"), []byte("secret\n"))
					begin := time.Now()
					if living {
						s := d.begins()
						begin, _ = s.loses(unavailable)
						s.stop()
					}
					d.ca.fail(unavailable)
					count := 0
					if c.hung {
						d.change = func(o *Options) {
							o.Dial = func(o est.Options) (Enroller, error) {
								client, err := d.ca.dial(o)
								return hung{client, func() { count++ }}, err
							}
						}
					}
					tries := func() int { return count + len(d.ca.since(begin)) }
					crash := func(times int, after time.Duration) {
						for range times {
							touch(t, filepath.Join(d.dir, "password"))
							_, stop := d.boot()
							time.Sleep(after)
							stop()
						}
					}
					crash(240, 5*time.Second)
					if n := tries(); n > c.most || n < 2 && !living { // a living one waits for its turn
						t.Errorf("%d tries in twenty minutes, want at most %d", n, c.most)
					}
					before := tries()
					crash(180, 50*time.Second)
					if n := tries() - before; n > 16 || n < 1 {
						t.Errorf("%d tries in the next two and a half hours", n)
					}
					if c.hung {
						s, err := survey(d)
						if err != nil {
							t.Fatal(err)
						}
						if !hasProblem(s.Certificates[0].Problems, "interrupted") {
							t.Errorf("status does not say so: %+v", s.Certificates[0].Problems)
						}
					}
					d.change = nil
					d.ca.fail(nil)
					crash(120, 50*time.Second)
					if g := d.live("device-id"); !g.Meta.Issued.After(begin) {
						t.Error("no certificate although it could be had")
					}
				})
			})
		}
	}
}

const byPasswordFile = `
[provisioning.attestation.identity_cert]
method = "est"
common_name = "gateway"
[cert_issuance.est]
trusted_certs = ["file://DIR/ca.pem"]
[cert_issuance.est.auth]
username = "gateway"
password_file = "DIR/password"
[cert_issuance.est.urls]
default = "https://est.example/.well-known/est"
`

// touch makes a file new that says what it said.
func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.Chtimes(path, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
}

// survey is what "certagent status" sees while no agent runs.
func survey(d *device) (status.Snapshot, error) {
	cfg, err := d.load()
	if err != nil {
		return status.Snapshot{}, err
	}
	s, err := store.View(d.state())
	if err != nil {
		return status.Snapshot{}, err
	}
	defer s.Close()
	return Survey(SurveyOptions{Config: cfg, Store: s, Host: Host{MachineID: "test"}, Now: time.Now()})
}

// TestToolThatRewritesFiles: a change of an anchor ends the back-off, but a tool that writes the same again is no change,
// and one that goes on changing it gets a try an hour, and does not keep the next identity from its turn.
func TestToolThatRewritesFiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		rewrite func(t *testing.T, path string)
		most    int // tries in a day
	}{
		{"the same again", touch, 11},
		{"always something else", func(t *testing.T, path string) { appendTo(t, path, "#\n") }, 5*3 + 24 + 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, year, defaults)
				s := d.begins()
				defer func() { s.stop() }()
				threshold, _ := s.loses(refused)
				for range day / time.Minute {
					c.rewrite(t, filepath.Join(d.dir, "ca.pem"))
					time.Sleep(time.Minute)
				}
				settle()
				tries := d.ca.since(threshold)
				if n := len(tries); n > c.most || n < 4 {
					t.Errorf("%d tries on that day, want at most %d", n, c.most)
				}
				if !slices.ContainsFunc(tries, func(c call) bool { return c.identity == identityBootstrap }) {
					t.Error("the bootstrap certificate never had its turn")
				}
			})
		})
	}
}
