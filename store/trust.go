package store

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"strings"

	"certagent/store/durable"
)

// Trust gives the CA certificates that were fetched from an EST server (RFC 7030, section 4.1) over a session that was
// trusted already; nil if there are none. The server is its URL, or host:port. Two labels of one server (RFC 7030,
// section 3.2.2) are two servers here, as they may stand for two CAs.
func (s *Store) Trust(server string) ([]*x509.Certificate, error) {
	path, err := s.trustFile(server)
	if err != nil {
		return nil, err
	}
	data, _, err := durable.ReadFile(s.fs, path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("trust of %s: %w", server, err)
	}
	cas, err := parseCertificates(data)
	if err == nil && len(cas) == 0 {
		err = errors.New("holds no certificate")
	}
	if err != nil {
		return nil, fmt.Errorf("trust of %s: %s %w", server, path, err)
	}
	return cas, nil
}

// SaveTrust keeps the CA certificates of a server in the order given, and writes nothing when they are kept already. An
// empty list is an error: trust that was there is never lost by a server's saying nothing.
func (s *Store) SaveTrust(server string, cas []*x509.Certificate) error {
	if len(cas) == 0 {
		return fmt.Errorf("save trust of %s: no CA certificates to keep", server)
	}
	path, err := s.trustFile(server)
	if err != nil {
		return err
	}
	if err := s.saveIfChanged(path, encodeCertificates(cas...), 0o644); err != nil {
		return fmt.Errorf("save trust of %s: %w", server, err)
	}
	return nil
}

func (s *Store) trustFile(server string) (string, error) {
	name, err := trustName(server)
	if err != nil {
		return "", err
	}
	return filepath.Join(s.trustDir(), name), nil
}

// trustName is one file name for each server: host_port.pem, and host_port_path.pem when the path says more than the
// well-known one.
func trustName(server string) (string, error) {
	text := server
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" {
		return "", fmt.Errorf("%q names no server: want https://host:port/… or host:port", server)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	host := strings.ToLower(u.Hostname())
	if ip := net.ParseIP(host); ip != nil {
		host = ip.String()
	}
	// Escaping leaves no slash, and no '_' but ours.
	escape := func(s string) string { return strings.ReplaceAll(url.PathEscape(s), "_", "%5F") }
	name := escape(host) + "_" + port
	if path := strings.Trim(u.EscapedPath(), "/"); path != "" && path != ".well-known/est" {
		name += "_" + escape(path)
	}
	if name += ".pem"; strings.HasPrefix(name, ".") || len(name) > 255 {
		return "", fmt.Errorf("%q is no server that certagent can keep trust for", server)
	}
	return name, nil
}
