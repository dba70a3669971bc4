package dps

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"certagent/agent/onboard"
	"certagent/est/tlsalert"
)

const (
	apiVersion     = "2021-06-01"
	defaultTimeout = 30 * time.Second
	headerLimit    = 64 << 10 // of an answer, in bytes
	bodyLimit      = 64 << 10
)

// Options say what a [Client] registers, and how.
type Options struct {
	// Registration is what is registered. SHA256 is that of Certificate.
	Registration Registration

	// Certificate is what the device logs in with: its own, then those of the CAs above it, in order, for DPS builds
	// the path to an enrolment's CA from what it is shown.
	Certificate *tls.Certificate

	// Roots verify the endpoint. nil means the system's. EST's anchors have no say here.
	Roots *x509.CertPool

	// Payload is the name of a file whose JSON goes to the webhook of a custom allocation; "" is none. ReadPayload reads
	// it, at each registration, so that a change of it needs no restart. Who may have written it is for that to judge; its
	// error names the file, and nothing of what is in it.
	Payload     string
	ReadPayload func(name string) ([]byte, error)

	Dialer    onboard.Dialer
	UserAgent string

	// Timeout bounds one exchange, from dialling to the last byte. 0 means 30 seconds.
	Timeout time.Duration

	// Now is the clock. nil means time.Now.
	Now func() time.Time
}

// Client registers one certificate of one device. It keeps a connection between exchanges, so that polling costs no
// handshakes; who makes it closes it. Its methods are for one goroutine at a time.
type Client struct {
	o       Options
	leaf    *x509.Certificate // of the last exchange
	conn    *conn             // nil while there is none
	secrets []string          // values of the last payload that it sent
	sent    bool              // it sent one
}

// conn is a connection to the endpoint.
type conn struct {
	http    *http.ClientConn
	dialled atomic.Bool   // there is a TCP connection
	offer   onboard.Offer // of the handshake, of which net/http's reading goroutine may do one more
	used    time.Time     // when the last answer came
}

// idleLimit is how long a connection is kept between two exchanges. After some minutes services close it without a
// word, and a request on its way then is lost.
const idleLimit = 30 * time.Second

// New returns a Client. What it is given is judged at each exchange, and not here, so that a wrong setting becomes the
// problem of the certificate, as every other failure does. It dials nobody.
func New(o Options) *Client {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Client{o: o}
}

// Close closes the connection. The Client can still be used, and opens another.
func (c *Client) Close() {
	if c.conn != nil && c.conn.http != nil {
		c.conn.http.Close()
	}
	c.conn = nil
}

// dial opens a connection for request unless there is one that will do. What it noted stays in c.conn also after an
// error.
func (c *Client) dial(request *http.Request) error {
	if k := c.conn; k != nil && k.http != nil && k.http.Err() == nil && c.o.Now().Sub(k.used).Abs() < idleLimit {
		return nil
	}
	c.Close()
	k := new(conn)
	c.conn = k
	settings := c.o.Dialer.TLSConfig(c.o.Roots, c.o.Certificate)
	// Some services of Azure ask for the client certificate once they have seen the request, by a second handshake on
	// the same connection (TLS 1.2, RFC 5746; golang/go 5742, azure-iot-sdk-c 694, azure-sdk-for-go 21182). One is
	// enough for that.
	settings.Renegotiation = tls.RenegotiateOnceAsClient
	k.offer.Watch(settings)
	transport := &http.Transport{
		// No Proxy: the dialer knows it.
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			raw, err := c.o.Dialer.DialContext(ctx, network, address)
			k.dialled.Store(err == nil)
			return raw, err
		},
		TLSClientConfig:        settings,
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // no HTTP/2
		DisableCompression:     true,
		MaxResponseHeaderBytes: headerLimit,
	}
	port := request.URL.Port()
	if port == "" {
		port = "443"
	}
	var err error
	k.http, err = transport.NewClientConn(request.Context(), "https", net.JoinHostPort(request.URL.Hostname(), port))
	return err
}

// Exchange does step, whatever its time: one request, and its answer. The error is an [*Error], unless ctx was
// canceled: then it is the cause of that.
func (c *Client) Exchange(ctx context.Context, step Step) (Answer, error) {
	request, err := c.request(step)
	if err != nil {
		return Answer{}, err
	}
	limited, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	in, err := c.roundTrip(request.WithContext(limited))
	if err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return Answer{}, fmt.Errorf("%s at DPS: %w", step.Do, context.Cause(ctx))
		}
		return Answer{}, c.broken(step, err, limited.Err() != nil)
	}
	a, err := read(c.o.Registration, step, in, c.shown(), c.secrets)
	if e, ok := errors.AsType[*Error](err); ok && c.o.Payload != "" && !c.sent {
		e.Detail = "" // a Client before this one sent the payload, and what of it may be quoted here is not known
	}
	if err != nil {
		return Answer{}, err
	}
	if a.Result != nil {
		a.Result.SHA1 = sha1Of(c.leaf)
	}
	return a, nil
}

// request builds what step sends. The error is an *Error of class ErrDevice.
func (c *Client) request(step Step) (*http.Request, error) {
	want := c.o.Registration
	fail := func(code string, err error, hint string) (*http.Request, error) {
		return nil, &Error{Do: step.Do, Target: want, Class: ErrDevice, Code: code, Err: err, Hint: hint}
	}
	target, err := want.check()
	if err != nil {
		return fail(CodeSettings, err, "correct [provisioning] in the configuration")
	}
	leaf, err := onboard.Leaf(c.o.Certificate, want.SHA256)
	if err != nil {
		return fail(CodeCertificate, err, "have it issued anew: certagent renew")
	}
	if e := want.fits(leaf, c.o.Now()); e != nil {
		e.Do, e.Target = step.Do, want
		return nil, e
	}
	c.leaf = leaf

	path := []string{want.IDScope, "registrations", want.RegistrationID, "register"}
	method, body := http.MethodPut, []byte(nil)
	switch step.Do {
	case Register:
		message := struct {
			RegistrationID string          `json:"registrationId"`
			Payload        json.RawMessage `json:"payload,omitempty"`
		}{RegistrationID: want.RegistrationID}
		if c.o.Payload != "" {
			if message.Payload, err = c.o.payload(); err != nil {
				return fail(CodePayload, err,
					"payload.uri must name a file with JSON that the agent may read, and only root and the agent may change")
			}
		}
		c.secrets, c.sent = secretsOf(message.Payload), true
		if body, err = json.Marshal(message); err != nil {
			return fail(CodePayload, errors.New("the payload cannot be sent"), "")
		}
	case Poll:
		path[3] = "operations"
		path = append(path, step.Operation)
		method = http.MethodGet
	default:
		return fail(CodeSettings, fmt.Errorf("there is no step %s", onboard.Quote(string(step.Do))), "")
	}
	target = target.JoinPath(path...) // all of it was checked: no part can be taken for another
	target.RawQuery = "api-version=" + apiVersion
	request, err := http.NewRequest(method, target.String(), nil)
	if err != nil {
		return fail(CodeSettings, errors.New("the endpoint is no URL"), "")
	}
	if body != nil {
		request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", c.o.UserAgent) // an empty one is left out
	return request, nil
}

// roundTrip sends request and reads the answer as far as it may go.
func (c *Client) roundTrip(request *http.Request) (received, error) {
	if err := c.dial(request); err != nil {
		return received{}, err
	}
	response, err := c.conn.http.RoundTrip(request) // follows no redirect
	if err != nil {
		return received{}, err
	}
	defer response.Body.Close()
	in := received{status: response.StatusCode, header: response.Header, came: c.o.Now()}
	c.conn.used = in.came
	whole := false
	if in.status != http.StatusSwitchingProtocols { // what follows that is no body
		in.body, err = io.ReadAll(io.LimitReader(response.Body, bodyLimit+1))
		in.cut = len(in.body) > bodyLimit
		whole = err == nil && !in.cut
	}
	success := in.status == http.StatusOK || in.status == http.StatusAccepted
	if err != nil && success { // of an error the status counts, whatever becomes of its text
		return received{}, fmt.Errorf("read the answer: %w", err)
	}
	if !whole || response.Close {
		c.conn.http.Close()
	}
	return in, nil
}

// shown is what the endpoint saw of our certificate.
func (c *Client) shown() shown {
	s := shown{
		asked: c.conn.offer.Asked(), offered: c.conn.offer.Offered(), chain: len(c.o.Certificate.Certificate),
		issuer: c.leaf.Issuer.String(),
	}
	if kind := c.leaf.PublicKeyAlgorithm; kind != x509.RSA && kind != x509.ECDSA {
		s.key = kind.String()
	}
	return s
}

// broken is the error of an exchange that got no answer.
func (c *Client) broken(step Step, err error, overdue bool) *Error {
	e := &Error{
		Do: step.Do, Target: c.o.Registration, Class: ErrUnavailable, Code: CodeUnavailable,
		Err:  errors.New(quote(err.Error(), c.secrets)), // net/http quotes what it cannot read
		Hint: "check the network, HTTPS_PROXY, and global_endpoint in [provisioning]; it is tried again",
	}
	_, verification := errors.AsType[*tls.CertificateVerificationError](err)
	alert, ended := tlsalert.Received(err)
	refused := ended && tlsalert.OverCertificate(alert)
	switch {
	case verification:
		e.Class, e.Code = ErrUntrusted, CodeUntrusted
		e.Hint = "install the system's CA certificates (package ca-certificates), or name the CA behind the endpoint " +
			"in trusted_certs of [provisioning]; trusted_certs of EST do not count here"
	case c.conn.offer.Asked() && (!c.conn.offer.Offered() || refused): // without one it is never taken
		e.Class, e.Code = ErrUnauthorized, CodeUnauthorized
		e.Hint = c.shown().remedy(c.o.Registration, step.Why)
	case overdue:
		e.Err = errors.New("no answer in time")
	case c.conn.dialled.Load() && onboard.HungUp(err):
		e.Err = errors.New("it ended the connection before its answer was whole")
	}
	return e
}
