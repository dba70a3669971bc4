// thousand enrols many certificates over EST by net/http, then renews them all, and does no more than the requests, which
// are certagent's, and the files that it keeps: so much is the least that a thousand certificates can cost. It checks
// nothing. Benchmarks run it beside certagent.
//
//	thousand URL CA-FILE USER PASSWORD COUNT AT-ONCE [DIRECTORY]
//
// It prints how many seconds the enrolments took, and how many the renewals. For each it asks for /csrattrs and /cacerts,
// makes a key, and asks for a certificate: first with a password, when the server wants one, then with the certificate.
// Without a DIRECTORY it keeps them in memory, which shows what the network alone costs. With one it has the same files as
// certagent, each durable before the next step: the request before it is sent, then the certificate under a new name, the
// link to it, and what came of it. Files are synchronised one after the other, and each directory after a change in it.
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
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/smallstep/pkcs7"
)

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func main() {
	l := loop{
		url: os.Args[1], user: os.Args[3], password: os.Args[4], roots: x509.NewCertPool(),
		count: must(strconv.Atoi(os.Args[5])), atOnce: must(strconv.Atoi(os.Args[6])),
	}
	l.ca = must(os.ReadFile(os.Args[2]))
	l.roots.AppendCertsFromPEM(l.ca)
	if len(os.Args) > 7 {
		l.dir = os.Args[7]
	}
	all := make([]certificate, l.count)
	for i := range all {
		all[i] = certificate{loop: &l, name: fmt.Sprintf("c%04d", i)}
		if l.dir != "" {
			all[i].dir = filepath.Join(l.dir, all[i].name)
		}
	}
	enrolled := l.run(all)
	fmt.Println(enrolled.Seconds(), l.run(all).Seconds())
}

type loop struct {
	url, user, password string
	ca                  []byte
	roots               *x509.CertPool
	count, atOnce       int
	dir                 string
}

// run has each certificate issued, so many at once, and says how long that took.
func (l *loop) run(all []certificate) time.Duration {
	began := time.Now()
	work := make(chan *certificate)
	var workers sync.WaitGroup
	for range l.atOnce {
		workers.Go(func() {
			for c := range work {
				c.issue()
			}
		})
	}
	for i := range all {
		work <- &all[i]
	}
	close(work)
	workers.Wait()
	return time.Since(began)
}

type certificate struct {
	loop       *loop
	name, dir  string
	generation int
	login      *tls.Certificate // nil before the first
}

func (c *certificate) issue() {
	config := &tls.Config{RootCAs: c.loop.roots}
	op := "simpleenroll"
	if c.login != nil {
		config.Certificates, op = []tls.Certificate{*c.login}, "simplereenroll"
	}
	transport := &http.Transport{TLSClientConfig: config}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	do := func(method, op string, body []byte, login bool) (int, []byte) {
		r := must(http.NewRequest(method, c.loop.url+"/"+op, bytes.NewReader(body)))
		r.Header.Set("Content-Type", "application/pkcs10")
		r.Header.Set("Content-Transfer-Encoding", "base64")
		if login {
			r.SetBasicAuth(c.loop.user, c.loop.password)
		}
		a := must(client.Do(r))
		defer a.Body.Close()
		return a.StatusCode, must(io.ReadAll(a.Body))
	}

	do("GET", "csrattrs", nil, false)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: c.name}}
	csr := must(x509.CreateCertificateRequest(rand.Reader, template, key))
	body := []byte(base64.StdEncoding.EncodeToString(csr) + "\n")
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))})
	if c.dir != "" {
		c.keepRequest(keyPEM, body)
	}
	do("GET", "cacerts", nil, false)
	status, answer := do("POST", op, body, false)
	if status == http.StatusUnauthorized {
		transport.CloseIdleConnections() // such servers drop a connection after they have asked
		status, answer = do("POST", op, body, true)
	}
	if status != http.StatusOK {
		log.Fatalf("HTTP %d: %s", status, answer)
	}
	issued := must(pkcs7.Parse(must(base64.StdEncoding.DecodeString(string(answer))))).Certificates
	c.login = &tls.Certificate{Certificate: [][]byte{issued[0].Raw}, PrivateKey: key}
	if c.dir != "" {
		c.keep(keyPEM, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issued[0].Raw}))
	}
}

// keepRequest makes a request durable before it is sent.
func (c *certificate) keepRequest(key, request []byte) {
	if c.login == nil {
		check(os.Mkdir(c.dir, 0o755))
		syncDir(c.loop.dir)
	}
	stage := c.dir + "/stage"
	check(os.Mkdir(stage, 0o700))
	write(stage+"/key.pem", key)
	write(stage+"/request.json", request)
	syncDir(stage)
	check(os.Rename(stage, c.dir+"/pending"))
	syncDir(c.dir)
}

// keep makes an issued certificate durable, then the link to it, then drops the request and notes what came of it. What is
// older than the certificate before is removed.
func (c *certificate) keep(key, cert []byte) {
	c.generation++
	stage, name := c.dir+"/stage", fmt.Sprintf("gen-%06d", c.generation)
	check(os.Mkdir(stage, 0o755))
	for file, data := range map[string][]byte{
		"key.pem": key, "cert.pem": cert, "chain.pem": nil, "fullchain.pem": cert, "ca.pem": c.loop.ca, "meta.json": cert,
	} {
		write(filepath.Join(stage, file), data)
	}
	syncDir(stage)
	check(os.Rename(stage, filepath.Join(c.dir, name)))
	syncDir(c.dir)
	check(os.Symlink(name, c.dir+"/link"))
	check(os.Rename(c.dir+"/link", c.dir+"/live"))
	syncDir(c.dir)
	check(os.Rename(c.dir+"/pending", c.dir+"/gone"))
	syncDir(c.dir)
	check(os.RemoveAll(c.dir + "/gone"))
	write(c.dir+"/new", []byte(name))
	check(os.Rename(c.dir+"/new", c.dir+"/retry.json"))
	syncDir(c.dir)
}

func write(path string, data []byte) {
	f := must(os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600))
	must(f.Write(data))
	check(f.Sync())
	check(f.Close())
}

func syncDir(path string) {
	d := must(os.Open(path))
	check(d.Sync())
	check(d.Close())
}
