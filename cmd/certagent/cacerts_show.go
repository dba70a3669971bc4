package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"certagent/agent/status"
	"certagent/est"
)

// vouchers say who vouches for the server's own certificate, in the words of a report.
type vouchers struct {
	each   []string // under each of the certificates shown, alone
	system string   // under the system's roots
}

// vouchingLimit bounds the time for all connections that find out who vouches for a server.
const vouchingLimit = time.Minute

// vouching finds out under which of certs the server's own certificate verifies, and whether it does under the system's
// roots: by connecting as the agent will, once for each, because what verifies is decided in one place alone.
func vouching(ctx context.Context, o est.Options, certs []*x509.Certificate) vouchers {
	ctx, cancel := context.WithTimeout(ctx, vouchingLimit)
	defer cancel()
	under := func(anchors []*x509.Certificate) string {
		o := o
		o.Anchors, o.SystemRoots = anchors, len(anchors) == 0
		return verdict(try(ctx, o))
	}
	v := vouchers{system: under(nil)}
	for _, cert := range certs {
		word := "no, this is no CA certificate"
		if canAnchor(cert) {
			word = under([]*x509.Certificate{cert})
		}
		v.each = append(v.each, word)
	}
	return v
}

// try asks for /cacerts over an authorised connection.
func try(ctx context.Context, o est.Options) error {
	c, err := est.New(o)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.CACerts(ctx)
	return err
}

func verdict(err error) string {
	e, ok := errors.AsType[*est.Error](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	switch {
	case err == nil:
		return "yes"
	case unknown:
		return "no"
	case ok && e.Class == est.ErrUntrusted:
		return fmt.Sprintf("no: %v", e.Err)
	}
	return fmt.Sprintf("not known: %v", err)
}

// show writes what a person needs to compare.
func show(w io.Writer, server *url.URL, certs []*x509.Certificate, by vouchers, now time.Time) error {
	var b strings.Builder
	what := "1 CA certificate"
	if len(certs) > 1 {
		what = fmt.Sprintf("%d CA certificates", len(certs))
	}
	fmt.Fprintf(&b, "%s shows %s. Whoever answered can have shown anything:\n"+
		"compare the SHA-256 with one that came another way.\n", server, what)
	for i, cert := range certs {
		issuer := name(cert.Issuer.String())
		if est.IsRoot(cert) {
			issuer = "itself: this is a root"
		}
		fmt.Fprintf(&b, "\n%d  subject  %s\n", i+1, name(cert.Subject.String()))
		fmt.Fprintf(&b, "   issuer   %s\n", issuer)
		fmt.Fprintf(&b, "   valid    %s\n", validity(cert, now))
		fmt.Fprintf(&b, "   SHA-256  %s\n", colons(sha256.Sum256(cert.Raw)))
		fmt.Fprintf(&b, "   the server's own certificate verifies under it: %s\n", status.Printable(by.each[i]))
	}
	fmt.Fprintf(&b, "\nThe server is verified by the system's roots: %s\n", status.Printable(by.system))
	_, err := io.WriteString(w, b.String())
	return err
}

func validity(cert *x509.Certificate, now time.Time) string {
	state := ""
	switch {
	case now.After(cert.NotAfter):
		state = ": expired by this machine's clock"
	case now.Before(cert.NotBefore):
		state = ": not valid yet by this machine's clock"
	}
	day := func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }
	return fmt.Sprintf("%s to %s UTC%s", day(cert.NotBefore), day(cert.NotAfter), state)
}

// nameShown is how many bytes of a name are shown: enough for any honest one, and no flood.
const nameShown = 300

// name is a name that somebody else wrote, safe for a terminal.
func name(text string) string {
	if text == "" {
		return "(empty)"
	}
	if len(text) > nameShown {
		cut := nameShown
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "…"
	}
	return status.Printable(text)
}

// colons is a fingerprint as openssl prints one.
func colons(sum [sha256.Size]byte) string {
	return strings.ReplaceAll(strings.ToUpper(fmt.Sprintf("% x", sum)), " ", ":")
}
