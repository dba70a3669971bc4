package esttest

import (
	"crypto/hmac"
	"crypto/md5" // HTTP Digest as libest speaks it knows no other
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strings"
)

// nonces makes and knows again the nonces of HTTP Digest, without keeping any: each carries a code made with a secret
// of this server.
type nonces struct{ secret []byte }

func newNonces() nonces {
	secret := make([]byte, 32)
	rand.Read(secret) // never fails
	return nonces{secret}
}

func (n nonces) next() string {
	value := make([]byte, 8)
	rand.Read(value) // never fails
	return hex.EncodeToString(value) + n.code(value)
}

func (n nonces) code(value []byte) string {
	mac := hmac.New(sha256.New, n.secret)
	mac.Write(value)
	return hex.EncodeToString(mac.Sum(nil)[:8])
}

func (n nonces) ours(nonce string) bool {
	value, err := hex.DecodeString(nonce[:min(16, len(nonce))])
	return err == nil && len(value) == 8 && hmac.Equal([]byte(nonce[16:]), []byte(n.code(value)))
}

// checkDigest verifies the Authorization header of a request by RFC 2617 section 3.2.2, with MD5 and qop "auth".
func (n nonces) checkDigest(r *http.Request, user, password string) bool {
	scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Digest") {
		return false
	}
	p := parseAuthParams(rest)
	if p["username"] != user || p["realm"] != libestRealm || p["qop"] != "auth" || p["uri"] != r.URL.RequestURI() ||
		p["nc"] == "" || p["cnonce"] == "" || !n.ours(p["nonce"]) {
		return false
	}
	ha1 := hexMD5(user, libestRealm, password)
	ha2 := hexMD5(r.Method, p["uri"])
	want := hexMD5(ha1, p["nonce"], p["nc"], p["cnonce"], "auth", ha2)
	return subtle.ConstantTimeCompare([]byte(p["response"]), []byte(want)) == 1
}

func hexMD5(parts ...string) string {
	sum := md5.Sum([]byte(strings.Join(parts, ":")))
	return hex.EncodeToString(sum[:])
}

// parseAuthParams reads name=value and name="value" with commas between (RFC 9110 section 11.2). Names come back in
// lower case; what it cannot read ends the list.
func parseAuthParams(s string) map[string]string {
	params := make(map[string]string)
	for {
		name, rest, found := strings.Cut(strings.TrimLeft(s, " \t,"), "=")
		if !found {
			return params
		}
		name = strings.ToLower(strings.TrimSpace(name))
		rest = strings.TrimLeft(rest, " \t")
		if !strings.HasPrefix(rest, `"`) {
			value, more, _ := strings.Cut(rest, ",")
			params[name] = strings.TrimSpace(value)
			s = more
			continue
		}
		var value strings.Builder
		i := 1
		for ; i < len(rest) && rest[i] != '"'; i++ {
			if rest[i] == '\\' && i+1 < len(rest) {
				i++
			}
			value.WriteByte(rest[i])
		}
		if i == len(rest) { // no closing quote
			return params
		}
		params[name] = value.String()
		s = rest[i+1:]
	}
}
