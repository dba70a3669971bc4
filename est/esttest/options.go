package esttest

import (
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net"
	"strings"
	"time"
)

// The defaults are those of the server that the EST tutorial for IoT Edge runs.
const (
	DefaultUser     = "estuser" // Options.User when it is empty
	DefaultPassword = "estpwd"  // Options.Password when it is empty

	DefaultLifetime       = 24 * time.Hour // of device certificates
	DefaultRootLifetime   = 20 * year
	DefaultServerLifetime = 10 * year

	// BootstrapLifetime is that of the certificate which Options.Bootstrap asks for, whatever Options.Lifetime says.
	BootstrapLifetime = 10 * year

	year = 365 * 24 * time.Hour
)

// Options say what a Server is and does. The zero value is a server on globalsign's router that listens on a free
// port of 127.0.0.1, keeps its CA in memory, and issues certificates of one day.
type Options struct {
	// Dir is where the CA keeps its keys and certificates over restarts; it is made if it is not there. Empty means in
	// memory only.
	Dir string

	// Listen is host:port. Empty means a free port of 127.0.0.1. The host "localhost" means 127.0.0.1 and, where the
	// machine has it, ::1; port 0 means one that is free, the same on both.
	Listen string

	// Hosts are DNS names and IP addresses for the server certificate, beside localhost, ip6-localhost, 127.0.0.1,
	// ::1 and the host of Listen. With OnlyHosts they stand alone: with a name that is not the URL's this tests a wrong host name.
	Hosts     []string
	OnlyHosts bool

	// Lifetime is that of device certificates; SetLifetime changes it later. All lifetimes are cut off where the
	// issuer's own ends, and zero means the default.
	Lifetime       time.Duration
	RootLifetime   time.Duration
	ServerLifetime time.Duration

	// User and Password are the login of a client that has no certificate. Empty means the default.
	User     string
	Password string

	// AskPassword demands the password for every enrolment, also beside a good certificate, as libest's example
	// server does. Otherwise either of the two is enough.
	AskPassword bool

	// Label is the additional path segment of RFC 7030 section 3.2.2. The operations are served below it, and
	// only there; without a label, any is refused with 404.
	Label string

	// LikeLibest chooses the face that behaves like cisco's libest example server (see the package comment).
	LikeLibest bool

	// CMCRA adds id-kp-cmcRA (RFC 6402 section 2.10) to the usages of the server certificate. NoServerAuth leaves
	// id-kp-serverAuth out of them; it needs CMCRA.
	CMCRA        bool
	NoServerAuth bool

	// Digest asks for HTTP Digest in place of Basic. It needs LikeLibest.
	Digest bool

	// ProofOfPossession demands that a request is linked to the TLS session by a challengePassword (RFC 7030 section
	// 3.5): tls-unique, base64. It keeps the server to TLS 1.2, and names challengePassword in /csrattrs unless
	// CSRAttrs says something else. Of the two faces only globalsign's, whose CA then answers 400 in place of
	// libest's 401, also takes an estIdentityLinking (RFC 7894 section 3.3) for it.
	ProofOfPossession bool

	// Workers is how many connections the LikeLibest face serves at a time, 1 to 5 (0 means 1); the next one waits
	// until one of them is closed. WorkerIdle is how long an idle connection may hold a worker (0 means the 10 s of
	// libest).
	Workers    int
	WorkerIdle time.Duration

	// ManualApproval answers the first request for a key with 202 and Retry-After: 3600, the next with the
	// certificate (RFC 7030 section 4.2.3).
	ManualApproval bool

	// Intermediate issues everything from a CA below the root. SendChain adds that CA's certificate to the answer of
	// an enrolment (in the globalsign face; libest answers with the leaf alone).
	Intermediate bool
	SendChain    bool

	// SeparateTLSRoot gives the server certificate a root of its own: what a client must trust to connect (RootPEM,
	// CAFile) is then not what /cacerts says.
	SeparateTLSRoot bool

	// CSRAttrs is the DER of what /csrattrs answers (RFC 7030 section 4.5.2), byte for byte, also if it is none. Nil
	// means an empty list from the globalsign face, and libest's four object identifiers from the other.
	CSRAttrs []byte

	// KeyRecipients are certificates with RSA keys that a serverkeygen request may name, by subject key identifier, for its
	// key to be encrypted to, beside the one that the client logs in with. The LikeLibest face encrypts nothing.
	KeyRecipients []*x509.Certificate

	// ClientCAs are further CAs whose certificates are a login, such as a manufacturer's for IDevIDs.
	ClientCAs []*x509.Certificate

	// RefuseByAlert ends the TLS handshake with a fatal alert where a client certificate is refused: one that is
	// untrusted or expired (libest: always), and one that RefuseCertificates names. Otherwise such a certificate
	// counts for nothing, and an enrolment without a password gets 401.
	RefuseByAlert bool

	// Bootstrap is the common name of a bootstrap certificate to write to Dir as bootstrap.pem and bootstrap.key.pem;
	// an existing one that is still good stays. Empty means none. It needs Dir.
	Bootstrap string

	// Now is the CA's clock. Nil means time.Now. (For simplereenroll globalsign's router also asks the machine's clock
	// whether the client certificate is valid.)
	Now func() time.Time

	// OnLogin, if not nil, is told of each login before the answer goes out. Calls may come from several
	// goroutines at a time.
	OnLogin func(Login)

	// ErrorLog receives failed handshakes and the like. Nil means nobody.
	ErrorLog *log.Logger
}

// listenHost is the host of Listen; "" where that is every address.
func (o Options) listenHost() string {
	host, _, _ := net.SplitHostPort(o.Listen)
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		return ""
	}
	return host
}

// completed returns the options with every default filled in, or says everything that is wrong with them.
func (o Options) completed() (Options, error) {
	setDefault(&o.Listen, "127.0.0.1:0")
	setDefault(&o.User, DefaultUser)
	setDefault(&o.Password, DefaultPassword)
	setDefault(&o.Lifetime, DefaultLifetime)
	setDefault(&o.RootLifetime, DefaultRootLifetime)
	setDefault(&o.ServerLifetime, DefaultServerLifetime)
	setDefault(&o.Workers, 1)
	setDefault(&o.WorkerIdle, 10*time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}

	var errs []error
	refuse := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	for _, l := range []struct {
		name string
		d    time.Duration
	}{{"lifetime", o.Lifetime}, {"root lifetime", o.RootLifetime}, {"server lifetime", o.ServerLifetime}} {
		refuse(l.d < time.Second, "%s is %s, must be at least one second", l.name, l.d)
	}
	refuse(o.Workers < 1 || o.Workers > 5, "workers is %d, must be 1 to 5", o.Workers)
	refuse(o.Digest && !o.LikeLibest, "digest works only in the libest face")
	refuse(o.NoServerAuth && !o.CMCRA, "a server certificate without serverAuth needs cmcRA, or it would be for any use")
	refuse(o.SendChain && o.LikeLibest, "libest never sends a chain")
	refuse(o.SendChain && !o.Intermediate, "without an intermediate there is no chain to send")
	refuse(o.OnlyHosts && len(o.Hosts) == 0, "a server certificate needs at least one host")
	refuse(o.Bootstrap != "" && o.Dir == "", "a bootstrap certificate needs a directory to be written to")
	refuse(strings.Contains(o.User, ":"), "the user name %q has a colon, which HTTP Basic cannot carry", o.User)
	refuse(strings.ContainsFunc(o.Label, notUnreserved) || isOperation(o.Label),
		"label %q must be letters, digits, or any of -._~, and not the name of an operation", o.Label)
	return o, errors.Join(errs...)
}

// notUnreserved reports whether a character would have to be encoded in a URL (RFC 3986 section 2.3).
func notUnreserved(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
	return !letter && !strings.ContainsRune("-._~", r)
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}
