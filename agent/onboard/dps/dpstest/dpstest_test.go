package dpstest_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"certagent/agent/onboard/dps/dpstest"
)

// device is what somebody shows, who does as he likes.
type device struct {
	*testing.T
	server *dpstest.Server
	shown  *tls.Certificate // nil: nothing
}

var epoch = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// issue makes a certificate of a month for key, signed by by, or by itself.
func issue(t *testing.T, name string, ca bool, key crypto.Signer, by *tls.Certificate) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: epoch, NotAfter: epoch.AddDate(0, 1, 0), IsCA: ca, BasicConstraintsValid: ca,
	}
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	pair := &tls.Certificate{PrivateKey: key, Leaf: template}
	if by == nil {
		by = pair
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.Leaf, key.Public(), by.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if pair.Leaf, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if pair.Certificate = [][]byte{der}; by != pair {
		pair.Certificate = append(pair.Certificate, by.Certificate...)
	}
	return pair
}

func p256(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   map[string]any
}

// ask sends a request on a connection of its own; the path is below the endpoint.
func (d *device) ask(method, path, kind, body string) (answer, error) {
	d.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(d.server.Root)
	settings := &tls.Config{RootCAs: roots, Time: func() time.Time { return d.server.Root.NotBefore.Add(time.Hour) }, ServerName: "localhost"}
	if d.shown != nil {
		settings.Certificates = []tls.Certificate{*d.shown}
	}
	transport := &http.Transport{TLSClientConfig: settings, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, d.server.Addr())
		}}
	request, err := http.NewRequestWithContext(d.Context(), method, d.server.URL()+path, strings.NewReader(body))
	if err != nil {
		d.Fatal(err)
	}
	request.Header.Set("Content-Type", kind)
	response, err := transport.RoundTrip(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	a := answer{status: response.StatusCode, header: response.Header}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		d.Fatal(err)
	}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &a.body); err != nil {
			d.Fatalf("%v in %s", err, text)
		}
	}
	return a, nil
}

// fails expects an error of DPS's in its whole form.
func (d *device) fails(what string, a answer, err error, code int) {
	d.Helper()
	text, _ := a.body["message"].(string)
	stamp, _ := a.body["timestampUtc"].(string)
	if err != nil || a.status != code/1000 || a.body["errorCode"] != float64(code) || a.header.Get("x-ms-error-code") != strconv.Itoa(code) ||
		text == "" || a.body["trackingId"] != a.header.Get("x-ms-request-id") || stamp != "2030-01-02T03:04:05.0000000Z" {
		d.Errorf("%s: %+v, %v; want error %d", what, a, err, code)
	}
}

// What Azure's service refuses is refused here, lest a client that asks wrongly passes its tests.
func TestRefuses(t *testing.T) {
	root := issue(t, "root", true, p256(t), nil)
	issuer := issue(t, "issuer", true, p256(t), root)
	blocked := issue(t, "blocked", true, p256(t), root)
	good := issue(t, "gw-17", false, p256(t), issuer)
	alone := *good
	alone.Certificate = good.Certificate[:1]
	_, edwards, _ := ed25519.GenerateKey(rand.Reader)
	small, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	modulus, _ := rsa.GenerateKey(rand.Reader, 2048)
	const put, api = "/registrations/gw-17/register", "?api-version=2021-06-01"
	scope, body := "/"+dpstest.DefaultIDScope, `{"registrationId":"gw-17"}`
	for _, tt := range []struct {
		name               string
		shown              *tls.Certificate
		method, path, kind string
		body               string
		code               int // 0: taken
	}{
		{"nothing is wrong", good, "PUT", scope + put + api, "application/json", body, 0},
		{"another case, RSA, a payload", issue(t, "GW-17", false, modulus, issuer), "PUT", scope + put + api, "application/json; charset=utf-8",
			`{"registrationId":"Gw-17","payload":{"a":1}}`, 0},
		{"no version", good, "PUT", scope + put, "application/json", body, 400004},
		{"no such version", good, "PUT", scope + put + "?api-version=2021-06-02", "application/json", body, 400004},
		{"another scope", good, "PUT", "/0neOTHER" + put + api, "application/json", body, 404002},
		{"another path", good, "PUT", scope + "/registrations/gw-17" + api, "application/json", body, 404001},
		{"another method", good, "POST", scope + put + api, "application/json", body, 405001},
		{"no media type", good, "PUT", scope + put + api, "", body, 415001},
		{"another media type", good, "PUT", scope + put + api, "text/plain", body, 415001},
		{"no JSON", good, "PUT", scope + put + api, "application/json", "registrationId", 400004},
		{"no registration id", good, "PUT", scope + put + api, "application/json", "{}", 400004},
		{"another registration id in the body", good, "PUT", scope + put + api, "application/json", `{"registrationId":"gw-18"}`, 400004},
		{"no registration id at all", issue(t, "gw 17.", false, p256(t), issuer), "PUT", scope + "/registrations/gw%2017./register" + api,
			"application/json", `{"registrationId":"gw 17."}`, 400004},
		{"another common name", issue(t, "gw-18", false, p256(t), issuer), "PUT", scope + put + api, "application/json", body, 401002},
		{"another CA", issue(t, "gw-17", false, p256(t), nil), "PUT", scope + put + api, "application/json", body, 401002},
		{"without its issuer", &alone, "PUT", scope + put + api, "application/json", body, 401002},
		{"the group nearest is disabled", issue(t, "gw-17", false, p256(t), blocked), "PUT", scope + put + api, "application/json", body, 401002},
		{"an Ed25519 key", issue(t, "gw-17", false, edwards, issuer), "PUT", scope + put + api, "application/json", body, 401002},
		{"an old curve", issue(t, "gw-17", false, small, issuer), "PUT", scope + put + api, "application/json", body, 401002},
		{"no such operation", good, "GET", scope + "/registrations/gw-17/operations/4.x" + api, "", "", 404203},
		{"another's operation", issue(t, "gw-18", false, p256(t), issuer), "GET", scope + "/registrations/gw-17/operations/4.x" + api, "", "", 401002},
	} {
		s := dpstest.New(t, dpstest.Options{Now: func() time.Time { return epoch }})
		s.EnrolGroup(root.Leaf, dpstest.Enrolment{})
		s.EnrolGroup(blocked.Leaf, dpstest.Enrolment{Disabled: true})
		d := &device{t, s, tt.shown}
		a, err := d.ask(tt.method, tt.path, tt.kind, tt.body)
		if tt.code != 0 {
			d.fails(tt.name, a, err, tt.code)
		} else if err != nil || a.status != 202 || a.body["status"] != "assigning" || a.body["operationId"] == "" ||
			a.header.Get("Retry-After") != "3" || !strings.HasPrefix(a.header.Get("Location"), s.URL()+scope+"/registrations/gw-17/operations/4.") {
			t.Errorf("%s: %+v, %v", tt.name, a, err)
		}
	}

	s := dpstest.New(t, dpstest.Options{Now: func() time.Time { return epoch }})
	if a, err := (&device{t, s, nil}).ask("PUT", scope+put+api, "application/json", body); err == nil {
		t.Errorf("without a certificate: %+v", a)
	}
	for at, name := range map[time.Time]string{epoch.AddDate(0, 2, 0): "expired", epoch.Add(-30 * time.Minute): "not yet valid"} {
		s := dpstest.New(t, dpstest.Options{Now: func() time.Time { return at }})
		s.EnrolIndividual("gw-17", dpstest.Enrolment{}, good.Leaf)
		if a, err := (&device{t, s, good}).ask("PUT", scope+put+api, "application/json", body); err != nil || a.status != 401 {
			t.Errorf("a certificate that is %s: %+v, %v", name, a, err)
		}
	}
}

// A second registration of one id waits for the first; and a device polls five times in ten seconds.
func TestLimits(t *testing.T) {
	var passed atomic.Int64
	s := dpstest.New(t, dpstest.Options{
		Takes: time.Hour, Now: func() time.Time { return epoch.Add(time.Duration(passed.Load())) },
	})
	ca := issue(t, "CA", true, p256(t), nil)
	s.EnrolGroup(ca.Leaf, dpstest.Enrolment{})
	d := &device{t, s, issue(t, "gw-17", false, p256(t), ca)}
	path := "/" + s.IDScope() + "/registrations/gw-17/"
	put := func() (answer, error) {
		return d.ask("PUT", path+"register?api-version=2021-06-01", "application/json", `{"registrationId":"gw-17"}`)
	}
	a, err := put()
	if err != nil || a.status != 202 {
		t.Fatalf("%+v, %v", a, err)
	}
	operation := path + "operations/" + a.body["operationId"].(string) + "?api-version=2021-06-01"
	a, err = put()
	d.fails("a second registration", a, err, 409203)
	for range 5 {
		if a, err := d.ask("GET", operation, "", ""); err != nil || a.status != 202 {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	a, err = d.ask("GET", operation, "", "")
	if d.fails("the sixth poll", a, err, 429001); a.header.Get("Retry-After") != "10" {
		t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
	}
	passed.Store(int64(10 * time.Second))
	if a, err := d.ask("GET", operation, "", ""); err != nil || a.status != 202 {
		t.Errorf("ten seconds later %+v, %v", a, err)
	}
}
