package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent/hook"
	"certagent/est/esttest"
	"certagent/store"
	"certagent/store/durable/durabletest"
	"certagent/store/storetest"
)

// What the test binary is when its first argument says so: the program of a hook is given no environment to ask for that.
const (
	becomeWord = "become-a-hook"
	tellWord   = "tell" // followed by the directory of a shelf and the file that takes note
)

// tell is a consumer's program: it looks at the outputs, and notes what it was told of, or what is wrong with them.
func tell(shelfDir, notes string) error {
	state := filepath.Dir(filepath.Dir(filepath.Dir(os.Getenv("CERTAGENT_DIRECTORY"))))
	live, err := storetest.Live(state, os.Getenv("CERTAGENT_ID"))
	note := ""
	if err == nil {
		note = thumbprint(live.Leaf)
		err = shelf{dir: shelfDir, owner: shelfOwner()}.complete(live.Leaf)
	}
	if told := os.Getenv("CERTAGENT_FINGERPRINT"); err == nil && note != told {
		err = fmt.Errorf("told of %s, and %s is live", told, note)
	}
	if err != nil {
		note = "wrong: " + err.Error()
	}
	f, openErr := os.OpenFile(notes, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if openErr != nil {
		return openErr
	}
	_, writeErr := fmt.Fprintln(f, note)
	return errors.Join(err, writeErr, f.Close())
}

// TestKilledAtEveryCallOfADelivery: a process with real outputs and a real program as its hook kills itself at each call on a
// file system, of the store or of the outputs, and to the server: in a turn that renews and delivers, and in one that delivers alone. What it
// leaves are outputs of which each is the old one or a new one in full, and a delivery.json that claims nothing that is not so;
// the next turn completes them, tells the program, and leaves nothing over.
func TestKilledAtEveryCallOfADelivery(t *testing.T) {
	for name, renewal := range map[string]bool{"renewal": true, "outputs that are new": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := esttest.New(t, esttest.Options{})
			dir := filepath.Join(t.TempDir(), "before")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			on, err := newShelf(filepath.Join(dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			consumers := strings.ReplaceAll(on.config("cert_issuance.certs.mqtt"), dir, "DIR") + fmt.Sprintf(
				"[cert_issuance.certs.mqtt.on_renew]\nexec = [[%q, %q, \"DIR/out\", \"DIR/notes\"]]\n", self, tellWord)
			before := newGateway(t, server, trustFile, byUser, "")
			before.dir = dir
			writeFile(t, filepath.Join(dir, "ca.pem"), server.RootPEM())
			if !renewal {
				before.turnInAProcess(t)
				before.text += consumers
			} else {
				before.text += consumers
				before.turnInAProcess(t)
				before.ahead = 20 * time.Hour
			}
			stride, points := durabletest.Stride(17), 0
			for at := 1; deliveryDiesAt(t, before, at); at += stride {
				points++
			}
			t.Logf("killed at %d calls, every %dth", points, stride)
			if durabletest.Few(points, 4) {
				t.Errorf("killed at %d calls only", points)
			}
		})
	}
}

// turnInAProcess is a turn to its end.
func (g *gateway) turnInAProcess(t *testing.T) {
	t.Helper()
	writeFile(t, filepath.Join(g.dir, "config.toml"), []byte(strings.ReplaceAll(g.text, "DIR", g.dir)))
	if err := os.Mkdir(filepath.Join(g.dir, "state"), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	if g.dies(t, 0) {
		t.Fatal("killed by somebody else")
	}
}

// notes are what the program of the hook was told.
func (g *gateway) notes(t *testing.T) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(g.dir, "notes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, "wrong") }); i >= 0 {
		t.Fatalf("the program found %s", lines[i])
	}
	return lines
}

// deliveryDiesAt has a copy of the device die at that call, checks, and reports whether it died.
func deliveryDiesAt(t *testing.T, before *gateway, at int) bool {
	t.Helper()
	g := &gateway{t: t, dir: filepath.Join(t.TempDir(), "device"), text: before.text, ahead: before.ahead}
	if err := storetest.Copy(before.dir, g.dir); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(g.dir, "config.toml"), []byte(strings.ReplaceAll(g.text, "DIR", g.dir)))
	state, on := filepath.Join(g.dir, "state"), shelf{dir: filepath.Join(g.dir, "out"), owner: shelfOwner()}
	live := func() *storetest.Pair {
		p, err := storetest.Live(state, "mqtt")
		if err != nil {
			t.Fatalf("killed at call %d: %v", at, err)
		}
		return p
	}
	record := func() (d store.Delivery) {
		data, err := os.ReadFile(filepath.Join(state, "certs/mqtt/delivery.json"))
		if err == nil {
			err = json.Unmarshal(data, &d)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("killed at call %d: %v", at, err)
		}
		return d
	}
	old := live()
	killed := g.dies(t, at)
	is, left := live(), record()
	if err := on.of(old, is); err != nil {
		t.Errorf("killed at call %d: outputs: %v", at, err)
	}
	told := g.notes(t)
	allOK := len(left.Outputs) == len(shelved) && left.SHA256 == thumbprint(is.Leaf) &&
		!slices.ContainsFunc(left.Outputs, func(o store.DeliveredOutput) bool { return o.State != store.StepOK })
	if err := on.complete(is.Leaf); allOK && err != nil {
		t.Errorf("killed at call %d: delivery.json has all outputs as written, and they are not: %v", at, err)
	}
	for _, h := range left.Hooks {
		if h.State == store.StepOK && !slices.Contains(told, left.SHA256) {
			t.Errorf("killed at call %d: delivery.json has a hook as run that was not", at)
		}
	}

	g.turnInAProcess(t)
	done, now := live(), record()
	if err := on.complete(done.Leaf); err != nil {
		t.Errorf("killed at call %d: after the next turn: %v", at, err)
	}
	if told := g.notes(t); told[len(told)-1] != thumbprint(done.Leaf) {
		t.Errorf("killed at call %d: the program was never told of generation %d", at, now.Generation)
	}
	if now.SHA256 != thumbprint(done.Leaf) || len(now.Hooks) != 1 || now.Hooks[0].State != store.StepOK || len(now.Outputs) != len(shelved) ||
		slices.ContainsFunc(now.Outputs, func(o store.DeliveredOutput) bool { return o.State != store.StepOK }) {
		t.Errorf("killed at call %d: delivery.json in the end: %+v", at, now)
	}
	strange, err := on.strange()
	leftovers, leftErr := storetest.Leftovers(state)
	if wrong := slices.Concat(storetest.Wrong(state), leftovers, strange); errors.Join(err, leftErr) != nil || len(wrong) > 0 {
		t.Errorf("killed at call %d: on disk in the end: %v, %v, %v", at, wrong, err, leftErr)
	}
	return killed
}

// realHooks run programs by way of this test binary.
func realHooks() hook.Runner { return hook.Runner{Self: []string{os.Args[0], becomeWord}} }
