// Package config turns certagent's TOML files into a checked [Config].
//
// The dialect is that of Azure IoT Edge's config.toml (aziot) as far as certificates go, so that the file of its EST
// tutorial loads unchanged; what is certagent's own is said beside each field. Whatever is wrong with the text is an
// error with file, line, column, key and value, all of them at once ([Errors]). What may still come true without an
// edit (a file that is not there yet, a part of the program that is not built) is a [Warning], never an error.
//
// The package reads the configuration files only: it opens no credential, anchor or password file, dials nothing and
// writes nothing.
package config

import (
	"crypto/x509/pkix"
	"io/fs"
	"net"
	"net/url"
	"time"

	"certagent/renew"
)

// Config is a configuration that later code need not check again. It is never changed after [Load]; a reload makes a
// new one.
type Config struct {
	// File is the main file, as given.
	File string
	// Files are File and the drop-ins beside it (config.d/*.toml), in the order in which they were merged.
	Files []string
	// StateDir holds keys, certificates and what must survive a restart. Default /var/lib/certagent, or what systemd
	// names in $STATE_DIRECTORY.
	StateDir string
	// RunDir holds the control socket. Default /run/certagent, or what systemd names in $RUNTIME_DIRECTORY.
	RunDir string

	Log     Log
	Metrics Metrics
	Control Control
	Clock   Clock

	Provisioning Provisioning

	// Certificates are all the certificates to keep, EST identities first, then sorted by ID.
	Certificates []Certificate

	// Warnings are what a person should know and the daemon can live with, in the order of the files.
	Warnings []Warning

	// Merged is the merged document as one TOML file, secrets included: what is kept as the last good configuration.
	// Loading it gives an equal Config but for File, Files and the places in Warnings.
	Merged []byte

	est   estDefaults // for Show
	files []namedFile // for CheckFiles
}

// Log is the table [log]; certagent's own.
type Log struct {
	Level  string // debug, info (default), warn, error
	Format string // auto (default: console on a terminal, else json), json, console
}

// Metrics is the table [metrics]; certagent's own. Both are off when empty.
type Metrics struct {
	Textfile string // absolute path of a file for node_exporter's textfile collector
	Listen   string // host:port at which metrics are served over HTTP; without a host, at every address
}

// Control is the table [control]; certagent's own.
type Control struct {
	Socket string // absolute path; default RunDir/control.sock
}

// Clock is the table [clock]; certagent's own.
type Clock struct {
	// Check is false where no time source exists and the clock must be believed as it is. Default true.
	Check bool
}

// Provisioning is the table [provisioning]: which cloud is told about the device certificate.
type Provisioning struct {
	Source         string // "", dps, manual, none, aws (certagent's own)
	GlobalEndpoint string // dps
	IDScope        string // dps; in angle brackets it is a placeholder and is never dialled
	RegistrationID string // dps; [provisioning.attestation]
	Payload        string // dps; path of a file of JSON to send along
	Endpoint       string // aws
	ClientID       string // aws; empty means the common name
	Port           int    // aws; 8883 or 443
	// TrustedCerts are files of PEM certificates that verify the cloud; empty means the system's roots. EST's anchors
	// never do. Certagent's own.
	TrustedCerts []string
}

// Role says what a certificate is to the agent.
type Role string

// The roles.
const (
	RoleDevice      Role = "device"       // id device-id: [provisioning.attestation.identity_cert]
	RoleEdgeCA      Role = "edge-ca"      // id aziot-edged-ca: [edge_ca]
	RoleESTIdentity Role = "est-identity" // id est-id, est-id-<id>: used only to log in to EST
	RoleOther       Role = "other"        // [cert_issuance.certs.<id>]
)

// Certificate is one certificate to keep.
type Certificate struct {
	// ID names the certificate, and its directory in the store: letters, digits, '-', '_' and '.', no leading dot,
	// at most 64 bytes.
	ID   string
	Role Role

	// Subject is the name to ask for, in order. Empty when SubjectFrom decides or only SANs are asked for.
	Subject pkix.RDNSequence
	// SubjectFrom says where the common name comes from at each attempt: "", "hostname", "machine-id",
	// "bootstrap-cert", or "file:///…" (the first line of that file). The common name it yields stands in front of
	// Subject.
	SubjectFrom string
	SANs        SANs
	// Usages are the extended key usages to ask for: client, server. Empty for a CA certificate.
	Usages []string
	// CA asks for a CA certificate with path length 0 (edge_ca).
	CA bool

	// Key is the kind of key: ec-p256, ec-p384, ec-p521, rsa-2048, rsa-3072, rsa-4096, ed25519, or a pkcs11: URI. ""
	// leaves it to the server: what it asks for by /csrattrs, else ec-p256.
	Key string
	// ServerKey has the server make the key (RFC 7030 section 4.4), for a device that cannot make a good one.
	ServerKey bool

	// URL is the base of the EST server's operations: https, no trailing slash. RenewURL is used when the certificate
	// itself logs in; nil means URL.
	URL, RenewURL *url.URL
	// RenewWith is the first identity to try for a renewal: "self" (default) or "est".
	RenewWith string
	Auth      Auth
	Trust     Trust
	// ESTIdentity is the ID of the EST identity that logs in for this certificate; "" means there is none.
	ESTIdentity string
	// Timeout bounds one EST request from dialling to the last byte of the answer. Default that of
	// [cert_issuance.est], else one minute.
	Timeout time.Duration
	// Attributes has the server asked what it wants to see in a request (RFC 7030 section 4.5). Default true.
	Attributes bool
	// LinkIdentity links each request to its TLS session (RFC 7030 section 3.5), also where the server does not ask.
	LinkIdentity bool
	// RedirectHosts are other servers, as host or host:port, to which a request may be redirected (RFC 7030 section 3.2.1).
	RedirectHosts []string

	// Policy says when to renew. RotateKey makes a new key at each renewal.
	Policy    renew.Policy
	RotateKey bool

	// Group owns the key file beside the agent's user; "" means the agent's own group. KeyMode is 0600 without a
	// group, 0640 with one, or what key_mode says.
	Group   string
	KeyMode fs.FileMode

	Outputs []Output
	OnRenew OnRenew

	// Problems are what this program cannot do for this certificate yet, though the configuration asks for it. Each is
	// among Config.Warnings too.
	Problems []Problem
}

// SANs are subject alternative names, in the order of the configuration within each kind.
type SANs struct {
	DNS    []string
	IPs    []net.IP
	URIs   []*url.URL
	Emails []string
}

// Auth is how the agent logs in to EST for one certificate. An empty Auth is a login without credentials: a renewal
// still uses the certificate being renewed.
type Auth struct {
	// HasPassword tells a password that is configured from none; Username may be empty (code-only login).
	HasPassword bool
	Username    string
	Password    Secret
	// PasswordFile is read at each attempt in place of Password: an absolute path, or "credential:NAME" (systemd).
	PasswordFile string
	// Identity is an EST identity that a person provides; nil when there is none or the agent keeps it itself.
	Identity *KeyPair
	// Bootstrap is what the device was born with; nil when there is none.
	Bootstrap *KeyPair
}

// KeyPair names the files of a certificate (with its chain) and its private key. Both are absolute paths or
// "credential:NAME". KeyURI is set in place of Key for a key that is not a file (pkcs11:).
type KeyPair struct {
	Cert, Key, KeyURI string
}

// Trust says which EST servers are believed for one certificate.
type Trust struct {
	// Files are files of PEM certificates: the explicit trust anchors of RFC 7030 section 3.6.1.
	Files []string
	// SystemRoots adds the system's roots: the implicit trust anchors of section 3.6.2. Default true where neither Files
	// nor Fingerprint says whom to trust.
	SystemRoots bool
	// Fingerprint is the SHA-256 or SHA-512 of a CA certificate that stands in for Files (bootstrap_fingerprint), in lower-case hex;
	// "" means none. The certificate itself is taken from the server's /cacerts (RFC 7030 section 4.1.1).
	Fingerprint string
}

// Output is one file that a consumer of the certificate reads ([[….outputs]]); certagent's own.
type Output struct {
	Format       string // cert, chain, fullchain, fullchain+root, ca, key, combined, pkcs12
	Path         string // absolute
	Owner, Group string // "" means the agent's own
	Mode         fs.FileMode
	PasswordFile string // pkcs12
}

// OnRenew is what is run after a renewal ([….on_renew]); certagent's own.
type OnRenew struct {
	Exec            [][]string // argv lists; no shell
	Reload, Restart []string   // systemd units
	Timeout         time.Duration
}

// Problem is something that a configuration asks for and this program cannot do (yet). Code is stable, for machines.
type Problem struct {
	Code string // "placeholder" or "not-built"
	Text string // what is wrong, for people
	Hint string // what to do
}

// Secret is a string that never shows: it prints and marshals as [redacted].
type Secret struct{ value string }

// NewSecret wraps s.
func NewSecret(s string) Secret { return Secret{s} }

// Reveal returns the secret itself. What it returns must go nowhere but to the server that asked for it.
func (s Secret) Reveal() string { return s.value }

const redacted = "[redacted]"

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return redacted }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Warning is something that a person should know and that stops nothing.
type Warning struct {
	Place Place
	Key   string // dotted; may be empty
	// Certificate is the ID of the certificate concerned, or "".
	Certificate string
	Text        string
	Hint        string // may be empty
}

// Place is a position in a configuration file. Line and Column count from 1; a zero Line means the file as a whole.
type Place struct {
	File         string
	Line, Column int
}

// Error is one mistake in the configuration.
type Error struct {
	Place Place
	Key   string // dotted
	Value string // as written, secrets redacted; may be empty
	Text  string // what is wrong
	Hint  string // what would be right; may be empty
}

// Errors are all the mistakes of a configuration, in the order of the files. It is never empty when returned as an
// error.
type Errors []Error
