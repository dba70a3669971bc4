package store

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"time"
)

// Request is what was asked for, field by field, so that a changed configuration is noticed. A field that an older
// version did not record is nil, and no drift; a list that was recorded empty is empty and not nil.
type Request struct {
	Subject    string   `json:"subject"`               // for people: RFC 4514
	SubjectDER []byte   `json:"subject_der,omitempty"` // what counts: the name as it was encoded
	SANs       []string `json:"sans,omitzero"`         // "dns:…", "ip:…", "uri:…", "email:…"
	Usages     []string `json:"usages,omitzero"`
	CA         bool     `json:"ca"`
	Key        string   `json:"key"`                  // a keys.Algorithm; empty where the configuration leaves it to the server
	ServerKey  bool     `json:"server_key,omitempty"` // the server makes the key (RFC 7030, section 4.4)
	URL        string   `json:"url"`                  // base of the server's operations
}

// recorded is r with lists that say that they were recorded.
func (r Request) recorded() Request {
	if r.SANs == nil {
		r.SANs = []string{}
	}
	if r.Usages == nil {
		r.Usages = []string{}
	}
	return r
}

// Meta is what is known of a generation beside its certificate: meta.json. It informs people and the next decision; a
// generation is good without it.
type Meta struct {
	// Taken from the certificate by [Certificate.Commit]. The serial number and thumbprints are lower-case hexadecimal.
	Serial    string    `json:"serial"`
	SHA256    string    `json:"sha256"`
	SHA1      string    `json:"sha1"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`

	Issued    time.Time `json:"issued,omitzero"`     // when the agent got it, by its clock
	Operation string    `json:"operation,omitempty"` // simpleenroll, simplereenroll, serverkeygen
	Identity  string    `json:"identity,omitempty"`  // name of the identity that logged in
	Server    string    `json:"server,omitempty"`    // URL
	Reason    string    `json:"reason,omitempty"`    // why it was asked for

	// KeyEncrypted says of a key that the server made that it came encrypted.
	KeyEncrypted bool `json:"key_encrypted,omitempty"`

	First     bool     `json:"first,omitempty"`      // got by a bootstrap credential: no renewal is behind it
	CSRSHA256 string   `json:"csr_sha256,omitempty"` // lower-case hexadecimal, of the DER
	RequestID string   `json:"request_id,omitempty"` // Pending.ID of the request it answers
	Request   *Request `json:"request,omitempty"`    // nil: not recorded
	MachineID string   `json:"machine_id,omitempty"` // of the machine it was made for
	Warnings  []string `json:"warnings,omitempty"`   // what is not as asked for, in sentences
	Version   string   `json:"version,omitempty"`    // of the agent
}

const metaFile = "meta.json"

// meta is what Commit records: i.Meta, completed from the certificate, the request and the store.
func (i Issue) meta(machineID string) Meta {
	m, p, leaf := i.Meta, i.Pending, i.Leaf
	sum256, sum1 := sha256.Sum256(leaf.Raw), sha1.Sum(leaf.Raw)
	m.Serial = serial(leaf)
	m.SHA256, m.SHA1 = hex.EncodeToString(sum256[:]), hex.EncodeToString(sum1[:])
	m.NotBefore, m.NotAfter = leaf.NotBefore, leaf.NotAfter
	m.RequestID = p.ID
	if len(p.CSR) > 0 {
		sum := sha256.Sum256(p.CSR)
		m.CSRSHA256 = hex.EncodeToString(sum[:])
	}
	if m.Request == nil && !reflect.ValueOf(p.Request).IsZero() {
		m.Request = &p.Request
	}
	if m.Request != nil {
		r := m.Request.recorded()
		m.Request = &r
	}
	if m.MachineID == "" {
		m.MachineID = machineID
	}
	for field, from := range map[*string]string{
		&m.Operation: p.Operation, &m.Identity: p.Identity, &m.Server: p.Server, &m.Reason: p.Reason,
	} {
		if *field == "" {
			*field = from
		}
	}
	return m
}

func serial(c *x509.Certificate) string {
	if b := c.SerialNumber.Bytes(); len(b) > 0 {
		return hex.EncodeToString(b)
	}
	return "00"
}

func (s *Store) readMeta(dir string) (Meta, error) {
	path := filepath.Join(dir, metaFile)
	data, _, err := s.read(path)
	if err != nil {
		return Meta{}, err
	}
	m, err := parseMeta(data)
	if err != nil {
		return Meta{}, fmt.Errorf("parse %s: %w", path, err)
	}
	return m, nil
}

func parseMeta(data []byte) (m Meta, err error) {
	err = json.Unmarshal(data, &m)
	return m, err
}
