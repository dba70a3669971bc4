package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"certagent/agent/status"
	"certagent/est/esttest"
)

// brought writes a pair as a person brings it, and gives the paths of certificate and key.
func (g *gateway) brought(s *esttest.Server, cn string, alter ...func(*x509.Certificate)) (cert, key string) {
	g.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}, private)
	if err != nil {
		g.t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		g.t.Fatal(err)
	}
	leaf, err := s.Issue(csr, alter...)
	if err != nil {
		g.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		g.t.Fatal(err)
	}
	g.write(cn+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	// The root first: the certificate is the one that belongs to the key, wherever it stands.
	g.write(cn+".pem", string(s.RootPEM())+string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})))
	return g.path(cn + ".pem"), g.path(cn + ".key")
}

// TestImport: a certificate that was got in another way is taken over, with an agent and without, and is renewed from then on.
func TestImport(t *testing.T) {
	t.Parallel()
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			t.Parallel()
			s := esttest.New(t, esttest.Options{})
			s.Always("simpleenroll", esttest.Status(http.StatusServiceUnavailable)) // there is no other way to a certificate
			g := newGateway(t)
			// What is asked for is not what is brought, which is no drift.
			g.configure(strings.Replace(served(s), `common_name = "mqtt"`, "common_name = \"gateway-7\"\nkey = \"ec-p384\"", 1))
			cert, key := g.brought(s, "old-name")
			other, _ := g.brought(s, "another")
			expired, expiredKey := g.brought(s, "expired", func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
			})
			far, farKey := g.brought(s, "far", func(c *x509.Certificate) {
				c.NotBefore, c.NotAfter = time.Now().Add(72*time.Hour), time.Now().Add(96*time.Hour)
			})
			ca, caKey := g.brought(s, "ca", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
			g.write("locked.key", string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})))
			g.write("der", string(s.Root.Raw))
			if running {
				g.start()
				g.until("the first failure", func() bool { return g.certificate("mqtt").Failures > 0 })
			}
			take := func(args ...string) told { return g.tell(append([]string{"import"}, args...)...) }
			take("mqt", "--cert", cert, "--key", key).want(t, 2, "", `there is no certificate "mqt"\n.*did you mean mqtt`)
			take("mqtt", "--cert", cert).want(t, 2, "", `import: --cert and --key are needed`)
			take("mqtt", "--cert", other, "--key", key).want(t, 1, "", `old-name.key is not the key of .*another.pem`)
			take("mqtt", "--cert", key, "--key", key).want(t, 1, "", `no PEM certificate`)
			take("mqtt", "--cert", cert, "--key", cert).want(t, 1, "", `holds no private key`)
			take("mqtt", "--cert", far, "--key", farKey).want(t, 1, "", `the certificate becomes valid in .* only\ncertagent: hint: compare this device's clock`)
			take("mqtt", "--cert", ca, "--key", caKey).want(t, 1, "", `the certificate is a CA certificate, and mqtt is none`)
			take("mqtt", "--cert", cert, "--key", g.path("locked.key")).want(t, 1, "", `locked.key is encrypted; certagent needs the key unencrypted`)
			take("mqtt", "--cert", g.path("der"), "--key", key).want(t, 1, "", `no PEM certificate in it\ncertagent: hint: certagent import --help`)
			take("mqtt", "--cert", expired, "--key", expiredKey).want(t, 1, "", `the certificate expired .* ago .*\ncertagent: hint: it cannot log in`)
			if _, err := g.read("mqtt"); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("what was refused is there: %v", err)
			}

			take("mqtt", "--cert", cert, "--key", key).want(t, 0, `^mqtt: imported: .*/gen-000001\n$`,
				`(?s)kind ec-p256, and the configuration asks for ec-p384.*warning: its subject is "CN=old-name", and the configuration asks for "CN=gateway-7"`)
			first := g.mustRead("mqtt")
			take("mqtt", "--cert", cert, "--key", key).want(t, 1, "", `mqtt has a certificate already: .*gen-000001.*\ncertagent: hint: .*--replace`)
			take("mqtt", "--cert", cert, "--key", key, "--replace").want(t, 0, `gen-000002`, `.*`)
			if left, _ := filepath.Glob(g.path("run", "import-*")); len(left) > 0 {
				t.Errorf("keys are left behind: %q", left)
			}
			if !running {
				g.start()
				g.until("the agent at its socket", func() bool { return !g.status().Started.IsZero() })
			}
			g.tell("wait", "mqtt").want(t, 0, "", "")
			g.tell("status").want(t, 0, `\n +imported: \d+ seconds? ago`, "")
			c := g.certificate("mqtt")
			if c.State != status.Valid || c.Failures > 0 || len(c.Problems) > 0 || c.Subject != "CN=old-name" || !c.Imported {
				t.Errorf("imported: %+v", c)
			}
			g.tell("renew", "--wait").want(t, 0, "issued", `.*`)
			h := g.mustRead("mqtt")
			if c := g.certificate("mqtt"); c.Imported {
				t.Errorf("renewed, and still imported: %+v", c)
			}
			if h.leaf.Subject.String() != "CN=old-name" || bytes.Equal(h.key, first.key) {
				t.Errorf("renewed as %s", h.leaf.Subject)
			}
			g.stop()
		})
	}
}

// TestImportOfAChain: what is missing is said; what comes along is put in order, and what does not belong to it left out.
func TestImportOfAChain(t *testing.T) {
	t.Parallel()
	s, other := esttest.New(t, esttest.Options{Intermediate: true}), esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	cert, key := g.brought(s, "mqtt")
	g.tell("import", "mqtt", "--cert", cert, "--key", key).want(t, 0, "imported",
		`^certagent: warning: "CN=.*", which issued it, did not come along and is not trusted \(trusted_certs\): .*\n$`)
	var all []byte
	for _, file := range []string{key, cert} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, "Bag Attributes\n    friendlyName: mqtt\n"...)
		all = append(all, data...)
	}
	all = append(all, other.RootPEM()...)
	stray, _ := g.brought(other, "stray")
	data, err := os.ReadFile(stray)
	if err != nil {
		t.Fatal(err)
	}
	all = append(all, data...)
	all = append(all, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Issuer.Raw})...)
	g.write("all.pem", string(all))
	g.tell("import", "mqtt", "--cert", g.path("all.pem"), "--key", g.path("all.pem"), "--replace").want(t, 0, "imported",
		`^certagent: warning: left out, being neither its chain nor a root: .*stray.*\n$`)
	chain, err := os.ReadFile(g.path("state", "certs", "mqtt", "live", "chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if b, rest := pem.Decode(chain); b == nil || !bytes.Equal(b.Bytes, s.Issuer.Raw) || len(rest) > 0 {
		t.Errorf("the chain is\n%s", chain)
	}
	g.start()
	g.until("the agent at its socket", func() bool { return !g.status().Started.IsZero() })
	g.tell("wait", "mqtt").want(t, 0, "", `.*`)
	g.tell("renew", "--wait").want(t, 0, "mqtt: issued", "")
	g.stop()
}

// TestImportLeavesNothingToOthers: a file that is not root's or the agent's alone is no pair to take over, and what was left
// beside the socket goes at the next start.
func TestImportLeavesNothingToOthers(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(served(s))
	cert, key := g.brought(s, "mqtt")
	var pair []byte
	for _, file := range []string{key, cert} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pair = append(pair, data...)
	}
	if err := os.Mkdir(g.path("run"), 0o755); err != nil {
		t.Fatal(err)
	}
	leave := func(name string, mode fs.FileMode) {
		t.Helper()
		if err := os.WriteFile(g.path("run", name), pair, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(g.path("run", name), mode); err != nil {
			t.Fatal(err)
		}
	}
	leave("import-left.pem", 0o600)
	if err := os.Chtimes(g.path("run", "import-left.pem"), time.Time{}, time.Now().Add(-2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	g.start()
	g.next("mqtt", nil)
	if _, err := os.Lstat(g.path("run", "import-left.pem")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a key was left beside the socket: %v", err)
	}
	leave("import-open.pem", 0o644)
	if err := os.Symlink(key, g.path("run", "import-link.pem")); err != nil {
		t.Fatal(err)
	}
	for file, says := range map[string]string{
		"import-open.pem":          "is not for the agent's user alone",
		"import-link.pem":          "symbolic link",
		"../" + filepath.Base(key): "is no name of a file in",
		"import-/../../x":          "is no name of a file in",
		"import-none.pem":          "no such file",
	} {
		body := fmt.Sprintf(`{"id":"mqtt","file":%q,"replace":true}`, file)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/v1/import", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", g.path("run", "control.sock"))
		}}
		defer transport.CloseIdleConnections()
		answer, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(text), says) {
			t.Errorf("%s: %s %s, want %q", file, answer.Status, text, says)
		}
	}
	g.stop()
}
