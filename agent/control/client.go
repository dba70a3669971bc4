package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"certagent/agent/status"
)

// Why there may be no answer.
var (
	// ErrNobody says that no agent listens at the socket.
	ErrNobody = errors.New("no agent answers")
	// ErrSilent says that one listens and said nothing before the context ended: it is stuck, or stopped.
	ErrSilent = errors.New("does not answer in time")
	// ErrShut says that one listens and wants no more visitors, or none any more.
	ErrShut = errors.New("ended the connection: it is stopping, or has too many")
)

// maxAnswer bounds what is read of an answer, in bytes: the status of ten thousand certificates.
const maxAnswer = 64 << 20

// Client asks an agent. Its methods may be called from any goroutine, and end with their context: an agent that is stuck
// answers nothing.
type Client struct {
	socket string
	http   *http.Transport
}

// NewClient makes a client of the agent at a socket. Whoever answers there must be one of
// owners: anybody can make a socket in a place such as /tmp.
func NewClient(socket string, owners ...uint32) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err != nil {
			return nil, err
		}
		if err := trusted(c, owners); err != nil {
			c.Close()
			return nil, err
		}
		return c, nil
	}
	return &Client{socket: socket, http: &http.Transport{DialContext: dial, DisableCompression: true}}
}

// trusted refuses a server of a stranger's.
func trusted(c net.Conn, owners []uint32) error {
	p, err := peerOf(c.(*net.UnixConn))
	if err != nil {
		return err
	}
	if !slices.Contains(owners, p.uid) {
		return fmt.Errorf("user %d answers there, who is neither root nor the agent's user", p.uid)
	}
	return nil
}

// Is tells whether there is a socket at path; who made it, and whether he still listens, shows when he is asked.
func Is(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().Type() == fs.ModeSocket
}

// Socket is the path of the socket.
func (c *Client) Socket() string { return c.socket }

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// News is a Snapshot and what it is called.
type News struct {
	Snapshot status.Snapshot
	Revision string
}

// Status asks for the Snapshot. With a revision, that of an earlier answer, the agent holds its answer back for as long as it has
// no other, up to wait (whole seconds, at most MaxWait): then changed is false and there is no Snapshot.
func (c *Client) Status(ctx context.Context, revision string, wait time.Duration) (news News, changed bool, err error) {
	header := http.Header{}
	if revision != "" {
		header.Set("If-None-Match", quoted(revision))
		header.Set("Prefer", "wait="+strconv.Itoa(int(wait/time.Second)))
	}
	answer, err := c.do(ctx, http.MethodGet, pathStatus, header, nil, &news.Snapshot)
	if err != nil || answer.StatusCode == http.StatusNotModified {
		return News{Revision: revision}, false, err
	}
	if s := news.Snapshot.Schema; s != status.Schema {
		return News{}, false, fmt.Errorf("ask the agent at %s: it speaks of schema %d, and this program of %d", c.socket, s, status.Schema)
	}
	if tag, err := strconv.Unquote(answer.Header.Get("ETag")); err == nil {
		news.Revision = tag
	}
	return news, true, nil
}

// Renew has certificates issued anew; see [Renewed] for what is known when it returns.
func (c *Client) Renew(ctx context.Context, r Renewal) ([]Renewed, error) {
	var answer renewals
	_, err := c.do(ctx, http.MethodPost, pathRenew, nil, r, &answer)
	return answer.Certificates, err
}

// Reload has the configuration read again and waits for it.
func (c *Client) Reload(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodPost, pathReload, nil, nil, nil)
	return err
}

// Onboard has the device certificate made known to its cloud; see [Onboarded] for what is known when it returns.
func (c *Client) Onboard(ctx context.Context, o Onboarding) (Onboarded, error) {
	var answer Onboarded
	_, err := c.do(ctx, http.MethodPost, pathCloud, nil, o, &answer)
	return answer, err
}

// Import has a certificate and its key taken over from a file beside the socket.
func (c *Client) Import(ctx context.Context, i Import) (taken Imported, err error) {
	_, err = c.do(ctx, http.MethodPost, pathImport, nil, i, &taken)
	return taken, err
}

// do makes one request. What the agent refuses is an [*Error]; that there is no answer is ErrNobody, ErrSilent or ErrShut.
func (c *Client) do(ctx context.Context, method, path string, header http.Header, send, into any) (*http.Response, error) {
	var body io.Reader
	if send != nil {
		text, err := json.Marshal(send)
		if err != nil {
			return nil, fmt.Errorf("ask the agent: %w", err)
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://certagent"+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask the agent: %w", err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	answer, err := c.http.RoundTrip(request)
	if err != nil {
		return nil, c.failure(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return nil, c.failure(err)
	}
	if answer.StatusCode >= http.StatusBadRequest {
		e := &Error{Status: answer.StatusCode}
		if json.Unmarshal(text, e) != nil || e.Text == "" {
			e.Text = "the agent answers " + answer.Status
		}
		return nil, e
	}
	if into != nil && answer.StatusCode == http.StatusOK {
		if err := json.Unmarshal(text, into); err != nil {
			return nil, fmt.Errorf("understand what the agent at %s answers: %w", c.socket, err)
		}
	}
	return answer, nil
}

// failure says why there is no answer, without what package http thinks of a URL that nobody typed.
func (c *Client) failure(err error) error {
	for _, nobody := range []error{fs.ErrNotExist, unix.ECONNREFUSED} {
		if errors.Is(err, nobody) {
			return fmt.Errorf("%w at %s", ErrNobody, c.socket)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the agent at %s %w", c.socket, ErrSilent)
	}
	shut := strings.Contains(err.Error(), "server closed idle connection") // before the request left; http has no value for it
	for _, ended := range []error{io.EOF, unix.ECONNRESET, unix.EPIPE} {
		shut = shut || errors.Is(err, ended)
	}
	if shut {
		return fmt.Errorf("the agent at %s %w", c.socket, ErrShut)
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return fmt.Errorf("ask the agent at %s: %w", c.socket, err)
}
