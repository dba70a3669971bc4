package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"certagent/agent/status"
	"certagent/est/esttest"
)

// TestCACerts is the first trust anchor as a person gets it, from a certagent-testca in a process of its own.
func TestCACerts(t *testing.T) {
	for name, flag := range map[string]string{"globalsign": "--lifetime=24h", "libest": "--like-libest"} {
		t.Run(name, func(t *testing.T) { runScripts(t, "testdata/cacerts", map[string]string{"FACE": flag}) })
	}
}

// On a terminal each root is asked about, and no other certificate; only yes accepts one.
func TestCACertsAsks(t *testing.T) {
	s := esttest.New(t, esttest.Options{})
	r := s.Rollover()
	for _, tt := range []struct {
		name    string
		answers []string
		want    []*x509.Certificate
	}{
		{"both", []string{"yes", " yes "}, []*x509.Certificate{r.OldWithOld, r.NewWithNew}},
		{"the second", []string{"", "yes"}, []*x509.Certificate{r.NewWithNew}},
		{"none", []string{"y", "Yes"}, nil},
		{"end of input", []string{"\x04", "\x04"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "anchors.pem")
			cmd := exec.Command("certagent", "cacerts", s.URL(), "--out", out)
			cmd.Env = append(os.Environ(), "HTTPS_PROXY=", "https_proxy=")
			asked, err := onTerminal(t, cmd, tt.answers)
			if want := []string{"1", "4"}; !slices.Equal(asked, want) {
				t.Errorf("asked about numbers %v, want %v", asked, want)
			}
			if tt.want == nil {
				exit, ok := errors.AsType[*exec.ExitError](err)
				if _, statErr := os.Stat(out); !ok || exit.ExitCode() != exitFailed || !os.IsNotExist(statErr) {
					t.Errorf("ended with %v, and the file: %v", err, statErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			var want []byte
			for _, cert := range tt.want {
				want = append(want, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
			}
			if !bytes.Equal(data, want) {
				t.Errorf("written:\n%s\nwant:\n%s", data, want)
			}
		})
	}
}

// onTerminal runs cmd with a terminal for stdin and stderr, gives one answer to each question, and returns the numbers
// it was asked about.
func onTerminal(t *testing.T, cmd *exec.Cmd, answers []string) (asked []string, err error) {
	t.Helper()
	master, slave := openTerminal(t)
	cmd.Stdin, cmd.Stderr = slave, slave
	err = cmd.Start()
	slave.Close()
	if err != nil {
		t.Fatal(err)
	}
	overdue := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() }) // then the questions end
	defer overdue.Stop()

	question := regexp.MustCompile(`Trust number (\d+), SHA-256 [0-9A-F:]+\?\s+Type yes [^:]*: $`)
	var seen []byte
	for buffer := make([]byte, 1024); ; {
		n, err := master.Read(buffer)
		if err != nil { // EIO: nobody has the terminal open any more
			return asked, cmd.Wait()
		}
		seen = append(seen, buffer[:n]...)
		if match := question.FindSubmatch(seen); match != nil {
			seen = nil
			asked = append(asked, string(match[1]))
			if len(answers) == 0 {
				t.Errorf("asked about number %s as well", match[1])
				answers = []string{""}
			}
			answer := answers[0]
			if answers = answers[1:]; answer != "\x04" {
				answer += "\n"
			}
			if _, err := io.WriteString(master, answer); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What a server writes into its certificates reaches the terminal as text, and not at any length.
func TestCACertsShowsHostileNames(t *testing.T) {
	s := esttest.New(t, esttest.Options{})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
		Subject: pkix.Name{
			CommonName:   "all is well\x1b[2J\r\n1  subject  CN=Your Bank\u202e",
			Organization: []string{strings.Repeat("O", 5000)},
		},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	hostile, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s.SetCACerts(hostile, s.Root, hostile)
	cmd := exec.Command("certagent", "cacerts", s.URL())
	cmd.Env = append(os.Environ(), "HTTPS_PROXY=", "https_proxy=")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSuffix(line, "\n"); line != status.Printable(line) || len(line) > 500 {
			t.Errorf("shown: %.600q", line)
		}
	}
	for _, want := range []string{
		" shows 2 CA certificates. ", ": expired by this machine's clock\n",
		"verifies under it: no\n", "verifies under it: yes\n",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
}

// A login that stands in the URL by mistake is not repeated.
func TestESTURL(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"est.example.com", "https://est.example.com/.well-known/est"},
		{"est.example.com:8085", "https://est.example.com:8085/.well-known/est"},
		{"[2001:db8::1]:8085/", "https://[2001:db8::1]:8085/.well-known/est"},
		{"https://est.example.com/", "https://est.example.com/.well-known/est"},
		{"https://est.example.com/.well-known/est/", "https://est.example.com/.well-known/est"},
		{"https://est.example.com/.well-known/est/a%2Fb%201/cacerts", "https://est.example.com/.well-known/est/a%2Fb%201"},
		{"https://est.example.com/pki/.well-known/est", "https://est.example.com/pki/.well-known/est"},
		{"http://est.example.com", "http://est.example.com/.well-known/est"}, // est says what is wrong with it
		{"https://u:secret@est.example.com:port", ""},
		{"https://u:secret@[::1", ""},
	} {
		u, err := estURL(tt.text)
		switch {
		case tt.want == "" && (err == nil || strings.Contains(err.Error(), "secret")):
			t.Errorf("%s: error %v", tt.text, err)
		case tt.want != "" && (err != nil || u.String() != tt.want):
			t.Errorf("%s: %v (%v), want %s", tt.text, u, err, tt.want)
		}
	}
}
