package store_test

import (
	"bufio"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/store"
	"certagent/store/durable"
	"certagent/store/durable/durabletest"
	"certagent/store/keys"
	"certagent/store/storetest"
)

// renewForEver is the second process of TestKilledAtAnyMoment: it renews without end.
func renewForEver(dir string) error {
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		return err
	}
	c, err := s.Certificate("device-id")
	if err != nil {
		return err
	}
	for err == nil {
		err = renewAloud(c)
	}
	return err
}

// renewDying is the second process of TestKilledAtEveryCall: it renews once, and kills itself at call number at of the file
// system.
func renewDying(dir string, at int) error {
	s, err := store.Open(dir, store.Options{FS: durabletest.New(durable.OS{Root: dir}, at, durabletest.Kill)})
	if err != nil {
		return err
	}
	c, err := s.Certificate("device-id")
	if err == nil {
		err = renewAloud(c)
	}
	return errors.Join(err, s.Close())
}

// renewAloud renews once, and says what it would send before it commits, and what it committed.
func renewAloud(c *store.Certificate) error {
	p, err := c.Pending()
	if err == nil && p == nil {
		p, err = ask(c)
	}
	if err != nil {
		return err
	}
	fmt.Println("sent", p.ID)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, p.Key.Public(), p.Key)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if _, err := c.Commit(store.Issue{Pending: p, Leaf: leaf}); err != nil {
		return err
	}
	fmt.Println("committed", p.ID)
	return nil
}

func ask(c *store.Certificate) (*store.Pending, error) {
	k, err := keys.Files{}.Generate(keys.ECP256)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	if err != nil {
		return nil, err
	}
	return c.SavePending(k, store.Pending{CSR: csr})
}

// A process that does nothing but renew is killed at random moments. After each, what it last said to be committed, or
// something newer, is live and a matching pair; what it said to have sent is live, or pending with its key.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	v := victim{dir: dir}
	for range 50 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), renewVariable+"="+dir)
		v.dies(t, cmd, mathrand.N(60*time.Millisecond))
	}
	t.Logf("killed with the request pending %d times, live %d times", v.pending, v.live)
}

// A process kills itself at each of the calls of a renewal in turn, so that no moment between two of them is left to chance:
// the first renewal of its life, and one beside a live generation.
func TestKilledAtEveryCall(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty, renewed := filepath.Join(dir, "empty"), filepath.Join(dir, "renewed")
	must(t, open(t, empty).Close(), renewDying(renewed, 0))
	for name, before := range map[string]string{"first": empty, "renewal": renewed} {
		points := 0
		for at := 1; ; at++ {
			v := victim{dir: filepath.Join(dir, "state")}
			must(t, storetest.Copy(before, v.dir))
			if p, err := storetest.Live(v.dir, "device-id"); err == nil {
				v.committed = requestOf(t, p.Dir)
			}
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), renewVariable+"="+v.dir, dieVariable+"="+strconv.Itoa(at))
			killed := v.dies(t, cmd, patience)
			must(t, os.RemoveAll(v.dir))
			if !killed {
				break
			}
			points++
		}
		t.Logf("%s: killed at %d calls", name, points)
		if points < 40 {
			t.Errorf("%s: killed at %d calls only", name, points)
		}
	}
}

// requestOf is the id of the request that a generation answers.
func requestOf(t *testing.T, generation string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(generation, "meta.json"))
	must(t, err)
	m, err := store.ParseMeta(data)
	must(t, err)
	return m.RequestID
}

// patience is how long a process may take that nobody kills. It is no measure of speed.
const patience = time.Minute

// victim is a state directory in which process after process is killed.
type victim struct {
	dir           string
	committed     string // the request that led to what is live
	pending, live int    // what became of the requests that were sent
}

// dies runs a process that renews, kills it after that time, and checks what it leaves. It reports whether the process
// was killed, by whomever.
func (v *victim) dies(t *testing.T, cmd *exec.Cmd, after time.Duration) bool {
	t.Helper()
	sent, committed, killed := killed(t, cmd, after)
	if committed == "" {
		committed = v.committed
	}
	// What another test forks now would have the lock as well, and keep it until it executes its program.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	s, err := store.Open(v.dir, store.Options{})
	must(t, err)
	c := certificate(t, s, "device-id")
	g, liveErr := c.Live()
	p, err := c.Pending()
	must(t, err)
	id := ""
	switch {
	case liveErr == nil:
		id = g.Meta.RequestID
	case !errors.Is(liveErr, store.ErrMissing):
		t.Errorf("live: %v", liveErr)
	}
	switch {
	case sent == "": // it was killed before it did anything
		if id != v.committed {
			t.Errorf("nothing was sent, and live is %q after %q", id, v.committed)
		}
	case id == sent:
		v.live++
	case p != nil && p.ID == sent && id == committed:
		v.pending++
	default:
		t.Errorf("it sent %s and committed %q; live is %q, pending %+v", sent, committed, id, p)
	}
	v.committed = id
	if wrong := storetest.Wrong(v.dir); len(wrong) > 0 {
		t.Error(wrong)
	}
	if sent != "" { // else there may be no directory yet
		noTemps(t, c)
	}
	must(t, s.Close())
	return killed
}

// killed runs a process that renews until it dies, which it does after that time at the latest, and gives the ids that it
// last said to be sent and committed.
func killed(t *testing.T, cmd *exec.Cmd, after time.Duration) (sent, committed string, killed bool) {
	t.Helper()
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	kill := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	for lines := bufio.NewScanner(out); lines.Scan(); {
		switch what, id, _ := strings.Cut(lines.Text(), " "); what {
		case "sent":
			sent = id
		case "committed":
			committed = id
		default:
			t.Error(lines.Text())
		}
	}
	_ = cmd.Wait() // how it ended is what its state says
	return sent, committed, cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}
