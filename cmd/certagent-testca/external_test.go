//go:build external

package main

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// tutorialPipeline is how the EST tutorial for IoT Edge fetches the root, word for word.
const tutorialPipeline = `openssl s_client -showcerts -verify 5 -connect localhost:8085 < /dev/null | ` +
	`awk '/BEGIN/,/END/{ if(/BEGIN/){a++}; out="cert"a".pem"; print >out}' && cp cert2.pem cacert.crt.pem`

// The defaults are the tutorial's, so its commands work. This needs openssl, awk and port 8085.
func TestTutorialFetchesRoot(t *testing.T) {
	for _, face := range []string{"globalsign", "libest"} {
		t.Run(face, func(t *testing.T) {
			dir := t.TempDir()
			var args []string
			if face == "libest" {
				args = append(args, "--like-libest")
			}
			p := start(t, dir, testca, args...)
			if want := "https://localhost:8085/.well-known/est"; p.url != want {
				t.Errorf("ready on %s, want %s", p.url, want)
			}
			shell := exec.CommandContext(t.Context(), "sh", "-c", tutorialPipeline)
			shell.Dir = t.TempDir()
			if out, err := shell.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			fetched := parseCert(t, filepath.Join(shell.Dir, "cacert.crt.pem"))
			if root := parseCert(t, filepath.Join(dir, "testca", "ca.pem")); !fetched.Equal(root) {
				t.Errorf("fetched %q, want the root %q", fetched.Subject, root.Subject)
			}

			// openssl agrees about what the CA issues.
			_, leaf := p.enrol(t, "device", "estuser", "estpwd")
			file := filepath.Join(shell.Dir, "device.pem")
			data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
			verify := exec.CommandContext(t.Context(), "openssl", "verify", "-x509_strict", "-purpose", "sslclient",
				"-CAfile", "cacert.crt.pem", file)
			verify.Dir = shell.Dir
			if out, err := verify.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func parseCert(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s holds no PEM", file)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
