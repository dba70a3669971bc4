package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	stdlog "log"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"certagent/est"
	"certagent/store/durable"
)

func (p *program) caCertsCommand() *cobra.Command {
	var fingerprints []string
	var out string
	c := &cobra.Command{
		Use:   "cacerts URL",
		Short: "fetch an EST server's CA certificates, for a first trust anchor",
		Long: `cacerts asks an EST server for its CA certificates without trusting it (RFC 7030 section 4.1.1), and shows
subject, issuer, validity and SHA-256 of each. Whoever answered can have shown anything: compare the SHA-256
with one that came another way, from whoever runs the CA. No login is shown to the server.

URL is that of the EST operations, https://host[:port]/.well-known/est with or without a label behind it;
host[:port] alone stands for it.

With --out the certificates that are accepted are written as PEM, and nothing else: those that a fingerprint
covers, or, on a terminal and without one, each root that is answered for with yes. FILE is replaced in one
step and gets mode 0644; it may be there only as a file of certificates. A FILE of - is stdout; all else
goes to stderr then. Without --out nothing is written.

Exit codes: 0 shown (with --out: written); 1 no answer, a fingerprint covers nothing (then nothing is written), or
nothing was accepted for --out; 2 usage.`,
		Example: `  certagent cacerts est.example.com:8085
  certagent cacerts est.example.com:8085 --fingerprint 9f:86:d0:81:... \
      --out /etc/certagent/trust/est.pem`,
		Args: one("of which server?", "certagent cacerts --help says how it is used"),
		RunE: func(c *cobra.Command, args []string) error {
			// net/http prints through the standard logger what a server sends out of turn, and nobody has looked at that.
			stdlog.SetOutput(io.Discard)
			if c.Flags().Changed("out") && out == "" { // --out "$UNSET" must not end well without having written
				return misused(&hint{errors.New("--out names no file"), "leave it out to write nothing"})
			}
			return p.caCerts(c.Context(), c.InOrStdin(), args[0], fingerprints, out)
		},
	}
	c.Flags().StringArrayVar(&fingerprints, "fingerprint", nil,
		"accept the certificate with this `SHA256` (or SHA-512), in hex, with or without colons; repeatable")
	c.Flags().StringVar(&out, "out", "", "write what is accepted to `FILE`, as PEM")
	return c
}

func (p *program) caCerts(ctx context.Context, stdin io.Reader, where string, fingerprints []string, out string) error {
	server, err := estURL(where)
	if err != nil {
		return misused(err)
	}
	for _, f := range fingerprints {
		if _, err := est.Fingerprinted(nil, f); err != nil {
			return misused(&hint{err, "openssl x509 -noout -fingerprint -sha256 -in FILE prints one"})
		}
	}
	report := p.stdout
	if out == "-" {
		report = p.stderr
	} else if out != "" {
		if out, err = filepath.Abs(out); err != nil {
			return failed(err)
		}
		if err := mayReplace(out); err != nil {
			return failed(err)
		}
	}
	o := est.Options{URL: server, UserAgent: "certagent/" + version}
	certs, err := est.Provisional(ctx, o)
	if err != nil {
		return estFailed(err)
	}
	certs = each(certs)
	if err := show(report, server, certs, vouching(ctx, o, certs), time.Now()); err != nil {
		return failed(err)
	}

	accepted, err := covered(certs, fingerprints)
	if err != nil {
		return failed(err)
	}
	for _, cert := range accepted {
		number := 1 + slices.IndexFunc(certs, cert.Equal)
		fmt.Fprintf(report, "\nA fingerprint covers number %d, %s\n", number, name(cert.Subject.String()))
	}
	if out == "" {
		return nil
	}
	if len(fingerprints) == 0 {
		if !isTerminal(stdin) {
			return failed(&hint{errors.New("nothing is written: nobody has accepted a certificate"),
				"give --fingerprint with the SHA-256 that whoever runs the CA told you, or answer on a terminal"})
		}
		if accepted, err = confirmed(stdin, p.stderr, certs); err != nil {
			return failed(err)
		}
	}
	return p.writeAnchors(report, out, accepted)
}

// estURL is the base URL of the EST operations that a person means by text.
func estURL(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the whole of it would repeat the URL, and what login may stand in it
		}
		return nil, &hint{fmt.Errorf("this is not a URL: %w", err),
			"write https://host[:port]/.well-known/est, or host[:port]"}
	}
	path := strings.TrimSuffix(strings.TrimRight(u.EscapedPath(), "/"), "/cacerts") // no label is called that
	if path == "" {
		path = "/.well-known/est"
	}
	u.RawPath = path
	if u.Path, err = url.PathUnescape(path); err != nil {
		return nil, fmt.Errorf("path of the URL: %w", err) // cannot be: it was made from one
	}
	return u, nil
}

// anchorsLimit bounds the size in bytes of a file that is replaced.
const anchorsLimit = 1 << 20

// mayReplace refuses a file that is something else than certificates in PEM.
func mayReplace(file string) error {
	if _, err := os.Stat(filepath.Dir(file)); err != nil {
		return &hint{fmt.Errorf("write %s: %w", file, err), "make the directory first"}
	}
	data, _, err := durable.ReadFile(durable.OS{}, file, anchorsLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, ok := errors.AsType[*durable.KindError](err); ok {
		return &hint{fmt.Errorf("not replaced: %w", err), "name a regular file, not one that leads to it"}
	}
	if err != nil {
		return err
	}
	blocks := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			blocks = 0
			break
		}
		blocks++
	}
	if blocks == 0 && len(data) > 0 {
		return &hint{fmt.Errorf("not replaced: %s holds something else than certificates", file),
			"move it away, or name another file"}
	}
	return nil
}

// estFailed is the end of a command that got no answer it can use.
func estFailed(err error) error {
	e, ok := errors.AsType[*est.Error](err)
	switch {
	case !ok:
		return misused(err) // what was asked for cannot be tried
	case e.Hint != "":
		return failed(&hint{err, e.Hint})
	}
	return failed(err)
}

// each is certs without repetitions.
func each(certs []*x509.Certificate) []*x509.Certificate {
	var once []*x509.Certificate
	for _, cert := range certs {
		if !slices.ContainsFunc(once, cert.Equal) {
			once = append(once, cert)
		}
	}
	return once
}

// covered are the certificates that the fingerprints cover. Each must cover one, which can be an anchor.
func covered(certs []*x509.Certificate, fingerprints []string) ([]*x509.Certificate, error) {
	var accepted []*x509.Certificate
	var errs []error
	for _, f := range fingerprints {
		found, err := est.Fingerprinted(certs, f)
		switch {
		case err != nil:
			errs = append(errs, err)
		case len(found) == 0:
			errs = append(errs, &hint{fmt.Errorf("none of the certificates shown has the fingerprint %s", strings.TrimSpace(f)),
				"compare it with the SHA-256 above: this is another CA, or somebody stands in between"})
		case !canAnchor(found[0]):
			errs = append(errs, fmt.Errorf("%s has the fingerprint %s, and is no CA certificate",
				name(found[0].Subject.String()), strings.TrimSpace(f)))
		default:
			accepted = append(accepted, found...)
		}
	}
	return each(accepted), errors.Join(errs...)
}

// canAnchor reports whether cert can be a trust anchor: a CA certificate, or one from before there were such.
func canAnchor(cert *x509.Certificate) bool { return cert.IsCA || cert.Version < 3 }

// confirmed asks about each root; only the word yes accepts one.
func confirmed(stdin io.Reader, ask io.Writer, certs []*x509.Certificate) ([]*x509.Certificate, error) {
	answers := bufio.NewReader(stdin)
	var accepted []*x509.Certificate
	for i, cert := range certs {
		if !est.IsRoot(cert) {
			continue
		}
		// With the SHA-256, for whoever has sent the rest elsewhere.
		fmt.Fprintf(ask, "Trust number %d, SHA-256 %s?\nType yes if you have compared it [no]: ",
			i+1, colons(sha256.Sum256(cert.Raw)))
		answer, err := answers.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read the answer: %w", err)
		}
		if strings.TrimSpace(answer) == "yes" {
			accepted = append(accepted, cert)
		}
	}
	return accepted, nil
}

// writeAnchors writes what was accepted, and says what to do with it.
func (p *program) writeAnchors(report io.Writer, out string, accepted []*x509.Certificate) error {
	if len(accepted) == 0 {
		return failed(errors.New("nothing is written: no certificate was accepted"))
	}
	var data []byte
	for _, cert := range accepted {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	if out == "-" {
		_, err := p.stdout.Write(data)
		return err
	}
	if err := durable.WriteFile(durable.OS{}, out, data, durable.Mode(0o644)); err != nil {
		return failed(err)
	}
	uri := (&url.URL{Scheme: "file", Path: out}).String()
	_, err := fmt.Fprintf(report, "\nWritten. For the configuration:\n\n[cert_issuance.est]\ntrusted_certs = [%q]\n", uri)
	return err
}
