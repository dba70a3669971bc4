// bare is an enrolment over EST by net/http that does no more than the requests, which are certagent's: it asks for
// /csrattrs, makes a key, asks for /cacerts, for a certificate, and once more with the password, and writes key and
// answer to two files. It checks nothing. Benchmarks run it beside certagent.
//
//	bare URL CA-FILE USER PASSWORD NAME DIRECTORY
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
)

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}

func main() {
	url, caFile, user, password, name, dir := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5], os.Args[6]
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(must(os.ReadFile(caFile)))
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
	client := &http.Client{Transport: transport}
	do := func(method, op string, body []byte, login bool) (int, []byte) {
		r := must(http.NewRequest(method, url+"/"+op, bytes.NewReader(body)))
		r.Header.Set("Content-Type", "application/pkcs10")
		r.Header.Set("Content-Transfer-Encoding", "base64")
		if login {
			r.SetBasicAuth(user, password)
		}
		a := must(client.Do(r))
		defer a.Body.Close()
		return a.StatusCode, must(io.ReadAll(a.Body))
	}

	do("GET", "csrattrs", nil, false)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}
	der := must(x509.CreateCertificateRequest(rand.Reader, template, key))
	var csr []byte
	for text := []byte(base64.StdEncoding.EncodeToString(der)); len(text) > 0; {
		n := min(64, len(text))
		csr = append(append(csr, text[:n]...), '\n')
		text = text[n:]
	}
	do("GET", "cacerts", nil, false)
	status, answer := do("POST", "simpleenroll", csr, false)
	if status == http.StatusUnauthorized {
		status, answer = do("POST", "simpleenroll", csr, true)
	}
	if status != http.StatusOK {
		log.Fatalf("HTTP %d: %s", status, answer)
	}
	block := &pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))}
	for file, data := range map[string][]byte{"key.pem": pem.EncodeToMemory(block), "answer": answer} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			log.Fatal(err)
		}
	}
}
