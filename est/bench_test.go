package est_test

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"certagent/est"
	"certagent/est/esttest"
)

// attemptCase is one way an attempt goes, and what a program does that sends the same requests and no more.
type attemptCase struct {
	name     string
	password bool // an enrolment that the password is asked for; otherwise a renewal by the certificate itself
	attrs    bool // /csrattrs is asked for first
	fresh    bool // what the server said at an earlier attempt is at hand
}

var attemptCases = []attemptCase{
	{name: "renewal"},
	{name: "renewal+csrattrs", attrs: true},
	{name: "renewal+csrattrs,known", attrs: true, fresh: true},
	{name: "enrolment+password", password: true},
}

// BenchmarkAttempt is one attempt as a whole, from New to Close, on each face: what it costs in TLS connections, HTTP
// requests, round trips (requests, and a handshake for each connection), and bytes to and from the server, TLS
// included; and its time beside net/http, with keep-alive off and on, making the same requests and looking at nothing
// but their status. The certification request is made once, for all, and they take turns, so that whatever else the
// machine does falls on all alike. A server that writes header and body apart (libest) keeps net/http waiting for 40 ms
// where a connection is kept, and for as long as the client's kernel delays what it acknowledges.
func BenchmarkAttempt(b *testing.B) {
	for _, face := range []struct {
		name    string
		options esttest.Options
	}{
		{"globalsign", esttest.Options{}},
		{"libest", esttest.Options{LikeLibest: true}},
	} {
		for _, how := range attemptCases {
			b.Run(face.name+"/"+how.name, func(b *testing.B) {
				s := esttest.New(b, face.options)
				o, template := optionsFor(b, s), est.RenewalTemplate(deviceOf(b, s).Leaf)
				if how.password {
					o.Login = &est.Login{Username: esttest.DefaultUser, Password: esttest.DefaultPassword}
				} else {
					o.Certificate = deviceOf(b, s)
				}
				csr, err := est.CreateRequest(newKey(b), template)
				if err != nil {
					b.Fatal(err)
				}
				if how.fresh {
					o.Known, o.Fresh = how.byClient(b, o, csr), time.Hour
				}

				const counted = 10
				r := esttest.NewRelay(b, s.Addr())
				through := o
				through.URL = r.In(o.URL)
				requests, connections := len(s.Logins()), s.Connections()
				for range counted {
					how.byClient(b, through, csr)
				}
				requests, connections = len(s.Logins())-requests, s.Connections()-connections
				r.Stop()

				var ours, off, on time.Duration
				for b.Loop() {
					began := time.Now()
					how.byClient(b, o, csr)
					second := time.Now()
					how.byHand(b, o, csr, true)
					third := time.Now()
					how.byHand(b, o, csr, false)
					ours, off, on = ours+second.Sub(began), off+third.Sub(second), on+time.Since(third)
				}
				mean := func(n int64) float64 { return float64(n) / counted }
				b.ReportMetric(mean(int64(connections)), "conns")
				b.ReportMetric(mean(int64(requests)), "requests")
				b.ReportMetric(mean(int64(connections+requests)), "trips")
				b.ReportMetric(mean(r.Up.Load()), "B-sent")
				b.ReportMetric(mean(r.Down.Load()), "B-received")
				b.ReportMetric(ours.Seconds()*1000/float64(b.N), "ms")
				b.ReportMetric(off.Seconds()*1000/float64(b.N), "ms-net/http")
				b.ReportMetric(on.Seconds()*1000/float64(b.N), "ms-net/http-kept")
				b.ReportMetric(float64(ours)/float64(off), "ratio")
				b.ReportMetric(0, "ns/op") // all together would mean nothing
			})
		}
	}
}

// byClient makes the attempt and returns what it learned.
func (how attemptCase) byClient(b *testing.B, o est.Options, csr []byte) est.Known {
	c, err := est.New(o)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if how.attrs {
		if _, err := c.Attributes(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	if how.password {
		_, err = c.Enroll(b.Context(), csr, est.Want{})
	} else {
		_, err = c.Reenroll(b.Context(), csr, est.Want{})
	}
	if err != nil {
		b.Fatal(err)
	}
	return c.Known()
}

// byHand makes the same requests with net/http, each over a connection of its own or all over one; but a 401 ends that,
// as servers drop it then.
func (how attemptCase) byHand(b *testing.B, o est.Options, csr []byte, keepAliveOff bool) {
	config := &tls.Config{RootCAs: pool(o.Anchors)}
	if o.Certificate != nil {
		config.Certificates = []tls.Certificate{*o.Certificate}
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: keepAliveOff}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	get := func(op string) {
		response, err := client.Get(o.URL.JoinPath(op).String())
		if err := readAll(response, err, http.StatusOK, http.StatusNoContent); err != nil {
			b.Fatal(err)
		}
	}
	post := func(op string, login *est.Login, status int) {
		request, err := http.NewRequest(http.MethodPost, o.URL.JoinPath(op).String(), inLines(csr))
		if err != nil {
			b.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/pkcs10")
		request.Header.Set("Content-Transfer-Encoding", "base64")
		if login != nil {
			request.SetBasicAuth(login.Username, login.Password)
		}
		response, err := client.Do(request)
		if err := readAll(response, err, status); err != nil {
			b.Fatal(err)
		}
	}
	if how.attrs && !how.fresh {
		get("csrattrs")
	}
	if !how.fresh {
		get("cacerts")
	}
	if how.password {
		post("simpleenroll", nil, http.StatusUnauthorized)
		transport.CloseIdleConnections()
		post("simpleenroll", o.Login, http.StatusOK)
	} else {
		post("simplereenroll", nil, http.StatusOK)
	}
}

func readAll(r *http.Response, err error, want ...int) error {
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if !slices.Contains(want, r.StatusCode) {
		err = fmt.Errorf("%s: %s", r.Status, body)
	}
	return errors.Join(err, r.Body.Close())
}

// inLines is base64 in lines, for libest's sake.
func inLines(der []byte) *bytes.Buffer {
	lines := &bytes.Buffer{}
	for text := []byte(base64.StdEncoding.EncodeToString(der)); len(text) > 0; {
		n := min(64, len(text))
		lines.Write(append(text[:n:n], '\n'))
		text = text[n:]
	}
	return lines
}
