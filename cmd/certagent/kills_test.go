package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"certagent/agent/status"
	"certagent/est/esttest"
	"certagent/store/storetest"
)

// kills is how many kills TestKilledWhileRenewing shares out; CERTAGENT_KILLS says how many (make test-faults).
func kills(t *testing.T) int {
	t.Helper()
	text := os.Getenv("CERTAGENT_KILLS")
	if text == "" {
		return 100
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("CERTAGENT_KILLS: %v", err)
	}
	return n
}

// TestKilledWhileRenewing kills the program as it is shipped, with SIGKILL and at random moments, while it does nothing but
// renew certificates of a second. After each kill, and before anything mends it, the pair that a consumer finds matches,
// no key is open to others, nothing has gone back in time, and status can be read.
func TestKilledWhileRenewing(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "certagent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	s := esttest.New(t, esttest.Options{Lifetime: time.Second})
	const devices = 4
	var renewed atomic.Int64
	t.Run("devices", func(t *testing.T) {
		for range devices {
			t.Run("device", func(t *testing.T) {
				t.Parallel()
				g := newGateway(t)
				// Due as soon as the guard lets it, 5 % of the lifetime after the last one.
				g.configure(fmt.Sprintf("[log]\nlevel = \"error\"\n[cert_issuance.est]\ntrusted_certs = [\"file://%s\"]\n"+
					"[cert_issuance.est.auth]\nusername = %q\npassword = %q\n[cert_issuance.est.urls]\ndefault = %q\n"+
					"[cert_issuance.certs.mqtt]\ncommon_name = \"mqtt\"\n[cert_issuance.certs.mqtt.auto_renew]\n"+
					"rotate_key = true\nthreshold = \"1%%\"\nretry = \"1%%\"\njitter = \"0%%\"\n",
					s.CAFile(), esttest.DefaultUser, esttest.DefaultPassword, s.URL()))
				g.runs(t, "run", "--once")
				last := generationOf(t, g)
				if last == 0 {
					t.Fatal("there is no certificate to begin with")
				}
				first := last
				for n := range kills(t) / devices {
					g.dieWhileRenewing(t, program)
					now := generationOf(t, g)
					if now < last {
						t.Errorf("kill %d: generation %d is live after %d", n, now, last)
					}
					last = now
					if wrong := storetest.Wrong(g.path("state")); len(wrong) > 0 {
						t.Errorf("kill %d: on disk: %v", n, wrong)
					}
					if c := g.certificate("mqtt"); c.Generation != now || c.State == status.KeyMismatch || c.State == status.Missing {
						t.Errorf("kill %d: generation %d is live, and status says %+v", n, now, c)
					}
					if t.Failed() {
						return
					}
				}
				renewed.Add(int64(last - first))
				g.runs(t, "run", "--once")
				if left, err := storetest.Leftovers(g.path("state")); err != nil || len(left) > 0 {
					t.Errorf("left over in the end: %v, %v", left, err)
				}
			})
		}
	})
	t.Logf("%d kills; certificates were renewed %d times meanwhile", kills(t)/devices*devices, renewed.Load())
	if renewed.Load() == 0 {
		t.Error("nothing was renewed while it was killed: this tested something else")
	}
}

// dieWhileRenewing runs the program for a random moment.
func (g *gateway) dieWhileRenewing(t *testing.T, program string) {
	t.Helper()
	cmd := g.command("run")
	victim := exec.Command(program, cmd.Args[1:]...)
	victim.Env = cmd.Env
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	<-time.After(rand.N(120 * time.Millisecond)) // the moment is what is tested
	_ = victim.Process.Kill()                    // it may have ended
	if _ = victim.Wait(); victim.ProcessState.Exited() {
		t.Fatalf("the agent ended by itself: %v", victim.ProcessState)
	}
}

// generationOf is the number of the live generation, whose pair must match; 0 if there is none.
func generationOf(t *testing.T, g *gateway) int {
	t.Helper()
	p, err := storetest.Live(g.path("state"), "mqtt")
	if err != nil {
		t.Errorf("live: %v", err)
		return 0
	}
	n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(p.Dir), "gen-"))
	if err != nil {
		t.Error(err)
	}
	return n
}
