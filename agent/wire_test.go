package agent

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/smallstep/pkcs7"

	"certagent/agent/config"
	"certagent/est"
	"certagent/est/esttest"
	"certagent/store"
	"certagent/store/keys"
)

// gateway is a device on a real network, with the EST client that it has in life. Each turn is one "run --once".
type gateway struct {
	t    *testing.T
	dir  string
	text string // the configuration; DIR stands for dir
	// ahead is by how much its clock is ahead of the server's: a day passes between two turns.
	ahead time.Duration
	dial  func(est.Options) (Enroller, error) // nil: as in life
	logs  syncBuffer
}

func (g *gateway) turn() error {
	g.t.Helper()
	load := func() (*config.Config, error) {
		return config.Parse("config.toml", []byte(strings.ReplaceAll(g.text, "DIR", g.dir)),
			config.Defaults{StateDir: filepath.Join(g.dir, "state"), RunDir: g.dir})
	}
	cfg, err := load()
	if err != nil {
		g.t.Fatal(err)
	}
	s, err := store.Open(filepath.Join(g.dir, "state"), store.Options{})
	if err != nil {
		g.t.Fatal(err)
	}
	defer s.Close()
	a, err := New(Options{
		Config: cfg, Load: load, Store: s, Log: zerolog.New(&g.logs), Synced: func() bool { return false },
		Now: func() time.Time { return time.Now().Add(g.ahead) }, Dial: g.dial,
	})
	if err != nil {
		g.t.Fatal(err)
	}
	return a.Once(g.t.Context())
}

func (g *gateway) mustTurn() {
	g.t.Helper()
	if err := g.turn(); err != nil {
		g.t.Fatalf("%v\nlog:\n%s", err, g.logs.String())
	}
}

func (g *gateway) stored() *store.Certificate {
	g.t.Helper()
	s, err := store.View(filepath.Join(g.dir, "state"))
	if err != nil {
		g.t.Fatal(err)
	}
	c, err := s.Certificate("mqtt")
	if err != nil {
		g.t.Fatal(err)
	}
	return c
}

func (g *gateway) live() *store.Generation {
	g.t.Helper()
	live, err := g.stored().Live()
	if err != nil {
		g.t.Fatalf("%v\nlog:\n%s", err, g.logs.String())
	}
	return live
}

// newGateway writes the anchors to ca.pem, and has the certificate mqtt of server. more goes into its table.
func newGateway(t *testing.T, server *esttest.Server, est, auth, more string) *gateway {
	t.Helper()
	g := &gateway{t: t, dir: t.TempDir()}
	writeFile(t, filepath.Join(g.dir, "ca.pem"), server.RootPEM())
	g.text = "[cert_issuance.est]\n" + est + "\n[cert_issuance.est.auth]\n" + auth +
		"\n[cert_issuance.est.urls]\ndefault = \"" + server.URL() + "\"\n[cert_issuance.certs.mqtt]\ncommon_name = \"mqtt\"\n" + more
	return g
}

const (
	trustFile = `trusted_certs = ["DIR/ca.pem"]`
	byUser    = "username = \"estuser\"\npassword = \"estpwd\"\n"
)

// operations are those of all logins that were answered with success, with what each was made by.
func operations(s *esttest.Server) (all []string) {
	for _, l := range s.Logins() {
		if l.Status == http.StatusOK && l.Issued != nil {
			all = append(all, l.Operation+" by "+l.By())
		}
	}
	return all
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// TestRenewalAtAnotherHost: where certificate logins live on a host of their own, the first certificate comes from url and
// its renewals from renew_url; with rotate_key = false with the same key, as some services demand. Each server's CA counts
// for that server alone, and the second knows the root of the first and no more: the login brings its chain along.
func TestRenewalAtAnotherHost(t *testing.T) {
	first := esttest.New(t, esttest.Options{Intermediate: true})
	second := esttest.New(t, esttest.Options{LikeLibest: true, ClientCAs: []*x509.Certificate{first.Root}})
	first.RefuseCertificates(func(*x509.Certificate) bool { return true })
	g := newGateway(t, first, "trusted_certs = [\"DIR/ca.pem\", \"DIR/second.pem\"]", byUser,
		"renew_url = \""+second.URL()+"\"\n[cert_issuance.certs.mqtt.auto_renew]\nrotate_key = false\njitter = \"0%\"\n")
	writeFile(t, filepath.Join(g.dir, "second.pem"), second.RootPEM())
	g.mustTurn()
	before := g.live()
	g.ahead = 20 * time.Hour
	g.mustTurn()
	after := g.live()
	same(t, "first server", operations(first), "simpleenroll by password")
	same(t, "second server", operations(second), "simplereenroll by certificate")
	if after.Number != 2 || !keys.Equal(before.Key.Public(), after.Key.Public()) {
		t.Errorf("generation %d, same key: %v", after.Number, keys.Equal(before.Key.Public(), after.Key.Public()))
	}
	if len(after.CAs) == 0 || !after.CAs[0].Equal(second.Root) {
		t.Error("what issued the renewed certificate is not the second server's CA")
	}
	for _, name := range []string{first.Addr(), second.Addr()} {
		file := filepath.Join(g.dir, "state/trust", strings.ReplaceAll(name, ":", "_")+".pem")
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
}

// TestBornOfAnotherCA: a device's birth certificate comes from its manufacturer (RFC 7030 section 3.3.2), of whose CAs the
// EST server knows the root.
func TestBornOfAnotherCA(t *testing.T) {
	manufacturer := esttest.New(t, esttest.Options{Intermediate: true})
	server := esttest.New(t, esttest.Options{ClientCAs: []*x509.Certificate{manufacturer.Root}})
	g := newGateway(t, server, trustFile,
		"bootstrap_identity_cert = \"file://DIR/born.pem\"\nbootstrap_identity_pk = \"file://DIR/born.key.pem\"\n", "")
	certificate, key := manufacturer.IssueBootstrap("serial-0815", time.Hour)
	writeFile(t, filepath.Join(g.dir, "born.pem"), certificate)
	writeFile(t, filepath.Join(g.dir, "born.key.pem"), key)
	g.mustTurn()
	same(t, "logins", operations(server), "simpleenroll by certificate")
}

// TestEnrolmentCode: a login by a code alone, without a user name (RFC 7030 section 3.2.3).
func TestEnrolmentCode(t *testing.T) {
	server := esttest.New(t, esttest.Options{})
	server.Always("simpleenroll", func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		if user, code, ok := r.BasicAuth(); !ok || user != "" || code != "enrolment code" {
			w.Header().Set("WWW-Authenticate", `Basic realm="codes"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		answer, err := issue(server, r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/pkcs7-mime; smime-type=certs-only")
		w.Write(answer)
	})
	g := newGateway(t, server, trustFile, "username = \"\"\npassword = \"enrolment code\"\n", "")
	g.mustTurn()
	if live := g.live(); live.Meta.Identity != string(identityPassword) {
		t.Errorf("logged in as %s", live.Meta.Identity)
	}
	if strings.Contains(g.logs.String(), "enrolment code") {
		t.Error("the code is in the log")
	}
}

// issue answers a request as an enrolment does: base64 of a certs-only message (RFC 7030 section 4.2.3).
func issue(server *esttest.Server, body io.Reader) ([]byte, error) {
	der, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, body))
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	cert, err := server.Issue(csr)
	if err != nil {
		return nil, err
	}
	message, err := pkcs7.DegenerateCertificate(cert.Raw)
	return base64.StdEncoding.AppendEncode(nil, message), err
}

// TestApprovalByDate: a 202 whose Retry-After is a date is waited for over a restart, and then the same bytes are sent again
// (RFC 7030 section 4.2.3).
func TestApprovalByDate(t *testing.T) {
	server := esttest.New(t, esttest.Options{})
	var bodies []string
	until := time.Now().Add(3 * time.Hour).UTC()
	server.Always("simpleenroll", func(w http.ResponseWriter, r *http.Request, real http.Handler) {
		if _, _, ok := r.BasicAuth(); ok {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			bodies = append(bodies, string(body))
			r.Body = io.NopCloser(strings.NewReader(string(body)))
			if len(bodies) == 1 {
				esttest.Status(http.StatusAccepted, "Retry-After", until.Format(http.TimeFormat))(w, r, real)
				return
			}
		}
		real.ServeHTTP(w, r)
	})
	g := newGateway(t, server, trustFile, byUser, "")
	if err := g.turn(); !errors.Is(err, est.ErrPending) {
		t.Fatalf("first turn: %v", err)
	}
	retry, err := g.stored().Retry()
	if wait := until.Sub(retry.PendingUntil).Abs(); err != nil || wait > 2*time.Second {
		t.Errorf("waits until %v, %v; the server said %v", retry.PendingUntil, err, until)
	}
	g.ahead = 2 * time.Hour
	if err := g.turn(); err == nil || !strings.Contains(err.Error(), "approval") {
		t.Errorf("turn before the date: %v", err)
	}
	g.ahead = 3*time.Hour + time.Minute
	g.mustTurn()
	if len(bodies) != 2 || bodies[0] != bodies[1] {
		t.Errorf("%d requests, the same: %v", len(bodies), len(bodies) == 2 && bodies[0] == bodies[1])
	}
	g.live()
}

// TestRedirectToANamedHost: redirect_hosts lets an enrolment go where the configured server sends it, and nothing else does
// (RFC 7030 section 3.2.1).
func TestRedirectToANamedHost(t *testing.T) {
	target := esttest.New(t, esttest.Options{})
	front := esttest.New(t, esttest.Options{})
	front.Always("simpleenroll", esttest.Status(http.StatusTemporaryRedirect, "Location", target.URL()+"/simpleenroll"))
	front.Always("cacerts", esttest.Status(http.StatusTemporaryRedirect, "Location", target.URL()+"/cacerts"))
	both := "trusted_certs = [\"DIR/ca.pem\", \"DIR/target.pem\"]\n"
	g := newGateway(t, front, both, byUser, "")
	writeFile(t, filepath.Join(g.dir, "target.pem"), target.RootPEM())
	if err := g.turn(); err == nil {
		t.Error("it went where nobody allowed it to go")
	}
	if ops := operations(target); len(ops) != 0 {
		t.Errorf("at the other server: %q", ops)
	}
	g.text = strings.Replace(g.text, both, both+"redirect_hosts = [\""+target.Addr()+"\"]\n", 1)
	g.ahead = time.Hour
	g.mustTurn()
	same(t, "at the named server", operations(target), "simpleenroll by password")
}

// TestFirstTrustByFingerprint: from nothing but a fingerprint to a certificate, over the real wire. The first connection
// carries /cacerts alone.
func TestFirstTrustByFingerprint(t *testing.T) {
	server := esttest.New(t, esttest.Options{})
	g := newGateway(t, server, "bootstrap_fingerprint = \""+thumbprint(server.Root)+"\"", byUser, "")
	g.mustTurn()
	logins := server.Logins()
	if first := logins[0]; first.Operation != opCACerts || first.Username != "" || first.Certificate != nil {
		t.Errorf("first request: %v", first)
	}
	for _, l := range logins[1:] {
		if l.Connection == logins[0].Connection {
			t.Errorf("%s went over the connection that nobody vouched for", l.Operation)
		}
	}
	g.ahead = 20 * time.Hour
	g.mustTurn()
	same(t, "issued", operations(server), "simpleenroll by password", "simplereenroll by certificate")

	other := esttest.New(t, esttest.Options{})
	g = newGateway(t, other, "bootstrap_fingerprint = \""+thumbprint(server.Root)+"\"", byUser, "")
	if err := g.turn(); err == nil || !strings.Contains(err.Error(), thumbprint(other.Root)) {
		t.Errorf("a server with another CA: %v", err)
	}
	if n := len(other.Logins()); n != 1 {
		t.Errorf("%d requests to a server that is not the one", n)
	}
}

func viewTrust(g *gateway, url string) (store.Trust, error) {
	s, err := store.View(filepath.Join(g.dir, "state"))
	if err != nil {
		g.t.Fatal(err)
	}
	return s.Trust(url)
}

// TestChangeOfTheCAKey: a device that heard of the CA's new key while the old one was in use goes on when it is not, with the
// old root alone in trusted_certs, or known by its fingerprint alone, even if the record of it is lost (RFC 7030 section
// 4.1.3).
func TestChangeOfTheCAKey(t *testing.T) {
	for _, byFingerprint := range []bool{false, true} {
		t.Run(fmt.Sprintf("fingerprint %v", byFingerprint), func(t *testing.T) {
			server := esttest.New(t, esttest.Options{Lifetime: 10 * day})
			trust := trustFile
			if byFingerprint {
				trust = "bootstrap_fingerprint = \"" + thumbprint(server.Root) + "\""
			}
			g := newGateway(t, server, trust, byUser, "[cert_issuance.certs.mqtt.auto_renew]\njitter = \"0%\"\n")
			g.mustTurn()
			rollover := server.Rollover()
			g.ahead = 204 * time.Hour // past four fifths
			g.mustTurn()
			server.FinishRollover()
			if byFingerprint {
				remove(t, filepath.Join(g.dir, "state/trust", strings.ReplaceAll(server.Addr(), ":", "_")+".json"))
			}
			g.ahead = 220 * time.Hour // past the guard of a certificate that was born due
			g.mustTurn()
			live := g.live()
			if live.Number != 3 {
				t.Errorf("generation %d", live.Number)
			}
			if err := live.Leaf.CheckSignatureFrom(rollover.NewWithNew); err != nil {
				t.Errorf("the last certificate is not of the new root: %v", err)
			}
			known, err := viewTrust(g, server.URL())
			if err != nil || !slices.ContainsFunc(known.TLSAnchors, rollover.NewWithNew.Equal) {
				t.Errorf("of %d CA certificates %d are anchors for TLS, the new root is not among them; %v",
					len(known.CAs), len(known.TLSAnchors), err)
			}
			if n := strings.Count(g.logs.String(), "CA certificates changed"); n < 2 {
				t.Errorf("%d changes of the CA certificates are in the log", n)
			}
		})
	}
}

// TestLinkingOnTheWire: a server that demands proof of possession gets it at the enrolment and at the renewal, and that it
// does is remembered (RFC 7030 section 3.5).
func TestLinkingOnTheWire(t *testing.T) {
	for _, libest := range []bool{false, true} {
		server := esttest.New(t, esttest.Options{LikeLibest: libest, ProofOfPossession: true})
		g := newGateway(t, server, trustFile, byUser, "[cert_issuance.certs.mqtt.auto_renew]\njitter = \"0%\"\n")
		g.mustTurn()
		g.ahead = 20 * time.Hour
		g.mustTurn()
		same(t, fmt.Sprintf("libest %v", libest), operations(server), "simpleenroll by password", "simplereenroll by certificate")
		if trust, err := viewTrust(g, server.URL()); err != nil || !trust.Linking || len(trust.Attributes) == 0 {
			t.Errorf("libest %v: remembered: linking %v, %d bytes of attributes, %v", libest, trust.Linking, len(trust.Attributes), err)
		}
		if p, err := g.stored().Pending(); p != nil || err != nil {
			t.Errorf("libest %v: left pending: %v, %v", libest, p, err)
		}
	}
}

// TestAttributesOnTheWire: the tutorial's server asks for a key on P-384 with SHA-384, and gets it where nothing else is
// configured.
func TestAttributesOnTheWire(t *testing.T) {
	server := esttest.New(t, esttest.Options{LikeLibest: true})
	g := newGateway(t, server, trustFile, byUser, "")
	g.mustTurn()
	if live := g.live(); live.Key.Algorithm() != keys.ECP384 {
		t.Errorf("a key of kind %s", live.Key.Algorithm())
	}
	if strings.Contains(g.logs.String(), "the server asks for") {
		t.Errorf("what the tutorial's server names and does not need is in the log: %s", g.logs.String())
	}
	g = newGateway(t, server, trustFile, byUser, "key = \"rsa-2048\"\n")
	g.mustTurn()
	if live := g.live(); live.Key.Algorithm() != keys.RSA2048 {
		t.Errorf("a key of kind %s where rsa-2048 is configured", live.Key.Algorithm())
	}
	if !strings.Contains(g.logs.String(), "another kind of key") {
		t.Error("that the server asks for another one is not in the log")
	}
}
