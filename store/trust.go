package store

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Trust is what was learned of one EST server over sessions that were authorised already. The zero value is nothing. The
// store keeps it and draws no conclusions.
type Trust struct {
	// CAs are the certificates of /cacerts (RFC 7030, section 4.1), as trust/<server>.pem has them for other software too.
	CAs []*x509.Certificate
	// TLSAnchors are those of CAs that vouch for the server's own certificate as well. One that is not among CAs is not kept.
	TLSAnchors []*x509.Certificate
	// ImplicitOff means that the system's roots count no more for this server (RFC 7030, section 4.1.3). It is never true
	// without TLSAnchors.
	ImplicitOff bool
	// Fetched is when /cacerts last answered; zero if never, or while CAs is empty.
	Fetched time.Time
	// Under names the trust that all this was learned under, in words of the caller's.
	Under []string
	// Bootstrap are anchors that were taken by their fingerprint, before there was any (RFC 7030, section 4.1.1).
	Bootstrap []*x509.Certificate

	Attributes        []byte    // DER of what /csrattrs last answered (RFC 7030, section 4.5)
	AttributesFetched time.Time // when it did; zero if never
	Linking           bool      // the server asked for requests that are linked to the TLS session (RFC 7030, section 3.5)

	Refresh Refresh
}

// Refresh is what the tries to fetch CA certificates anew, apart from any renewal, have taught since the last success.
type Refresh struct {
	Failures  int       `json:"failures,omitempty"` // in a row
	Since     time.Time `json:"since,omitzero"`     // the first of these
	LastTry   time.Time `json:"last_try,omitzero"`
	NextTry   time.Time `json:"next_try,omitzero"` // Retry-After included
	LastError string    `json:"last_error,omitempty"`
}

// trustRecord is what stands in trust/<server>.json, beside the certificates. Everybody may read it.
type trustRecord struct {
	Version           int       `json:"version"`
	Fetched           time.Time `json:"fetched,omitzero"`
	TLSAnchors        []string  `json:"tls_anchors,omitempty"` // SHA-256 in lower-case hexadecimal
	ImplicitOff       bool      `json:"implicit_off,omitempty"`
	Under             []string  `json:"under,omitempty"`
	Bootstrap         [][]byte  `json:"bootstrap,omitempty"` // DER
	Attributes        []byte    `json:"csrattrs,omitempty"`
	AttributesFetched time.Time `json:"csrattrs_fetched,omitzero"`
	Linking           bool      `json:"linking,omitempty"`
	Refresh           Refresh   `json:"refresh,omitzero"`
}

// trustVersion is that of trustRecord. A record of another one counts as none.
const trustVersion = 1

// errDamaged says that a file was read and is not what it should be.
var errDamaged = errors.New("damaged")

// Trust gives what is known of an EST server, zero where nothing is. The server is its URL, or host:port. Two labels of
// one server (RFC 7030, section 3.2.2) are two servers here, as they may stand for two CAs.
//
// A record that is missing, damaged or older than the certificates costs no more than fetching them again: what it says of
// a certificate that is not there does not count. An error is about the certificates; what is given beside it
// holds without them.
func (s *Store) Trust(server string) (Trust, error) {
	name, err := trustName(server)
	if err != nil {
		return Trust{}, err
	}
	cas, err := s.readCAs(s.trustFile(name, ".pem"))
	r, _ := s.readRecord(name)
	if err != nil {
		return r.trust(nil), fmt.Errorf("trust of %s: %w", server, err)
	}
	return r.trust(cas), nil
}

// readCAs gives the certificates in a file, nil if there is none.
func (s *Store) readCAs(path string) ([]*x509.Certificate, error) {
	data, _, err := s.read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case strange(err):
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	case err != nil:
		return nil, err
	}
	cas, err := parseCertificates(data, s.issuers.parse)
	if err == nil && len(cas) == 0 {
		err = errors.New("holds no certificate")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s %w", errDamaged, path, err)
	}
	return cas, nil
}

// readRecord gives the record, empty for one that is not there or damaged. An error says that it could not be read.
func (s *Store) readRecord(name string) (trustRecord, error) {
	var r trustRecord
	data, _, err := s.read(s.trustFile(name, ".json"))
	if errors.Is(err, fs.ErrNotExist) || strange(err) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	if json.Unmarshal(data, &r) != nil || r.Version != trustVersion {
		return trustRecord{}, nil
	}
	return r, nil
}

// trust joins a record with the certificates that are there.
func (r trustRecord) trust(cas []*x509.Certificate) Trust {
	t := Trust{
		CAs: cas, ImplicitOff: r.ImplicitOff, Fetched: r.Fetched, Under: r.Under,
		Attributes: r.Attributes, AttributesFetched: r.AttributesFetched, Linking: r.Linking, Refresh: r.Refresh,
	}
	for _, ca := range cas {
		if slices.Contains(r.TLSAnchors, thumbprint(ca)) {
			t.TLSAnchors = append(t.TLSAnchors, ca)
		}
	}
	for _, der := range r.Bootstrap {
		if ca, err := x509.ParseCertificate(der); err == nil {
			t.Bootstrap = append(t.Bootstrap, ca)
		}
	}
	if len(cas) == 0 {
		t.Fetched = time.Time{}
	}
	if len(t.TLSAnchors) == 0 {
		t.ImplicitOff = false
	}
	return t
}

func (t Trust) record() trustRecord {
	r := trustRecord{
		Version: trustVersion, ImplicitOff: t.ImplicitOff, Fetched: t.Fetched.Round(0).UTC(), Under: t.Under,
		Attributes: t.Attributes, AttributesFetched: t.AttributesFetched.Round(0).UTC(), Linking: t.Linking, Refresh: t.Refresh,
	}
	for _, ca := range t.TLSAnchors {
		r.TLSAnchors = append(r.TLSAnchors, thumbprint(ca))
	}
	for _, ca := range t.Bootstrap {
		r.Bootstrap = append(r.Bootstrap, ca.Raw)
	}
	return r
}

func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// UpdateTrust replaces what is known of a server by what update makes of it, and writes nothing where that is the same.
// While update runs nobody else changes what is known of any server, so that of two that learned something at the
// same time neither is forgotten. Updates that wait for each other are written together, so that update may run on another
// goroutine; it has ended when UpdateTrust returns. CA certificates that were there are never replaced by none: that is an error. Damaged
// ones are given to update as none.
func (s *Store) UpdateTrust(server string, update func(Trust) Trust) error {
	name, err := trustName(server)
	if err != nil {
		return err
	}
	if err := s.writable(); err != nil {
		return err
	}
	if err := s.learn(name, update); err != nil {
		return fmt.Errorf("save trust of %s: %w", server, err)
	}
	return nil
}

// lesson is a set of updates of one server's trust that are written together.
type lesson struct {
	updates []func(Trust) Trust
	done    chan struct{} // closed when it was written, or was not
	err     error
}

// learn adds update to the next lesson about a server, and has it written. Whoever begins a lesson writes it, when what was
// being written is; the others wait for that.
func (s *Store) learn(name string, update func(Trust) Trust) error {
	s.lessons.Lock()
	l, begun := s.learning[name]
	if !begun {
		l = &lesson{done: make(chan struct{}), err: errors.New("the update beside it broke off")}
		if s.learning == nil {
			s.learning = map[string]*lesson{}
		}
		s.learning[name] = l
	}
	l.updates = append(l.updates, update)
	s.lessons.Unlock()
	if begun {
		<-l.done
		return l.err
	}
	defer close(l.done)
	s.trust.Lock()
	defer s.trust.Unlock()
	s.lessons.Lock()
	delete(s.learning, name) // nobody joins any more
	s.lessons.Unlock()
	l.err = s.updateTrust(name, func(t Trust) Trust {
		for _, update := range l.updates {
			t = update(t)
		}
		return t
	})
	return l.err
}

// updateTrust reads, updates and writes. s.trust is held.
func (s *Store) updateTrust(name string, update func(Trust) Trust) error {
	cas, err := s.readCAs(s.trustFile(name, ".pem"))
	if err != nil && !errors.Is(err, errDamaged) {
		return err
	}
	r, err := s.readRecord(name)
	if err != nil {
		return err // to take it for empty would forget what it says
	}
	was := r.trust(cas)
	is := update(was)
	if len(is.CAs) == 0 && len(was.CAs) > 0 {
		return errors.New("no CA certificates to keep")
	}
	record, err := encodeJSON(is.record())
	if err != nil {
		return err
	}
	if nothing, err := encodeJSON((Trust{}).record()); err == nil && len(is.CAs) == 0 && bytes.Equal(record, nothing) {
		if _, err := s.fs.Lstat(s.trustFile(name, ".json")); errors.Is(err, fs.ErrNotExist) {
			return nil // nothing was known, nor is it now
		}
	}
	// The certificates first: after a crash between the two the record names some that are gone, which is harmless.
	if len(is.CAs) > 0 {
		if err := s.saveIfChanged(s.trustFile(name, ".pem"), encodeCertificates(is.CAs...), 0o644); err != nil {
			return err
		}
	}
	return s.saveIfChanged(s.trustFile(name, ".json"), record, 0o644)
}

// TrustFile is where the CA certificates of an EST server stand in PEM, for other software too; see [Store.Trust].
func (s *Store) TrustFile(server string) (string, error) {
	name, err := trustName(server)
	if err != nil {
		return "", err
	}
	return s.trustFile(name, ".pem"), nil
}

func (s *Store) trustFile(name, kind string) string { return filepath.Join(s.trustDir(), name+kind) }

// trustName is one file name, without its ending, for each server: host_port, and host_port_path when the path says more
// than the well-known one.
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
	if strings.HasPrefix(name, ".") || len(name+".json") > 255 {
		return "", fmt.Errorf("%q is no server that certagent can keep trust for", server)
	}
	return name, nil
}
