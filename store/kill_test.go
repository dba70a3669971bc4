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
	"strings"
	"testing"
	"time"

	"certagent/store"
	"certagent/store/keys"
)

// renewForEver is the second process of TestKilledAtAnyMoment: it renews without end, and says what it would send, before
// it is committed, and what is committed.
func renewForEver(dir string) error {
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		return err
	}
	c, err := s.Certificate("device-id")
	if err != nil {
		return err
	}
	for {
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
	}
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
	pending, live, before := 0, 0, ""
	for range 50 {
		sent, committed := killed(t, dir)
		if committed == "" {
			committed = before
		}
		s, err := store.Open(dir, store.Options{})
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
		case id == sent:
			live++
		case p != nil && p.ID == sent && id == committed:
			pending++
		default:
			t.Errorf("it sent %s and committed %q; live is %q, pending %+v", sent, committed, id, p)
		}
		before = id
		if sent != "" { // else there may be no directory yet
			noTemps(t, c)
		}
		must(t, s.Close())
	}
	t.Logf("killed with the request pending %d times, live %d times", pending, live)
}

// killed runs renewForEver on dir for a random moment, and gives the ids that it last said to be sent and committed.
func killed(t *testing.T, dir string) (sent, committed string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), renewVariable+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err, cmd.Start())
	kill := time.AfterFunc(mathrand.N(60*time.Millisecond), func() { _ = cmd.Process.Kill() })
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
	cmd.Wait() // it was killed
	return sent, committed
}
