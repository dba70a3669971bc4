package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/agent/status"
	"certagent/est/esttest"
	"certagent/store/keys"
)

// tutorial is the configuration of IoT Edge's EST tutorial, with its paths and port adapted and nothing else.
func tutorial(t *testing.T, s *esttest.Server, change ...string) string {
	t.Helper()
	data, err := os.ReadFile("../../examples/tutorial.toml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	pairs := append([]string{
		"file:///var/aziot/certs/cacert.crt.pem", "file://" + s.CAFile(),
		"https://localhost:8085/.well-known/est", s.URL(),
	}, change...)
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the tutorial's configuration has no %q", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// TestTutorial is the tutorial's walk on both faces of the server, which asks for the password always, as the tutorial's
// own does.
func TestTutorial(t *testing.T) {
	for _, libest := range []bool{false, true} {
		for _, rotate := range []bool{false, true} {
			t.Run(fmt.Sprintf("libest=%v/rotate_key=%v", libest, rotate), func(t *testing.T) {
				t.Parallel()
				s := esttest.New(t, esttest.Options{LikeLibest: libest, AskPassword: true, Workers: 5})
				g := newGateway(t)
				g.configure(tutorial(t, s, "rotate_key = false", fmt.Sprintf("rotate_key = %v", rotate)))
				g.start()
				first := g.next("device-id", nil)
				if cn := first.leaf.Subject.CommonName; cn != "myiotedgedevice" {
					t.Errorf("common name is %q", cn)
				}
				roots := x509.NewCertPool()
				roots.AppendCertsFromPEM(s.RootPEM())
				if _, err := first.leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
					t.Errorf("the certificate does not verify: %v", err)
				}
				if gen := filepath.Base(first.dir); gen != "gen-000001" {
					t.Errorf("live is %s", gen)
				}
				g.until("status valid", func() bool { return g.certificate("device-id").State == status.Valid })

				g.signal(syscall.SIGUSR1)
				second := g.next("device-id", &first)
				if gen := filepath.Base(second.dir); gen != "gen-000002" {
					t.Errorf("live is %s after the signal", gen)
				}
				if same := bytes.Equal(first.key, second.key); same == rotate {
					t.Errorf("same public key: %v with rotate_key = %v", same, rotate)
				}
				all := s.Logins()
				last := all[len(all)-1]
				if last.Operation != "simplereenroll" || last.Certificate == nil || last.Username != "estuser" {
					t.Errorf("the renewal was not a simplereenroll by the certificate beside the password:\n%s", describe(all))
				}
				// The password is sent when it is asked for and not before: each success follows a 401.
				for i, l := range all {
					if l.Username != "" && (i == 0 || all[i-1].Status != 401) {
						t.Errorf("the password was sent without being asked for:\n%s", describe(all))
					}
				}
				g.stop()
			})
		}
	}
}

// TestTutorialsRenewalTest stops the agent, removes all keys and certificates, and starts it again.
func TestTutorialsRenewalTest(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(tutorial(t, s))
	g.start()
	first := g.next("device-id", nil)
	g.stop()
	if err := os.RemoveAll(g.path("state")); err != nil {
		t.Fatal(err)
	}
	g.start()
	second := g.next("device-id", &first)
	if bytes.Equal(first.key, second.key) {
		t.Error("the new certificate has the removed key")
	}
	g.stop()
}

// production is the tutorial's production form: a bootstrap certificate in place of the password, and an EST identity.
func production(s *esttest.Server, g *gateway) string {
	cert, key := s.IssueBootstrap("factory", 24*time.Hour)
	g.write("bootstrap.pem", string(cert))
	g.write("bootstrap.key.pem", string(key))
	return fmt.Sprintf(`
[provisioning]
source = "dps"
global_endpoint = "https://global.azure-devices-provisioning.net"
id_scope = "<DPS-ID-SCOPE>"
[provisioning.attestation]
method = "x509"
registration_id = "gateway"
[provisioning.attestation.identity_cert]
method = "est"
common_name = "gateway"
[provisioning.attestation.identity_cert.auto_renew]
rotate_key = true
threshold = "50%%"
retry = "4%%"
jitter = "0%%"
[cert_issuance.est]
trusted_certs = ["file://%s"]
[cert_issuance.est.auth]
bootstrap_identity_cert = "file://%s"
bootstrap_identity_pk = "file://%s"
[cert_issuance.est.identity_auto_renew]
rotate_key = true
threshold = "50%%"
retry = "4%%"
jitter = "0%%"
[cert_issuance.est.urls]
default = "%s"
`, s.CAFile(), g.path("bootstrap.pem"), g.path("bootstrap.key.pem"), s.URL())
}

// TestProductionForm is the whole story of a gateway, counted at the server: the bootstrap certificate logs in once, then
// the EST identity and what came of it; both expire in an outage; the bootstrap certificate brings them back.
func TestProductionForm(t *testing.T) {
	t.Parallel()
	// A renewal has half of a lifetime. A machine with much else to do was seen to take three seconds for one.
	s := esttest.New(t, esttest.Options{Lifetime: 12 * time.Second})
	g := newGateway(t)
	g.configure(production(s, g))
	g.start()
	bootstraps := func(all []esttest.Login) (n int) {
		for _, l := range all {
			if l.Issued != nil && l.Certificate.Subject.CommonName == "factory" {
				n++
			}
		}
		return n
	}
	issued := func(all []esttest.Login) (n int) {
		for _, l := range all {
			if l.Issued != nil {
				n++
			}
		}
		return n
	}
	logins(t, s, "two certificates, each renewed twice", func(all []esttest.Login) bool { return issued(all) >= 6 })
	all := s.Logins()
	if n := bootstraps(all); n != 1 {
		t.Errorf("the bootstrap certificate logged in %d times, want once:\n%s", n, describe(all))
	}
	var served []esttest.Login
	for _, l := range all {
		if l.Issued != nil {
			served = append(served, l)
		}
	}
	if l := served[1]; l.Operation != "simpleenroll" || l.Certificate.SerialNumber.Cmp(served[0].Issued.SerialNumber) != 0 {
		t.Errorf("device-id was not enrolled by the EST identity:\n%s", describe(all))
	}
	for _, l := range served[2:] {
		if l.Operation != "simplereenroll" {
			t.Errorf("a renewal was no simplereenroll: %s", l)
		}
	}

	s.Stop()
	g.until("both expired", func() bool {
		g.mustRun()
		snapshot := g.status()
		return snapshot.ExitCode() == status.ExitExpired &&
			g.certificate("est-id").State == status.Expired && g.certificate("device-id").State == status.Expired
	})
	est, device := g.mustRead("est-id"), g.mustRead("device-id")
	before := len(s.Logins())
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	g.next("est-id", &est)
	g.next("device-id", &device)
	after := s.Logins()[before:]
	if n := bootstraps(after); n < 1 || n > 2 {
		t.Errorf("after the outage the bootstrap certificate logged in %d times:\n%s", n, describe(after))
	}
	g.stop()
}

// TestDeletedFilesAreIssuedAnew: whoever deletes a certificate or its key gets a new one at once.
func TestDeletedFilesAreIssuedAnew(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(tutorial(t, s))
	g.start()
	was := g.next("device-id", nil)
	for _, name := range []string{"cert.pem", "key.pem"} {
		if err := os.Remove(filepath.Join(was.dir, name)); err != nil {
			t.Fatal(err)
		}
		was = g.next("device-id", &was)
	}
	for _, dir := range []string{g.path("state", "certs"), g.path("state")} {
		// One rename takes it away; a removal would race with the agent, which begins to put things back at once.
		if err := os.Rename(dir, dir+".gone"); err != nil {
			t.Fatal(err)
		}
		was = g.next("device-id", &was)
	}
	g.stop()
}

// TestConfigurationFile: saving it reloads it; a bad save, and a bad file at start, leave the last good one in force.
func TestConfigurationFile(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	good := tutorial(t, s)
	g.configure(good)
	g.start()
	g.next("device-id", nil)

	second := good + "\n[cert_issuance.certs.mqtt]\nmethod = \"est\"\ncommon_name = \"mqtt\"\n"
	g.configure(second)
	mqtt := g.next("mqtt", nil)

	g.configure(strings.Replace(second, "common_name", "comon_name", 1))
	g.until("the bad file in the log", func() bool { return strings.Contains(g.log.String(), "comon_name") })
	g.mustRun()
	g.signal(syscall.SIGUSR1)
	mqtt = g.next("mqtt", &mqtt)
	g.stop()

	g.start() // with the bad file
	g.until("the agent running", func() bool { return g.status().Running })
	g.signal(syscall.SIGUSR1)
	g.next("mqtt", &mqtt)
	if p := g.status().Problems; len(p) != 1 || p[0].Code != "config-invalid" || !strings.Contains(p[0].Text, "comon_name") {
		t.Errorf("problems with a bad file: %+v", p)
	}
	g.configure(second)
	g.signal(syscall.SIGHUP)
	g.until("the good file in force", func() bool { return strings.Contains(g.log.String(), `"message":"configuration loaded"`) })
	g.stop()
}

// TestConfigMap: Kubernetes replaces the files of a volume by renaming the link through which they lead, and that reloads them.
func TestConfigMap(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	replace := func(version, text string) {
		t.Helper()
		if err := errors.Join(os.Mkdir(g.path(version), 0o755), os.Symlink(version, g.path("..data_tmp"))); err != nil {
			t.Fatal(err)
		}
		g.write(version+"/config.toml", fmt.Sprintf("state_dir = %q\nrun_dir = %q\n", g.path("state"), g.path("run"))+text)
		if err := os.Rename(g.path("..data_tmp"), g.path("..data")); err != nil {
			t.Fatal(err)
		}
	}
	first := tutorial(t, s)
	replace("..1", first)
	if err := os.Symlink("..data/config.toml", g.path("config.toml")); err != nil {
		t.Fatal(err)
	}
	g.start()
	g.next("device-id", nil)
	replace("..2", first+"\n[cert_issuance.certs.mqtt]\ncommon_name = \"mqtt\"\n")
	g.next("mqtt", nil)
	g.stop()
}

// TestKilledAtAnyMoment kills the agent with SIGKILL while it enrols, at moments that the server chooses and at random
// ones, and starts it again: a matching pair is live, or there is none yet and the key of the pending request is used again.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{Lifetime: time.Hour})
	g := newGateway(t)
	g.configure(tutorial(t, s, "rotate_key = false", "rotate_key = true"))
	pendingKey := func() []byte {
		// The pending request is written before it is sent and replaced as a whole.
		data, err := os.ReadFile(g.path("state", "certs", "device-id", "pending", "key.pem"))
		if err != nil {
			return nil
		}
		return data
	}
	var before *held
	for n := range 24 {
		said := len(g.log.String())
		g.start()
		if before != nil {
			g.until("the agent running", func() bool { return strings.Contains(g.log.String()[said:], `"message":"agent started"`) })
			g.signal(syscall.SIGUSR1)
		}
		time.Sleep(time.Duration(rand.Int64N(int64(25 * time.Millisecond)))) // the moment is what is tested
		g.kill()
		was := pendingKey()
		h, err := g.read("device-id")
		if err != nil && before != nil {
			t.Fatalf("kill %d: there was a pair and now: %v", n, err)
		}
		if err == nil {
			before = &h
		}
		if was == nil || err == nil && bytes.Equal(was, h.keyFile(t)) {
			continue // nothing was on its way, or the certificate is live and the request was about to go
		}
		// A request was on its way: its key must be the one that gets the certificate.
		g.start()
		var after held
		g.until("the pending request finished", func() bool {
			after, err = g.read("device-id")
			return err == nil && pendingKey() == nil
		})
		g.kill()
		if !bytes.Equal(after.keyFile(t), was) {
			t.Errorf("kill %d: the pending key was not used", n)
		}
		before = &after
	}
}

// TestTwoAgents: the second on one state directory is refused, and says why.
func TestTwoAgents(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	g := newGateway(t)
	g.configure(tutorial(t, s))
	g.start()
	g.next("device-id", nil)
	for _, args := range [][]string{{"run"}, {"run", "--once"}} {
		out, err := g.command(args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "another agent holds the state directory") {
			t.Errorf("certagent %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	g.stop()
	if out, err := g.command("run", "--once").CombinedOutput(); err != nil {
		t.Errorf("run --once with no agent running: %v\n%s", err, out)
	}
}

// TestKinds: every kind of key is enrolled and renewed, with rotate_key both ways in turn.
func TestKinds(t *testing.T) {
	t.Parallel()
	for _, libest := range []bool{false, true} {
		t.Run(fmt.Sprintf("libest=%v", libest), func(t *testing.T) {
			t.Parallel()
			s := esttest.New(t, esttest.Options{LikeLibest: libest, Workers: 5})
			g := newGateway(t)
			text := fmt.Sprintf("[cert_issuance.est]\ntrusted_certs = [\"file://%s\"]\n[cert_issuance.est.auth]\nusername = \"estuser\"\n"+
				"password = \"estpwd\"\n[cert_issuance.est.urls]\ndefault = %q\n", s.CAFile(), s.URL())
			kinds := []string{"ec-p256", "ec-p384", "ec-p521", "rsa-2048", "rsa-3072", "ed25519"}
			for i, kind := range kinds {
				text += fmt.Sprintf("[cert_issuance.certs.%s]\nmethod = \"est\"\ncommon_name = %[1]q\nkey = %[1]q\n"+
					"[cert_issuance.certs.%[1]s.auto_renew]\nrotate_key = %[2]v\n", kind, i%2 == 0)
			}
			g.configure(text)
			g.start()
			first := map[string]held{}
			for _, kind := range kinds {
				first[kind] = g.next(kind, nil)
			}
			g.signal(syscall.SIGUSR1)
			for i, kind := range kinds {
				before := first[kind]
				after := g.next(kind, &before)
				if same := bytes.Equal(before.key, after.key); same == (i%2 == 0) {
					t.Errorf("%s: same key %v with rotate_key = %v", kind, same, i%2 == 0)
				}
				key, err := x509.ParsePKIXPublicKey(after.key)
				if err != nil || keys.AlgorithmOf(key) != keys.Algorithm(kind) {
					t.Errorf("%s: the key is %T, %v", kind, key, err)
				}
			}
			g.stop()
		})
	}
}

// TestRefusedIdentity: a server that takes neither the certificate nor the EST identity any more, by status or in the
// handshake, gets the bootstrap certificate, long before the old ones expire.
func TestRefusedIdentity(t *testing.T) {
	t.Parallel()
	for _, alert := range []bool{false, true} {
		for _, libest := range []bool{false, true} {
			t.Run(fmt.Sprintf("alert=%v/libest=%v", alert, libest), func(t *testing.T) {
				t.Parallel()
				s := esttest.New(t, esttest.Options{RefuseByAlert: alert, LikeLibest: libest, Workers: 5, Lifetime: time.Minute})
				g := newGateway(t)
				g.configure(production(s, g))
				g.start()
				est, device := g.next("est-id", nil), g.next("device-id", nil)
				s.RefuseCertificates(func(c *x509.Certificate) bool { return c.Subject.CommonName != "factory" })
				g.signal(syscall.SIGUSR1)
				newEST, newDevice := g.next("est-id", &est), g.next("device-id", &device)
				for id, h := range map[string]held{"est-id": newEST, "device-id": newDevice} {
					if time.Until(h.leaf.NotAfter) < 0 {
						t.Errorf("%s is expired", id)
					}
					if c := g.certificate(id); c.LastIdentity != "bootstrap-certificate" {
						t.Errorf("%s was got by %s", id, c.LastIdentity)
					}
				}
				if !device.leaf.NotAfter.After(time.Now()) {
					t.Error("the old certificate had expired by then: this tested something else")
				}
				g.stop()
			})
		}
	}
}
