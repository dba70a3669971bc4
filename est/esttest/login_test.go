package esttest_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/est/esttest"
)

func TestLogin(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		s := esttest.New(t, esttest.Options{LikeLibest: libest, Workers: 5})
		asking := esttest.New(t, esttest.Options{LikeLibest: libest, Workers: 5, AskPassword: true})
		for _, tt := range []struct {
			name        string
			server      *esttest.Server
			certificate bool
			password    string
			status      int
			by          string
		}{
			{"nothing", s, false, "", 401, "none"},
			{"certificate", s, true, "", 200, "certificate"},
			{"password", s, false, "estpwd", 200, "password"},
			{"both", s, true, "estpwd", 200, "certificate+password"},
			{"wrong password", s, false, "guess", 401, "none"},
			{"certificate and wrong password", s, true, "guess", 200, "certificate"},
			{"password demanded, certificate", asking, true, "", 401, "certificate"},
			{"password demanded, password", asking, false, "estpwd", 200, "password"},
			{"password demanded, both", asking, true, "estpwd", 200, "certificate+password"},
			{"password demanded, certificate and wrong password", asking, true, "guess", 401, "certificate"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				var options []clientOption
				if tt.certificate {
					options = append(options, withCert(born(t, tt.server, "born", time.Hour)))
				}
				if tt.password != "" {
					options = append(options, withPassword("estuser", tt.password))
				}
				c := newClient(t, tt.server, options...)
				defer c.http.CloseIdleConnections()
				c.post("simpleenroll", csrFor(t, "device")).want(t, tt.status)

				logins := tt.server.Logins()
				last := logins[len(logins)-1]
				if last.By() != tt.by || last.Status != tt.status || last.Operation != "simpleenroll" ||
					(last.Issued != nil) != (tt.status == 200) || (last.Certificate != nil) != tt.certificate {
					t.Errorf("recorded as %s", last)
				}
			})
		}
	})
}

// What counts as a certificate of the CA: whatever it issued, and nothing else.
func TestLoginCertificate(t *testing.T) {
	manufacturer := esttest.New(t, esttest.Options{})
	stranger := esttest.New(t, esttest.Options{})
	options := esttest.Options{ClientCAs: []*x509.Certificate{manufacturer.Root}, Intermediate: true}
	s := esttest.New(t, options)
	options.RefuseByAlert = true
	alerting := esttest.New(t, options)

	for _, tt := range []struct {
		name string
		cert func(s *esttest.Server) tls.Certificate
		good bool
	}{
		{"bootstrap", func(s *esttest.Server) tls.Certificate { return born(t, s, "b", time.Hour) }, true},
		{"leaf without the chain", func(s *esttest.Server) tls.Certificate {
			c := born(t, s, "b", time.Hour)
			c.Certificate = c.Certificate[:1]
			return c
		}, true},
		{"manufacturer's", func(*esttest.Server) tls.Certificate { return born(t, manufacturer, "m", time.Hour) }, true},
		{"expired", func(s *esttest.Server) tls.Certificate { return born(t, s, "b", -time.Minute) }, false},
		{"stranger's", func(*esttest.Server) tls.Certificate { return born(t, stranger, "x", time.Hour) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status := map[bool]int{true: 200, false: 401}[tt.good]
			newClient(t, s, withCert(tt.cert(s))).post("simpleenroll", csrFor(t, "device")).want(t, status)

			r := newClient(t, alerting, withCert(tt.cert(alerting))).get("cacerts")
			if tt.good {
				r.want(t, 200)
			} else if r.err == nil {
				t.Error("the handshake succeeded, though refusals shall be alerts")
			}
		})
	}
}

func TestRefuseCertificates(t *testing.T) {
	faces(t, func(t *testing.T, libest bool) {
		for _, alert := range []bool{false, true} {
			s := esttest.New(t, esttest.Options{LikeLibest: libest, Workers: 5, RefuseByAlert: alert})
			refused, good := born(t, s, "refused", time.Hour), born(t, s, "good", time.Hour)
			s.RefuseCertificates(func(c *x509.Certificate) bool { return c.Subject.CommonName == "refused" })

			r := newClient(t, s, withCert(refused)).post("simpleenroll", csrFor(t, "device"))
			if alert && (r.err == nil || len(s.Logins()) != 0) {
				t.Errorf("answer %v, %d logins; want a failed handshake", r.Response, len(s.Logins()))
			}
			if !alert {
				r.want(t, http.StatusUnauthorized)
				if l := s.Logins()[0]; !l.Refused || l.Certificate == nil || l.By() != "none" {
					t.Errorf("recorded as %s", l)
				}
			}
			newClient(t, s, withCert(good)).post("simpleenroll", csrFor(t, "device")).want(t, http.StatusOK)

			s.RefuseCertificates(nil)
			newClient(t, s, withCert(refused)).post("simpleenroll", csrFor(t, "device")).want(t, http.StatusOK)
		}
	})
}

func TestLoginConnection(t *testing.T) {
	s := esttest.New(t, esttest.Options{})
	a, b := newClient(t, s), newClient(t, s)
	a.get("cacerts").want(t, 200)
	a.get("cacerts").want(t, 200)
	b.get("cacerts").want(t, 200)
	var numbers []int
	for _, l := range s.Logins() {
		numbers = append(numbers, l.Connection)
	}
	if !slices.Equal(numbers, []int{1, 1, 2}) || s.Connections() != 2 {
		t.Errorf("requests on connections %d, of %d", numbers, s.Connections())
	}
}

func TestLoginString(t *testing.T) {
	l := esttest.Login{
		Time:      time.Date(2025, 6, 1, 14, 0, 0, 0, time.FixedZone("", 7200)),
		Operation: "simpleenroll",
		Status:    200,
		Username:  "estuser",
	}
	want := `time=2025-06-01T12:00:00Z op=simpleenroll status=200 login=password login_cn="" login_serial= ` +
		`issued_cn="" issued_serial= not_after=`
	if got := l.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	l.Certificate = &x509.Certificate{SerialNumber: big.NewInt(0xa0b)}
	l.Certificate.Subject.CommonName = "a \"b\"\n"
	l.Issued = &x509.Certificate{SerialNumber: big.NewInt(0xfff), NotAfter: time.Date(2025, 6, 2, 12, 0, 0, 0, time.UTC)}
	l.Issued.Subject.CommonName = "device"
	l.Operation = "no such\nthing"
	want = `time=2025-06-01T12:00:00Z op="no such\nthing" status=200 login=certificate+password ` +
		`login_cn="a \"b\"\n" login_serial=0A0B issued_cn="device" issued_serial=0FFF not_after=2025-06-02T12:00:00Z`
	if got := l.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestWait(t *testing.T) {
	s := esttest.New(t, esttest.Options{})
	two := func(l []esttest.Login) bool { return len(l) == 2 }
	done := make(chan error)
	go func() { done <- s.Wait(t.Context(), two) }() // ends with the second request
	c := newClient(t, s)
	c.get("cacerts").want(t, 200)
	select {
	case err := <-done:
		t.Fatalf("Wait returned %v before the second request", err)
	default:
	}
	c.get("csrattrs").want(t, 200)
	if err := <-done; err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(ctx, two); err != nil {
		t.Errorf("a condition that holds is not met after all: %v", err)
	}
	err := s.Wait(ctx, func([]esttest.Login) bool { return false })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "op=csrattrs") {
		t.Errorf("Wait on a dead context: %v", err)
	}
}
