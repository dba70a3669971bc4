package est

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// An answer is an HTTP response that was read to its end, or as far as its bound.
type answer struct {
	status   int
	success  bool // 200; to an enrolment 201 too
	header   http.Header
	body     []byte
	tooLarge bool // there was more than answerLimit of a success
	came     time.Time
	over     *conn // the connection it came over
}

// request is one operation: what is sent until it is answered, and answered for good.
type request struct {
	op          string
	certificate *tls.Certificate // offered on a connection that has to be dialled for it; nil means none
	csr         []byte           // DER; nil for a GET
	body        []byte           // csr as it is sent

	link     func(Binding) ([]byte, error) // makes csr anew, linked to a TLS session; may be nil
	linkedTo *conn                         // whose session csr is linked to; nil if to none

	// secret means that the answer may hold a private key: only explicit trust anchors may authorise the server (RFC 7030
	// 6), nothing that came is quoted, and the connection ends with it.
	secret bool

	target        *url.URL
	hosts         []string    // the configured host, then that of each redirect to another origin; at least one
	authorization string      // the next try's Authorization header
	challenge     []challenge // what it answers; nil if nothing
	loggedIn      bool        // the password was used for this operation at this URL, which may happen once
	nonceRenewed  bool        // and once more, since the server took its nonce for too old
	redirects     int
}

// drainLimit is how many bytes of an error's body are read so that the connection can be kept.
const drainLimit = 64 << 10

func (r *request) method() string {
	if r.csr == nil {
		return http.MethodGet
	}
	return http.MethodPost
}

// do performs an operation: it answers a request for a login, follows redirects, and classes every answer but a
// success. The error is an *Error.
func (c *Client) do(ctx context.Context, r *request) (*answer, error) {
	r.target, r.hosts = c.o.URL.JoinPath(r.op), []string{c.o.URL.Hostname()}
	r.authorization = c.basic
	for {
		a, err := c.once(ctx, r)
		if err != nil {
			return nil, err
		}
		if a.success && r.redirects == 0 && strings.HasPrefix(r.authorization, "Basic ") {
			c.basic = r.authorization
		}
		switch {
		case a.success:
			if a.tooLarge {
				return nil, c.fail(r, ErrBadResponse, a, fmt.Errorf("answer of more than %d bytes", answerLimit))
			}
			return a, nil
		case a.status == http.StatusUnauthorized && c.mayLogIn(r, a):
			if err := c.logIn(r, a); err != nil {
				return nil, err
			}
		case a.status >= 300 && a.status < 400 && a.header.Get("Location") != "":
			if err := c.follow(r, a); err != nil {
				return nil, err
			}
		default:
			return nil, c.refuse(r, a)
		}
	}
}

// mayLogIn reports whether the password is to answer a 401: to a server that a person named, once at each URL of an
// operation, and once more where what the server refused is the age of its own nonce.
func (c *Client) mayLogIn(r *request, a *answer) bool {
	switch {
	case c.o.Login == nil || c.loginRefused || !c.named(a.over.origin):
		return false
	case !r.loggedIn:
		return true
	}
	digest := strings.HasPrefix(r.authorization, "Digest ")
	return digest && !r.nonceRenewed && stale(challenges(a.header.Values("WWW-Authenticate")))
}

// logIn prepares the answer to a 401.
func (c *Client) logIn(r *request, a *answer) error {
	if !a.over.authorised { // cannot be, as long as every connection is verified: what it guards is worth two lines
		return c.fail(r, ErrUntrusted, a, errors.New("a server that is not authorised asks for the password"))
	}
	// Servers drop the connection after a 401 without saying so, and a POST into it would be lost: always a fresh one.
	c.HangUp()
	r.challenge = challenges(a.header.Values("WWW-Authenticate"))
	if err := c.authorize(r); err != nil {
		e := c.fail(r, ErrUnauthorized, a, err)
		e.Refusal = r.csr != nil
		e.Hint = "have the server ask for Basic or Digest authentication, or use a client certificate"
		return e
	}
	r.loggedIn, r.nonceRenewed = true, r.loggedIn
	return nil
}

// authorize has r answer its challenge. The answer may depend on the body.
func (c *Client) authorize(r *request) error {
	authorization, secrets, err := c.o.Login.answer(r.challenge, loginFor{r.method(), r.target.RequestURI(), r.body},
		rand.Text())
	if err != nil {
		return err
	}
	r.authorization = authorization
	for _, secret := range secrets {
		for _, spelt := range spellings(secret) {
			if !slices.Contains(c.secrets, spelt) {
				c.secrets = append(c.secrets, spelt)
			}
		}
	}
	return nil
}

// errUnquoted stands in for an error of net/http's, which quotes what it cannot read, where that may be a key.
var errUnquoted = errors.New("it is not HTTP, or was cut short")

// errTimeLimit is the cause of a context that Options.Timeout ended.
var errTimeLimit = errors.New("time limit")

// errSpokeOn is in place of what net/http says of it, which is no sentence ("readLoopPeekFailLocked: %!w(<nil>)"). Mostly it
// is noticed before the next request is sent.
var errSpokeOn = errors.New("the server sent more than its last answer, so that the next cannot be told from the rest of it")

// once sends r over the kept connection, or over a new one if there is none, and reads the answer. The error is an
// *Error; an answer of whatever status is none.
func (c *Client) once(ctx context.Context, r *request) (*answer, error) {
	if c.closed {
		return nil, c.fail(r, ErrUnavailable, nil, errors.New("client is closed"))
	}
	limited, cancel := context.WithTimeoutCause(ctx, c.o.Timeout, errTimeLimit)
	defer cancel()

	k, failed := c.connection(ctx, limited, r)
	if failed != nil {
		return nil, failed
	}
	if r.secret && len(k.ends) == 0 {
		return nil, c.failHint(r, ErrUntrusted, errors.New("a key is asked for only from a server that explicit trust "+
			"anchors vouch for, and this one's certificate leads to the system's roots alone"), hintExplicit)
	}
	if err := c.produce(r, k); err != nil {
		return nil, err
	}
	var began atomic.Bool
	message, err := c.message(limited, r, &began)
	if err != nil {
		return nil, c.fail(r, ErrRejected, nil, err)
	}
	response, err := k.http.RoundTrip(message)
	if err != nil {
		c.HangUp()
		switch {
		case r.secret && began.Load():
			err = errUnquoted
		case strings.Contains(err.Error(), "readLoopPeekFailLocked: %!"):
			err = errSpokeOn
		}
		return nil, c.broken(ctx, limited, r, k, began.Load(), err)
	}
	k.answered = true
	c.noteStatus(response.StatusCode)
	if k.offered {
		c.certificateTaken = k.origin
	}
	a, whole, err := c.read(r, response)
	if err != nil {
		c.HangUp()
		if r.secret {
			err = errUnquoted
		}
		return nil, c.broken(ctx, limited, r, k, true, fmt.Errorf("read the answer's body: %w", err))
	}
	if !whole || response.Close {
		c.HangUp()
	}
	a.over = k
	return a, nil
}

// connection returns the kept connection where r may go over it, and else a new one in its place. limited is ctx with the time
// limit of r.
func (c *Client) connection(ctx, limited context.Context, r *request) (*conn, *Error) {
	if k := c.conn; k != nil && k.settled(limited) && k.serves(r) && (k.links() || !c.capped(k.origin)) {
		return k, nil
	}
	// There is none; or the server closed it after the last answer, or spoke on; or it is another server that is asked now;
	// or the connection came before we knew that requests are to be linked.
	c.HangUp()
	k, err := c.dial(limited, r)
	if err != nil {
		return nil, c.broken(ctx, limited, r, k, false, err)
	}
	c.conn = k
	if k.origin == originOf(c.o.URL) {
		c.shown = append(c.shown, k.chain)
		c.giveUpImplicit()
	}
	return k, nil
}

// serves reports whether r may be sent over k: it leads to the origin that r goes to, and was judged by the same hosts.
func (k *conn) serves(r *request) bool {
	return k.origin == originOf(r.target) && slices.Equal(k.hosts, r.hosts)
}

// produce makes the body that is sent over k. It does so for each connection, also for one after a login or a redirect,
// because a request that is linked to its TLS session is good for that session alone (RFC 7030 3.5, 3.2.1).
func (c *Client) produce(r *request, k *conn) *Error {
	switch {
	case r.csr == nil:
		return nil
	case c.linked():
		return c.link(r, k)
	}
	r.body = wrapBase64(r.csr)
	return nil
}

// message builds the HTTP request. Its body has a Content-Length: some servers refuse chunked ones. began becomes true,
// by net/http's reading goroutine, when a byte of the answer has arrived.
func (c *Client) message(ctx context.Context, r *request, began *atomic.Bool) (*http.Request, error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotFirstResponseByte: func() { began.Store(true) }})
	var body io.Reader // a nil *bytes.Reader would not do
	if r.csr != nil {
		body = bytes.NewReader(r.body)
	}
	message, err := http.NewRequestWithContext(ctx, r.method(), r.target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("build HTTP request: %w", err)
	}
	message.Close = r.secret // net/http logs what comes on a connection that it keeps
	message.Header.Set("User-Agent", c.o.UserAgent)
	if r.csr != nil {
		message.Header.Set("Content-Type", "application/pkcs10")
		// RFC 8951 3 has this header ignored; servers of RFC 7030 insist on it.
		message.Header.Set("Content-Transfer-Encoding", "base64")
	}
	if r.authorization != "" {
		message.Header.Set("Authorization", r.authorization)
	}
	return message, nil
}

// read reads the body of the response to r as far as it may go, and closes it. whole means that its end was reached, and
// so that the connection can be kept. Some CAs answer 201 to what they created; a GET creates nothing, and RFC 7030
// 4.1.3 has 200 alone count there.
func (c *Client) read(r *request, response *http.Response) (a *answer, whole bool, err error) {
	defer response.Body.Close()
	a = &answer{status: response.StatusCode, header: response.Header, came: c.o.Now()}
	a.success = a.status == http.StatusOK || a.status == http.StatusCreated && r.csr != nil
	if a.status == http.StatusSwitchingProtocols {
		return a, false, nil // what follows is no body
	}
	limit := int64(errorTextLimit)
	if a.success {
		limit = answerLimit
	}
	a.body, err = io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil && a.success {
		return a, false, err
	}
	if int64(len(a.body)) > limit {
		a.body = a.body[:limit]
		a.tooLarge = a.success
		if a.tooLarge {
			return a, false, nil
		}
	}
	// Of an error the status is known and counts, whatever becomes of its text.
	n, err := io.CopyN(io.Discard, response.Body, drainLimit)
	return a, n < drainLimit && errors.Is(err, io.EOF), nil
}

// causeLimit bounds the text of Error.Err, in bytes.
const causeLimit = 1 << 10

// fail returns the error of an operation; a is nil where there was no answer.
func (c *Client) fail(r *request, class error, a *answer, err error) *Error {
	switch {
	case !c.elsewhere(r):
	case err == nil:
		err = fmt.Errorf("it redirected to %s", originOf(r.target))
	default:
		err = fmt.Errorf("redirected to %s: %w", originOf(r.target), err)
	}
	if err != nil {
		// What net/http and crypto/x509 say quotes the server, at any length, and the server may quote our login.
		if text := quote(err.Error(), c.secrets, causeLimit); text != err.Error() {
			err = errors.New(text)
		}
	}
	e := &Error{Op: r.op, Server: c.o.URL.String(), Identity: c.o.Identity, Class: class, Err: err}
	if c.o.Certificate == nil && c.o.Identity == "" && c.passwordSent() {
		e.Identity = fmt.Sprintf("user %q", c.o.Login.Username)
	}
	if a != nil {
		e.Status = a.status
		e.RetryAfter = parseRetryAfter(a.header.Values("Retry-After"), a.came)
	}
	return e
}

// refuse classes an answer that is no success.
func (c *Client) refuse(r *request, a *answer) *Error {
	class, refusal := classOf(a.status)
	e := c.fail(r, class, a, nil)
	e.Refusal = refusal && r.csr != nil
	e.Detail = quoteBody(a.body, c.secrets)
	c.loginRefused = c.loginRefused || a.status == http.StatusUnauthorized && r.loggedIn
	switch {
	case a.status == http.StatusAccepted && r.csr == nil:
		e.Class = ErrBadResponse // only an enrolment can be pending
	case class == ErrUnauthorized:
		c.explainRefusal(e, r, a)
	case a.status == http.StatusNotFound:
		e.Hint = "check the path in the URL: https://host[:port]/.well-known/est, or with a label behind it"
	case class == ErrBadResponse:
		e.Err = errors.New("neither a success nor an error that EST knows")
	}
	return e
}

// classOf returns the class of an answer that is no success, and whether it speaks against the identity used.
func classOf(status int) (class error, refusal bool) {
	switch status {
	case http.StatusAccepted:
		return ErrPending, false
	case http.StatusUnauthorized, http.StatusForbidden:
		return ErrUnauthorized, true
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return ErrRejected, true
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return ErrUnavailable, false
	}
	switch {
	case status >= 500 && status < 600:
		return ErrUnavailable, false
	case status >= 400 && status < 500:
		return ErrRejected, false
	}
	return ErrBadResponse, false
}
