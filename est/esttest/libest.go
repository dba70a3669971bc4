package esttest

import (
	"bytes"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
)

const (
	libestRealm   = "estrealm"
	libestMaxBody = 16384
	// libestMaxLine is how long a line of base64 may be. OpenSSL's decoder, which libest reads requests with, takes
	// lines of 64 or 76 columns, and finds nothing in one long line.
	libestMaxLine = 76
)

// libestFace answers as libest's example server does; the package comment lists its ways.
type libestFace struct{ server *Server }

func (f *libestFace) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	op, ok := f.server.operation(r.URL.Path)
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodPost:
		f.fail(w, http.StatusBadRequest)
	case !ok:
		f.fail(w, http.StatusNotFound)
	case op == "cacerts" && r.Method == http.MethodGet:
		f.sendCerts(w, "application/pkcs7-mime", f.server.caCerts()...)
	case op == "csrattrs" && r.Method == http.MethodGet:
		f.send(w, http.StatusOK, "application/csrattrs", f.attributes())
	case (op == "simpleenroll" || op == "simplereenroll") && r.Method == http.MethodPost:
		f.enrol(w, r, f.issue)
	case op == "serverkeygen" && r.Method == http.MethodPost:
		f.enrol(w, r, f.makeKey)
	case op == "fullcmc" || op == "tpmenroll":
		f.fail(w, http.StatusNotFound)
	default:
		f.fail(w, http.StatusBadRequest)
	}
}

// enrol reads a request that may be answered, and has answer do so.
func (f *libestFace) enrol(
	w http.ResponseWriter, r *http.Request,
	answer func(http.ResponseWriter, *exchange, *x509.CertificateRequest) error,
) {
	if r.ContentLength < 0 { // chunked
		f.fail(w, http.StatusBadRequest)
		return
	}
	if r.ContentLength > libestMaxBody {
		f.fail(w, http.StatusRequestEntityTooLarge)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		f.fail(w, http.StatusBadRequest)
		return
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/pkcs10" {
		f.fail(w, http.StatusBadRequest)
		return
	}
	ex := exchangeOf(r)
	if !f.server.mayEnrol(ex.login) {
		f.askLogin(w, ex)
		return
	}
	csr, err := parseLibestRequest(body)
	if err != nil {
		f.fail(w, http.StatusBadRequest)
		return
	}
	if f.server.options.ProofOfPossession && !provesPossession(csr, r.TLS.TLSUnique, oidChallengePassword) {
		f.askLogin(w, ex)
		return
	}
	switch err := answer(w, ex, csr); {
	case errors.Is(err, errNotApproved):
		w.Header().Set("Retry-After", strconv.Itoa(approvalSeconds))
		f.send(w, http.StatusAccepted, "", nil)
	case errors.Is(err, errNoCommonName):
		f.fail(w, http.StatusInternalServerError)
	case err != nil:
		f.fail(w, http.StatusBadRequest)
	}
}

func (f *libestFace) issue(w http.ResponseWriter, ex *exchange, csr *x509.CertificateRequest) error {
	cert, err := f.server.enrol(ex, csr)
	if err == nil {
		f.sendCerts(w, "application/pkcs7-mime; smime-type=certs-only", cert)
	}
	return err
}

// askLogin answers 401 and drops the connection without having announced it.
func (f *libestFace) askLogin(w http.ResponseWriter, ex *exchange) {
	challenge := `Basic realm="` + libestRealm + `"`
	if f.server.options.Digest {
		challenge = `Digest qop="auth", realm="` + libestRealm + `", nonce="` + f.server.nonces.next() + `"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
	f.send(w, http.StatusUnauthorized, "", nil)
	ex.drop = true
}

func (f *libestFace) sendCerts(w http.ResponseWriter, contentType string, certs ...*x509.Certificate) {
	body, err := certsOnly(certs, 64, "\n")
	if err != nil {
		f.fail(w, http.StatusInternalServerError)
		return
	}
	f.send(w, http.StatusOK, contentType, body)
}

func (f *libestFace) fail(w http.ResponseWriter, status int) {
	f.send(w, status, "", []byte("Error "+strconv.Itoa(status)+": "+http.StatusText(status)+"\n"))
}

// send writes header and body apart. An empty contentType means none.
func (f *libestFace) send(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header()["Content-Type"] = nil // or net/http would guess one
	if contentType != "" {
		w.Header().Set("Content-Type", contentType)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	http.NewResponseController(w).Flush() // fails where the answer is captured, which is fine
	w.Write(body)
}

// attributes is the body of /csrattrs: base64 and, by a bug of libest's, the NUL that ends a string of C.
func (f *libestFace) attributes() []byte {
	der := f.server.options.CSRAttrs
	if der == nil {
		oids := []asn1.ObjectIdentifier{
			{1, 3, 6, 1, 1, 1, 1, 22},        // macAddress
			{1, 2, 840, 113549, 1, 9, 1},     // emailAddress
			{1, 3, 132, 0, 34},               // secp384r1
			{2, 16, 840, 1, 101, 3, 4, 2, 2}, // sha384
			oidChallengePassword,
		}
		if !f.server.options.ProofOfPossession {
			oids = oids[:4]
		}
		der, _ = asn1.Marshal(oids) // constants
	}
	return append([]byte(base64.StdEncoding.EncodeToString(der)), 0)
}

// parseLibestRequest reads a PKCS#10 request the way libest does: PEM, or base64 in lines.
func parseLibestRequest(body []byte) (*x509.CertificateRequest, error) {
	var der []byte
	if block, _ := pem.Decode(body); block != nil {
		der = block.Bytes
	} else {
		for line := range bytes.Lines(body) {
			if len(bytes.TrimRight(line, "\r\n")) > libestMaxLine {
				return nil, errors.New("base64 is not wrapped")
			}
		}
		var err error
		if der, err = base64.StdEncoding.DecodeString(string(body)); err != nil { // it skips CR and LF
			return nil, err
		}
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, err
	}
	return csr, csr.CheckSignature()
}

// Attributes that can link a request to its TLS session.
var (
	oidChallengePassword = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 7}         // RFC 7030 section 3.5
	oidIdentityLinking   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 58} // RFC 7894 section 3.3
)

// provesPossession reports whether the first attribute of a request that is in one of these is tls-unique in base64.
func provesPossession(csr *x509.CertificateRequest, tlsUnique []byte, in ...asn1.ObjectIdentifier) bool {
	if len(tlsUnique) == 0 {
		return false
	}
	value, found, err := requestAttribute(csr, in...)
	if err != nil || !found {
		return false
	}
	want := base64.StdEncoding.EncodeToString(tlsUnique)
	return subtle.ConstantTimeCompare(value.Bytes, []byte(want)) == 1
}

// requestAttribute returns the first attribute of a request (RFC 2986 section 4.1) that is one of these and has one
// value.
func requestAttribute(
	csr *x509.CertificateRequest, of ...asn1.ObjectIdentifier,
) (value asn1.RawValue, found bool, err error) {
	var info struct {
		Version    int
		Subject    asn1.RawValue
		PublicKey  asn1.RawValue
		Attributes []struct {
			ID     asn1.ObjectIdentifier
			Values []asn1.RawValue `asn1:"set"`
		} `asn1:"tag:0,set"`
	}
	if _, err := asn1.Unmarshal(csr.RawTBSCertificateRequest, &info); err != nil {
		return value, false, errors.New("decode attributes of the request")
	}
	for _, a := range info.Attributes {
		if slices.ContainsFunc(of, a.ID.Equal) && len(a.Values) == 1 {
			return a.Values[0], true, nil
		}
	}
	return value, false, nil
}
