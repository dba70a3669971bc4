package est

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
)

// Provisional fetches /cacerts from a server that is not authorised (RFC 7030 4.1.1), so that a person or a fingerprint
// can decide which of its certificates to trust. What it returns is what anybody in between may have written: it must
// be compared with something that came another way, and what is trusted then is spoken to over a new connection.
//
// Of o only URL, Now, Timeout, UserAgent, Proxy and, for the certificate of an https proxy, Roots count; Timeout bounds
// the whole. No client certificate is offered, no login answered, no redirect to another origin followed, and nothing
// but this one operation asked over that connection, which is closed before Provisional returns. The error of the
// operation is an *Error; that of options that cannot lead to one is not.
func Provisional(ctx context.Context, o Options) ([]*x509.Certificate, error) {
	if err := checkURL(o.URL); err != nil {
		return nil, err
	}
	// What could be given away is not even there.
	c := bare(Options{URL: o.URL, Now: o.Now, Timeout: o.Timeout, Proxy: o.Proxy, Roots: o.Roots, UserAgent: o.UserAgent})
	certs, err := c.provisional(ctx)
	if e, ok := errors.AsType[*Error](err); ok && e.Class == ErrUnauthorized {
		e.Refusal = false // nobody was introduced
		e.Hint = "neither login nor certificate is shown to a server that is not authorised: " +
			"get its CA certificate from whoever runs it"
	}
	return certs, err
}

// provisional is the operation of Provisional. c is nobody else's, and has nothing to log in with.
func (c *Client) provisional(ctx context.Context) ([]*x509.Certificate, error) {
	limited, cancel := context.WithTimeoutCause(ctx, c.o.Timeout, errTimeLimit)
	defer cancel()

	r := &request{op: "cacerts", target: c.o.URL.JoinPath("cacerts"), hosts: []string{c.o.URL.Hostname()}}
	for {
		a, err := c.askStranger(ctx, limited, r)
		if err != nil {
			return nil, err
		}
		switch {
		case a.success && a.tooLarge:
			return nil, c.fail(r, ErrBadResponse, a, fmt.Errorf("answer of more than %d bytes", answerLimit))
		case a.success:
			certs, _, err := parseCertsOnly(a.body) // one that cannot be read cannot be trusted either
			if err != nil {
				return nil, c.fail(r, ErrBadResponse, a, err)
			}
			return certs, nil
		case a.status >= 300 && a.status < 400 && a.header.Get("Location") != "":
			if err := c.follow(r, a); err != nil {
				return nil, err
			}
			if c.elsewhere(r) { // to go there takes checks (RFC 7030 3.2.1) that cannot be made here
				return nil, c.failHint(r, ErrBadResponse,
					errors.New("not followed: it is another server, and this one is not authorised"),
					"set the URL to where the server's EST operations really are")
			}
		default:
			return nil, c.refuse(r, a)
		}
	}
}

// askStranger sends r, which must ask for /cacerts, over a connection whose other end is not authorised. The connection
// is never the client's, so that nothing else can be sent over it. limited is ctx with the time limit.
func (c *Client) askStranger(ctx, limited context.Context, r *request) (*answer, error) {
	k := &conn{origin: originOf(r.target), hosts: r.hosts}
	settings := c.tlsConfig(k, nil)
	settings.VerifyConnection = nil // the one place where nobody is authorised; k.authorised remains false
	if err := c.connect(limited, k, r, settings); err != nil {
		return nil, c.broken(ctx, limited, r, k, false, err)
	}
	defer k.http.Close()
	var began atomic.Bool
	message, err := c.message(limited, r, &began)
	if err != nil {
		return nil, c.fail(r, ErrRejected, nil, err)
	}
	response, err := k.http.RoundTrip(message)
	if err != nil {
		return nil, c.broken(ctx, limited, r, k, began.Load(), err)
	}
	k.answered = true
	a, _, err := c.read(r, response)
	if err != nil {
		return nil, c.broken(ctx, limited, r, k, true, fmt.Errorf("read the answer's body: %w", err))
	}
	a.over = k
	return a, nil
}

// Fingerprinted returns those of certs that fingerprint covers, each once: those whose DER has this SHA-256 (64 hex
// digits) or SHA-512 (128), in any case, with or without colons and the label that openssl puts before it ("sha256
// Fingerprint="). That there are none is no error; what is not such a fingerprint is one.
func Fingerprinted(certs []*x509.Certificate, fingerprint string) ([]*x509.Certificate, error) {
	digits := fingerprint[strings.Index(fingerprint, "=")+1:]
	want, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(digits), ":", ""))
	if err != nil || len(want) != sha256.Size && len(want) != sha512.Size {
		return nil, fmt.Errorf("fingerprint %q is neither a SHA-256 (64 hex digits) nor a SHA-512 (128)",
			shorten(printable(fingerprint), 200))
	}
	var covered []*x509.Certificate
	for _, cert := range certs {
		sum := sha256.Sum256(cert.Raw)
		has := sum[:]
		if len(want) == sha512.Size {
			long := sha512.Sum512(cert.Raw)
			has = long[:]
		}
		if slices.Equal(has, want) && !slices.ContainsFunc(covered, cert.Equal) {
			covered = append(covered, cert)
		}
	}
	return covered, nil
}
