package agent

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"certagent/agent/config"
	"certagent/est"
	"certagent/store/keys"
)

// maxCredential bounds a credential or anchor file: a bundle of all public roots has some 250 KiB.
const maxCredential = 4 << 20

// credentialPath is where a credential lies.
func credentialPath(name string) (string, error) {
	cred, ok := strings.CutPrefix(name, "credential:")
	if !ok {
		return name, nil
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", fmt.Errorf("find %s: systemd handed over no credentials (LoadCredential= in the unit)", name)
	}
	return filepath.Join(dir, cred), nil
}

// readCredential reads a credential: an absolute path, or "credential:NAME" for one that systemd hands over
// (systemd.exec(5), LoadCredential=), which lies in $CREDENTIALS_DIRECTORY.
func readCredential(name string) ([]byte, error) {
	path, err := credentialPath(name)
	if err != nil {
		return nil, err
	}
	// Without O_NONBLOCK a FIFO in the file's place would hold the attempt for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxCredential+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > maxCredential {
		return nil, fmt.Errorf("read %s: larger than %d bytes", path, maxCredential)
	}
	return data, nil
}

// readKeyPair reads a certificate with its chain and the private key that must match it.
func readKeyPair(k config.KeyPair) (*tls.Certificate, error) {
	if k.KeyURI != "" {
		return nil, errors.New("keys that are not files cannot be used yet")
	}
	data, err := readCredential(k.Cert)
	if err != nil {
		return nil, err
	}
	chain, err := parseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.Cert, err)
	}
	data, err = readCredential(k.Key)
	if err != nil {
		return nil, err
	}
	key, err := keys.ParsePEM(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.Key, err)
	}
	if !keys.Equal(chain[0].PublicKey, key.Public()) {
		return nil, fmt.Errorf("%s is not the key of %s", k.Key, k.Cert)
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return cert, nil
}

// readLogin reads the user name and password; nil when none is configured. A password file ends at its first newline.
func readLogin(a config.Auth) (*est.Login, error) {
	if !a.HasPassword {
		return nil, nil
	}
	if a.PasswordFile == "" {
		return &est.Login{Username: a.Username, Password: a.Password.Reveal()}, nil
	}
	password, err := readPassword(a.PasswordFile)
	if err != nil {
		return nil, err
	}
	return &est.Login{Username: a.Username, Password: password}, nil
}

// readPassword reads a password file.
func readPassword(name string) (string, error) {
	data, err := readCredential(name)
	if err != nil {
		return "", err
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return string(bytes.TrimSuffix(line, []byte("\r"))), nil
}

// readAnchors reads the explicit trust anchors (RFC 7030 section 3.6.1).
func readAnchors(files []string) ([]*x509.Certificate, error) {
	var anchors []*x509.Certificate
	for _, f := range files {
		data, err := readCredential(f)
		if err != nil {
			return nil, err
		}
		cas, err := parseCertificates(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		anchors = append(anchors, cas...)
	}
	return anchors, nil
}
