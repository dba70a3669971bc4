package est

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

const (
	hintDemanded = "the server demands a client certificate: configure one that it accepts"
	hintRefused  = "have the server accept the CA that issued this identity, or use another one"
	hintAskEarly = "the server wants to renegotiate, which clients no longer do: have it ask for the client certificate " +
		"in the handshake, for all URLs (Apache httpd: SSLVerifyClient outside of Location)"
	hintKind = "use an identity with a key that the server can verify (EC P-256, RSA)"
)

// broken classes the end of a connection that was to carry r's answer; began says that some of that answer came. ctx
// is the operation's context, limited the one with the time limit. It may make one more request, to tell a server
// that refuses our certificate from one that is not well.
func (c *Client) broken(ctx, limited context.Context, r *request, k *conn, began bool, err error) *Error {
	if trust, ok := errors.AsType[*trustError](err); ok {
		return c.failHint(r, ErrUntrusted, trust, trust.hint)
	}
	if limited.Err() != nil {
		if cause := context.Cause(limited); !errors.Is(cause, errTimeLimit) {
			return c.fail(r, ErrUnavailable, nil, cause)
		}
		return c.fail(r, ErrUnavailable, nil, fmt.Errorf("nothing more came within %v: %s", c.o.Timeout, k.stage(began)))
	}
	capped := k.reached && k.chain == nil && c.capped(k.origin)
	if capped {
		c.doubtLinking()
	}
	switch {
	case k.proxy != nil && k.proxy.Reached:
		return c.failHint(r, ErrUnavailable, k.proxy,
			"check HTTPS_PROXY and NO_PROXY, and that the proxy lets this device through")
	case k.proxy != nil:
		return c.failHint(r, ErrUnavailable, k.proxy, "check HTTPS_PROXY and NO_PROXY, and that the proxy runs")
	case !k.reached:
		return c.failHint(r, ErrUnavailable, err, "check host and port in the URL, the network, and that the server runs")
	case capped && refusedVersion(err):
		return c.noTLS12(r, err)
	case !k.secured && !fromOutside(err):
		return c.insecure(r, err)
	case renegotiated(err):
		return c.failHint(r, ErrUnavailable, err, hintAskEarly)
	case began, k.answered, k.offered && c.certificateTaken == k.origin:
		return c.fail(r, ErrUnavailable, nil, err)
	case k.offered:
		return c.probe(ctx, r, err)
	case !c.named(k.origin):
		return c.fail(r, ErrUnavailable, nil, err) // what it wants of us is not ours to give
	case k.asked:
		return c.unoffered(r, k, err)
	case k.secured:
		return c.fail(r, ErrUnavailable, nil, err)
	}
	e := c.fail(r, ErrUnavailable, nil, fmt.Errorf("connection ended before it was secured: %w", explained(err, false)))
	if _, ok := remoteAlert(err); ok {
		e.Hint = "the server's log may say more: it must offer TLS 1.2 or later, for the host name in the URL"
	}
	return e
}

// unoffered is for a connection that ended after the server had asked for a certificate, and was not given ours.
func (c *Client) unoffered(r *request, k *conn, ended error) *Error {
	why, hint := "got none", hintDemanded
	if k.notOffered != nil {
		why, hint = fmt.Sprintf("could not be given ours (%v)", k.notOffered), hintKind
	}
	a, ok := remoteAlert(ended)
	switch {
	case !ok:
		return c.failHint(r, ErrUnavailable, ended, "perhaps "+hint) // the alert may have got lost on the way
	case a.name == internalError: // its own trouble, which speaks against nobody
		return c.failHint(r, ErrUnavailable, explained(ended, false), "the server's log may say more")
	}
	return c.refused(r, fmt.Errorf("it asked for a client certificate, %s, and ended the connection (TLS alert %s%.0w)",
		why, a.name, ended), hint)
}

// explained words the end of a connection where it was an alert of the server's: what that usually means of the
// certificate that was offered, or of the handshake.
func explained(ended error, offered bool) error {
	a, ok := remoteAlert(ended)
	if !ok {
		return ended
	}
	meaning := a.handshake
	if offered {
		meaning = a.offered
	}
	if meaning == "" {
		return fmt.Errorf("TLS alert %s%.0w", a.name, ended)
	}
	return fmt.Errorf("TLS alert %s: %s%.0w", a.name, meaning, ended)
}

// insecure is for a TLS handshake that our side gave up for another reason than trust.
func (c *Client) insecure(r *request, err error) *Error {
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return c.failHint(r, ErrUntrusted, fmt.Errorf("what answers there does not speak TLS: %w", err),
			"check the port in the URL: it must be the server's https port")
	}
	return c.failHint(r, ErrUntrusted, fmt.Errorf("TLS handshake: %w", err),
		"the server must offer TLS 1.2 or later with a certificate that can be read")
}

// probe finds out why a connection ended on which our certificate was offered and nothing was answered. Under TLS 1.2
// a server that does not like a certificate ends the handshake; under 1.3 it does so when we think it over, and that
// shows as an alert, a reset or a plain end, as luck has it. So /cacerts is asked for once, without the certificate:
// if that is answered, the certificate was refused.
func (c *Client) probe(ctx context.Context, r *request, ended error) *Error {
	ours, cause := ownName(c.o.Certificate), explained(ended, true)
	hint := hintRefused
	if a, ok := remoteAlert(ended); ok && a.hint != "" {
		hint = a.hint
	}
	a, err := c.withoutCertificate(ctx, r)
	if e, ok := errors.AsType[*Error](err); ok {
		e.Op = r.op
		if e.Class == ErrUnauthorized {
			return c.refused(r, fmt.Errorf("it ended the connection when offered the certificate %s, "+
				"and without one as well (%w)", ours, cause), hint)
		}
		return e
	}
	if a.status >= http.StatusInternalServerError {
		return c.fail(r, ErrUnavailable, nil, fmt.Errorf("connection ended (%w), and without the certificate: HTTP %d",
			cause, a.status))
	}
	return c.refused(r, fmt.Errorf("it ended the connection when offered the certificate %s (%w), and answers without it",
		ours, cause), hint)
}

// refused is the error for an identity that the server will not have.
func (c *Client) refused(r *request, err error, hint string) *Error {
	e := c.failHint(r, ErrUnauthorized, err, hint)
	e.Refusal = true
	return e
}

// refusedInFront finds out whether HTTP 400 to get, a request for /cacerts, is about our certificate, and so why r
// fails: nginx and its like, ending TLS in front of an EST server, answer so to every request of a client whose
// certificate they cannot verify. It is nil if not.
func (c *Client) refusedInFront(ctx context.Context, r, get *request) *Error {
	if c.certificateTaken != originOf(get.target) {
		return nil
	}
	a, err := c.withoutCertificate(ctx, get)
	if err != nil || a.status != http.StatusOK {
		return nil
	}
	e := c.refused(r, fmt.Errorf("it answers nothing else when offered the certificate %s, and answers without it",
		ownName(c.o.Certificate)), hintRefused)
	e.Status = http.StatusBadRequest
	return e
}

// withoutCertificate asks for /cacerts, at the server that r went to, over a connection of its own and without our
// certificate.
func (c *Client) withoutCertificate(ctx context.Context, r *request) (*answer, error) {
	c.HangUp()
	defer c.HangUp() // nothing else may be asked over that connection
	target := r.target
	if r.op != "cacerts" {
		target = target.JoinPath("..", "cacerts")
	}
	return c.once(ctx, &request{op: "cacerts", target: target, hosts: r.hosts})
}

func (c *Client) failHint(r *request, class, err error, hint string) *Error {
	e := c.fail(r, class, nil, err)
	e.Hint = hint
	return e
}

// stage says what a request was waiting for when its time ran out.
func (k *conn) stage(began bool) string {
	switch {
	case began:
		return "the answer came only in part"
	case k.secured:
		return "connected, but no answer"
	case k.proxy != nil && k.proxy.Reached:
		return "the proxy is reached, but not the server behind it"
	case k.proxy != nil:
		return "the proxy is not reached"
	case k.reached:
		return "connected, but the TLS handshake did not end"
	}
	return "not connected"
}

// renegotiated reports whether our side ended a connection because the other one wanted a second handshake in it.
func renegotiated(err error) bool {
	const noRenegotiation = tls.AlertError(100)
	operation, ok := errors.AsType[*net.OpError](err)
	return ok && operation.Op == "local error" && operation.Err.Error() == noRenegotiation.Error()
}

// fromOutside reports whether a handshake was ended by the other side or by the network, rather than by our own
// crypto/tls, whose alerts are marked "local error".
func fromOutside(err error) bool {
	if operation, ok := errors.AsType[*net.OpError](err); ok {
		return operation.Op != "local error"
	}
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}
