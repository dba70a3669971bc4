package est

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The files in testdata/keygen were made by openssl, with the script among them.

// unwrapKey is the key that the envelopes in testdata are encrypted to.
func unwrapKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	block, _ := pem.Decode(readTestdata(t, "keygen/recipient.key.pem"))
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*rsa.PrivateKey)
}

func named(t testing.TB, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", "keygen", pattern))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(paths), err)
	}
	for i, path := range paths {
		paths[i] = filepath.Join("keygen", filepath.Base(path))
	}
	return paths
}

const boundary = "b0undary"

// multipartBody has the parts given as header, content.
func multipartBody(parts ...string) []byte {
	var b bytes.Buffer
	b.WriteString("This is the preamble.\r\n")
	for pair := range slices.Chunk(parts, 2) {
		fmt.Fprintf(&b, "--%s\r\n%s\r\n\r\n%s\r\n", boundary, pair[0], pair[1])
	}
	fmt.Fprintf(&b, "--%s--\r\nepilogue\r\n", boundary)
	return b.Bytes()
}

const (
	keyHeader  = "Content-Type: application/pkcs8\r\nContent-Transfer-Encoding: base64"
	certHeader = "Content-Type: application/pkcs7-mime; smime-type=certs-only\r\nContent-Transfer-Encoding: base64"
	sealHeader = "Content-Type: application/pkcs7-mime; smime-type=server-generated-key"
)

// keygenServer answers serverkeygen with what answer makes of a new P-256 key and its certificate, both in base64.
func keygenServer(t *testing.T, answer func(key, certs string) (contentType string, body []byte)) *server {
	t.Helper()
	s := newServer(t)
	s.handlers["serverkeygen"] = func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		der, err := base64.StdEncoding.DecodeString(string(body))
		if err != nil {
			http.Error(w, "not base64", http.StatusBadRequest)
			return
		}
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil {
			http.Error(w, "no request", http.StatusBadRequest)
			return
		}
		key := newKey(t)
		template := &x509.Certificate{RawSubject: csr.RawSubject, ExtraExtensions: csr.Extensions}
		leaf := s.root.certify(t, template, key.Public())
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Error(err)
		}
		contentType, text := answer(base64.StdEncoding.EncodeToString(pkcs8), string(certsOnlyBody(t, leaf)))
		w.Header().Set("Content-Type", contentType)
		w.Write(text)
	}
	return s.start()
}

const mixed = "multipart/mixed; boundary=" + boundary

func TestServerKeygenShapes(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer func(key, certs string) (string, []byte)
	}{
		{"as RFC 7030 has it", func(key, certs string) (string, []byte) {
			return mixed, multipartBody(keyHeader, key, certHeader, certs)
		}},
		{"the certificate first", func(key, certs string) (string, []byte) {
			return mixed, multipartBody(certHeader, certs, keyHeader, key)
		}},
		{"other header", func(key, certs string) (string, []byte) {
			return `Multipart/Mixed ; boundary="` + boundary + `"`, multipartBody(
				"content-type:APPLICATION/PKCS8 ; charset=us-ascii\r\nContent-Transfer-Encoding: quoted-printable", key,
				"Content-Type: application/pkcs7-mime", certs)
		}},
		{"a boundary that lacks its quotes", func(key, certs string) (string, []byte) {
			return "multipart/mixed;BOUNDARY=----=_Part/1:2; charset=utf-8", bytes.ReplaceAll(
				multipartBody(keyHeader, key, certHeader, certs), []byte(boundary), []byte("----=_Part/1:2"))
		}},
		{"other line ends", func(key, certs string) (string, []byte) {
			return mixed, bytes.ReplaceAll(multipartBody(keyHeader, string(wrap([]byte(key), 64, "\n")), certHeader,
				string(wrap([]byte(certs), 64, "\n"))), []byte("\r\n"), []byte("\n"))
		}},
		{"PEM in parts of DER", func(key, certs string) (string, []byte) {
			der, _ := base64.StdEncoding.DecodeString(key)
			return mixed, multipartBody(keyHeader, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
				certHeader, certs)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := keygenServer(t, test.answer)
			own, csr := newRequest(t, Template{Subject: commonName("gw-1"), DNSNames: []string{"gw-1.example"}})
			c := newClient(t, s.options())
			issued, err := c.ServerKeygen(t.Context(), csr, Want{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			public, _ := issued.Leaf.PublicKey.(*ecdsa.PublicKey)
			if issued.Key == nil || !public.Equal(issued.Key.Public()) || own.PublicKey.Equal(public) {
				t.Error("key and certificate do not belong together, or are not new")
			}
			if issued.Leaf.Subject.CommonName != "gw-1" || len(issued.CAs) != 1 || len(issued.Warnings) != 0 ||
				c.Traffic().Connections != 1 {
				t.Errorf("%v, %d CAs, warnings %q, %d connections", issued.Leaf.Subject, len(issued.CAs), issued.Warnings,
					c.Traffic().Connections)
			}
			post := s.log()[1]
			if post.URL.Path != "/.well-known/est/serverkeygen" ||
				post.Header.Get("Content-Type") != "application/pkcs10" || !post.Close {
				t.Errorf("%s with header %v, close: %v", post.URL.Path, post.Header, post.Close)
			}
			s.awaitClosed() // net/http has nothing to read on, and so to log
		})
	}
}

// Whatever is wrong with an answer, the key is not used, and nothing of it is in the error.
func TestServerKeygenRefuses(t *testing.T) {
	other := newRoot(t, "other").cert
	foreign := string(certsOnlyBody(t, other))
	for _, test := range []struct {
		name   string
		answer func(key, certs string) (string, []byte)
		want   string
	}{
		{"certificate for another key", func(key, _ string) (string, []byte) {
			return mixed, multipartBody(keyHeader, key, certHeader, foreign)
		}, "for another key"},
		{"no multipart", func(key, _ string) (string, []byte) { return "text/plain", []byte(key) }, "not multipart/mixed"},
		{"no type", func(key, _ string) (string, []byte) { return "", []byte(key) }, "not multipart/mixed"},
		{"no boundary", func(key, certs string) (string, []byte) {
			return "multipart/mixed", multipartBody(keyHeader, key, certHeader, certs)
		}, "without a boundary"},
		{"another boundary", func(key, certs string) (string, []byte) {
			return "multipart/mixed; boundary=x", multipartBody(keyHeader, key, certHeader, certs)
		}, "0 parts"},
		{"one part", func(key, _ string) (string, []byte) { return mixed, multipartBody(keyHeader, key) }, "1 parts"},
		{"three parts", func(key, certs string) (string, []byte) {
			return mixed, multipartBody(keyHeader, key, certHeader, certs, keyHeader, key)
		}, "more parts"},
		{"two keys", func(key, _ string) (string, []byte) { return mixed, multipartBody(keyHeader, key, keyHeader, key) },
			"not a private key and a certificate"},
		{"no keys", func(_, certs string) (string, []byte) {
			return mixed, multipartBody(certHeader, certs, certHeader, certs)
		},
			"not a private key and a certificate"},
		{"unknown parts", func(key, certs string) (string, []byte) {
			return mixed, multipartBody("Content-Type: text/plain", key, certHeader, certs)
		}, "not a private key and a certificate"},
		{"a header that is none", func(key, certs string) (string, []byte) {
			return mixed, multipartBody(key, key, certHeader, certs)
		}, "no header"},
		{"no line between header and key", func(key, certs string) (string, []byte) {
			return mixed, multipartBody("Content-Type: application/pkcs8\r\n "+key, "", certHeader, certs)
		}, "of type that is none"},
		{"no line between header and key, and no certificate", func(key, _ string) (string, []byte) {
			return mixed, multipartBody(keyHeader, key, "Content-Type: text/plain\r\n "+key, "")
		}, "of type that is none"},
		{"no multipart, and no line between header and key", func(key, certs string) (string, []byte) {
			return "application/pkcs8 " + key, nil
		}, "of type that is none"},
		{"a header without end", func(key, certs string) (string, []byte) {
			return mixed, multipartBody(keyHeader+"\r\nX: "+strings.Repeat(key, 100), key, certHeader, certs)
		}, "header of more than"},
		{"cut", func(key, certs string) (string, []byte) {
			whole := multipartBody(keyHeader, key, certHeader, certs)
			return mixed, whole[:len(whole)-40]
		}, "cut short"},
		{"key cut", func(key, certs string) (string, []byte) {
			return mixed, multipartBody(keyHeader, key[:len(key)-20], certHeader, certs)
		}, "private key part: "},
		{"key is text", func(_, certs string) (string, []byte) {
			return mixed, multipartBody(keyHeader, "<html>", certHeader, certs)
		}, "neither base64 nor DER"},
		{"key is large", func(_, certs string) (string, []byte) {
			return mixed, multipartBody(keyHeader, strings.Repeat("MIIB", 30000), certHeader, certs)
		}, "65536 are the limit"},
		{"certificate is a key", func(key, _ string) (string, []byte) {
			return mixed, multipartBody(keyHeader, key, certHeader, key)
		}, "certificate part: "},
		{"encrypted, unasked", func(_, certs string) (string, []byte) {
			sealed := base64.StdEncoding.EncodeToString(readTestdata(t, "keygen/sealed.pkcs8.der"))
			return mixed, multipartBody(sealHeader, sealed, certHeader, certs)
		}, "no key to decrypt it with"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var key string
			s := keygenServer(t, func(k, certs string) (string, []byte) {
				key = k
				return test.answer(k, certs)
			})
			_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
			issued, err := newClient(t, s.options()).ServerKeygen(t.Context(), csr, Want{}, nil)
			e, is := errors.AsType[*Error](err)
			if !is || issued != nil || e.Class != ErrBadResponse || e.Op != "serverkeygen" || e.Status != http.StatusOK ||
				!strings.Contains(err.Error(), test.want) {
				t.Fatalf("%v, want %q", err, test.want)
			}
			wantNothingOf(t, e, key)
		})
	}
}

// wantNothingOf fails if any eight characters of a secret in base64 are in an error.
func wantNothingOf(t *testing.T, e *Error, secret string) {
	t.Helper()
	if e.Detail != "" {
		t.Errorf("detail %q", e.Detail)
	}
	all := fmt.Sprintf("%v %+v %v %s", e, *e, e.Err, e.Hint)
	for i := 0; i+8 <= len(secret); i++ {
		if strings.Contains(all, secret[i:i+8]) {
			t.Fatalf("%q of the key is in %s", secret[i:i+8], all)
		}
	}
}

// What is no HTTP is quoted by net/http in its errors, but not by us where it may be a key.
func TestServerKeygenQuotesNothing(t *testing.T) {
	root := newRoot(t, "root")
	key := base64.StdEncoding.EncodeToString(readTestdata(t, "keygen/key.pkcs8.der"))
	for _, answer := range []string{
		key + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\n" + key + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + key,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + key,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + key + "\r\n\r\n",
		"HTTP/1.1 206 Part\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" + key,
		"HTTP/1.1 202 Wait\r\nRetry-After: 5\r\nConnection: close\r\n\r\n" + key,
		"HTTP/1.1 307 There\r\nLocation: http://127.0.0.1/\r\nConnection: close\r\n\r\n" + key,
	} {
		o := rawServer(t, root, func(c *tls.Conn, _ int) {
			for r := bufio.NewReader(c); ; {
				request, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				io.Copy(io.Discard, request.Body)
				if request.Method == http.MethodGet {
					io.WriteString(c, ok(certsOnlyBody(t, root.cert)))
					continue
				}
				io.WriteString(c, answer)
				return
			}
		})
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		_, err := newClient(t, o).ServerKeygen(t.Context(), csr, Want{}, nil)
		e, is := errors.AsType[*Error](err)
		if !is {
			t.Fatalf("%.40q: %v", answer, err)
		}
		wantNothingOf(t, e, key)
	}
}

// A key is asked for only from a server that explicit anchors vouch for (RFC 7030 6): the request is not even sent, and
// no password is.
func TestServerKeygenNeedsExplicitAnchors(t *testing.T) {
	s := keygenServer(t, func(key, certs string) (string, []byte) {
		return mixed, multipartBody(keyHeader, key, certHeader, certs)
	})
	_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
	implicit := s.options()
	implicit.Anchors, implicit.SystemRoots, implicit.Roots = nil, true, poolOf([]*x509.Certificate{s.root.cert})
	implicit.Login = login
	beside := implicit
	beside.Anchors = []*x509.Certificate{newRoot(t, "another").cert}
	for _, o := range []Options{implicit, beside} {
		_, err := newClient(t, o).ServerKeygen(t.Context(), csr, Want{}, nil)
		e, is := errors.AsType[*Error](err)
		if !is || e.Class != ErrUntrusted || !strings.Contains(err.Error(), "explicit") ||
			!strings.Contains(e.Hint, "trusted_certs") {
			t.Errorf("%v", err)
		}
	}
	for _, r := range s.log() {
		if r.Method != http.MethodGet {
			t.Errorf("sent %s %s", r.Method, r.URL)
		}
	}
	both := implicit
	both.Anchors = []*x509.Certificate{s.root.cert}
	if _, err := newClient(t, both).ServerKeygen(t.Context(), csr, Want{}, nil); err != nil {
		t.Error(err)
	}
}

// Most servers make no keys. That is nothing against the identity that asked.
func TestServerThatMakesNoKeys(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented} {
		s := newServer(t)
		s.handlers["serverkeygen"] = func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no such thing", status)
		}
		s.start()
		_, csr := newRequest(t, Template{Subject: commonName("gw-1")})
		_, err := newClient(t, s.options()).ServerKeygen(t.Context(), csr, Want{}, nil)
		e, is := errors.AsType[*Error](err)
		if !is || e.Class != ErrRejected || e.Refusal || e.Status != status || e.Detail != "no such thing" ||
			!strings.Contains(err.Error(), "the server makes no keys") || !strings.Contains(e.Hint, "simpleenroll") {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// However an answer looks, it ends in a key within the bounds and certificates, or in an error that a log can bear.
func FuzzKeygenAnswer(f *testing.F) {
	key := base64.StdEncoding.EncodeToString(readTestdata(f, "keygen/key.pkcs8.der"))
	sealed := base64.StdEncoding.EncodeToString(readTestdata(f, "keygen/sealed.pkcs8.der"))
	certs := string(certsOnlyBody(f, newRoot(f, "root").cert))
	f.Add(mixed, multipartBody(keyHeader, key, certHeader, certs), false)
	f.Add(mixed, multipartBody(certHeader, certs, sealHeader, sealed), true)
	const untold = "Content-Type: application/pkcs7-mime"
	f.Add(mixed, multipartBody(untold, certs, untold, sealed), true)
	f.Add(`multipart/mixed; boundary="\""`, multipartBody(keyHeader, key), false)
	f.Add("multipart/mixed; boundary=a; boundary=b", []byte("--a--"), false)
	unwrap := unwrapKey(f)
	base := mustParse(f, "https://localhost/.well-known/est")
	c, err := New(Options{URL: base, SystemRoots: true, Roots: x509.NewCertPool()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte, encrypted bool) {
		if len(body) > answerLimit {
			return
		}
		a := &answer{status: http.StatusOK, header: http.Header{"Content-Type": {contentType}}, body: bytes.Clone(body)}
		got, err := c.openKeygen(&request{op: "serverkeygen"}, a, encrypted, unwrap)
		switch {
		case err != nil && (!errors.Is(err, ErrBadResponse) || len(err.Error()) > 2*causeLimit):
			t.Errorf("%d bytes: %v", len(err.Error()), err)
		case err == nil && (got.key == nil || len(got.certs) == 0):
			t.Errorf("key %v, %d certificates", got.key != nil, len(got.certs))
		}
		if bytes.ContainsFunc(a.body, func(r rune) bool { return r != 0 }) {
			t.Error("the answer was not cleared")
		}
	})
}

// A key part, whatever it is wrapped in.
func FuzzKeyPart(f *testing.F) {
	for _, pattern := range []string{"key.*.der", "refused.*.der", "sealed.*.der", "unopened.*.der"} {
		for _, name := range named(f, pattern) {
			f.Add(readTestdata(f, name))
		}
	}
	unwrap := unwrapKey(f)
	f.Fuzz(func(t *testing.T, der []byte) {
		key, err := openKeyPart(part{body: bytes.Clone(der)}, false, unwrap)
		if (err == nil) != (key != nil) {
			t.Errorf("%v, %v", key != nil, err)
		}
		if rsaKey, is := key.(*rsa.PrivateKey); is && (rsaKey.N.BitLen() < rsaLeast || rsaKey.N.BitLen() > rsaLimit) {
			t.Errorf("RSA key of %d bits", rsaKey.N.BitLen())
		}
	})
}
