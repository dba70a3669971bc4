package est

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// wantBearable fails if an error's text is more than a line of a log can bear.
func wantBearable(t *testing.T, err error) {
	t.Helper()
	text := err.Error()
	if len(text) > 2*causeLimit || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%d bytes: %q", len(text), text)
	}
}

// Wherever a redirect points, a request is not led from https, nor by itself to another server.
func FuzzLocation(f *testing.F) {
	for _, seed := range []string{"/x/simpleenroll", "https://localhost/x", "HTTPS://LOCALHOST:443/x",
		"https://localhost:8443/", "//evil.example/", "http://localhost/", "https://u:p@localhost/", "?", "https://",
		"https:opaque", "\\\\evil\\", "a:b:c", "\x1b[31m"} {
		f.Add(seed, http.StatusTemporaryRedirect, true)
		f.Add(seed, http.StatusFound, false)
	}
	c, err := New(Options{URL: mustParse(f, "https://localhost/.well-known/est"), SystemRoots: true, Roots: poolOf(nil)})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, location string, status int, post bool) {
		r := &request{op: "cacerts", target: c.o.URL.JoinPath("cacerts"), hosts: []string{"localhost"}}
		if post {
			r.csr = []byte{0x30, 0}
		}
		err := c.follow(r, &answer{status: status, header: http.Header{"Location": {location}}})
		if err != nil {
			if !errors.Is(err, ErrBadResponse) {
				t.Errorf("class of %v", err)
			}
			wantBearable(t, err)
			return
		}
		if r.target.Scheme != "https" || r.target.User != nil || r.target.Hostname() == "" || r.redirects != 1 {
			t.Errorf("leads to %s, redirects %d", r.target, r.redirects)
		}
		if post && (c.elsewhere(r) || status != http.StatusTemporaryRedirect && status != http.StatusPermanentRedirect) {
			t.Errorf("a POST is led to %s by %d", r.target, status)
		}
	})
}

// A body is parsed where its media type is one that we know, whatever stands behind that.
func FuzzContentType(f *testing.F) {
	for _, seed := range []string{"", "application/pkcs7-mime", "Application/PKCS7-Mime ; smime-type=certs-only", ";",
		"application/x-pkcs7-certificates", "application/pkix-cert", "text/html; charset=utf-8",
		"multipart/mixed; boundary=\"x", "\x00"} {
		f.Add(seed)
	}
	body := certsOnlyBody(f, newRoot(f, "root").cert)
	f.Fuzz(func(t *testing.T, contentType string) {
		certs, _, err := parseCertificates(contentType, body)
		before, _, _ := strings.Cut(contentType, ";")
		mediaType := strings.ToLower(strings.TrimSpace(before))
		if known := mediaType == "" || slices.Contains(messageTypes, mediaType); known != (err == nil && len(certs) == 1) {
			t.Errorf("%q: %d certificates, %v", contentType, len(certs), err)
		}
		if err != nil {
			wantBearable(t, err)
		}
		if _, err := splitMultipart(contentType, body); err != nil {
			wantBearable(t, err)
		}
		(part{contentType: contentType, mediaType: mediaTypeOf(contentType), body: body}).isKey()
	})
}
