package agent

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certagent/est"
	"certagent/est/esttest"
	"certagent/store"
	"certagent/store/keys"
)

const (
	byServer  = "server_key = true\n"
	noJitter  = "[cert_issuance.certs.mqtt.auto_renew]\njitter = \"0%\"\n"
	byRSABorn = "bootstrap_identity_cert = \"DIR/born.pem\"\nbootstrap_identity_pk = \"DIR/born.key.pem\"\n"
)

// born writes an RSA key to dir, with a certificate of the server's: what a device has from its manufacturer.
func born(t *testing.T, server *esttest.Server, dir string, usage x509.KeyUsage) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "born"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := server.Issue(csr, func(c *x509.Certificate) {
		c.KeyUsage, c.NotAfter = usage, c.NotAfter.Add(100*day)
	})
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "born.pem"), pemOf(cert.Raw))
	writeFile(t, filepath.Join(dir, "born.key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

// keyEncrypting notes of each request for a key whether it asked for an encrypted one.
func keyEncrypting(g *gateway) *[]bool {
	var asked []bool
	g.dial = func(o est.Options) (Enroller, error) {
		c, err := est.New(o)
		return watchedKeygen{Enroller: c, before: func(unwrap crypto.Decrypter) { asked = append(asked, unwrap != nil) }}, err
	}
	return &asked
}

// watchedKeygen is a client at whose ServerKeygen a test looks.
type watchedKeygen struct {
	Enroller
	before func(unwrap crypto.Decrypter)
	after  func(*est.Issued)
}

func (w watchedKeygen) ServerKeygen(ctx context.Context, csr []byte, want est.Want, unwrap crypto.Decrypter) (*est.Issued, error) {
	if w.before != nil {
		w.before(unwrap)
	}
	issued, err := w.Enroller.ServerKeygen(ctx, csr, want, unwrap)
	if w.after != nil && err == nil {
		w.after(issued)
	}
	return issued, err
}

// TestServerKeygenOnTheWire: a device whose keys are made by the server lives through a renewal with either kind of server,
// and with every login that there is; each turn is a new process. The key comes encrypted where the login is an RSA
// certificate that is good for that, except to a key that came in clear itself.
func TestServerKeygenOnTheWire(t *testing.T) {
	const both = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	for _, test := range []struct {
		name      string
		libest    bool
		auth      string
		more      string
		born      x509.KeyUsage
		kind      keys.Algorithm
		first     string // login
		encrypted [2]bool
	}{
		{name: "EC", auth: byUser, kind: keys.ECP256, first: "password"},
		{name: "RSA", auth: byUser, more: "key = \"rsa-2048\"\n", kind: keys.RSA2048, first: "password"},
		{name: "born with RSA", auth: byRSABorn, more: "key = \"rsa-2048\"\n", born: both, kind: keys.RSA2048,
			first: "certificate", encrypted: [2]bool{true, true}},
		{name: "born with RSA, EC from then on", auth: byRSABorn, born: both, kind: keys.ECP256, first: "certificate",
			encrypted: [2]bool{true, false}},
		{name: "born with RSA for signatures alone", auth: byRSABorn, born: x509.KeyUsageDigitalSignature, kind: keys.ECP256,
			first: "certificate"},
		{name: "libest, which makes RSA keys and encrypts none", libest: true, auth: byUser, kind: keys.RSA2048, first: "password"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := esttest.New(t, esttest.Options{LikeLibest: test.libest})
			g := newGateway(t, server, trustFile, test.auth, byServer+test.more+noJitter)
			if test.born != 0 {
				born(t, server, g.dir, test.born)
			}
			encrypting := keyEncrypting(g)
			var before *store.Generation
			for n, want := range test.encrypted {
				g.ahead = time.Duration(n) * 20 * time.Hour
				g.mustTurn()
				live := g.live()
				if live.Number != n+1 || live.Key.Algorithm() != test.kind || !keys.Equal(live.Key.Public(), live.Leaf.PublicKey) {
					t.Errorf("generation %d, a key of kind %s", live.Number, live.Key.Algorithm())
				}
				if (*encrypting)[n] != want || live.Meta.KeyEncrypted != want {
					t.Errorf("generation %d: asked for encryption %v, recorded %v", n+1, (*encrypting)[n], live.Meta.KeyEncrypted)
				}
				if before != nil && keys.Equal(before.Key.Public(), live.Key.Public()) {
					t.Error("the renewal has the key of before")
				}
				before = live
				file := filepath.Join(g.dir, "state/certs/mqtt/live/key.pem")
				info, err := os.Stat(file)
				if err != nil {
					t.Fatal(err)
				}
				if info.Mode().Perm() != 0o600 {
					t.Errorf("%s has mode %v", file, info.Mode())
				}
				notLogged(t, g, file)
			}
			same(t, "issued", operations(server), "serverkeygen by "+test.first, "serverkeygen by certificate")
			if p, err := g.stored().Pending(); p != nil || err != nil {
				t.Errorf("left pending: %v, %v", p, err)
			}
		})
	}
}

// notLogged fails if a line of a private key in PEM is in the log.
func notLogged(t *testing.T, g *gateway, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); strings.Contains(g.logs.String(), line) {
			t.Errorf("the log has %.10q… of the key", line)
		}
	}
}

// TestServerMakesAnotherKind: a server that makes what it likes is no reason to be without a certificate, but is said.
func TestServerMakesAnotherKind(t *testing.T) {
	server := esttest.New(t, esttest.Options{LikeLibest: true})
	g := newGateway(t, server, trustFile, byUser, byServer+"key = \"ec-p384\"\n")
	g.mustTurn()
	const want = "the server made a key of kind rsa-2048, not ec-p384"
	if said := strings.Join(g.live().Meta.Warnings, "; "); !strings.Contains(said, want) {
		t.Errorf("warnings %q, want %q", said, want)
	}
}

// TestServerKeyInClearAlthoughAsked: a server that leaves out the encryption that was asked for gets nothing, whatever it
// sent, and a person learns why.
func TestServerKeyInClearAlthoughAsked(t *testing.T) {
	server := esttest.New(t, esttest.Options{LikeLibest: true})
	g := newGateway(t, server, trustFile, byRSABorn, byServer)
	born(t, server, g.dir, x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment)
	if err := g.turn(); err == nil || !strings.Contains(err.Error(), "came in clear") {
		t.Errorf("%v", err)
	}
	if live, err := g.stored().Live(); err == nil {
		t.Errorf("generation %d", live.Number)
	}
}

// TestKilledBeforeTheServersKeyIsKept: who is killed between answer and commit has lost that key, which stands nowhere on
// disk, and asks for another.
func TestKilledBeforeTheServersKeyIsKept(t *testing.T) {
	for _, libest := range []bool{false, true} {
		server := esttest.New(t, esttest.Options{LikeLibest: libest})
		g := newGateway(t, server, trustFile, byUser, byServer)
		killed := t.TempDir() // what a kill leaves: the state directory as it is when the answer has come
		var lost crypto.PublicKey
		g.dial = func(o est.Options) (Enroller, error) {
			c, err := est.New(o)
			return watchedKeygen{Enroller: c, after: func(issued *est.Issued) {
				lost = issued.Key.Public()
				if err := errors.Join(os.CopyFS(killed, os.DirFS(g.dir)),
					os.Chmod(filepath.Join(killed, "state/certs/mqtt/pending/key.pem"), 0o600)); err != nil {
					t.Error(err)
				}
			}}, err
		}
		g.mustTurn()
		if lost == nil {
			t.Fatal("no key came")
		}

		g.text, g.dir, g.dial = strings.ReplaceAll(g.text, "DIR", killed), killed, nil
		if live, err := g.stored().Live(); err == nil {
			t.Fatalf("generation %d was live before it was committed", live.Number)
		}
		p, err := g.stored().Pending()
		if err != nil || p == nil || keys.Equal(p.Key.Public(), lost) {
			t.Fatalf("pending: %v, %v; with the server's key: %v", p != nil, err, p != nil)
		}
		if n := privateKeys(t, killed); n != 1 {
			t.Errorf("%d private keys on disk, only the request's should be", n)
		}
		g.mustTurn()
		if live := g.live(); keys.Equal(live.Key.Public(), lost) || keys.Equal(live.Key.Public(), p.Key.Public()) {
			t.Error("the certificate is not for a key that the server made anew")
		}
		same(t, "issued", operations(server), "serverkeygen by password", "serverkeygen by password")
	}
}

// privateKeys counts the files below dir with a private key in them.
func privateKeys(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), "PRIVATE KEY") {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
