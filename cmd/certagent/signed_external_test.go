//go:build external

package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSignedPackages: with keys given, each kind of package is signed as its package manager looks for it, and so are the sums.
func TestSignedPackages(t *testing.T) {
	dir := copyOfTree(t, filepath.Join(t.TempDir(), "tree"))
	home := filepath.Join(t.TempDir(), "gnupg")
	must(t, os.Mkdir(home, 0o700))
	t.Setenv("GNUPGHOME", home)
	t.Cleanup(func() {
		if out, err := exec.Command("gpgconf", "--homedir", home, "--kill", "all").CombinedOutput(); err != nil {
			t.Errorf("gpgconf: %v\n%s", err, out)
		}
	})
	const who, phrase = "release@example.com", "a phrase"
	gpg := func(args ...string) string {
		return tell(t, ".", "gpg", append([]string{"--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", phrase}, args...)...)
	}
	gpg("--quick-generate-key", who, "rsa3072", "sign", "never")
	secret, public := filepath.Join(t.TempDir(), "secret.asc"), filepath.Join(t.TempDir(), "public.asc")
	gpg("--armor", "--output", secret, "--export-secret-keys", who)
	gpg("--armor", "--output", public, "--export", who)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	rsaFile := filepath.Join(t.TempDir(), "release.rsa")
	must(t, os.WriteFile(rsaFile, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600))

	t.Setenv("NFPM_PASSPHRASE", "")
	tell(t, dir, "env", "NFPM_PASSPHRASE="+phrase, "make", "packages", "ARCHES=amd64",
		"FORMATS=deb rpm archlinux", "SIGNING_KEY="+secret)
	dist := filepath.Join(dir, "dist")
	one := func(pattern string) string {
		names, err := filepath.Glob(filepath.Join(dist, pattern))
		must(t, err)
		if len(names) != 1 {
			t.Fatalf("%s: %v", pattern, names)
		}
		return names[0]
	}
	gpg("--verify", one("SHA256SUMS.asc"), one("SHA256SUMS"))
	gpg("--verify", one("certagent-0*.zst.sig"), one("certagent-0*.zst"))
	db := t.TempDir()
	tell(t, ".", "rpm", "--dbpath", db, "--import", public)
	if said := tell(t, ".", "rpm", "--dbpath", db, "-K", one("certagent-0*.rpm")); !strings.Contains(said, "digests signatures OK") {
		t.Errorf("rpm -K: %s", said)
	}
	parts := ofAr(t, fileOf(t, one("certagent_*.deb")))
	signature := filepath.Join(t.TempDir(), "signature")
	must(t, os.WriteFile(signature, parts["_gpgorigin"], 0o644))
	signed := filepath.Join(t.TempDir(), "signed")
	must(t, os.WriteFile(signed, bytes.Join([][]byte{parts["debian-binary"], parts["control.tar.gz"], parts["data.tar.xz"]}, nil), 0o644))
	gpg("--verify", signature, signed)

	tell(t, dir, "make", "packages", "ARCHES=amd64", "FORMATS=apk", "APK_SIGNING_KEY="+rsaFile)
	apk := fileOf(t, one("certagent_*.apk"))
	r := bytes.NewReader(apk)
	first := ofTar(t, member(t, r))
	control := apk[len(apk)-r.Len():]
	_, err = io.Copy(io.Discard, member(t, r))
	must(t, err)
	sum := sha1.Sum(control[:len(control)-r.Len()])
	if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA1, sum[:], first["/.SIGN.RSA.certagent.rsa.pub"].data); err != nil {
		t.Errorf("the apk's signature: %v", err)
	}
}

// member reads one of the gzip members of an apk, and leaves r behind it.
func member(t *testing.T, r *bytes.Reader) io.Reader {
	t.Helper()
	z, err := gzip.NewReader(r)
	must(t, err)
	z.Multistream(false)
	data, err := io.ReadAll(z)
	must(t, err)
	return bytes.NewReader(data)
}

// ofAr are the members of an ar(5) archive.
func ofAr(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	r := bufio.NewReader(bytes.NewReader(data))
	magic := make([]byte, 8)
	_, err := io.ReadFull(r, magic)
	must(t, err)
	for {
		header := make([]byte, 60)
		if _, err := io.ReadFull(r, header); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		var size int
		for _, c := range strings.TrimSpace(string(header[48:58])) {
			size = size*10 + int(c-'0')
		}
		body := make([]byte, size)
		_, err := io.ReadFull(r, body)
		must(t, err)
		if size%2 == 1 {
			_, err = r.Discard(1)
			must(t, err)
		}
		all[strings.TrimRight(string(header[:16]), " /")] = body
	}
}
