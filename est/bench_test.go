package est_test

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"certagent/est"
	"certagent/est/esttest"
)

// BenchmarkRenewal is one renewal as a whole, from New to Close, beside a net/http program that makes the same two
// requests over one connection to the same server and looks at nothing but their status. The request is made once,
// for both.
func BenchmarkRenewal(b *testing.B) {
	for _, face := range []struct {
		name    string
		options esttest.Options
	}{
		{"globalsign", esttest.Options{}},
		{"libest", esttest.Options{LikeLibest: true}},
	} {
		s := esttest.New(b, face.options)
		o := optionsFor(b, s)
		certificate, key := s.IssueBootstrap("gw-1", time.Hour)
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			b.Fatal(err)
		}
		o.Certificate = &pair
		csr, err := est.CreateRequest(newKey(b), est.RenewalTemplate(pair.Leaf))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(face.name+"/certagent", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				renewByClient(b, o, csr)
			}
		})
		b.Run(face.name+"/net-http", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				renewByHand(b, o, csr)
			}
		})
		// By turns, so that whatever else the machine does falls on both alike.
		b.Run(face.name+"/ratio", func(b *testing.B) {
			var ours, theirs time.Duration
			for b.Loop() {
				began := time.Now()
				renewByClient(b, o, csr)
				half := time.Now()
				renewByHand(b, o, csr)
				ours, theirs = ours+half.Sub(began), theirs+time.Since(half)
			}
			b.ReportMetric(float64(ours)/float64(theirs), "×net-http")
		})
	}
}

func renewByClient(b *testing.B, o est.Options, csr []byte) {
	c, err := est.New(o)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Reenroll(b.Context(), csr, est.Want{}); err != nil {
		b.Fatal(err)
	}
}

func renewByHand(b *testing.B, o est.Options, csr []byte) {
	transport := &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: pool(o.Anchors), Certificates: []tls.Certificate{*o.Certificate}}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	if err := readAll(client.Get(o.URL.JoinPath("cacerts").String())); err != nil {
		b.Fatal(err)
	}
	request, err := http.NewRequest(http.MethodPost, o.URL.JoinPath("simplereenroll").String(), inLines(csr))
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/pkcs10")
	request.Header.Set("Content-Transfer-Encoding", "base64")
	if err := readAll(client.Do(request)); err != nil {
		b.Fatal(err)
	}
}

func readAll(r *http.Response, err error) error {
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if r.StatusCode != http.StatusOK {
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
