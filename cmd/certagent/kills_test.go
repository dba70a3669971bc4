package main

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"errors"
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

	"software.sslmate.com/src/go-pkcs12"

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
// renew certificates of a second and deliver them. After each kill, and before anything mends it, the pair that a consumer
// finds matches, each output that holds a whole pair does so too, no key is open to others, nothing has gone back in time,
// and status can be read. No hook ever sees outputs of two generations. When the program comes to rest, all outputs are of
// the live generation, the hook was told of it, and nothing is left over.
func TestKilledWhileRenewing(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "certagent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	s := esttest.New(t, esttest.Options{Lifetime: time.Second})
	// One certificate may be renewed 1440 times before it is rationed (renew.Ration), and is about once for each kill.
	devices := max(4, kills(t)/500)
	var killed, renewed, told atomic.Int64
	t.Run("devices", func(t *testing.T) {
		for range devices {
			t.Run("device", func(t *testing.T) {
				t.Parallel()
				g := newGateway(t)
				if err := os.Mkdir(g.path("out"), 0o755); err != nil {
					t.Fatal(err)
				}
				g.write("p12.password", "geheim\n")
				// Due as soon as the guard lets it, 5 % of the lifetime after the last one.
				g.configure(fmt.Sprintf("[log]\nlevel = \"error\"\n[cert_issuance.est]\ntrusted_certs = [\"file://%s\"]\n"+
					"[cert_issuance.est.auth]\nusername = %q\npassword = %q\n[cert_issuance.est.urls]\ndefault = %q\n"+
					"[cert_issuance.certs.mqtt]\ncommon_name = \"mqtt\"\n[cert_issuance.certs.mqtt.auto_renew]\n"+
					"rotate_key = true\nthreshold = \"1%%\"\nretry = \"1%%\"\njitter = \"0%%\"\n",
					s.CAFile(), esttest.DefaultUser, esttest.DefaultPassword, s.URL()) +
					outputsFor(g, everyFormat...) + hooksFor(g.tells()))
				g.mustRest(t)
				last := generationOf(t, g)
				if last == 0 {
					t.Fatal("there is no certificate to begin with")
				}
				// An agent lives long enough for one in some four to get as far as its hook, however fast the machine is.
				life := 120 * time.Millisecond
				for n := range kills(t) / devices {
					before := len(g.lines("told"))
					g.dieWhileRenewing(t, program, rand.N(life))
					killed.Add(1)
					if more := len(g.lines("told")) - before; more > 0 {
						told.Add(int64(more))
						life = max(life*3/4, 50*time.Millisecond)
					} else {
						life = min(life*11/10, 2*time.Second)
					}
					now := generationOf(t, g)
					if now < last {
						t.Errorf("kill %d: generation %d is live after %d", n, now, last)
					}
					renewed.Add(int64(now - last))
					last = now
					if wrong := storetest.Wrong(g.path("state")); len(wrong) > 0 {
						t.Errorf("kill %d: on disk: %v", n, wrong)
					}
					if err := g.wholeOutputs(); err != nil {
						t.Errorf("kill %d: outputs: %v", n, err)
					}
					if c := g.certificate("mqtt"); c.Generation != now || c.State == status.KeyMismatch || c.State == status.Missing {
						t.Errorf("kill %d: generation %d is live, and status says %+v", n, now, c)
					}
					if n%10 == 9 {
						g.mustRest(t)
						last = generationOf(t, g)
					}
					if t.Failed() {
						return
					}
				}
				g.mustRest(t)
				for _, p := range g.certificate("mqtt").Problems {
					if p.Code == "renewed-too-often" {
						t.Error("the ration of renewals was used up: the last kills met an agent that only waited")
					}
				}
			})
		}
	})
	t.Logf("%d kills; certificates were renewed %d times and hooks run %d times meanwhile",
		killed.Load(), renewed.Load(), told.Load())
	if renewed.Load() == 0 || told.Load() == 0 {
		t.Error("nothing was renewed or delivered while it was killed: this tested something else")
	}
}

// tells is a hook that finds out whether the outputs are all of the generation that it is told of, and notes that or the
// opposite. It blames nobody where it cannot know: when it outlives its agent, whose successor writes the outputs anew under
// its eyes, and when two more renewals came while it looked, so that its generation is gone.
func (g *gateway) tells() string {
	return fmt.Sprintf(`cd %s; torn=; `+
		`for f in cert chain fullchain key ca; do cmp -s $CERTAGENT_DIRECTORY/$f.pem out/$f || torn="$torn $f"; done; `+
		`grep -q "^PPid:.$PPID\$" /proc/$$/status && test -d $CERTAGENT_DIRECTORY || torn=; `+
		`if test -n "$torn"; then echo $CERTAGENT_GENERATION$torn >>torn; else echo $CERTAGENT_GENERATION >>told; fi`, g.dir)
}

// mustRest has everything done that is to be done, and checks that it is.
func (g *gateway) mustRest(t *testing.T) {
	t.Helper()
	g.until("everything done that is to be done", func() bool {
		code, out := g.runs(t, "run", "--once")
		fmt.Fprint(g.log, out) // to be shown if it never does; a certificate of a second may expire on the way
		return code == exitOK
	})
	h := g.mustRead("mqtt")
	if err := g.serves(h); err != nil {
		t.Errorf("at rest the outputs are not those of %s: %v", h.dir, err)
	}
	if told := g.lines("told"); len(told) == 0 || told[len(told)-1] != strconv.Itoa(generationOf(t, g)) {
		t.Errorf("at rest %s is live, and the hook was last told of %q", h.dir, told[max(0, len(told)-1):])
	}
	if torn := g.lines("torn"); len(torn) > 0 {
		t.Errorf("a hook ran on outputs of two generations: %q", torn)
	}
	left, err := storetest.Leftovers(g.path("state"))
	beside, besideErr := filepath.Glob(g.path("out", ".*"))
	if left = append(left, beside...); len(left) > 0 || errors.Join(err, besideErr) != nil {
		t.Errorf("left over at rest: %v, %v, %v", left, err, besideErr)
	}
}

// wholeOutputs checks what a consumer can rely on at any moment: a file that holds key and certificate holds a pair.
func (g *gateway) wholeOutputs() error {
	if _, err := tls.LoadX509KeyPair(g.path("out", "combined"), g.path("out", "combined")); err != nil {
		return fmt.Errorf("combined: %w", err)
	}
	data, err := os.ReadFile(g.path("out", "pkcs12"))
	if err != nil {
		return err
	}
	key, leaf, _, err := pkcs12.DecodeChain(data, "geheim")
	if err != nil {
		return fmt.Errorf("pkcs12: %w", err)
	}
	if signer, ok := key.(crypto.Signer); !ok || !storetest.SameKey(signer.Public(), leaf.PublicKey) {
		return errors.New("pkcs12: the key is not the certificate's")
	}
	return nil
}

// dieWhileRenewing runs the program for as long as that, and kills it.
func (g *gateway) dieWhileRenewing(t *testing.T, program string, life time.Duration) {
	t.Helper()
	cmd := g.command("run")
	victim := exec.Command(program, cmd.Args[1:]...)
	var said bytes.Buffer
	victim.Env, victim.Stderr = cmd.Env, &said
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	<-time.After(life)        // the moment is what is tested
	_ = victim.Process.Kill() // it may have ended
	if _ = victim.Wait(); victim.ProcessState.Exited() {
		t.Fatalf("the agent ended by itself: %v\n%s", victim.ProcessState, &said)
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
